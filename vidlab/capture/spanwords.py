"""Span words: where each recorded thread says which span it is in, for programs in the kernel.

A thread's word is 32 bytes of this process's own memory, at an address that stays the same
for as long as the thread lives::

    span u64 | frame u64 | labels u64 | span again u64

The numbers are those of the thread's innermost open span, as its records have them. The
word holds only if the first and the last number are the same, and not zero: else there is
no span, or the word is being written at this very moment. A kernel program that runs in
the thread (a uprobe, a tracepoint) can so read under which span and frame it does.

Who writes the words (the frame engine) and who has them read (kernel events) don't know
each other: they meet here. Nobody writes while nobody listens.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable

#: Bytes of a word.
SIZE = 32

_NOTHING = bytes(SIZE)

#: How many words are made at a time.
_AT_A_TIME = mmap.PAGESIZE // SIZE

#: What listens is told the kernel's number of a thread, and the address of its word.
OnNew = Callable[[int, int], None]
OnGone = Callable[[int], None]


class Word:
    """One thread's word. The memory is used for another thread once nothing refers to it.

    Attributes
    ----------
    view : memoryview
        Its four numbers (format "Q"), to be written in their order.
    address : int
        Where it is in this process's memory.
    """

    __slots__ = ("_free", "address", "view")

    def __init__(self, view: memoryview, address: int, free: deque[tuple[memoryview, int]]) -> None:
        self.view = view
        self.address = address
        self._free = free

    def clear(self) -> None:
        """Say that the thread is in no span."""
        self.view.cast("B")[:] = _NOTHING

    def read(self) -> tuple[int, int, int]:
        """Return the span, frame and labels that a kernel program would read here and now."""
        span, frame, labels, again = self.view
        return (span, frame, labels) if span == again else (0, 0, 0)

    def __del__(self) -> None:
        self.clear()
        self._free.append((self.view, self.address))


class Listening:
    """Ends, by `close`, what `Words.listen` began."""

    def __init__(self, words: Words, on_new: OnNew, on_gone: OnGone) -> None:
        self._words = words
        self.on_new = on_new
        self.on_gone = on_gone

    def close(self) -> None:
        """Be told nothing any more. Can be called again."""
        self._words._stop(self)


class _Thread:
    """A thread that has a word. It goes with the thread's local storage."""

    __slots__ = ("__weakref__", "_words", "pid", "tid", "word")

    def __init__(self, words: Words, word: Word) -> None:
        self._words = words
        self.word = word
        self.pid = os.getpid()
        self.tid = threading.get_native_id()

    def __del__(self) -> None:
        # In a forked child those of all threads but one end before any code of ours runs:
        # they are the parent's threads, and live on there.
        if self.pid == os.getpid():
            self._words._gone(self)


class Words:
    """The words of this process.

    Nothing here takes a lock: a thread may end, and a garbage collection come, at any
    moment, this code's own included. Single operations on dicts, lists and deques suffice.
    """

    def __init__(self) -> None:
        self._free: deque[tuple[memoryview, int]] = deque()
        self._local = threading.local()
        #: The threads that have words, by the kernel's number.
        self._threads: dict[int, Word] = {}
        self._listeners: list[Listening] = []
        self._publishers: list[Callable[[], None]] = []
        #: How often something that listens has failed.
        self.failures = 0

    @property
    def listening(self) -> bool:
        """Whether somebody listens: if not, nobody needs to write."""
        return bool(self._listeners)

    def word_of_thread(self) -> Word:
        """Return the calling thread's word, a new one if it has none yet."""
        known: _Thread | None = getattr(self._local, "thread", None)
        if known is None:
            made = _Thread(self, self._new())
            known = self._local.__dict__.setdefault("thread", made)
            if known is made:  # else a garbage collection has come in between and made one
                self._threads[made.tid] = made.word
                self._tell_new(made.tid, made.word.address)
        return known.word

    def listen(self, on_new: OnNew, on_gone: OnGone) -> Listening:
        """Be told of the threads that have words: of those there are at once, then of new ones.

        Parameters
        ----------
        on_new : callable
            Is told a thread's number (of the kernel, in this process's namespace) and
            where its word is. It may be told the same twice.
        on_gone : callable
            Is told the number of a thread that has ended, in any thread and at any
            moment, that of a garbage collection included: it must take no lock that
            its own thread may hold. Threads of a parent process don't end in its child.

        Returns
        -------
        Listening
            In a forked child it goes on: it is told of the one thread that lives there.
        """
        listening = Listening(self, on_new, on_gone)
        first = not self._listeners
        self._listeners.append(listening)
        if first:
            self._tell_publishers()
        for tid, word in list(self._threads.items()):
            self._call(on_new, tid, word.address)
        return listening

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Have what writes the words told whenever `listening` changes.

        Returns
        -------
        callable
            Ends this.
        """
        self._publishers.append(changed)

        def unwatch() -> None:
            with contextlib.suppress(ValueError):
                self._publishers.remove(changed)

        return unwatch

    def _new(self) -> Word:
        while True:
            try:
                view, address = self._free.popleft()
            except IndexError:
                self._add_page()
            else:
                return Word(view, address, self._free)

    def _add_page(self) -> None:
        # Private memory: a forked child has its own copy at the same address.
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page[:] = bytes(mmap.PAGESIZE)  # a program in the kernel cannot fault a page in
        start = ctypes.addressof(ctypes.c_char.from_buffer(page))
        views = memoryview(page)
        for place in range(0, _AT_A_TIME * SIZE, SIZE):
            self._free.append((views[place : place + SIZE].cast("Q"), start + place))

    def _gone(self, thread: _Thread) -> None:
        if self._threads.get(thread.tid) is thread.word:
            del self._threads[thread.tid]
            for listening in list(self._listeners):
                self._call(listening.on_gone, thread.tid)

    def _stop(self, listening: Listening) -> None:
        if listening in self._listeners:
            self._listeners.remove(listening)
            if not self._listeners:
                self._tell_publishers()

    def _tell_new(self, tid: int, address: int) -> None:
        for listening in list(self._listeners):
            self._call(listening.on_new, tid, address)

    def _tell_publishers(self) -> None:
        for changed in list(self._publishers):
            changed()

    def _call(self, function: Callable[..., None], *args: int) -> None:
        """Call what listens; the thread that has come or gone must not suffer from it."""
        try:
            function(*args)
        except Exception:
            self.failures += 1

    def after_fork_in_child(self) -> None:
        """Know the one thread that lives here, under its new number, in no span so far."""
        self._threads.clear()
        known: _Thread | None = getattr(self._local, "thread", None)
        if known is None:
            return
        known.pid, known.tid = os.getpid(), threading.get_native_id()
        known.word.clear()
        self._threads[known.tid] = known.word
        self._tell_new(known.tid, known.word.address)


#: The words of this process.
words = Words()

os.register_at_fork(after_in_child=words.after_fork_in_child)

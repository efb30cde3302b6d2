"""What one thread records with: its buffers, its open spans, its clocks.

Each thread packs records into mapped buffers of its own, so nothing is locked.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from asyncio import events
from asyncio.events import _get_running_loop as running_loop
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from ... import labelsets
from ...clock import now_ns, thread_cpu_ns
from ...schema import UNKNOWN
from .. import failures
from ..patching import Patches
from ..spanwords import SIZE, Word, words

if TYPE_CHECKING:
    from .recorder import SpanRecorder
    from .spans import Span

#: Event loops whose start cannot be seen from Python.
_FOREIGN_LOOPS = frozenset({"uvloop", "rloop"})

#: Off the CPU for less than this, a thread is taken not to have waited for one.
_NO_WAIT_NS = 10_000

#: The numbers of spans within a thread start again well before they run out.
_RESTART_SEQUENCE = (1 << 32) - (1 << 28)

#: What threads write to as their word when they have none.
_NOWHERE = memoryview(bytearray(SIZE)).cast("Q")


class Buffer(Protocol):
    """A thread's mapped buffer of one table: `runs.buffers.RecordBuffer`."""

    view: Any
    position: int
    end: int
    span: int

    def roll(self) -> int:
        """Hand the full buffer to the writer; return the position in the new one."""


class Writer(failures.Writer, Protocol):
    """What the engine needs of `runs.writer.RunWriter`."""

    @property
    def index(self) -> int: ...
    @property
    def names(self) -> labelsets.Names: ...
    def buffer(self, table: str) -> Buffer: ...
    def row(self, table: str, /, **columns: Any) -> None: ...
    def lost(self, table: str, count: int) -> None: ...


class ThreadState:
    """What one thread records with."""

    __slots__ = (
        *("__weakref__", "adopted", "buffer", "events", "firm", "loops", "recorder", "sequence"),
        *("_cpu_mark_ns", "_fd", "_last_merge", "_runqueue_mark_ns", "_t_mark_ns", "_word"),
        *("spares", "top", "word"),
    )

    def __init__(self, recorder: SpanRecorder) -> None:
        self._fd: int | None = None
        self.recorder = recorder
        self.buffer = recorder.writer.buffer("spans")
        self.events = recorder.writer.buffer("frame_events")
        #: The last span's number within the thread; the buffer's `span` is the rest of it.
        self.sequence = 0
        #: The innermost open span of the thread.
        self.top: Span | None = None
        #: For each stage, a span to be used again if nobody else holds it.
        self.spares: dict[str, Span] = {}
        #: Whether the thread may run an event loop.
        self.loops = running_loop() is not None or not _FOREIGN_LOOPS.isdisjoint(sys.modules)
        #: The frame that an image without identity was last taken to be.
        self.adopted = 0
        self._word: Word | None = words.word_of_thread()
        #: The numbers of the thread's span word, for what publishes spans.
        self.word = self._word.view
        #: In a thread with an event loop: open spans that no other task can interrupt.
        self.firm: set[Span] = set()
        self._last_merge = (0, 0, 0)
        self._t_mark_ns = self._cpu_mark_ns = self._runqueue_mark_ns = 0

    def end(self) -> None:
        """Let go of what the thread has: it has ended."""
        self.spares.clear()
        self.firm.clear()
        self.top = None
        self.let_go_of_word()
        self.forget_clock()

    def let_go_of_word(self) -> None:
        """Have no word any more: what is written goes nowhere."""
        self.word, self._word = _NOWHERE, None

    def forget_clock(self) -> None:
        """Close the run-queue clock, which is the thread's that opened it."""
        if self._fd is not None and self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
        self._fd = None
        self._t_mark_ns = self._cpu_mark_ns = 0

    def expect_loop(self) -> None:
        """Know that this thread may run an event loop: from now on its spans look for one."""
        self.loops = True
        self.spares.clear()

    def roll(self) -> int:
        """Take a fresh buffer for spans; return the position in it."""
        if self.sequence > _RESTART_SEQUENCE:
            self.sequence = 0
        return self.buffer.roll()

    def merge(self, born: int, here: int) -> int:
        """Return `labelsets.of_frame(born, here)`, the last one from memory."""
        last = self._last_merge
        if last[0] != born or last[1] != here:
            self._last_merge = last = (born, here, labelsets.of_frame(born, here))
        return last[2]

    def read_clocks(self) -> tuple[int, int]:
        """Return the thread's CPU time and its run-queue wait so far (UNKNOWN if not told).

        The run-queue wait is a system call of its own, left out if the thread has
        been on the CPU ever since the last reading: it cannot have waited then.
        """
        cpu_ns = thread_cpu_ns()
        t_ns = now_ns()
        if (t_ns - self._t_mark_ns) - (cpu_ns - self._cpu_mark_ns) > _NO_WAIT_NS:
            self._runqueue_mark_ns = self._read_runqueue()
        self._t_mark_ns = t_ns
        self._cpu_mark_ns = cpu_ns
        return cpu_ns, self._runqueue_mark_ns

    def _read_runqueue(self) -> int:
        if self._fd is None:
            try:
                self._fd = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self._fd = -1
        try:
            return int(os.pread(self._fd, 64, 0).split()[1])
        except (OSError, IndexError, ValueError):
            return UNKNOWN


class _Begins:
    """Gives a thread's state to a garbage collection that comes before there is one."""

    def __get__(self, local: Local, owner: type[Local]) -> ThreadState:
        return _begin(local)


class Local(threading.local):
    """The calling thread's state, made when the thread first records."""

    __slots__ = ("recorder",)  # which all threads share

    state = _Begins()

    def __init__(self, recorder: SpanRecorder) -> None:
        self.recorder = recorder
        _begin(self)


def _begin(local: Local) -> ThreadState:
    made = ThreadState(local.recorder)
    mine = local.__dict__
    state: ThreadState = mine.setdefault("state", made)  # a collection may have made it meanwhile
    if state is made:
        mine["_end"] = _End(state)
        _states.add(state)
    return state


class _End:
    """Goes with the thread's local storage, and ends its state."""

    def __init__(self, state: ThreadState) -> None:
        self._state = state

    def __del__(self) -> None:
        self._state.end()


#: The states of all threads, for what concerns them all.
_states: weakref.WeakSet[ThreadState] = weakref.WeakSet()


def all_states() -> list[ThreadState]:
    """Return the states of all threads, of recordings of before too."""
    while True:
        with contextlib.suppress(RuntimeError):  # a thread has begun to record meanwhile
            return list(_states)


def watch_loops(
    patches: Patches, recorder: SpanRecorder, changed: Callable[[ThreadState], None]
) -> None:
    """Have each thread know that it runs an event loop, from when it begins to.

    `changed` is told as it begins to, and as it does no more.
    """
    begin = events._set_running_loop

    def watched(loop: Any) -> None:
        begin(loop)
        if loop is not None:
            recorder.local.state.expect_loop()
        changed(recorder.local.state)

    def may_run(_: ModuleType) -> None:
        for state in all_states():
            state.expect_loop()

    patches.set(events, "_set_running_loop", watched)
    for foreign in _FOREIGN_LOOPS:
        patches.when_imported(foreign, may_run)


def _forget_clocks() -> None:
    for state in all_states():
        state.forget_clock()


os.register_at_fork(after_in_child=_forget_clocks)

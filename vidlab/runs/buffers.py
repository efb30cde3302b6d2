"""The buffers through which threads record.

A thread packs fixed-size records into the block of its `RecordBuffer`. When the
block is full the buffer **rolls**: it hands the block over to the run's writer
and takes a fresh one.

A signal handler or a garbage-collector callback may record in the middle of all
this, into the same buffer. CPython lets one in, as it switches threads, at calls
and at jumps backward and nowhere else; so what must change as one (a reserved
position, a block with its view) changes in straight lines without a call.
"""

from __future__ import annotations

import itertools
import mmap
import os
import threading
import weakref
from collections.abc import Callable

from ..schema import TABLES
from .blocks import BLOCK_BYTES, Block, Blocks

#: What a thread's number in the run takes in a span number, and the span's after it.
_THREAD_BITS, _SEQUENCE_BITS = 20, 32

#: How many handlers may each interrupt the one before as it rolls. What the next one
#: records is lost: they come faster than they can be served.
MOST_DEPTH = 3

#: Where records go that are lost: written by all, read by none.
_BIN = memoryview(mmap.mmap(-1, BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class RecordBuffer:
    """What one thread records into, for one table.

    The caller keeps it per thread, and packs a record thus, in just this order and
    with no call before the record's place is reserved::

        position = buffer.position
        if position == buffer.end:
            position = buffer.roll()
        buffer.position = position + SIZE
        pack_into(buffer.view, position, *fields, commit_mark)

    Attributes
    ----------
    view : memoryview
        The memory to pack into.
    position, end : int
        Where the next record goes, and where the memory ends.
    span : int
        The last span number given out: process, thread and sequence (from 1) in one.
        The caller counts.
    """

    __slots__ = (
        "__weakref__",
        "_block",
        "_blocks",
        "_depth",
        "_size",
        "_table",
        "_thread",
        "end",
        "position",
        "span",
        "view",
    )

    def __init__(self, buffers: Buffers, table: str) -> None:
        record = TABLES[table].record
        assert record is not None, f"{table} has no record: it is written by rows"
        self._blocks = buffers
        self._table = table
        self._size = record.size
        self._depth = 0
        self._block: Block | None = None
        self.view = _BIN
        self.end = BLOCK_BYTES - BLOCK_BYTES % record.size
        self.position = self.end
        self._know_thread()

    def roll(self) -> int:
        """Hand the full block over, take a fresh one and return where its first record goes."""
        while self.position == self.end:
            self._depth += 1
            try:
                fresh = self._take()
            finally:
                self._depth -= 1
            if self.position != self.end:  # whoever recorded meanwhile has rolled it
                if fresh is not None:
                    self._blocks.hand_over(fresh, 0)
                continue
            if fresh is None:
                self.view = _BIN
                self.position = self.end - self._size  # so that each record comes by here
                self._blocks.losses[self._table, self._thread[1]] += 1
            else:
                full = self._block
                self._block = fresh
                self.view = fresh.view
                self.position = 0
                if full is not None:
                    self._blocks.hand_over(full, self.end)
        return self.position

    def _take(self) -> Block | None:
        if self._depth > MOST_DEPTH:
            return None
        return self._blocks.take(self._table, *self._thread)

    def retire(self) -> None:
        """Hand over what there is. The next record takes a fresh block, if there still are any."""
        block = self._block
        used = self.end if self.view is _BIN else self.position
        self._block = None
        self.view = _BIN
        self.position = self.end
        if block is not None:
            self._blocks.hand_over(block, used)

    def leave_to_parent(self) -> None:
        """In a forked child: let go of the parent's block, as if nothing was recorded yet."""
        self._block = None
        self.view = _BIN
        self.position = self.end
        self.__class__ = _Inherited

    def take_part(self) -> None:
        """In a forked child: make it a process of the run, if it is not yet one."""
        self._blocks.take_part()
        self._know_thread()

    def _know_thread(self) -> None:
        self._thread = self._blocks.thread()
        bits = self._blocks.index << _THREAD_BITS | self._thread[0]
        self.span = bits << _SEQUENCE_BITS

    def __del__(self) -> None:
        # Its thread has ended. In a forked child those of all threads but one end before
        # any code of ours runs, and what they hold is not the child's to hand over.
        if os.getpid() == self._blocks.pid:
            self.retire()


class _Inherited(RecordBuffer):
    """A record buffer in a forked child that has not recorded yet.

    The first touch makes the child take part in the run, under an index of its own,
    and turns this back into a plain record buffer: the hot path has nothing to check.
    """

    __slots__ = ()

    def _position(self) -> int:
        return _taking_part(self).position

    def _span(self) -> int:
        return _taking_part(self).span

    position = property(_position)
    span = property(_span)

    def _has_nothing(self) -> None:
        pass

    retire = leave_to_parent = __del__ = _has_nothing


def _taking_part(buffer: RecordBuffer) -> RecordBuffer:
    buffer.__class__ = RecordBuffer
    buffer.take_part()
    return buffer


class Buffers(Blocks):
    """The record buffers of a process, one per thread and table.

    Parameters
    ----------
    wake : callable
        Wakes the writer.
    take_part : callable
        Called in a forked child as it first records: begins anew there.
    """

    def __init__(self, wake: Callable[[], None], take_part: Callable[[], None]) -> None:
        super().__init__(wake)
        self.take_part = take_part
        self._all: dict[int, weakref.ref[RecordBuffer]] = {}
        self._of_thread = threading.local()

    def leave(self) -> None:
        super().leave()
        self._numbers_of_threads = itertools.count(1)
        self._thread = threading.local()

    def buffer(self, table: str) -> RecordBuffer:
        """Return the calling thread's buffer for a table; it goes with the thread."""
        mine: dict[str, RecordBuffer] = self._of_thread.__dict__
        known = mine.get(table)
        if known is None:
            known = mine[table] = RecordBuffer(self, table)
            key = id(known)
            self._all[key] = weakref.ref(known, lambda _: self._all.pop(key, None))
        return known

    def thread(self) -> tuple[int, int]:
        """Return the calling thread's number in the run, from 1, and the kernel's number."""
        known: tuple[int, int] | None = getattr(self._thread, "numbers", None)
        if known is None:
            number = next(self._numbers_of_threads) % (1 << _THREAD_BITS)
            known = self._thread.numbers = number, threading.get_native_id()
        return known

    def retire_all(self) -> None:
        """Have all buffers hand over what they hold."""
        for buffer in self._living():
            buffer.retire()

    def leave_to_parent(self) -> None:
        """In a forked child: make all buffers forget the parent's blocks."""
        for buffer in self._living():
            buffer.leave_to_parent()
        self.leave()

    def _living(self) -> list[RecordBuffer]:
        found = [reference() for reference in list(self._all.values())]
        return [buffer for buffer in found if buffer is not None]

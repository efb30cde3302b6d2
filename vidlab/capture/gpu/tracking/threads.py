"""What the tracker keeps of each thread: where it records, and what it is in the middle of."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

from .... import labelsets
from ... import failures
from ...frames.threadstate import Buffer

#: Whether a thread is inside an allocator, and whether that is a pool.
NOT_INSIDE, IN_ALLOCATOR, IN_POOL = range(3)


class Writer(failures.Writer, Protocol):
    """What the tracker needs of `runs.writer.RunWriter`."""

    @property
    def names(self) -> labelsets.Names: ...
    def buffer(self, table: str) -> Buffer: ...
    def stack(self, frames: Sequence[tuple[str, str, int]]) -> int: ...
    def row(self, table: str, /, **columns: Any) -> None: ...


class ThreadState:
    """What the tracker keeps of one thread.

    Attributes
    ----------
    inside : int
        Whether the thread is inside an allocator: `NOT_INSIDE`, `IN_ALLOCATOR`, or
        `IN_POOL` if what it takes from the driver is kept by a pool.
    driver_kind : int
        The kind of driver memory taken last, of `schema.MEMORY_KINDS`; -1 for none.
    """

    __slots__ = ("buffer", "driver_kind", "inside")

    def __init__(self, writer: Writer) -> None:
        self.buffer = writer.buffer("allocations")
        self.inside = NOT_INSIDE
        self.driver_kind = -1


class _Begins:
    """Makes a thread's state as it is first asked for.

    A garbage collection in between may ask for it too, and then makes it: what that has
    recorded is kept.
    """

    def __get__(self, local: Local, owner: type[Local]) -> ThreadState:
        made = ThreadState(local.writer)
        state: ThreadState = local.__dict__.setdefault("state", made)
        return state


class Local(threading.local):
    """The calling thread's state, made when the thread first records."""

    __slots__ = ("writer",)  # which all threads share

    state = _Begins()

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

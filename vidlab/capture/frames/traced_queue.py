"""Queues that are recorded where `queue.Queue` does not serve.

Each behaves as the queue that it is named after, recorded or not; while
recording, waits, depths and evicted items are written down. With
``evict=True`` a full queue drops its oldest item to make room and `put` never
waits, as a `collections.deque(maxlen=…)` does.

=====================  =========================  ============================
class                  is a                       between
=====================  =========================  ============================
`TracedQueue`          `queue.Queue`              threads
`TracedAsyncQueue`     `asyncio.Queue`            asyncio tasks
`TracedProcessQueue`   `multiprocessing.Queue`    processes, forked or spawned
=====================  =========================  ============================

A buffer is reported as falling (the finding `buffer_falling`) if within one
second its level falls by more than 30 % of its capacity, or of its highest
level in that second where it has none, and by at least four items. After a None,
the usual sign of the end, it may run empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.context
import multiprocessing.queues
import queue
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ...clock import now_ns
from ...errors import InputError
from ...schema import PUT
from . import queues
from .refs import FrameRef, attach, find_ref

T = TypeVar("T")

if TYPE_CHECKING:
    _ProcessQueue = multiprocessing.queues.Queue[Any]
else:  # takes no type argument while running
    _ProcessQueue = multiprocessing.queues.Queue


def _checked_size(maxsize: int, evict: bool) -> int:
    if evict and maxsize <= 0:
        raise InputError("a queue that evicts needs a maxsize of at least 1")
    return maxsize


class TracedQueue(queue.Queue[T]):
    """A `queue.Queue` between threads that can evict and has a name.

    Parameters
    ----------
    maxsize : int
        The most items that it holds; 0 for no limit.
    name : str, optional
        What to call it in the run; by default file and line of where it was made.
    evict : bool
        Whether a full queue drops its oldest item instead of letting `put` wait.

    Attributes
    ----------
    capacity : int
        `maxsize` as given. (`maxsize` itself is 0 in a queue that evicts: `put` never waits.)
    evicted : int
        Items dropped so far.

    Examples
    --------
    >>> newest = TracedQueue(2, evict=True)
    >>> for n in range(5):
    ...     newest.put(n)
    >>> newest.get(), newest.get(), newest.evicted
    (3, 4, 3)
    """

    def __init__(self, maxsize: int = 0, *, name: str | None = None, evict: bool = False) -> None:
        self.capacity = _checked_size(maxsize, evict)
        self.vidlab_name = name or queues.origin()
        self.evicted = 0
        self._evict = evict
        super().__init__(0 if evict else maxsize)

    def _put(self, item: T) -> None:  # called with the queue's lock held
        if self._evict and self._qsize() >= self.capacity:
            dropped = self._get()
            self.evicted += 1
            self.unfinished_tasks -= 1
            watch = queues.watched(self)
            if watch is not None:
                watch.evicted(dropped, self._qsize())
        super()._put(item)


class TracedAsyncQueue(asyncio.Queue[T]):
    """An `asyncio.Queue` that is recorded and can evict. Parameters as for `TracedQueue`."""

    def __init__(self, maxsize: int = 0, *, name: str | None = None, evict: bool = False) -> None:
        self.capacity = _checked_size(maxsize, evict)
        self.vidlab_name = name or queues.origin()
        self.evicted = 0
        self._evict = evict
        self._began_ns: dict[int, int] = {}
        super().__init__(0 if evict else maxsize)

    async def put(self, item: T) -> None:
        self._began_ns[id(item)] = now_ns()
        try:
            await super().put(item)
        finally:
            self._began_ns.pop(id(item), None)

    def put_nowait(self, item: T) -> None:
        watch = queues.watched(self)
        if self._evict and self.qsize() >= self.capacity:
            dropped = super().get_nowait()
            self.evicted += 1
            self.task_done()
            if watch is not None:
                watch.evicted(dropped, self.qsize())
        super().put_nowait(item)
        if watch is not None:
            # Nobody can have got it yet: the event loop is still in this call.
            watch.entering(item, self._began_ns.pop(id(item), None))
            watch.entered(item, self.qsize())

    def get_nowait(self) -> T:
        item = super().get_nowait()
        watch = queues.watched(self)
        if watch is not None:
            watch.left(item, self.qsize())
        return item


class _Parcel(NamedTuple):
    """What crosses to another process: an item, its frame and when it was put."""

    item: Any
    ref: FrameRef | None = None
    began_ns: int | None = None

    def waiting(self) -> queues.Waiting | None:
        """What there is to know of its wait; None if it was put while nothing was recorded."""
        return None if self.began_ns is None else (self.ref, self.began_ns, None)


class TracedProcessQueue(_ProcessQueue):
    """A `multiprocessing.Queue` that is recorded and can evict.

    An item's frame crosses with it, as do the frame's labels, by their text: both
    sides write into the same run.

    Parameters
    ----------
    maxsize, name, evict
        As for `TracedQueue`.
    context : multiprocessing context, optional
        By default that of `multiprocessing.get_context()`.

    Notes
    -----
    What a process has evicted counts in its own `evicted`.
    """

    def __init__(
        self,
        maxsize: int = 0,
        *,
        name: str | None = None,
        evict: bool = False,
        context: multiprocessing.context.BaseContext | None = None,
    ) -> None:
        self.maxsize = self.capacity = _checked_size(maxsize, evict)
        self.vidlab_name = name or queues.origin()
        self.evicted = 0
        self._evict = evict
        super().__init__(maxsize, ctx=context or multiprocessing.get_context())

    def __getstate__(self) -> Any:
        return super().__getstate__(), (self.capacity, self.vidlab_name, self._evict)

    def __setstate__(self, state: Any) -> None:
        queue_state, (self.capacity, self.vidlab_name, self._evict) = state
        self.maxsize = self.capacity
        self.evicted = 0
        super().__setstate__(queue_state)

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        watch = queues.watched(self)
        parcel = _Parcel(obj) if watch is None else _Parcel(obj, find_ref(obj), now_ns())
        if self._evict:
            self._put_evicting(parcel)
        else:
            super().put(parcel, block, timeout)
        if watch is not None:
            watch.ended = obj is None
            watch.touched(self.qsize(), PUT, parcel.ref)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        parcel: _Parcel = super().get(block, timeout)
        watch = queues.watched(self)
        if watch is not None:
            watch.arrived(parcel.item, parcel.waiting(), self.qsize())
            if parcel.ref is not None:
                _attach(parcel.item, parcel.ref)
        return parcel.item

    def _put_evicting(self, parcel: _Parcel) -> None:
        while True:
            try:
                return super().put(parcel, False)
            except queue.Full:
                pass
            # Its items may still be on their way into the pipe: hence a little patience.
            with contextlib.suppress(queue.Empty):
                dropped: _Parcel = super().get(True, 0.01)
                self.evicted += 1
                watch = queues.watched(self)
                if watch is not None:
                    watch.lost(dropped.waiting(), self.qsize())


def _attach(item: Any, ref: FrameRef) -> None:
    """Give an image that came from another process, or those in a tuple or dict, its identity."""
    inside = item.values() if isinstance(item, dict) else item
    for value in inside if isinstance(item, (tuple, list, dict)) else (item,):
        if isinstance(value, np.ndarray):
            attach(value, ref)

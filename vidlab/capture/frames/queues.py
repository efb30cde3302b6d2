"""Queues: how long each frame waited, how deep they were, when a buffer runs dry.

`queue.Queue`, `LifoQueue`, `PriorityQueue` and their subclasses are patched in
place while recording. What is known about a waiting item lies beside the queue,
never in it: the program gets the items that it put, before, during and after a
recording. `queue.SimpleQueue` and `collections.deque` are types of C that cannot
be patched: `TracedQueue` and its siblings serve where those are used.

Items are told apart by their `id`, which is theirs alone as long as the queue
holds them, so any order of getting them works.
"""

from __future__ import annotations

import collections
import queue
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ... import labelsets
from ...clock import now_ns
from ...schema import CANCELLED, EVICT, EVICTED, GET, OK, PUT, QUEUE, TABLES
from ..patching import Patches
from .recorder import SpanRecorder
from .refs import FrameRef, find_ref
from .spans import Span
from .threadstate import Writer

_RECORD = TABLES["queue_depths"].record
assert _RECORD is not None
_SIZE = _RECORD.size
_pack_into = _RECORD.struct.pack_into

#: A buffer is falling if, within `_FALL_WINDOW_NS`, its level falls by more than
#: this share of its capacity (without a capacity: of its highest level in that time) …
_FALL_SHARE = 0.3
#: … and by at least so many items: one item of a queue of three is no trend.
_LEAST_FALL = 4
_FALL_WINDOW_NS = 1_000_000_000
#: One finding a fall: the same queue is not reported again for so long.
_FALL_QUIET_NS = 10_000_000_000

#: Waiting items beyond which it is looked whether the queue still holds them.
_LOOK_AT = 1024

_OWN_FOLDER = str(Path(__file__).parent)


#: An item in a queue: its frame, when it was put, and inside which span of the frame.
#: A plain tuple: making a NamedTuple takes five times as long.
Waiting = tuple[FrameRef | None, int, Span | None]


class Watch:
    """What is known of one queue while recording.

    All methods may be called by several threads at once: single operations on
    dicts and deques are atomic. The worst that a race can do is lose a measurement.
    None of them raises.
    """

    def __init__(self, session: Session, watched: Any, name: str | None) -> None:
        self._session = session
        self._recorder = session.recorder
        self._local = session.local
        self._watched = weakref.ref(watched)
        self._stage = session.name(name)
        capacity = getattr(watched, "capacity", 0) or getattr(watched, "maxsize", 0)
        self._capacity = capacity if capacity > 0 else -1
        # By id of the item; when it is in the queue a second time, in _again.
        self._waiting: dict[int, Waiting] = {}
        self._again: dict[int, collections.deque[Waiting]] = {}
        self._look_at = _LOOK_AT
        # Levels after puts within the window, falling: the first is the highest.
        self._peaks: collections.deque[tuple[int, int]] = collections.deque()
        self._quiet_until_ns = 0
        #: Whether None was put last, the usual sign of the end: it is no frame, and a
        #: buffer that runs empty after it is as it should be.
        self.ended = False

    def entering(self, item: object, t_ns: int | None = None) -> None:
        """Note that a put of this item begins, or began at `t_ns`."""
        self.ended = item is None
        if item is None:
            return
        try:
            entry = self.waiting(item, t_ns)
            if self._waiting.setdefault(id(item), entry) is not entry:
                self._enter_again(item, entry)
            elif len(self._waiting) > self._look_at:
                self._forget_gone()
        except Exception:
            self._recorder.failed()

    def waiting(self, item: object, t_ns: int | None = None) -> Waiting:
        """Return what there is to know of an item that is put now, or was at `t_ns`."""
        ref = find_ref(item)
        after = None if ref is None else self._recorder.outermost(ref)
        return ref, now_ns() if t_ns is None else t_ns, after

    def frames(self) -> Iterator[FrameRef]:
        """Yield the frames that wait in it, from the one put first."""
        for ref, _, _ in list(self._waiting.values()):
            if ref is not None:
                yield ref

    def withdrawn(self, item: object) -> None:
        """Note that the put failed."""
        self._leave(item)

    def entered(self, item: object, depth: int) -> None:
        """Note that the put has succeeded."""
        entry = self._waiting.get(id(item))
        self.touched(depth, PUT, None if entry is None else entry[0])

    def left(self, item: object, depth: int) -> None:
        """Note that this item was got: write its wait, and make its frame the current one."""
        self.arrived(item, self._leave(item), depth)

    def arrived(self, item: object, entry: Waiting | None, depth: int) -> None:
        """Note that an item was got; `entry` is None if it was put before the recording."""
        try:
            ref = find_ref(item) if entry is None else entry[0]
            self.touched(depth, GET, ref)
            if ref is not None:
                self._recorder.set_current_frame(ref)
            if entry is not None:  # last, since the wait ends as the program gets the item
                _, began_ns, after = entry
                self._recorder.emit(self._stage, QUEUE, OK, ref, began_ns, None, after=after)
        except Exception:
            self._recorder.failed()

    def evicted(self, item: object, depth: int) -> None:
        """Note that the queue dropped this item to make room."""
        self.lost(self._leave(item), depth)

    def lost(self, entry: Waiting | None, depth: int) -> None:
        """Note that an item was dropped; `entry` is None if it was put before the recording."""
        ref = None
        if entry is not None:
            ref, began_ns, after = entry
            self._recorder.emit(self._stage, QUEUE, CANCELLED, ref, began_ns, now_ns(), after=after)
            if ref is not None:
                self._recorder.event(ref, EVICTED, self._stage)
        self.touched(depth, EVICT, ref)

    def touched(self, depth: int, touch: int, ref: FrameRef | None) -> None:
        """Write down the depth after a touch, and see whether the buffer is falling."""
        try:
            t_ns = now_ns()
            labels = labelsets.current.get() if ref is None else ref.labels
            buffer = self._local.buffer
            position = buffer.position
            if position == buffer.end:
                position = buffer.roll()
            buffer.position = position + _SIZE
            _pack_into(
                buffer.view,
                position,
                t_ns,
                labels,
                depth,
                self._capacity,
                self._stage,
                0,
                touch + 1,
            )
            peaks = self._peaks
            while peaks and peaks[0][0] < t_ns - _FALL_WINDOW_NS:
                peaks.popleft()
            if touch == PUT:
                while peaks and peaks[-1][1] <= depth:
                    peaks.pop()
                peaks.append((t_ns, depth))
            elif peaks and peaks[0][1] - depth >= _LEAST_FALL:
                self._maybe_falling(t_ns, depth, *peaks[0], labels)
        except IndexError:  # another thread emptied the peaks meanwhile
            return
        except Exception:
            self._recorder.failed()

    def _leave(self, item: object) -> Waiting | None:
        key = id(item)
        entry = self._waiting.pop(key, None)
        if self._again and key in self._again:
            others = self._again[key]
            if others:
                self._waiting[key] = others.popleft()
            if not others:
                self._again.pop(key, None)
        return entry

    def _enter_again(self, item: object, entry: Waiting) -> None:
        """Note an object whose id is known: in the queue twice, or the id of one that is gone."""
        if any(held is item for held in self._contents()):
            self._again.setdefault(id(item), collections.deque()).append(entry)
        else:
            self._waiting[id(item)] = entry

    def _forget_gone(self) -> None:
        """Forget items that the program took out by other ways than get."""
        held = {id(item) for item in self._contents()}
        for key in [key for key in list(self._waiting) if key not in held]:
            self._waiting.pop(key, None)
            self._again.pop(key, None)
        self._look_at = max(_LOOK_AT, 2 * len(self._waiting))

    def _contents(self) -> list[object]:
        watched = self._watched()
        for _ in range(8):
            try:
                return list(getattr(watched, "queue", ()))
            except RuntimeError:  # it changed meanwhile
                continue
        return []

    def _maybe_falling(self, t_ns: int, depth: int, peak_ns: int, peak: int, labels: int) -> None:
        limited = self._capacity > 0
        share = (peak - depth) / (self._capacity if limited else peak)
        if share <= _FALL_SHARE or self.ended or t_ns < self._quiet_until_ns:
            return
        if t_ns < peak_ns:  # another thread put meanwhile: what was got before is no fall from that
            return
        self._quiet_until_ns = t_ns + _FALL_QUIET_NS
        queue_name = self._session.names[self._stage]
        of = "capacity" if limited else "level"
        self._session.recorder.writer.finding(
            "buffer_falling",
            f"the queue {queue_name!r} fell from {peak} to {depth} items, "
            f"{share:.0%} of its {of}, within {(t_ns - peak_ns) / 1e6:.0f} ms: "
            "it is emptied faster than it is filled",
            labels=labels,
            queue=queue_name,
            from_depth=peak,
            to_depth=depth,
            capacity=self._capacity if limited else None,
            within_ns=t_ns - peak_ns,
        )


class _DepthBuffer(threading.local):
    """The calling thread's buffer for queue depths, made when it first records."""

    def __init__(self, writer: Writer) -> None:
        self.buffer = writer.buffer("queue_depths")


class Session:
    """All queues of one recording."""

    def __init__(self, recorder: SpanRecorder) -> None:
        self.recorder = recorder
        self.names: dict[int, str] = {}
        self._watches: dict[int, Watch] = {}
        #: By the queue's `id`: what is known of it, if it was touched before.
        self.known = self._watches.get
        self._origins: dict[int, tuple[weakref.ref[Any], str]] = {}
        self._links: dict[int, weakref.ref[Any]] = {}
        self._unnamed = 0
        self.local = _DepthBuffer(recorder.writer)

    def watch(self, watched: Any) -> Watch:
        """Return what is known of this queue."""
        return self._watches.get(id(watched)) or self._new_watch(watched)

    def waiting(self) -> Iterator[FrameRef]:
        """Yield the frames that wait in queues, in each of them from the one put first."""
        for watch in list(self._watches.values()):
            yield from watch.frames()

    def created(self, watched: Any, origin: str) -> None:
        """Note where the program made a queue."""
        key = id(watched)
        self._watches.pop(key, None)
        self._origins[key] = (weakref.ref(watched, lambda _: self._forget(key)), origin)

    def _new_watch(self, watched: Any) -> Watch:
        key = id(watched)
        name = getattr(watched, "vidlab_name", None)
        if not name:
            _, name = self._origins.get(key, (None, None))
        self._links[key] = weakref.ref(watched, lambda _: self._forget(key))
        return self._watches.setdefault(key, Watch(self, watched, name))

    def _forget(self, key: int) -> None:
        self._watches.pop(key, None)
        self._origins.pop(key, None)
        self._links.pop(key, None)

    def name(self, name: str | None) -> int:
        """Return the number of a queue's name; one without a name gets the next 'queue k'."""
        if not name:
            self._unnamed += 1
            name = f"queue {self._unnamed}"
        number = self.recorder.writer.names.number(str(name))
        self.names[number] = str(name)
        return number


#: The queues of the recording that runs, if one does.
active: Session | None = None


def watched(queue: Any) -> Watch | None:
    """Return what is known of this queue; None while nothing is recorded.

    Nothing that goes wrong in here reaches the program.
    """
    session = active
    if session is None:
        return None
    try:
        return session.watch(queue)
    except Exception:
        session.recorder.failed()
        return None


def install(patches: Patches, recorder: SpanRecorder) -> None:
    """Record `queue.Queue` and its subclasses until `patches` are restored."""
    session = Session(recorder)
    patches.set(sys.modules[__name__], "active", session)
    init, put, get = queue.Queue.__init__, queue.Queue.put, queue.Queue.get
    known = session.known

    def recorded_init(self: queue.Queue[Any], maxsize: int = 0) -> None:
        init(self, maxsize)
        try:
            session.created(self, origin())
        except Exception:
            recorder.failed()

    def recorded_put(
        self: queue.Queue[Any], item: Any, block: bool = True, timeout: float | None = None
    ) -> None:
        t_ns = now_ns()
        watch = known(id(self)) or watched(self)
        if watch is not None:
            watch.entering(item, t_ns)
        try:
            put(self, item, block, timeout)
        except BaseException:
            if watch is not None:
                watch.withdrawn(item)
            raise
        if watch is not None:
            watch.entered(item, self._qsize())

    def recorded_get(
        self: queue.Queue[Any], block: bool = True, timeout: float | None = None
    ) -> Any:
        item = get(self, block, timeout)
        watch = known(id(self)) or watched(self)
        if watch is not None:
            watch.left(item, self._qsize())
        return item

    patches.set(queue.Queue, "__init__", recorded_init)
    patches.set(queue.Queue, "put", recorded_put)
    patches.set(queue.Queue, "get", recorded_get)


def origin() -> str:
    """Return file and line of the code that makes a queue, such as 'pipeline.py:42'."""
    frame = sys._getframe(1)
    # Not in our own code, nor in the constructor of a subclass.
    while frame.f_back is not None and (
        frame.f_code.co_name == "__init__" or frame.f_code.co_filename.startswith(_OWN_FOLDER)
    ):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"

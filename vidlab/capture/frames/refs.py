"""Frame identity: who a packet, a decoded frame or an image is.

A `FrameRef` rides on the object that it names. A packet or frame of PyAV carries
it in `opaque`, an ndarray through a weak side table, anything else inside a
`Traced`. The same frame may be on its way several times (a filter that
duplicates, a decoder's reference), so a `FrameRef` never changes.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, cast

import numpy as np

from ... import labelsets
from ...schema import UNKNOWN
from . import arrays

#: After what time, in ns since its demux, a frame of a stream is late, by the high bits of its
#: number: known while a recording samples adaptively. They cross to other processes with it.
deadlines: dict[int, int] = {}
_MOST_DEADLINES = 4096

#: The shortest of them that was ever known.
NEVER_NS = 1 << 62
shortest_ns = NEVER_NS

# frame, parent, cpu_ns and runqueue_ns of a record of `spans`.
_HEAD = struct.Struct("<QQqq")


class _Fields:
    """What a `FrameRef` consists of. It becomes immutable by becoming one."""

    __slots__ = ("dts", "frame", "head", "labels", "pts", "sampled", "seq", "t_demux_ns", "user")

    def __init__(
        self,
        frame: int,
        seq: int,
        pts: int | None,
        dts: int | None,
        labels: int,
        t_demux_ns: int,
        sampled: bool,
        user: Any,
    ) -> None:
        self.frame: Final = frame
        self.seq: Final = seq
        self.pts: Final = pts
        self.dts: Final = dts
        self.labels: Final = labels
        self.t_demux_ns: Final = t_demux_ns
        self.sampled: Final = sampled
        self.user: Final = user
        self.head: Final = _HEAD.pack(frame, 0, UNKNOWN, UNKNOWN) if sampled else None


class FrameRef(_Fields):
    """The identity of a video frame, immutable. Make one with `frame_ref`.

    Attributes
    ----------
    frame : int
        Its number, unique in the run.
    seq : int
        Its packet's number in the stream, in decode order, from 0.
    pts, dts : int or None
        Its packet's time stamps, in the stream's time base.
    labels : int
        The id of the label set that it was born with.
    t_demux_ns : int
        When the read of its packet began.
    sampled : bool
        Whether it is recorded.
    user : object
        What the program itself has put into `opaque`.
    head : bytes or None
        The frame's part of a span's record, as it is for most spans: `frame`, no parent,
        and no clocks. None if the frame is not recorded.
    """

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a FrameRef cannot be changed: frames share it")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a FrameRef cannot be changed: frames share it")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrameRef) and other.frame == self.frame

    def __hash__(self) -> int:
        return hash(self.frame)

    def __repr__(self) -> str:
        return f"<FrameRef {self.frame:#x}: seq {self.seq}, pts {self.pts}>"

    def __reduce__(self) -> tuple[Callable[..., FrameRef], tuple[Any, ...]]:
        # Label ids are a process's own, so the labels travel as text. What the program
        # has in `user` belongs to PyAV's object, which does not travel.
        known = labelsets.get(self.labels)
        return _arrived, (
            *(self.frame, self.seq, self.pts, self.dts),
            *(dict(known.values), known.sample_rate, self.t_demux_ns, self.sampled),
            deadlines.get(self.frame >> 32),
        )


def frame_ref(
    frame: int,
    seq: int,
    pts: int | None = None,
    dts: int | None = None,
    labels: int = labelsets.EMPTY,
    t_demux_ns: int = 0,
    sampled: bool = True,
    user: Any = None,
) -> FrameRef:
    """Return a new `FrameRef`; see there for what the parameters mean."""
    ref = _Fields(frame, seq, pts, dts, labels, t_demux_ns, sampled, user)
    ref.__class__ = FrameRef
    return cast(FrameRef, ref)


def with_user(ref: FrameRef, user: Any) -> FrameRef:
    """Return a new `FrameRef` of the same frame, with this in `user`.

    It is a new object even if nothing differs. PyAV finds an opaque object by its
    address and forgets it when the first packet or frame that it was set on goes
    away, so the same object must never be set on two of them.
    """
    return frame_ref(
        ref.frame,
        ref.seq,
        ref.pts,
        ref.dts,
        ref.labels,
        ref.t_demux_ns,
        ref.sampled,
        user,
    )


def _arrived(
    frame: int,
    seq: int,
    pts: int | None,
    dts: int | None,
    labels: Mapping[str, labelsets.LabelValue],
    sample_rate: float,
    t_demux_ns: int,
    sampled: bool,
    deadline_ns: int | None = None,
) -> FrameRef:
    """Return a `FrameRef` that came from another process."""
    if deadline_ns is not None:
        set_deadline(frame >> 32, deadline_ns)
    here = labelsets.intern(labels, sample_rate)
    return frame_ref(frame, seq, pts, dts, here, t_demux_ns, sampled)


def set_deadline(stream: int, deadline_ns: int) -> None:
    """Note when frames of a stream are late; of too many streams the oldest is forgotten."""
    global shortest_ns
    shortest_ns = min(shortest_ns, deadline_ns)
    deadlines[stream] = deadline_ns
    if len(deadlines) > _MOST_DEADLINES:
        with contextlib.suppress(RuntimeError, StopIteration):  # another thread does so too
            deadlines.pop(next(iter(deadlines)), None)


def forget_deadlines() -> None:
    """Have no stream's frames be late."""
    global shortest_ns
    shortest_ns = NEVER_NS
    deadlines.clear()


class Traced(NamedTuple):
    """A value together with the frame that it belongs to: for what cannot carry identity.

    Examples
    --------
    >>> value, ref = Traced("a tensor", frame_ref(frame=1 << 52, seq=0))
    """

    value: Any
    ref: FrameRef | None


#: How identity is read from, and put on, an object of a type: PyAV's engine adds its own.
readers: dict[type, Callable[[Any], FrameRef | None]] = {
    FrameRef: lambda ref: ref,
    Traced: lambda traced: traced.ref,
    np.ndarray: arrays.recall,
}
writers: dict[type, Callable[[Any, FrameRef], None]] = {np.ndarray: arrays.remember}


def ref_of(obj: Any) -> FrameRef | None:
    """Return the identity of a frame, packet, image or `Traced`; None if it has none."""
    reader = readers.get(type(obj))
    if reader is not None:
        return reader(obj)
    return arrays.recall(obj) if isinstance(obj, np.ndarray) else None


def attach(obj: Any, ref: FrameRef) -> bool:
    """Put this identity on a packet, frame or image; return whether it can carry one."""
    writer = writers.get(type(obj))
    if writer is None:
        if not isinstance(obj, np.ndarray):
            return False
        writer = arrays.remember
    writer(obj, ref)
    return True


#: How many items of a container `find_ref` looks at.
_LOOK_AT = 8


def find_ref(obj: Any) -> FrameRef | None:
    """Return the identity of what a queue item carries.

    That is the item itself, or the first of the leading items of a tuple, list or
    dict that has one; attributes of a plain object count as a dict.
    """
    ref = ref_of(obj)
    if ref is not None or obj is None:
        return ref
    inside: Any
    if isinstance(obj, (tuple, list)):
        inside = obj[:_LOOK_AT]
    elif isinstance(obj, dict):
        inside = list(obj.values())[:_LOOK_AT]
    elif type(obj) in readers or isinstance(obj, (str, bytes, int, float)):
        return None
    else:
        inside = list(getattr(obj, "__dict__", {}).values())[:_LOOK_AT]
    for item in inside:
        ref = ref_of(item)
        if ref is not None:
            return ref
    return None

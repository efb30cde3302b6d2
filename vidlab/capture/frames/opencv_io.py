"""OpenCV's VideoCapture and VideoWriter: where frames of a program come from and go to.

A read is one span: OpenCV demuxes and decodes in one call. Its frames are counted
as they come out, and their `pts` counts in frames too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ... import labelsets
from ...clock import now_ns
from ...schema import DECODED, DELIVERED, DEMUXED
from ..patching import Patches
from . import arrays
from .recorder import SpanRecorder
from .refs import FrameRef
from .sources import Source
from .spans import Span, StageKind
from .stages import stage


def install(patches: Patches, recorder: SpanRecorder, cv2: Any) -> None:
    """Record what is read and written until `patches` are restored."""
    _install_capture(patches, recorder, cv2)
    _install_writer(patches, recorder, cv2)


# --- reading --------------------------------------------------------------------


class _Capture:
    """What is known of one open `cv2.VideoCapture`."""

    def __init__(
        self, recorder: SpanRecorder, cv2: Any, get: Callable[[int], float], url: str
    ) -> None:
        rate = get(cv2.CAP_PROP_FPS)
        fourcc = int(get(cv2.CAP_PROP_FOURCC)).to_bytes(8, "little", signed=True)
        codec = fourcc.strip(b"\0 \xff").decode("ascii", "ignore")
        self.time_base = _time_base(rate)
        nominal = rate if self.time_base[0] else None
        self.source = Source(recorder, Path(url).name or url, codec or None, nominal_rate=nominal)
        #: The frame that was grabbed last, until it is retrieved.
        self.grabbed: FrameRef | None = None
        size = get(cv2.CAP_PROP_FRAME_WIDTH), get(cv2.CAP_PROP_FRAME_HEIGHT)
        _write_stream(recorder, "input", url, self.source.labels(), rate, size)


def _install_capture(patches: Patches, recorder: SpanRecorder, cv2: Any) -> None:
    owner = cv2.VideoCapture
    read, grab, retrieve, get = owner.read, owner.grab, owner.retrieve, owner.get
    # A VideoCapture has room for nothing and cannot be referred to weakly. All ways to a
    # new one go through `_follow`, so an id here is not one of a former object.
    captures: dict[int, _Capture] = {}
    reading, grabbing = recorder.kind("read"), recorder.kind("grab")

    def opened(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Capture | None:
        try:
            captures.pop(id(self), None)
            if not self.isOpened():
                return None
            url = _url("camera", args, kwargs)
            known = _Capture(recorder, cv2, lambda wanted: get(self, wanted), url)
            captures[id(self)] = known
            return known
        except Exception:
            recorder.failed()
            return None

    def begin(self: Any, kind: StageKind) -> tuple[_Capture, FrameRef, Span] | None:
        """Return what is known of a read that begins; None if nothing can be."""
        try:
            capture = captures.get(id(self)) or opened(self, (), {})
            if capture is None:
                return None
            ref = capture.source.coming(now_ns())
            return capture, ref, recorder.span(kind, ref)
        except Exception:
            recorder.failed()
            return None

    def demuxed(capture: _Capture, ref: FrameRef) -> None:
        capture.source.advance()
        time_base = capture.time_base
        recorder.event(ref, DEMUXED, reading.number, t_ns=ref.t_demux_ns, time_base=time_base)
        recorder.set_current_frame(ref)

    def decoded(ref: FrameRef, image: Any) -> None:
        recorder.event(ref, DECODED, reading.number)
        if isinstance(image, np.ndarray):
            arrays.remember(image, ref)

    @wraps(read)
    def recorded_read(self: Any, *args: Any, **kwargs: Any) -> Any:
        begun = begin(self, reading)
        if begun is None:
            return read(self, *args, **kwargs)
        capture, ref, span = begun
        with span:
            result = read(self, *args, **kwargs)
            if not result[0]:  # the end, or a camera's failure: there is no such frame
                span.ref = None
        if result[0]:
            demuxed(capture, ref)
            decoded(ref, result[1])
        return result

    @wraps(grab)
    def recorded_grab(self: Any) -> Any:
        begun = begin(self, grabbing)
        if begun is None:
            return grab(self)
        capture, ref, span = begun
        with span:
            result = grab(self)
            if not result:
                span.ref = None
        capture.grabbed = ref if result else None
        if result:
            demuxed(capture, ref)
        return result

    @wraps(retrieve)
    def recorded_retrieve(self: Any, *args: Any, **kwargs: Any) -> Any:
        capture = captures.get(id(self))
        ref = None if capture is None else capture.grabbed
        with stage("retrieve", ref):
            result = retrieve(self, *args, **kwargs)
        if ref is not None and result[0]:
            decoded(ref, result[1])
        return result

    _follow(patches, owner, opened, captures)
    patches.set(owner, "read", recorded_read)
    patches.set(owner, "grab", recorded_grab)
    patches.set(owner, "retrieve", recorded_retrieve)


def _time_base(rate: float) -> tuple[int, int]:
    """Return one frame's time as numerator and denominator; (0, 0) if the rate is not known."""
    if not 0 < rate < 1e6:
        return 0, 0
    interval = 1 / Fraction(rate).limit_denominator(1001)
    return interval.numerator, interval.denominator


# --- writing --------------------------------------------------------------------


def _install_writer(patches: Patches, recorder: SpanRecorder, cv2: Any) -> None:
    owner = cv2.VideoWriter
    write = owner.write
    # As `captures` above. A writer that is not open swallows what it is given.
    sinks: dict[int, int] = {}  # to the number of the sink's name
    from_before = recorder.kind("write").number

    def opened(self: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            sinks.pop(id(self), None)
            if not self.isOpened():
                return
            url = _url("write", args, kwargs)
            sinks[id(self)] = recorder.kind(Path(url).name or url).number
            rate, size = _rate_and_size(args, kwargs)
            _write_stream(recorder, "output", url, labelsets.current.get(), rate, size)
        except Exception:
            recorder.failed()

    @wraps(write)
    def recorded_write(self: Any, image: Any) -> Any:
        with stage("write", image) as span:
            result = write(self, image)
        ref = getattr(span, "ref", None)
        if ref is not None:
            sink = sinks.get(id(self))
            if sink is None and self.isOpened():
                sink = sinks[id(self)] = from_before
            if sink is not None:
                recorder.event(ref, DELIVERED, sink)
        return result

    _follow(patches, owner, opened, sinks)
    patches.set(owner, "write", recorded_write)


def _rate_and_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, Sequence[float]]:
    """Return the rate that `open` or a constructor was told, and the size, which is next to it."""
    rate, size = kwargs.get("fps", 0.0), kwargs.get("frameSize", (0, 0))
    for before, value in pairwise(args):
        if isinstance(value, (tuple, list)) and len(value) == 2:
            rate, size = before, value
    return float(rate), size


# --- both -----------------------------------------------------------------------


def _follow(
    patches: Patches,
    owner: Any,
    opened: Callable[[Any, tuple[Any, ...], dict[str, Any]], object],
    known: dict[int, Any],
) -> None:
    """Call `opened` whenever an object of this class has been made or opened anew, and take
    what is `known` of it, by id, away when it is released."""
    init, open_, release = owner.__init__, owner.open, owner.release

    @wraps(init)
    def recorded_init(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        opened(self, args, kwargs)

    @wraps(open_)
    def recorded_open(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = open_(self, *args, **kwargs)
        opened(self, args, kwargs)
        return result

    @wraps(release)
    def recorded_release(self: Any) -> Any:
        known.pop(id(self), None)
        return release(self)

    patches.set(owner, "__init__", recorded_init)
    patches.set(owner, "open", recorded_open)
    patches.set(owner, "release", recorded_release)


def _url(otherwise: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return the file or camera that the arguments of a constructor or `open` name."""
    first = args[0] if args else kwargs.get("filename", kwargs.get("index"))
    if isinstance(first, int):
        return f"{otherwise} {first}"
    return os.fspath(first) if isinstance(first, (str, os.PathLike)) else otherwise


def _write_stream(
    recorder: SpanRecorder,
    direction: str,
    url: str,
    labels: int,
    rate: float,
    size: Sequence[float],
) -> None:
    numerator, denominator = _time_base(rate)
    recorder.writer.row(
        "streams",
        labels=labels,
        direction=direction,
        url=url,
        stream_index=0,
        nominal_rate=rate or None,
        time_base=f"{numerator}/{denominator}" if denominator else None,
        width=int(size[0]) or None,
        height=int(size[1]) or None,
        identity="count",
    )

"""PyAV, recorded in place: an unmodified program's packets and frames carry their identity.

What is patched are the few methods that PyAV's own code ends up in, so that each
call is seen once: `InputContainer.demux`, `VideoCodecContext.decode` and `encode`,
`OutputContainer.mux_one`, `FilterContext.push` and `pull`, and the conversions of
`VideoFrame`. Audio, subtitles and data pass through untouched.

The program's own call always goes through, with its own result or exception:
whatever of ours fails is counted (`SpanRecorder.failed`) and reported once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import wraps
from types import ModuleType
from typing import Any

import numpy as np

from ...clock import now_ns
from ...schema import FLUSHED, OK, REORDER
from ..patching import Patches
from . import arrays, stages
from .decoding import SHORTEST_WAIT_NS, Demuxing, Inside
from .encoding import Muxing, adopt
from .opaque import Carrier, carry
from .recorder import SpanRecorder
from .spans import Span

#: The flag AV_CODEC_FLAG_COPY_OPAQUE.
_COPY_OPAQUE = 1 << 7


class PyAV:
    """PyAV in one recording. It is patched as soon as the program imports it.

    Attributes
    ----------
    demuxing : Demuxing or None
        What records the inputs, once PyAV is imported.
    """

    def __init__(self, patches: Patches, recorder: SpanRecorder) -> None:
        self.demuxing: Demuxing | None = None
        self._muxing: Muxing | None = None
        self._recorder = recorder
        self._patches = patches
        patches.when_imported("av", self._install)

    def close(self) -> None:
        """Report what is reported at the end of a recording."""
        if self._muxing is not None:
            self._muxing.close()

    def _install(self, av: ModuleType) -> None:
        import av.codec.context
        import av.container.input
        import av.container.output
        import av.filter.context
        import av.frame
        import av.packet
        import av.video.codeccontext
        import av.video.frame

        patches, recorder = self._patches, self._recorder
        packet, frame = av.packet.Packet, av.frame.Frame
        video_frame = av.video.frame.VideoFrame
        packets, frames = Carrier(vars(packet)["opaque"]), Carrier(vars(frame)["opaque"])
        packets.register(packet)
        frames.register(video_frame)
        self.demuxing = demuxing = Demuxing(recorder, packets, frames)
        self._muxing = muxing = Muxing(recorder, packets, frames, demuxing.copy_opaque)
        carry(patches, packet, frame)
        demuxing.copy_opaque.install(patches, av.codec.context.CodecContext, _COPY_OPAQUE)
        _patch_demux(patches, demuxing, av.container.input.InputContainer)
        _patch_codec(patches, recorder, demuxing, muxing, av.video.codeccontext.VideoCodecContext)
        _patch_mux(patches, recorder, muxing, av.container.output.OutputContainer)
        _patch_filters(patches, Filtering(recorder, frames), av.filter.context.FilterContext)
        _patch_conversions(patches, recorder, frames, video_frame)


def _patch_demux(patches: Patches, demuxing: Demuxing, container: Any) -> None:
    demux = container.demux

    @wraps(demux)
    def recorded_demux(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        return demuxing.read(self, demux(self, *args, **kwargs))

    patches.set(container, "demux", recorded_demux)


def _patch_codec(
    patches: Patches, recorder: SpanRecorder, demuxing: Demuxing, muxing: Muxing, context: Any
) -> None:
    decode, encode, encode_lazy = context.decode, context.encode, context.encode_lazy
    flush_buffers = context.flush_buffers

    @wraps(decode)
    def recorded_decode(self: Any, packet: Any = None) -> Any:
        call = _begin(recorder, demuxing.before_decode, self, packet)
        if call is None:
            return decode(self, packet)
        try:
            frames = decode(self, packet)
        except BaseException as error:
            _end(recorder, demuxing.after_decode, call, self, packet, None, error)
            raise
        named = _end(recorder, demuxing.after_decode, call, self, packet, frames, None)
        return frames if named is None else named

    @wraps(encode)
    def recorded_encode(self: Any, frame: Any = None) -> Any:
        call = _begin(recorder, muxing.before_encode, self, frame)
        if call is None:
            return encode(self, frame)
        try:
            packets = encode(self, frame)
        except BaseException as error:
            _end(recorder, muxing.after_encode, call, self, frame, None, error)
            raise
        named = _end(recorder, muxing.after_encode, call, self, frame, packets, None)
        return packets if named is None else named

    @wraps(encode_lazy)
    def recorded_encode_lazy(self: Any, frame: Any = None) -> Iterator[Any]:
        yield from (
            recorded_encode(self, frame) if stages.active is recorder else encode_lazy(self, frame)
        )

    @wraps(flush_buffers)
    def recorded_flush(self: Any) -> None:
        flush_buffers(self)
        if stages.active is recorder:
            _end(recorder, demuxing.flushed, self)

    patches.set(context, "decode", recorded_decode)
    patches.set(context, "encode", recorded_encode)
    patches.set(context, "encode_lazy", recorded_encode_lazy)
    patches.set(context, "flush_buffers", recorded_flush)


def _patch_mux(patches: Patches, recorder: SpanRecorder, muxing: Muxing, container: Any) -> None:
    mux_one = container.mux_one

    @wraps(mux_one)
    def recorded_mux_one(self: Any, packet: Any) -> None:
        call = _begin(recorder, muxing.before_mux, packet)
        if call is None:
            mux_one(self, packet)
            return
        try:
            mux_one(self, packet)
        except BaseException as error:
            _end(recorder, muxing.after_mux, call, self, packet, error)
            raise
        _end(recorder, muxing.after_mux, call, self, packet, None)

    patches.set(container, "mux_one", recorded_mux_one)


def _begin(recorder: SpanRecorder, begin: Callable[..., Any], *args: Any) -> Any:
    """Call what records the beginning of a call; None if nothing is recorded of it."""
    if stages.active is not recorder:
        return None
    t0_ns = now_ns()
    try:
        call = begin(*args)
        if call is not None:
            # What it takes to record a call is part of the call: not a gap between spans.
            span: Span = call[-1] if isinstance(call, tuple) else call
            span.began(t0_ns)
        return call
    except Exception:
        recorder.failed()
        return None


def _end(recorder: SpanRecorder, end: Callable[..., Any], *args: Any) -> Any:
    """Call what records the end of a call, and return what it returns."""
    try:
        return end(*args)
    except Exception:
        recorder.failed()
        return None


# --- filter graphs --------------------------------------------------------------------


class _GraphFrames:
    """The frames inside one filter graph, and a frame of each stream that it was given."""

    def __init__(self) -> None:
        self.inside = Inside()
        self.streams: dict[int, int] = {}


class Filtering:
    """What is recorded of PyAV's filter graphs."""

    def __init__(self, recorder: SpanRecorder, frames: Carrier) -> None:
        self.recorder = recorder
        self.kind = recorder.kind("filter")
        self._frames = frames
        self._graphs: weakref.WeakKeyDictionary[Any, _GraphFrames] = weakref.WeakKeyDictionary()

    def _of(self, context: Any) -> _GraphFrames:
        return self._graphs.setdefault(context.graph, _GraphFrames())

    def before_push(self, context: Any, frame: Any) -> Any:
        """Open the span of a frame's way into a graph; None for a link on the way."""
        if frame is None:
            return None
        span = self.recorder.span(self.kind, None)
        span.__enter__()
        if context.filter.name != "buffer":
            span.drop()
            return None
        span.ref = ref = self._frames.read(frame)
        return ref, span

    def after_push(self, call: Any, context: Any, error: BaseException | None) -> None:
        """Close it: from now on the graph holds the frame."""
        ref, span = call
        if ref is not None and not ref.sampled:
            span.drop()
            return
        graph = self._of(context)
        span.__exit__(None if error is None else type(error), error, None)
        if ref is not None and error is None:
            graph.inside.enter(ref, None, span.t1, self.recorder.outermost(ref))
            graph.streams[ref.frame >> 32] = ref.frame

    def before_pull(self, context: Any) -> Any:
        """Open the span of a frame's way out of a graph; None for a link on the way."""
        span = self.recorder.span(self.kind, None)
        span.__enter__()
        if context.filter.name != "buffersink":
            span.drop()
            return None
        return span

    def after_pull(self, call: Any, context: Any, frame: Any, error: BaseException | None) -> None:
        """Close it, for the frame that came."""
        span = call
        if frame is None:
            span.drop()
            if isinstance(error, EOFError):
                graph = self._of(context)
                for number in graph.streams.values():
                    self.recorder.event(number, FLUSHED, self.kind.number)
                graph.inside.clear()
            return
        span.ref = ref = self._frames.read(frame)
        if ref is None or not ref.sampled:
            span.drop()
            return
        known = self._of(context).inside.leave(ref.frame)
        if known is not None and span.t0 - known[2] >= SHORTEST_WAIT_NS:
            self.recorder.emit(
                self.kind.number, REORDER, OK, ref, known[2], span.t0, after=known[3]
            )
        self.recorder.set_current_frame(ref)
        span.__exit__(None, None, None)


def _patch_filters(patches: Patches, filtering: Filtering, context: Any) -> None:
    recorder, push, pull = filtering.recorder, context.push, context.pull

    @wraps(push)
    def recorded_push(self: Any, frame: Any) -> None:
        call = _begin(recorder, filtering.before_push, self, frame)
        if call is None:
            push(self, frame)
            return
        try:
            push(self, frame)
        except BaseException as error:
            _end(recorder, filtering.after_push, call, self, error)
            raise
        _end(recorder, filtering.after_push, call, self, None)

    @wraps(pull)
    def recorded_pull(self: Any) -> Any:
        call = _begin(recorder, filtering.before_pull, self)
        if call is None:
            return pull(self)
        try:
            frame = pull(self)
        except BaseException as error:
            _end(recorder, filtering.after_pull, call, self, None, error)
            raise
        _end(recorder, filtering.after_pull, call, self, frame, None)
        return frame

    patches.set(context, "push", recorded_push)
    patches.set(context, "pull", recorded_pull)


# --- conversions ----------------------------------------------------------------------


def _patch_conversions(
    patches: Patches, recorder: SpanRecorder, frames: Carrier, video_frame: Any
) -> None:
    """Record conversions of frames as stages, and let images keep their identity."""

    def staged(name: str) -> None:
        method = getattr(video_frame, name)

        @wraps(method)
        def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
            ref = frames.read(self)
            if ref is None or stages.active is not recorder:
                return method(self, *args, **kwargs)
            with stages.stage(name, ref):
                result = method(self, *args, **kwargs)
            if isinstance(result, np.ndarray):
                arrays.remember(result, ref)
            return result

        patches.set(video_frame, name, recorded)

    def made(name: str) -> None:
        function = getattr(video_frame, name)

        @wraps(function)
        def recorded(image: Any, *args: Any, **kwargs: Any) -> Any:
            if stages.active is not recorder:
                return function(image, *args, **kwargs)
            ref = arrays.recall(image) or _end(recorder, adopt, recorder)
            with stages.stage(name, ref):
                frame = function(image, *args, **kwargs)
            if ref is not None:
                frames.write(frame, ref)
            return frame

        patches.set(video_frame, name, staticmethod(recorded))

    for name in ("reformat", "to_ndarray"):
        staged(name)
    for name in ("from_ndarray", "from_numpy_buffer", "from_image"):
        made(name)

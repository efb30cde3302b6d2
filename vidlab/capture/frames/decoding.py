"""PyAV's way in: demux and decode, and the time that a frame spends in the decoder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, SupportsIndex

from ... import labelsets
from ...clock import now_ns
from ...schema import (
    DECODED,
    DEMUXED,
    FLAG_CORRUPT,
    FLAG_KEY,
    FLAG_SKIP,
    FLUSHED,
    OK,
    QUEUE,
    REORDER,
    SENT,
)
from . import stages
from .opaque import Carrier, CopyOpaque, Registry
from .recorder import SpanRecorder
from .refs import FrameRef
from .sources import Source
from .spans import Span

#: A frame that waits for less than this in a list or filter graph has no span for it.
SHORTEST_WAIT_NS = 2_000

#: How many frames can be inside a decoder, filter graph or encoder.
MOST_INSIDE = 1024

#: Decoders that lose `opaque`.
_WRAPPERS = ("_cuvid", "_qsv", "_v4l2m2m", "_mediacodec", "_amf", "_mf")

FRAME_THREADS = 1  # of AVCodecContext.thread_type


class Inside:
    """The frames inside a decoder, filter graph or encoder, and since when."""

    def __init__(self) -> None:
        # frame number -> (ref, key to match by, when it went in, the span it went in under)
        self._frames: dict[int, tuple[FrameRef, int | None, int, Span | None]] = {}

    def enter(self, ref: FrameRef, key: int | None, t_ns: int, under: Span | None) -> None:
        """Note that a frame went in."""
        frames = self._frames
        frames[ref.frame] = (ref, key, t_ns, under)
        if len(frames) > MOST_INSIDE:
            frames.pop(next(iter(frames)), None)

    def leave(self, frame: int) -> tuple[FrameRef, int | None, int, Span | None] | None:
        """Note that a frame came out; return what was known of it."""
        return self._frames.pop(frame, None)

    def match(self, key: int | None) -> FrameRef | None:
        """Return the frame that this key (a pts) tells; the oldest if it tells none."""
        for ref, known, _, _ in list(self._frames.values()):
            if key is None or known == key:
                return ref
        return None

    def refs(self) -> list[FrameRef]:
        """Return the frames that are inside."""
        return [ref for ref, _, _, _ in list(self._frames.values())]

    def clear(self) -> None:
        """Note that nothing is inside any more."""
        self._frames.clear()


def holds_in_threads(ctx: Any) -> bool:
    """Whether threads of the codec's own let go of packets and frames.

    Letting go of an `opaque` takes Python's lock. PyAV holds that lock while it frees a
    codec context, which waits for the codec's threads: with an `opaque` in their
    hands the program would hang (AV1, and any codec with frame threads).
    """
    from av.codec import Capabilities

    options = str(ctx.options.get("thread_type", ""))
    in_frames = ctx.thread_type.value & FRAME_THREADS or "frame" in options or "auto" in options
    own = ctx.is_decoder and ctx.codec.capabilities & Capabilities.auto_threads
    return bool(own or (in_frames and (ctx.thread_count != 1 or "threads" in ctx.options)))


def identity_in(ctx: Any) -> str:
    """How frames are told apart that come out of this decoder: opaque, or pts."""
    if ctx is not None and (ctx.name.endswith(_WRAPPERS) or holds_in_threads(ctx)):
        return "pts"
    return "opaque"


def is_call_recorded(ref: FrameRef | None, last: FrameRef | None, gave: object) -> bool:
    """Whether a call to a codec has a span: with a frame, as that is recorded.

    A call without a frame drains the codec. It has a span, of no frame, if that `gave`
    anything and all frames of the stream are recorded.
    """
    if ref is not None:
        return ref.sampled
    return bool(gave) and (last is None or labelsets.get(last.labels).sample_rate >= 1.0)


class Input:
    """An input stream of PyAV that is being recorded."""

    def __init__(
        self, recorder: SpanRecorder, stream: Any, url: str, given: Mapping[str, str] | None
    ) -> None:
        ctx = stream.codec_context
        name = f"{os.path.basename(url) or ctx.name}:{stream.index}"  # noqa: PTH119
        base = stream.time_base
        rate = stream.average_rate or stream.guessed_rate
        self.time_base = (base.numerator, base.denominator) if base else (0, 0)
        codec = None if ctx is None else ctx.name
        self.source = Source(recorder, name, codec, given, float(rate) if rate else None)
        recorder.writer.row(
            "streams",
            labels=self.source.labels(),
            direction="input",
            url=url,
            stream_index=stream.index,
            nominal_rate=float(rate) if rate else None,
            time_base="{}/{}".format(*self.time_base) if base else None,
            width=None if ctx is None else ctx.width,
            height=None if ctx is None else ctx.height,
            pixel_format=None if ctx is None else ctx.pix_fmt,
            identity=identity_in(ctx),
        )


class Decoder:
    """A decoder of PyAV that is being recorded."""

    def __init__(self, ctx: Any, copy_opaque: CopyOpaque) -> None:
        self.identity = identity_in(ctx)
        #: Whether the program wants its own opaque copied; the flag as it sees it.
        self.user_copies = (
            copy_opaque.force(ctx) if self.identity == "opaque" else [bool(ctx.copy_opaque)]
        )
        self.inside = Inside()
        #: The frame that it was given last.
        self.last: FrameRef | None = None


class Demuxing:
    """What is recorded of PyAV's demuxers and decoders."""

    def __init__(self, recorder: SpanRecorder, packets: Carrier, frames: Carrier) -> None:
        self.copy_opaque = CopyOpaque()
        self._recorder = recorder
        self._packets, self._frames = packets, frames
        self._inputs: Registry[Input] = Registry("index_entries")
        self._given: Registry[Mapping[str, str]] = Registry("index_entries")
        self._decoders: Registry[Decoder] = Registry("codec")
        self._demux, self._decode = recorder.kind("demux"), recorder.kind("decode")
        names = recorder.writer.names
        self._decoded, self._seek = names.number("decoded"), names.number("seek")

    # --- demux ---

    def name_input(self, stream: Any, given: Mapping[str, str]) -> None:
        """Note labels that the program gives to a stream, before its first packet."""
        self._given.add(stream, given)

    def read(self, container: Any, packets: Iterator[Any]) -> Iterator[Any]:
        """Pass the packets of `container.demux(…)` on, each with its identity."""
        recorder = self._recorder
        try:
            while True:
                span = self._open_demux() if stages.active is recorder else None
                try:
                    packet = next(packets)
                except StopIteration:
                    if span is not None:
                        span.drop()
                    return
                except BaseException as error:
                    if span is not None:
                        span.__exit__(type(error), error, None)
                    raise
                if span is not None:
                    try:
                        self._born(container, packet, span)
                    except Exception:
                        recorder.failed()
                        span.drop()
                yield packet
        finally:
            packets.close()  # type: ignore[attr-defined]

    def _open_demux(self) -> Span:
        # Not by the generator itself, as a generator's span may be open while it pauses.
        return self._recorder.span(self._demux, None).__enter__()

    def _born(self, container: Any, packet: Any, span: Span) -> None:
        stream = packet.stream
        if stream.type != "video" or not packet.size:
            span.drop()
            return
        span.ref = ref = self._name(packet, stream, container.name, span.t0)
        self._recorder.set_current_frame(ref)
        if ref.sampled:
            span.__exit__(None, None, None)
        else:
            span.drop()

    def _name(self, packet: Any, stream: Any, url: str, t_ns: int) -> FrameRef:
        known = self._inputs.get(stream)
        if known is None:
            given = self._given.get(stream)
            known = self._inputs.add(stream, Input(self._recorder, stream, url, given))
        ref = known.source.born(t_ns, packet.pts, packet.dts)
        self._packets.write(packet, ref)
        flags = FLAG_KEY if packet.is_keyframe else 0
        if packet.is_discard:
            flags |= FLAG_SKIP
        self._recorder.event(ref, DEMUXED, flags=flags, t_ns=t_ns, time_base=known.time_base)
        return ref

    # --- decode ---

    def before_decode(self, ctx: Any, packet: Any) -> tuple[Decoder, FrameRef | None, Any, Span]:
        """Open the span of a decode call."""
        span = self._recorder.span(self._decode, None)
        span.__enter__()
        try:
            decoder = self._decoders.get(ctx)
            if decoder is None:
                decoder = self._decoders.add(ctx, Decoder(ctx, self.copy_opaque))
                self._recorder.holds(decoder.inside)
            ref = user = None
            if packet is not None and packet.size:
                span.ref = ref = self._packets.read(packet) or self._found(ctx, packet)
                if ref is not None:
                    user = ref.user
                    if decoder.identity == "pts":
                        self._packets.strip(packet)
            return decoder, ref, user, span
        except BaseException:
            span.drop()
            raise

    def _found(self, ctx: Any, packet: Any) -> FrameRef | None:
        """Name a packet that was not demuxed while recording: parsed, or from before."""
        stream = packet.stream
        if stream is None:
            return None
        return self._name(packet, stream, stream.container.name, now_ns())

    def after_decode(
        self,
        call: tuple[Decoder, FrameRef | None, Any, Span],
        ctx: Any,
        packet: Any,
        frames: list[Any] | None,
        error: BaseException | None,
    ) -> Any:
        """Close the span of a decode call and name the frames; return them as a list."""
        decoder, ref, user, span = call
        recorder = self._recorder
        if ref is not None and decoder.identity == "pts":
            self._packets.write_for_user(packet, ref, user)
        flags = 0 if ref is None else self._sent_flags(ctx, packet)
        if not is_call_recorded(ref, decoder.last, frames):
            span.drop()
        else:
            span.__exit__(None if error is None else type(error), error, None)
        t_ns = span.t1
        if ref is not None:
            decoder.last = ref
            decoder.inside.enter(ref, packet.pts, t_ns, recorder.outermost(ref))
            recorder.event(ref, SENT, flags=flags, t_ns=t_ns)
        result = None
        if frames is not None:
            result = HandedOut(frames, self.taken, t_ns)
            for frame in frames:
                result.refs.append(self._came_out(decoder, frame, ref, t_ns))
        draining = packet is None or not packet.size
        if draining and (error is None or isinstance(error, EOFError)) and decoder.last:
            recorder.event(decoder.last.frame, FLUSHED, self._decode.number)
            recorder.never_came_out(decoder.inside.refs())
            decoder.inside.clear()
        return result

    @staticmethod
    def _sent_flags(ctx: Any, packet: Any) -> int:
        skip = ctx.skip_frame
        if packet.is_discard or skip == "ALL":
            return FLAG_SKIP
        return 0 if skip in ("DEFAULT", "NONE") or packet.is_keyframe else FLAG_SKIP

    def _came_out(
        self, decoder: Decoder, frame: Any, sent: FrameRef | None, t_ns: int
    ) -> FrameRef | None:
        """Name a frame that came out of a decode call, and say how long it was inside."""
        ref = self._frames.read(frame)
        if ref is None:
            ref = decoder.inside.match(frame.pts)
            if ref is None:
                return None
            self._frames.write(frame, ref)
        elif ref.user is not None and not decoder.user_copies[0]:
            self._frames.write_for_user(frame, ref, None)
        known = decoder.inside.leave(ref.frame)
        if known is not None and (sent is None or sent.frame != ref.frame):
            _, _, since_ns, under = known
            self._recorder.emit(self._decode.number, REORDER, OK, ref, since_ns, t_ns, after=under)
        self._recorder.event(
            ref,
            DECODED,
            self._decode.number,
            FLAG_CORRUPT if frame.is_corrupt else 0,
            int(frame.pict_type),
            t_ns,
        )
        return ref

    def flushed(self, ctx: Any) -> None:
        """Note that a decoder has thrown away what it held, for a seek."""
        decoder = self._decoders.get(ctx)
        if decoder is not None and decoder.last is not None:
            decoder.inside.clear()
            self._recorder.event(decoder.last.frame, FLUSHED, self._seek)

    def taken(self, ref: FrameRef | None, since_ns: int) -> None:
        """Note that the program took a frame off the list that `decode` returned."""
        recorder = self._recorder
        if ref is None or stages.active is not recorder:
            return
        recorder.set_current_frame(ref)
        if now_ns() - since_ns >= SHORTEST_WAIT_NS:
            recorder.emit(self._decoded, QUEUE, OK, ref, since_ns, None)


class HandedOut(list[Any]):
    """What a decode or encode call returned, a list that sees when each item is taken off it.

    Parameters
    ----------
    items : list
    taken : callable
        Is told the item's frame, and when the call ended.
    t_ns : int
        When the call ended.

    Attributes
    ----------
    refs : list of FrameRef or None
        The items' frames, to be filled in; None once an item was taken.
    """

    def __init__(
        self, items: list[Any], taken: Callable[[FrameRef | None, int], None], t_ns: int
    ) -> None:
        super().__init__(items)
        self.refs: list[FrameRef | None] = []
        self._taken = taken
        self._t_ns = t_ns

    def _take(self, index: int) -> None:
        """Note that the item at this place was taken, the first time that it is."""
        refs = self.refs
        if 0 <= index < len(refs):
            ref, refs[index] = refs[index], None
            self._taken(ref, self._t_ns)

    def __iter__(self) -> Iterator[Any]:
        for index, frame in enumerate(super().__iter__()):
            self._take(index)
            yield frame

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        if isinstance(index, slice):
            for place in range(*index.indices(len(self))):
                self._take(place)
        else:
            place = index.__index__()
            self._take(place + len(self) if place < 0 else place)
        return super().__getitem__(index)

    def pop(self, index: SupportsIndex = -1) -> Any:
        place = index.__index__()
        place += len(self) if place < 0 else 0
        frame = super().pop(index)
        self._take(place)
        if place < len(self.refs):
            del self.refs[place]
        return frame

"""PyAV's way out: encode and mux, the encoder's lag, and time stamps that make no sense."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Any

from ... import labelsets
from ...clock import now_ns
from ...schema import DELIVERED, ENCODER_LAG, FLUSHED, OK, QUEUE
from . import stages
from .decoding import SHORTEST_WAIT_NS, HandedOut, Inside, holds_in_threads, is_call_recorded
from .opaque import Carrier, CopyOpaque, Registry
from .recorder import SpanRecorder
from .refs import FrameRef
from .spans import Span

#: What makes no sense: kind of finding, and what it means.
_MEANINGS = {
    "pts_missing": "a frame without pts was given to the encoder, which makes one up",
    "pts_backwards": "a frame's pts is not above that of the frame before: it will be shown "
    "late, or never",
    "dts_backwards": "a packet's dts is not above that of the packet before: muxers refuse it",
    "dts_after_pts": "a packet is to be decoded after it is to be shown",
}


class Sanity:
    """Time stamps of one encoder or muxed stream: the first of each fault, and how many."""

    def __init__(self, recorder: SpanRecorder, what: str) -> None:
        self._recorder = recorder
        self._what = what
        self._counts: dict[str, int] = {}
        self._last: tuple[int, Fraction | None] | None = None

    def encoded(self, pts: int | None, time_base: Fraction | None, ref: FrameRef | None) -> None:
        """Look at a frame that is given to an encoder."""
        if pts is None:
            self._found("pts_missing", ref)
            return
        last, self._last = self._last, (pts, time_base)
        if last is None:
            return
        before = last[0]
        if last[1] != time_base and last[1] and time_base:
            before = last[0] * last[1] / time_base  # type: ignore[assignment]
        if pts <= before:
            self._found("pts_backwards", ref, pts=pts, before=float(before))

    def muxed(self, pts: int | None, dts: int | None, ref: FrameRef | None) -> None:
        """Look at a packet that is given to a muxer."""
        if pts is None:
            self._found("pts_missing", ref, dts=dts)
        if dts is None:
            return
        last, self._last = self._last, (dts, None)
        if last is not None and dts <= last[0]:
            self._found("dts_backwards", ref, dts=dts, before=last[0])
        if pts is not None and dts > pts:
            self._found("dts_after_pts", ref, dts=dts, pts=pts)

    def _found(self, kind: str, ref: FrameRef | None, **evidence: Any) -> None:
        self._counts[kind] = count = self._counts.get(kind, 0) + 1
        if count > 1:
            return
        self._recorder.writer.finding(
            kind,
            f"{self._what}: {_MEANINGS[kind]}",
            frame=0 if ref is None else ref.frame,
            labels=None if ref is None else ref.labels,
            **evidence,
        )

    def close(self) -> None:
        """Report how often each fault was seen, if more than once."""
        for kind, count in self._counts.items():
            if count > 1:
                self._recorder.writer.finding(
                    kind, f"{self._what}: {count} times in all", severity="info", count=count
                )


class Encoder:
    """An encoder of PyAV that is being recorded."""

    def __init__(self, recorder: SpanRecorder, ctx: Any, copy_opaque: CopyOpaque) -> None:
        from av.codec import Capabilities

        able = ctx.codec.capabilities & Capabilities.encoder_reordered_opaque
        #: Whether the encoder passes `opaque` on: others refuse to open if asked to.
        self.by_opaque = bool(able) and not holds_in_threads(ctx)
        self.user_copies = copy_opaque.force(ctx) if self.by_opaque else [bool(ctx.copy_opaque)]
        self.inside = Inside()
        self.sanity = Sanity(recorder, f"encoder {ctx.name}")
        #: A frame of each stream whose frames it has been given.
        self.streams: dict[int, FrameRef] = {}


class Output:
    """An output stream of PyAV that is being recorded."""

    def __init__(self, recorder: SpanRecorder, container: Any, stream: Any, labels: int) -> None:
        ctx = stream.codec_context
        name = f"{os.path.basename(container.name) or 'output'}:{stream.index}"  # noqa: PTH119
        base = stream.time_base
        rate = stream.average_rate or (ctx.framerate if ctx is not None else None)
        self.number = recorder.writer.names.number(name)
        self.sanity = Sanity(recorder, name)
        recorder.writer.row(
            "streams",
            labels=labels,
            direction="output",
            url=container.name,
            stream_index=stream.index,
            nominal_rate=float(rate) if rate else None,
            time_base=f"{base.numerator}/{base.denominator}" if base else None,
            width=None if ctx is None else ctx.width,
            height=None if ctx is None else ctx.height,
            pixel_format=None if ctx is None else ctx.pix_fmt,
            identity="opaque",
        )


class Muxing:
    """What is recorded of PyAV's encoders and muxers."""

    def __init__(
        self, recorder: SpanRecorder, packets: Carrier, frames: Carrier, copy_opaque: CopyOpaque
    ) -> None:
        self._recorder = recorder
        self._packets, self._frames = packets, frames
        self._copy_opaque = copy_opaque
        self._encoders: Registry[Encoder] = Registry("codec")
        self._outputs: Registry[Output] = Registry("index_entries")
        self._encode, self._mux = recorder.kind("encode"), recorder.kind("mux")
        self._encoded = recorder.writer.names.number("encoded")

    # --- encode ---

    def before_encode(self, ctx: Any, frame: Any) -> tuple[Encoder, FrameRef | None, Any, Span]:
        """Open the span of an encode call."""
        recorder = self._recorder
        span = recorder.span(self._encode, None)
        span.__enter__()
        try:
            encoder = self._encoders.get(ctx)
            if encoder is None:
                encoder = self._encoders.add(ctx, Encoder(recorder, ctx, self._copy_opaque))
                recorder.holds(encoder.inside)
            ref = user = None
            if frame is not None:
                ref = self._frames.read(frame)
                if ref is None:
                    ref = adopt(recorder)
                    if ref is not None:
                        self._frames.write(frame, ref)
                span.ref = ref
                if ref is None or ref.sampled:
                    encoder.sanity.encoded(frame.pts, frame.time_base, ref)
                if ref is not None:
                    user = frame.opaque
                    if not encoder.by_opaque:
                        self._frames.strip(frame)
            return encoder, ref, user, span
        except BaseException:
            span.drop()
            raise

    def after_encode(
        self,
        call: tuple[Encoder, FrameRef | None, Any, Span],
        ctx: Any,
        frame: Any,
        packets: list[Any] | None,
        error: BaseException | None,
    ) -> list[Any] | None:
        """Close the span of an encode call and name the packets; return them as a list."""
        encoder, ref, user, span = call
        recorder = self._recorder
        if ref is not None and not encoder.by_opaque:
            self._frames.write_for_user(frame, ref, user)
        pts = None if ref is None else _pts_in(ctx, frame)
        if ref is not None and error is None:
            encoder.streams[ref.frame >> 32] = ref
            encoder.inside.enter(ref, pts, 0, None)
        refs: list[FrameRef | None] = []
        out = []
        for packet in packets or ():
            came = self._name(encoder, packet)
            refs.append(came)
            out.append(None if came is None else encoder.inside.leave(came.frame))
        if frame is not None and ref is None:
            span.__exit__(None if error is None else type(error), error, None)
        elif not is_call_recorded(ref, next(iter(encoder.streams.values()), None), packets):
            span.drop()
        else:
            span.__exit__(None if error is None else type(error), error, None)
        t_ns = span.t1
        for known in out:
            if known is not None and known[2]:  # it went in with an earlier call
                lag, since_ns, under = known[0], known[2], known[3]
                recorder.emit(
                    self._encode.number, ENCODER_LAG, OK, lag, since_ns, t_ns, after=under
                )
        if ref is not None and encoder.inside.leave(ref.frame) is not None:
            encoder.inside.enter(ref, pts, t_ns, recorder.outermost(ref))
        if frame is None and error is None:
            for last in encoder.streams.values():
                recorder.event(last.frame, FLUSHED, self._encode.number)
            encoder.inside.clear()
        if not packets:
            return None
        result = HandedOut(packets, self.taken, t_ns)
        result.refs = refs
        return result

    def _name(self, encoder: Encoder, packet: Any) -> FrameRef | None:
        """Give a packet that came out its identity, and return it."""
        ref = self._packets.read(packet)
        if ref is None:
            ref = None if encoder.by_opaque else encoder.inside.match(packet.pts)
            if ref is None:
                return None
            self._packets.write(packet, ref)
        elif ref.user is not None and not encoder.user_copies[0]:
            self._packets.write_for_user(packet, ref, None)
        return ref

    def taken(self, ref: FrameRef | None, since_ns: int) -> None:
        """Note that the program took a packet off the list that `encode` returned."""
        recorder = self._recorder
        if ref is None or stages.active is not recorder:
            return
        if now_ns() - since_ns >= SHORTEST_WAIT_NS:
            under = recorder.outermost(ref)
            recorder.emit(self._encoded, QUEUE, OK, ref, since_ns, None, after=under)

    # --- mux ---

    def before_mux(self, packet: Any) -> tuple[FrameRef | None, Span] | None:
        """Open the span of a mux call; None for a packet that is not of a video."""
        span = self._recorder.span(self._mux, None)
        span.__enter__()
        try:
            stream = packet.stream
            if stream is None or stream.type != "video":
                span.drop()
                return None
            span.ref = ref = self._packets.read(packet)
            return ref, span
        except BaseException:
            span.drop()
            raise

    def after_mux(
        self,
        call: tuple[FrameRef | None, Span],
        container: Any,
        packet: Any,
        error: BaseException | None,
    ) -> None:
        """Close the span of a mux call: its frame is delivered."""
        ref, span = call
        if ref is None or ref.sampled:
            span.__exit__(None if error is None else type(error), error, None)
        else:
            span.drop()
        output = self._outputs.get(packet.stream)
        if output is None:
            labels = labelsets.current.get() if ref is None else ref.labels
            made = Output(self._recorder, container, packet.stream, labels)
            output = self._outputs.add(packet.stream, made)
        if ref is None or ref.sampled:
            output.sanity.muxed(packet.pts, packet.dts, ref)
        if ref is not None and error is None:
            self._recorder.event(ref, DELIVERED, output.number, t_ns=span.t1)

    def close(self) -> None:
        """Report what is reported at the end."""
        for encoder in self._encoders.values():
            encoder.sanity.close()
        for output in self._outputs.values():
            output.sanity.close()


def adopt(recorder: SpanRecorder) -> FrameRef | None:
    """Return the frame that an image without identity is taken to show, if any.

    That is the frame which this thread works on, once: of two such images in a row
    it is not known whether they show the same frame.
    """
    ref = stages.ref_here(recorder)
    state = recorder.local.state
    if ref is None or state.adopted == ref.frame:
        return None
    state.adopted = ref.frame
    return ref


def _pts_in(ctx: Any, frame: Any) -> int | None:
    """The frame's pts in the encoder's time base, as its packet will have it."""
    pts: int | None = frame.pts
    base, own = frame.time_base, ctx.time_base
    if pts is None or base is None or own is None or base == own:
        return pts
    rescaled: int = round(pts * base / own)
    return rescaled

"""The set `libav`: what a program asks of FFmpeg's libraries: `kernel_libav`, and metrics.

PyAV's wheel brings its own libraries; they are found by their plain names, and so are those
of OpenCV and of the system. What FFmpeg does by itself, as it looks into a file that is
opened, it does by the same functions, and is recorded.

Columns of its own:

op            demux, send_packet, receive_frame, send_frame, receive_packet, write
codec_context the decoder or encoder; null for demux and write
packet        the AVPacket; 0 for the one that ends a stream. Null where there is a frame
packet_bytes  its size; 0 where there is none
pts           of the packet or frame, in its time base; the least number if it has none
status        0 is success, below it an AVERROR: -11 "try again" (the decoder wants a packet,
              the encoder a frame), -541478725 the end

What a call makes (a packet, a frame) is told by rows of status 0 only.

Metrics, by the labels of the span that is open in the thread:

ebpf_video_decode_us
    How long calls of a video decoder took that took a packet in or gave a frame out, in µs.
    Decoding is done in either, or in threads of the decoder's own while they wait.
ebpf_video_frame_dropped_total
    Calls of a video decoder that failed, but for "try again" and the end: a packet that it
    refused, or could not decode. Each is a frame that does not come out. Not counted is what
    it leaves out without a word: frames that it was told to skip, or that come out damaged.

Where the fields are, the public headers say; it is the same in FFmpeg 4 to 8 (libavcodec 58
to 62), on machines of 64 bit.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..declaring.checks import Value
from ..declaring.expressions import arg, deref, duration, retval
from ..declaring.metrics import Counter, Histogram, Metric
from ..declaring.operations import Expression
from ..declaring.probes import Declaration, Probe

TABLE = "libav"

CODEC = "libavcodec"
FORMAT = "libavformat"

#: struct AVPacket: AVBufferRef *buf; int64_t pts, dts; uint8_t *data; int size; …
_PACKET_PTS, _PACKET_SIZE = 8, 32

#: struct AVFrame: pointers and line sizes of 8 planes, extended_data, six ints (one fewer
#: since FFmpeg 8, and then room), the aspect ratio; int64_t pts; …
_FRAME_PTS = 136

#: struct AVCodecContext: const AVClass *av_class; int log_level_offset; enum codec_type; …
_CODEC_TYPE, _VIDEO = 12, 0

#: What is no failure: AVERROR(EAGAIN) and AVERROR_EOF.
TRY_AGAIN, END = -11, -541478725


def declarations() -> list[Declaration | Metric]:
    """Return the probes and metrics of the set."""
    return [*_calls(), *_metrics()]


def _calls() -> list[Probe]:
    context = {"codec_context": arg(0)}
    given, frame_given = _packet(arg(1)), {"pts": deref(arg(1), "i64", _FRAME_PTS)}
    packet = {"packet": arg(1)}
    return [
        _call(FORMAT, "av_read_frame", "demux", packet, given),
        _call(CODEC, "avcodec_send_packet", "send_packet", {**context, **packet, **given}),
        *(
            _call(CODEC, symbol, "receive_frame", context, frame_given, unless)
            for symbol, unless in _RECEIVE_FRAME
        ),
        _call(CODEC, "avcodec_send_frame", "send_frame", {**context, **frame_given}),
        _call(CODEC, "avcodec_receive_packet", "receive_packet", {**context, **packet}, given),
        *(
            _call(FORMAT, symbol, "write", {**packet, **given})  # a muxer may take it away
            for symbol in ("av_interleaved_write_frame", "av_write_frame")
        ),
    ]


#: Since FFmpeg 8.1 the old function only goes on to the new one: one call is told once.
_RECEIVE_FRAME = (
    ("avcodec_receive_frame_flags", None),
    ("avcodec_receive_frame", "avcodec_receive_frame_flags"),
)


def _metrics() -> list[Metric]:
    video = deref(arg(0), "i32", _CODEC_TYPE) == _VIDEO
    done = video & (retval() == 0)
    failed = video & (retval() < 0) & (retval() != TRY_AGAIN) & (retval() != END)
    calls = (("avcodec_send_packet", None), *_RECEIVE_FRAME)
    return [
        *(
            Histogram(
                "ebpf_video_decode_us",
                Probe(CODEC, symbol, exit={}, when=done, unless=unless),
                duration() // 1000,
                "µs",
            )
            for symbol, unless in calls
        ),
        *(
            Counter(
                "ebpf_video_frame_dropped_total",
                Probe(CODEC, symbol, exit={}, when=failed, unless=unless),
            )
            for symbol, unless in calls
        ),
    ]


def _packet(pointer: Expression) -> dict[str, Value]:
    return {
        "packet_bytes": deref(pointer, "i32", _PACKET_SIZE),
        "pts": deref(pointer, "i64", _PACKET_PTS),
    }


def _call(
    library: str,
    symbol: str,
    op: str,
    entry: Mapping[str, Value],
    exit: Mapping[str, Value] | None = None,
    unless: str | None = None,
) -> Probe:
    return Probe(
        library,
        symbol,
        entry={"op": op, **entry},
        exit={**(exit or {}), "status": retval()},
        name=TABLE,
        unless=unless,
    )

"""Tables of frames, the spans of work on them, and the queues between."""

from __future__ import annotations

import pyarrow as pa

from .declaration import FRAME, TEXT, Column, Record, Table

#: How a span's time is to be read. Their sum is a frame's end-to-end time.
SPAN_KINDS = ("service", "queue", "reorder", "encoder_lag")
SERVICE, QUEUE, REORDER, ENCODER_LAG = range(len(SPAN_KINDS))

#: How a span ended. A record stores this index plus one: zero is "not yet written".
SPAN_STATUSES = ("ok", "error", "cancelled")
OK, ERROR, CANCELLED = range(len(SPAN_STATUSES))

#: What became of a frame.
FATES = ("delivered", "duplicated", "dropped", "corrupt", "cancelled", "unfinished")

#: What happens to a frame on its way; a record stores this index plus one.
FRAME_EVENTS = (
    "demuxed",  # its packet was read; where a program reads frames, not packets: it was read
    "sent",  # its packet was given to a decoder
    "decoded",  # it came out of a decoder
    "flushed",  # a stage was drained: what of the stream that `frame` names has not come out
    # of it by now never will; `stage` is decode, filter, encode, or seek for a decoder that
    # threw away what it held
    "evicted",  # a queue dropped it to make room; `stage` names the queue
    "delivered",  # a sink consumed it; `stage` names the sink
)
DEMUXED, SENT, DECODED, FLUSHED, EVICTED, DELIVERED = range(len(FRAME_EVENTS))

#: Bits of a frame event's `flags`. A packet is to be skipped if its decoder is told to keep
#: the frame to itself: by the file's edit list (`is_discard`), or by `skip_frame`.
FLAG_KEY, FLAG_CORRUPT, FLAG_SKIP = 1, 2, 4

#: FFmpeg's AVPictureType, in its order.
PICTURE_TYPES = ("", "I", "P", "B", "S", "SI", "SP", "BI")
#: How a queue was touched.
TOUCHES = ("put", "get", "evict")
PUT, GET, EVICT = range(len(TOUCHES))

CHOICES = {
    ("spans", "kind"): SPAN_KINDS,
    ("spans", "status"): SPAN_STATUSES,
    ("frame_events", "event"): FRAME_EVENTS,
    ("queue_depths", "touch"): TOUCHES,
}

TABLES = (
    Table(
        "labels",
        "a label set",
        (
            Column("labels", pa.uint32(), "its number in this run"),
            Column("stream_id", TEXT, "the video stream"),
            Column("codec", TEXT, "the input's codec"),
            Column("gpu", pa.int16(), "the device's index"),
            Column(
                "sample_rate",
                pa.float64(),
                "the share of frames recorded under these labels: a recorded frame, "
                "and each of its spans, stands for 1 / sample_rate",
            ),
            Column("other", pa.map_(pa.string(), pa.string()), "all other keys"),
        ),
        event=False,
    ),
    Table(
        "spans",
        "one stage working, or waiting, on one frame",
        (
            Column("duration_ns", pa.int64(), "how long it took", "ns"),
            Column("span", pa.uint64(), "its number in this run"),
            Column("parent", pa.uint64(), "the span around it; null at the top level"),
            FRAME,
            Column("stage", TEXT, "the stage, or the queue"),
            Column("kind", TEXT, "service, queue, reorder or encoder_lag"),
            Column("status", TEXT, "ok, error or cancelled"),
            Column("cpu_ns", pa.int64(), "CPU time of the thread; null if not read", "ns"),
            Column("runqueue_ns", pa.int64(), "ready to run but waiting; null if not read", "ns"),
            Column("gpu_duration_ns", pa.int64(), "time on the GPU; null if not timed", "ns"),
        ),
        Record(
            (
                ("t_ns", "q"),
                ("duration_ns", "q"),
                ("frame", "Q"),
                ("parent", "Q"),
                ("cpu_ns", "q"),
                ("runqueue_ns", "q"),
                ("sequence", "I"),
                ("labels", "I"),
                ("stage", "H"),
                ("kind", "B"),
                ("status", "B"),
            )
        ),
    ),
    Table(
        "frames",
        "a video frame's fate",
        (
            FRAME,
            Column("seq", pa.uint32(), "its packet's number in the stream, in decode order"),
            Column("pts", pa.int64(), "presentation time stamp, in time_base"),
            Column("dts", pa.int64(), "decode time stamp, in time_base"),
            Column("time_base", TEXT, "as a fraction of a second: 1/12800"),
            Column("picture_type", TEXT, "I, P, B, …; null if it never came out"),
            Column("key", pa.bool_(), "its packet was a key frame"),
            Column("t_demux_ns", pa.int64(), "when the read of its packet began", "ns"),
            Column("t_decoded_ns", pa.int64(), "when it came out of the decoder", "ns"),
            Column("t_done_ns", pa.int64(), "when a sink had consumed it, or its end", "ns"),
            Column(
                "fate", TEXT, "delivered, duplicated, dropped, corrupt, cancelled or unfinished"
            ),
            Column("lost_at", TEXT, "the stage or queue that lost it; null if it was delivered"),
            Column("copies", pa.uint16(), "how often the sink that took it most took it"),
            Column("reordered", pa.bool_(), "frames sent to the decoder after it came out first"),
        ),
    ),
    Table(
        "frame_events",
        "a step of a frame; `frames` is derived from these, which are not kept",
        (
            FRAME,
            Column("seq", pa.uint32(), "its packet's number in the stream"),
            Column("pts", pa.int64(), "presentation time stamp"),
            Column("dts", pa.int64(), "decode time stamp"),
            Column("time_base_num", pa.uint32(), "time base, numerator"),
            Column("time_base_den", pa.uint32(), "time base, denominator"),
            Column("stage", TEXT, "the decoder, queue or sink"),
            Column("flags", pa.uint8(), "bits: key frame, flagged corrupt, to be skipped"),
            Column("picture_type", pa.uint8(), "an index into PICTURE_TYPES"),
            Column("event", TEXT, "demuxed, sent, decoded, flushed, evicted or delivered"),
        ),
        Record(
            (
                ("t_ns", "q"),
                ("frame", "Q"),
                ("pts", "q"),
                ("dts", "q"),
                ("labels", "I"),
                ("seq", "I"),
                ("time_base_num", "I"),
                ("time_base_den", "I"),
                ("stage", "H"),
                ("flags", "B"),
                ("picture_type", "B"),
                ("event", "B"),
            )
        ),
    ),
    Table(
        "streams",
        "an input or output stream that was opened",
        (
            Column("direction", TEXT, "input or output"),
            Column("url", TEXT, "what was opened"),
            Column("stream_index", pa.int32(), "its index in the container"),
            Column("nominal_rate", pa.float64(), "frames a second it should have", "1/s"),
            Column("time_base", TEXT, "as a fraction of a second"),
            Column("width", pa.int32(), "in pixels"),
            Column("height", pa.int32(), "in pixels"),
            Column("pixel_format", TEXT, "FFmpeg's name for it"),
            Column("identity", TEXT, "how frames are told apart: opaque, pts or count"),
        ),
    ),
    Table(
        "queue_depths",
        "a queue's depth when it was touched",
        (
            Column("queue", TEXT, "the queue"),
            Column("depth", pa.int32(), "items in it after the touch"),
            Column("capacity", pa.int32(), "its limit; null if it has none"),
            Column("touch", TEXT, "put, get or evict"),
        ),
        Record(
            (
                ("t_ns", "q"),
                ("labels", "I"),
                ("depth", "i"),
                ("capacity", "i"),
                ("queue", "H"),
                ("pad", "B"),
                ("touch", "B"),
            )
        ),
    ),
)

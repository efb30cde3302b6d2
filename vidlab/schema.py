"""Every table of a run: its columns, their types, units and meaning.

This is the one source of truth. Three things follow from it:

* what a finished run holds, one Parquet file a table (`Table.arrow_schema`);
* for the tables that a hot path writes, the fixed-size **record** that a thread
  packs into its mapped buffer (`Record.struct`, `Record.dtype`);
* the documentation of the run format.

All times are CLOCK_MONOTONIC nanoseconds, columns that end in `_ns`. Sizes are
bytes, columns that end in `_bytes`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

#: The name and version of the format: readers accept this major version or older.
RUN_SCHEMA = "vidlab.run/1"

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

#: The value in a record's signed column that stands for "not known".
UNKNOWN = -(1 << 63)

TEXT = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Column:
    """A column of a finished table: Arrow type, unit ('' if none) and meaning."""

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""


@dataclass(frozen=True)
class Record:
    """The fixed-size record of a table that is written from a hot path.

    `fields` are (name, `struct` character) in the order in which they are
    packed, little-endian and without padding. The **last field is the commit
    mark**: it is never zero in a whole record and, as `struct.pack_into` writes
    the fields in order, it is written last. A reader takes the records whose
    mark is not zero, so that a process killed half-way through a record leaves
    nothing false behind.
    """

    fields: tuple[tuple[str, str], ...]

    @cached_property
    def struct(self) -> struct.Struct:
        """Packs and unpacks one record."""
        return struct.Struct("<" + "".join(code for _, code in self.fields))

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """The same record as a NumPy structured type."""
        return np.dtype([(name, "<" + _NUMPY_CODES[code]) for name, code in self.fields])

    @property
    def commit(self) -> str:
        """The name of the commit mark."""
        return self.fields[-1][0]

    @property
    def size(self) -> int:
        """Bytes of one record."""
        return self.struct.size


_NUMPY_CODES = {
    "b": "i1",
    "B": "u1",
    "h": "i2",
    "H": "u2",
    "i": "i4",
    "I": "u4",
    "q": "i8",
    "Q": "u8",
    "f": "f4",
    "d": "f8",
}


@dataclass(frozen=True)
class Table:
    """A table of a run.

    Every table but the side tables has the common columns `t_ns`, `pid`, `tid`
    and the labels. `record` is set where a hot path writes the table.
    """

    name: str
    meaning: str
    own: tuple[Column, ...]
    record: Record | None = None
    event: bool = True
    columns: tuple[Column, ...] = field(init=False)

    def __post_init__(self) -> None:
        columns = (*COMMON, *self.own, *LABELS) if self.event else self.own
        object.__setattr__(self, "columns", columns)

    @cached_property
    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema of the finished table."""
        return pa.schema([pa.field(c.name, c.type) for c in self.columns])


COMMON = (
    Column("t_ns", pa.int64(), "when it happened, or began", "ns"),
    Column("pid", pa.int32(), "the process"),
    Column("tid", pa.int32(), "the thread, as the kernel numbers it"),
)

LABELS = (
    Column("labels", pa.uint32(), "the label set, a row of the table `labels`; 0 is the empty set"),
    Column("stream_id", TEXT, "the video stream"),
    Column("codec", TEXT, "the input's codec, normalised: h264, hevc, av1, vp9, …"),
    Column("gpu", pa.int16(), "the index of the device that works on it; null if none does"),
)

_FRAME = Column("frame", pa.uint64(), "the video frame, a row of the table `frames`")

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
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
                _FRAME,
                Column("stage", TEXT, "the stage, or the queue"),
                Column("kind", TEXT, "service, queue, reorder or encoder_lag"),
                Column("status", TEXT, "ok, error or cancelled"),
                Column("cpu_ns", pa.int64(), "CPU time of the thread; null if not read", "ns"),
                Column(
                    "runqueue_ns", pa.int64(), "ready to run but waiting; null if not read", "ns"
                ),
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
                    ("gpu_duration_ns", "f"),
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
                _FRAME,
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
                Column(
                    "lost_at", TEXT, "the stage or queue that lost it; null if it was delivered"
                ),
                Column("copies", pa.uint16(), "how often the sink that took it most took it"),
                Column(
                    "reordered", pa.bool_(), "frames sent to the decoder after it came out first"
                ),
            ),
        ),
        Table(
            "frame_events",
            "a step of a frame; `frames` is derived from these, which are not kept",
            (
                _FRAME,
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
        Table(
            "findings",
            "something an engine saw that should not be",
            (
                Column("kind", TEXT, "what it is: gop_loss, pts_backwards, buffer_falling, …"),
                Column("severity", TEXT, "info, warning or error"),
                _FRAME,
                Column("message", pa.string(), "what it means, in a sentence"),
                Column("evidence", pa.string(), "the numbers behind it, as JSON"),
            ),
        ),
        Table(
            "gc_pauses",
            "a garbage collection: no Python code of the process ran meanwhile",
            (
                Column("duration_ns", pa.int64(), "how long it took", "ns"),
                Column("generation", pa.uint8(), "0, 1 or 2"),
                Column("collected", pa.int64(), "objects freed"),
                Column("uncollectable", pa.int64(), "objects that could not be freed"),
                _FRAME,
            ),
            Record(
                (
                    ("t_ns", "q"),
                    ("duration_ns", "q"),
                    ("frame", "Q"),
                    ("collected", "q"),
                    ("uncollectable", "q"),
                    ("labels", "I"),
                    ("pad", "H"),
                    ("pad2", "B"),
                    ("generation", "B"),
                )
            ),
        ),
        Table(
            "ffmpeg_progress",
            "what an FFmpeg child reported while it ran",
            (
                Column("child", TEXT, "the child's name"),
                Column("frame_count", pa.int64(), "frames written"),
                Column("fps", pa.float64(), "frames written a second", "1/s"),
                Column("output", TEXT, "the output stream that q is of: 0_0"),
                Column("q", pa.float64(), "quantiser"),
                Column(
                    "bitrate", pa.float64(), "of the output; null where FFmpeg says N/A", "bit/s"
                ),
                Column("total_size_bytes", pa.int64(), "written", "bytes"),
                Column("out_time_ns", pa.int64(), "how far the output has come", "ns"),
                Column("dup_frames", pa.int64(), "frames that FFmpeg duplicated"),
                Column("drop_frames", pa.int64(), "frames that FFmpeg dropped"),
                Column("speed", pa.float64(), "media seconds a second"),
                Column("ended", pa.bool_(), "its last report"),
            ),
        ),
        Table(
            "ffmpeg_frames",
            "a frame that an FFmpeg child encoded",
            (
                Column("child", TEXT, "the child's name"),
                Column("output", TEXT, "the output stream: 0_0"),
                Column("frame_number", pa.int64(), "its number in the output"),
                Column("q", pa.float64(), "quantiser"),
                Column("size_bytes", pa.int64(), "of the packet", "bytes"),
                Column("out_time_ns", pa.int64(), "its time in the output", "ns"),
                Column("bitrate", pa.float64(), "at this frame", "bit/s"),
                Column("picture_type", TEXT, "I, P, B, …"),
            ),
        ),
    )
}

#: What a record's small integers stand for, per table and column. A commit mark
#: is stored plus one.
CHOICES: dict[tuple[str, str], tuple[str, ...]] = {
    ("spans", "kind"): SPAN_KINDS,
    ("spans", "status"): SPAN_STATUSES,
    ("frame_events", "event"): FRAME_EVENTS,
    ("queue_depths", "touch"): ("put", "get", "evict"),
}
PUT, GET, EVICT = range(3)

#: Record columns that hold the number of an interned name (a stage, queue or sink).
NAMED = frozenset({"stage", "queue"})

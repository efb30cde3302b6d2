"""Tables of what engines found, the interpreter, and FFmpeg children."""

from __future__ import annotations

import pyarrow as pa

from .declaration import FRAME, TEXT, Column, Record, Table

TABLES = (
    Table(
        "findings",
        "something an engine saw that should not be",
        (
            Column("kind", TEXT, "what it is: gop_loss, pts_backwards, buffer_falling, …"),
            Column("severity", TEXT, "info, warning or error"),
            FRAME,
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
            FRAME,
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
            Column("bitrate", pa.float64(), "of the output; null where FFmpeg says N/A", "bit/s"),
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

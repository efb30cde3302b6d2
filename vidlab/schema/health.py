"""Tables of what engines found, what was sampled, and FFmpeg children."""

from __future__ import annotations

import pyarrow as pa

from .declaration import FRAME, TEXT, Column, Record, Table

#: Why a frame is recorded whole although it was not its turn.
KEPT_FOR = ("late", "failed", "corrupt", "lost")
LATE, FAILED, CORRUPT, LOST = range(len(KEPT_FOR))

CHOICES = {("kept_frames", "kept_for"): KEPT_FOR}

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
        "sampling_decisions",
        "a change of the share of frames that is recorded",
        (
            Column("rate", pa.float64(), "the share from now on, in (0, 1]"),
            Column("rate_before", pa.float64(), "the share until now; null at the start"),
            Column("reason", TEXT, "start, cpu, errors or calm: what it follows from"),
            Column("cpu", pa.float64(), "the share of the machine's CPU time in use"),
            Column("error_rate", pa.float64(), "the share of frames that failed"),
        ),
    ),
    Table(
        "kept_frames",
        "a frame that is recorded whole for what became of it, not by its turn",
        (
            FRAME,
            Column("kept_for", TEXT, "late, failed, corrupt or lost"),
        ),
        Record(
            (
                ("t_ns", "q"),
                ("frame", "Q"),
                ("labels", "I"),
                ("pad", "H"),
                ("pad2", "B"),
                ("kept_for", "B"),
            )
        ),
    ),
    Table(
        "label_rules",
        "what a rule has done to the values of a label key, as far as it was by then",
        (
            Column("key", TEXT, "the label key"),
            Column("rule", TEXT, "budget, keep, redact or drop"),
            Column("limit", pa.float64(), "distinct values, or the share of values kept"),
            Column("values", pa.int64(), "distinct values written as they are"),
            Column("folded", pa.int64(), "distinct values that were changed, at least"),
            Column("buckets", pa.int64(), "distinct values that they were changed to"),
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

"""Every table of a run: its columns, their types, units and meaning.

This is the one source of truth. Three things follow from it:

* what a finished run holds, one Parquet file a table (`Table.arrow_schema`);
* for the tables that a hot path writes, the fixed-size **record** that a thread
  packs into its mapped buffer (`Record.struct`, `Record.dtype`);
* the documentation of the run format.

Tables of kernel events are the exception: a recording declares them (see `kernel`), and
its files hold the declaration.

All times are CLOCK_MONOTONIC nanoseconds, columns that end in `_ns`. Sizes are
bytes, columns that end in `_bytes`.
"""

from __future__ import annotations

from . import gpu, health, kernel, profiling, runtime, video
from .declaration import COMMON, HOLDS, LABELS, NAMES, TEXT, UNKNOWN, Column, Record, Table
from .gpu import (
    ALLOC,
    ASYNC,
    BORROWED,
    BY_GC,
    BY_REFCOUNT,
    BY_RELEASE,
    DEVICE,
    DRIVER,
    FREE,
    FREED_BY,
    LEVELS,
    MANAGED,
    MEMORY_KINDS,
    NOT_FREED,
    OPS,
    PINNED,
    POOL,
)
from .health import CORRUPT, FAILED, KEPT_FOR, LATE, LOST
from .kernel import declared, kernel_table, united
from .runtime import COUNTER, GAUGE, METRIC_KINDS, UPDOWNCOUNTER
from .video import (
    CANCELLED,
    DECODED,
    DELIVERED,
    DEMUXED,
    ENCODER_LAG,
    ERROR,
    EVICT,
    EVICTED,
    FATES,
    FLAG_CORRUPT,
    FLAG_KEY,
    FLAG_SKIP,
    FLUSHED,
    FRAME_EVENTS,
    GET,
    OK,
    PICTURE_TYPES,
    PUT,
    QUEUE,
    REORDER,
    SENT,
    SERVICE,
    SPAN_KINDS,
    SPAN_STATUSES,
)

#: The name and version of the format: readers accept this major version or older.
RUN_SCHEMA = "vidlab.run/1"

#: The tables that every run may have. A run may declare further ones: see `kernel_table`.
TABLES: dict[str, Table] = {
    table.name: table
    for module in (video, gpu, runtime, profiling, health, kernel)
    for table in module.TABLES
}

#: What a record's small integers stand for, per table and column. A commit mark
#: is stored plus one; a number beyond the choices is null.
CHOICES: dict[tuple[str, str], tuple[str, ...]] = {
    **video.CHOICES,
    **gpu.CHOICES,
    **runtime.CHOICES,
    **health.CHOICES,
}

#: Record columns that hold the number of an interned name, per table.
NAMED = frozenset(
    {
        ("spans", "stage"),
        ("frame_events", "stage"),
        ("queue_depths", "queue"),
        ("allocations", "status"),
        ("allocations", "task"),
        ("runtime_metrics", "metric"),
        ("runtime_metrics", "attribute"),
        ("profile_samples", "profile"),
        ("profile_samples", "type"),
        ("profile_samples", "unit"),
        ("profile_samples", "thread"),
    }
)

__all__ = [
    "ALLOC",
    "ASYNC",
    "BORROWED",
    "BY_GC",
    "BY_REFCOUNT",
    "BY_RELEASE",
    "CANCELLED",
    "CHOICES",
    "COMMON",
    "CORRUPT",
    "COUNTER",
    "DECODED",
    "DELIVERED",
    "DEMUXED",
    "DEVICE",
    "DRIVER",
    "ENCODER_LAG",
    "ERROR",
    "EVICT",
    "EVICTED",
    "FAILED",
    "FATES",
    "FLAG_CORRUPT",
    "FLAG_KEY",
    "FLAG_SKIP",
    "FLUSHED",
    "FRAME_EVENTS",
    "FREE",
    "FREED_BY",
    "GAUGE",
    "GET",
    "HOLDS",
    "KEPT_FOR",
    "LABELS",
    "LATE",
    "LEVELS",
    "LOST",
    "MANAGED",
    "MEMORY_KINDS",
    "METRIC_KINDS",
    "NAMED",
    "NAMES",
    "NOT_FREED",
    "OK",
    "OPS",
    "PICTURE_TYPES",
    "PINNED",
    "POOL",
    "PUT",
    "QUEUE",
    "REORDER",
    "RUN_SCHEMA",
    "SENT",
    "SERVICE",
    "SPAN_KINDS",
    "SPAN_STATUSES",
    "TABLES",
    "TEXT",
    "UNKNOWN",
    "UPDOWNCOUNTER",
    "Column",
    "Record",
    "Table",
    "declared",
    "kernel_table",
    "united",
]

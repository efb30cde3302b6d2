"""Tables of profiles: weighted stacks, and what a profiler sent."""

from __future__ import annotations

import pyarrow as pa

from .declaration import FRAME, TEXT, Column, Record, Table

#: The `thread` of samples of the threads that a recording keeps for itself.
OWN_THREADS = "(vidlab)"

TABLES = (
    Table(
        "profile_samples",
        "a stack that a profiler saw, with its weight; `t_ns` is when the profile began",
        (
            Column("duration_ns", pa.int64(), "what time the profile is of; 0 if not told", "ns"),
            Column("profile", TEXT, "process_cpu, memory or another's name"),
            Column("type", TEXT, "what is measured: cpu, alloc_space, …"),
            Column("unit", TEXT, "of the value: nanoseconds, bytes, count"),
            Column("value", pa.int64(), "how much"),
            Column("samples", pa.int64(), "how often it was seen; 0 if not told"),
            Column("stack", pa.uint32(), "a row of `stacks`; null if it was empty"),
            Column("span", pa.uint64(), "the span that the thread was in; null if in none"),
            FRAME,
            Column("thread", TEXT, "the thread's name; null if not told"),
        ),
        Record(
            (
                ("t_ns", "q"),
                ("duration_ns", "q"),
                ("value", "q"),
                ("samples", "q"),
                ("span", "Q"),
                ("frame", "Q"),
                ("labels", "I"),
                ("stack", "I"),
                ("profile", "H"),
                ("type", "H"),
                ("unit", "H"),
                ("thread", "H"),
                ("pad", "H"),
                ("pad2", "B"),
                ("written", "B"),
            )
        ),
    ),
    Table(
        "profile_pushes",
        "a push of a profiler that vidlab received",
        (
            Column("profile", TEXT, "what was in it: process_cpu, memory, or both"),
            Column("size_bytes", pa.int64(), "as received, compressed", "bytes"),
            Column("samples", pa.int64(), "samples stored"),
            Column("folded", pa.bool_(), "equal stacks were put together, for size"),
            Column("took_ns", pa.int64(), "to decode and store it", "ns"),
            Column("status", TEXT, "stored, or what was wrong with it"),
            Column("forwarded", TEXT, "the server's answer; null if it is not forwarded"),
        ),
    ),
)

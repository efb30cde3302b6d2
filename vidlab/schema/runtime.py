"""Tables of runtime health: the interpreter, its threads and tasks, its heap."""

from __future__ import annotations

import pyarrow as pa

from .declaration import FRAME, TEXT, Column, Record, Table

#: How a metric's values are to be read, by OpenTelemetry's words: the value now; a value that
#: goes up and down and may be added over processes; a sum that only grows.
METRIC_KINDS = ("gauge", "updowncounter", "counter")
GAUGE, UPDOWNCOUNTER, COUNTER = range(len(METRIC_KINDS))

CHOICES = {("runtime_metrics", "kind"): METRIC_KINDS}

TABLES = (
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
        "runtime_metrics",
        "a reading of a runtime metric; `schema.metrics` says what each means",
        (
            Column("metric", TEXT, "its name, such as vidlab.malloc.fragmentation"),
            Column("attribute", TEXT, "what of it is read: generation=2; null for all"),
            Column("value", pa.float64(), "in the metric's unit"),
            Column("kind", TEXT, "gauge, updowncounter or counter"),
        ),
        Record(
            (
                ("t_ns", "q"),
                ("value", "d"),
                ("labels", "I"),
                ("metric", "H"),
                ("attribute", "H"),
                ("pad", "H"),
                ("pad2", "B"),
                ("kind", "B"),
            )
        ),
    ),
    Table(
        "thread_waits",
        "a thread in a window of a second: what it ran, and waited to run (`tid` is that thread)",
        (
            Column("duration_ns", pa.int64(), "how long the window was", "ns"),
            Column("cpu_ns", pa.int64(), "on a CPU", "ns"),
            Column("runqueue_ns", pa.int64(), "ready to run but waiting for a CPU", "ns"),
            Column("slices", pa.int64(), "how often it was given a CPU"),
            Column("readings", pa.int32(), "how often it was looked at in the window"),
            Column(
                "p50_delay_ns",
                pa.int64(),
                "median over the readings of the mean wait for a CPU; null if it never ran",
                "ns",
            ),
            Column("worst_delay_ns", pa.int64(), "the largest of these means", "ns"),
        ),
    ),
    Table(
        "wakeups",
        "a short sleep of vidlab's probe thread: how much later than asked Python ran again",
        (
            Column("asked_ns", pa.int64(), "how long it was to sleep", "ns"),
            Column("late_ns", pa.int64(), "how much longer that took", "ns"),
            Column("runqueue_ns", pa.int64(), "of this: it waited for a CPU", "ns"),
            Column("gil_ns", pa.int64(), "the rest: an estimate of its wait for the GIL", "ns"),
        ),
        Record(
            (
                ("t_ns", "q"),
                ("asked_ns", "q"),
                ("late_ns", "q"),
                ("runqueue_ns", "q"),
                ("gil_ns", "q"),
                ("labels", "I"),
                ("pad", "H"),
                ("pad2", "B"),
                ("written", "B"),
            )
        ),
    ),
    Table(
        "loop_delays",
        "a timer of an event loop: how much later than due it ran",
        (
            Column("loop", pa.uint32(), "the event loop, numbered within the process"),
            Column("delay_ns", pa.int64(), "how late it was", "ns"),
            Column("period_ns", pa.int64(), "how often this is measured", "ns"),
        ),
        Record(
            (
                ("t_ns", "q"),
                ("delay_ns", "q"),
                ("period_ns", "q"),
                ("labels", "I"),
                ("loop", "I"),
                ("pad", "H"),
                ("pad2", "B"),
                ("written", "B"),
            )
        ),
    ),
    Table(
        "threads",
        "a thread that began, changed its name or ended (`tid` is that thread)",
        (
            Column("op", TEXT, "began (or was there at the start), renamed or ended"),
            Column("name", TEXT, "Python's name of it, else the kernel's"),
            Column("python", pa.bool_(), "Python knows it"),
            Column("daemon", pa.bool_(), "the process ends without waiting for it"),
        ),
    ),
    Table(
        "tasks",
        "an asyncio task, looked at while it was not done",
        (
            Column("task", pa.uint64(), "its number within the process; 0: its loop's main task"),
            Column("loop", pa.uint32(), "the event loop, numbered within the process"),
            Column("name", TEXT, "asyncio's name of it"),
            Column("coroutine", TEXT, "the qualified name of its function"),
            Column("waits_at", TEXT, "function (file:line) of the program's own innermost frame"),
            Column("age_ns", pa.int64(), "since it was first seen", "ns"),
            Column("steps", pa.int64(), "how often it, or a task it waits for, has got on since"),
        ),
    ),
    Table(
        "objects",
        "what a holder in the program held when it was looked at",
        (
            Column("holder", TEXT, "global, attribute, cache, context_variable or queue"),
            Column("name", TEXT, "what it is called: module.NAME"),
            Column("type", TEXT, "its type"),
            Column("items", pa.int64(), "how many things it holds"),
            Column("size_bytes", pa.int64(), "an estimate of what they take, buffers included"),
        ),
    ),
    Table(
        "host_allocations",
        "a line of the program whose memory tracemalloc found among the largest",
        (
            Column("file", TEXT, "the source file"),
            Column("line", pa.int32(), "the line"),
            Column("size_bytes", pa.int64(), "in use that was allocated there", "bytes"),
            Column("blocks", pa.int64(), "blocks in use that were allocated there"),
        ),
    ),
    Table(
        "runtime_profiles",
        "a switch of the runtime engine's profile",
        (
            Column("profile", TEXT, "production, staging or debug, from now on"),
            Column("profile_before", TEXT, "null at the start"),
            Column("reason", TEXT, "why, if it was told"),
            Column("settings", pa.string(), "its periods, as JSON"),
        ),
    ),
)

"""What engines that were not on would have told."""

from __future__ import annotations

import polars as pl

from ...runs.run import Run

#: For each engine, as a recording names it: its name in Python, and for tables of its that
#: blame needs what it would have told by them.
_TELL = (
    ("frames", "Frames", (
        ("spans", "which stage or queue a frame's time went to"),
    )),
    ("runtime", "Runtime", (
        ("gc_pauses", "when the garbage collector had stopped all stages"),
        ("wakeups", "when stages waited for the GIL"),
    )),
    ("gpu_memory", "GpuMemory", (
        ("allocations", "when a stage waited for GPU memory from the driver"),
    )),
    ("kernel_events", "KernelEvents", (
        ("kernel_offcpu", "when threads had no CPU, and whether they slept or waited for "
         "storage (probe set 'sched')"),
    )),
    ("profiles", "Profiles", (
        ("profile_samples", "which functions a stage's work was"),
    )),
)  # fmt: skip

#: Tables that stay empty where there was nothing to record: the engine was on all the same.
_MAY_BE_EMPTY = ("gc_pauses", "allocations")


def untold(run: Run) -> pl.DataFrame:
    """Return what this run cannot tell for lack of an engine.

    Returns
    -------
    polars.DataFrame
        `engine` (as in `vl.Runtime`) and `would_tell`, a clause: "when stages waited for the
        GIL".
    """
    on = {engine.name for engine in run.manifest.engines}
    there = set(run.tables())
    rows = []
    for name, engine, told in _TELL:
        lacks = [
            what
            for table, what in told
            if table not in there and not (name in on and table in _MAY_BE_EMPTY)
        ]
        if lacks:
            rows.append((engine, "; ".join(lacks)))
    return pl.DataFrame(rows, {"engine": pl.String, "would_tell": pl.String}, orient="row")

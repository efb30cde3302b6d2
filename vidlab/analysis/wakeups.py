"""How late does Python run again when it is due, and who had the interpreter meanwhile?

vidlab's probe thread sleeps for a moment, over and over. What it sleeps longer than asked is
how long any thread of the program would have waited that became ready then: for a CPU, which
the kernel counts, and for the rest for Python's global lock, the GIL. That rest is an
estimate: what a virtual machine's host takes away is in it too.
"""

from __future__ import annotations

import polars as pl

from . import bins, pauses, quantiles, tables, threadnames
from .tables import AnyTable

_PARTS = ("late_ns", "runqueue_ns", "gil_ns")
_NEEDED = ("pid", "t_ns", *_PARTS)

#: For how long vidlab itself had the GIL as it looked at the program: metrics.
LOOKS = ("vidlab.runtime.census.duration", "vidlab.runtime.tracing.duration")

#: The thread that looks.
_SAMPLER = "vidlab-sampler"


def by_process(
    wakeups: AnyTable,
    gc_pauses: AnyTable | None = None,
    runtime_metrics: AnyTable | None = None,
) -> pl.DataFrame:
    """Return how late Python ran in each process, and what it waited for.

    Parameters
    ----------
    wakeups : polars.LazyFrame or polars.DataFrame
        The table `wakeups`.
    gc_pauses : polars.LazyFrame or polars.DataFrame, optional
        The table `gc_pauses`: what the collector took does not count as a wait for the GIL.
    runtime_metrics : polars.LazyFrame or polars.DataFrame, optional
        The table `runtime_metrics`: what vidlab's own looks took (`LOOKS`) does not count.

    Returns
    -------
    polars.DataFrame
        `pid`, `count`, and for each of `late`, `runqueue` and `gil` (an estimate)
        `…_p50_ns`, `…_p99_ns` (nearest-rank) and `…_max_ns`; sorted by `pid`.
    """
    known = identified(wakeups, gc_pauses, runtime_metrics)
    result = known.group_by("pid").agg(pl.len().cast(pl.Int64).alias("count"))
    for part in _PARTS:
        found = quantiles.grouped(known.lazy(), ["pid"], (0.5, 0.99), part)
        name = part.removesuffix("_ns")
        renamed = {column: f"{name}_{column}" for column in ("p50_ns", "p99_ns", "max_ns")}
        result = result.join(found.select("pid", *renamed).rename(renamed), on="pid")
    return result.sort("pid")


def over_time(
    wakeups: AnyTable,
    gc_pauses: AnyTable | None = None,
    time_bins: int = 200,
    runtime_metrics: AnyTable | None = None,
) -> pl.DataFrame:
    """Return the latest wake-up of each moment, and what it waited for, for a chart.

    Parameters
    ----------
    wakeups, gc_pauses, runtime_metrics
        As of `by_process`.
    time_bins : int
        How many parts the time from the first to the last wake-up is cut into.

    Returns
    -------
    polars.DataFrame
        `pid`, `t_ns`, `t_end_ns`, `late_ns`, and of it `runqueue_ns`, `gc_ns` and `gil_ns`;
        `count` (wake-ups). By process and time.
    """
    known = identified(wakeups, gc_pauses, runtime_metrics).lazy()
    start, width = bins.time_bin(known, time_bins)
    return (
        known.sort("late_ns")
        .group_by("pid", ((pl.col("t_ns") - start) // width).alias("bin"), maintain_order=True)
        .agg(
            pl.col("late_ns", "runqueue_ns", "gc_ns", "gil_ns").last(),
            pl.len().cast(pl.Int64).alias("count"),
        )
        .select(
            "pid",
            (start + pl.col("bin") * width).alias("t_ns"),
            (start + (pl.col("bin") + 1) * width).alias("t_end_ns"),
            "late_ns",
            "runqueue_ns",
            "gc_ns",
            "gil_ns",
            "count",
        )
        .sort("pid", "t_ns")
        .collect()
    )


def looks(runtime_metrics: AnyTable) -> pl.DataFrame:
    """Return when vidlab itself held up the program as it looked at it.

    Returns
    -------
    polars.DataFrame
        `pid`, `t_ns` and `duration_ns`; these do not overlap.
    """
    columns = ("pid", "t_ns", "metric", "value")
    return (
        tables.as_text(tables.lazy(runtime_metrics, "runtime_metrics", columns), ["metric"])
        .filter(pl.col("metric").is_in(LOOKS))
        .select("pid", "t_ns", duration_ns=(pl.col("value") * 1e9).round().cast(pl.Int64))
        .collect()
    )


def identified(
    wakeups: AnyTable,
    gc_pauses: AnyTable | None = None,
    runtime_metrics: AnyTable | None = None,
) -> pl.DataFrame:
    """Return the wake-ups with what the collector took of each, which is no wait for a thread.

    Returns
    -------
    polars.DataFrame
        `pid`, `t_ns` (when it was due), `t_end_ns` (when it ran), `late_ns`, and of it
        `runqueue_ns`, `gc_ns` and `gil_ns`. What vidlab's own looks took is in none of them.
    """
    known = (
        tables.lazy(wakeups, "wakeups", _NEEDED)
        .select(
            "pid",
            "t_ns",
            (pl.col("t_ns") + pl.col("late_ns")).alias("t_end_ns"),
            *(pl.col(part).fill_null(0).clip(0) for part in _PARTS),
        )
        .collect()
    )
    if runtime_metrics is not None:
        own = pauses.within(known, looks(runtime_metrics)).alias("own_ns")
        taken = pl.min_horizontal("gil_ns", "own_ns")
        known = known.with_columns(own).with_columns(
            late_ns=pl.col("late_ns") - taken, gil_ns=pl.col("gil_ns") - taken
        )
        known = known.drop("own_ns")
    if gc_pauses is None:
        return known.with_columns(gc_ns=pl.lit(0, pl.Int64))
    taken = pl.min_horizontal("gil_ns", "gc_ns")
    return known.with_columns(pauses.within(known, gc_pauses)).with_columns(
        gc_ns=taken, gil_ns=pl.col("gil_ns") - taken
    )


def holders(
    wakeups: AnyTable,
    thread_waits: AnyTable,
    threads_seen: AnyTable,
    gc_pauses: AnyTable | None = None,
    runtime_metrics: AnyTable | None = None,
) -> pl.DataFrame:
    """Return which threads had the CPU while Python waited for the GIL.

    The kernel does not know who holds the GIL. But who holds it for long runs: each wait is
    shared out among the threads that Python knows by the CPU time that they had within the
    same second or so. A thread that works without the GIL, in a decoder say, gets a share too.

    Parameters
    ----------
    wakeups, thread_waits, threads_seen, gc_pauses, runtime_metrics
        The tables `wakeups`, `thread_waits`, `threads`, `gc_pauses` and `runtime_metrics`.

    Returns
    -------
    polars.DataFrame
        `pid`, `tid`, `name`, `share` (of the process' waits for the GIL), `cpu_share` (of the
        time of its windows). The largest share of each process comes first. Threads that
        Python does not know are left out, but for vidlab's own, without its looks.
    """
    windows = (
        tables.lazy(thread_waits, "thread_waits", ("pid", "tid", "t_ns", "duration_ns", "cpu_ns"))
        .filter(pl.col("duration_ns") > 0)
        .select("pid", "tid", "t_ns", "duration_ns", "cpu_ns")
    )
    # A thread that lived too short to be looked at is a decoder's or its like.
    unknown = ~pl.col("python").any().over("pid")
    ours = pl.col("name").str.starts_with(threadnames.OWN)
    known = threadnames.named(windows, threadnames.known(threads_seen)).filter(
        pl.col("python").fill_null(unknown) | ours
    )
    if runtime_metrics is not None:
        known = _without_looks(known, runtime_metrics)
    width = int(known["duration_ns"].median() or 1)  # type: ignore[arg-type]
    part = pl.col("t_ns") // width
    waited = (
        identified(wakeups, gc_pauses, runtime_metrics)
        .group_by("pid", part.alias("part"))
        .agg(pl.col("gil_ns").sum())
    )
    middle = (pl.col("t_ns") + pl.col("duration_ns") // 2) // width
    all_cpu = pl.col("cpu_ns").sum().over("pid", "part")
    return (
        known.with_columns(part=middle)
        .with_columns(of_part=pl.when(all_cpu > 0).then(pl.col("cpu_ns") / all_cpu))
        .join(waited, on=["pid", "part"], how="left")
        .group_by("pid", "tid", "name")
        .agg(
            (pl.col("of_part") * pl.col("gil_ns")).sum().alias("shared"),
            (pl.col("cpu_ns").sum() / pl.col("duration_ns").sum()).alias("cpu_share"),
        )
        .with_columns(all=pl.col("shared").sum().over("pid"))
        .select(
            "pid",
            "tid",
            "name",
            pl.when(pl.col("all") > 0).then(pl.col("shared") / pl.col("all")).alias("share"),
            "cpu_share",
        )
        .sort(
            "pid", "share", "cpu_share", "tid",
            descending=[False, True, True, False], nulls_last=True,
        )
    )  # fmt: skip


def _without_looks(windows: pl.DataFrame, runtime_metrics: AnyTable) -> pl.DataFrame:
    """Return the windows, without the CPU time that the sampler's looks took."""
    times = windows.select("pid", "t_ns", t_end_ns=pl.col("t_ns") + pl.col("duration_ns"))
    took = pauses.within(times, looks(runtime_metrics)).alias("own_ns")
    rest = (pl.col("cpu_ns") - pl.col("own_ns")).clip(0)
    sampler = pl.col("name") == _SAMPLER
    return (
        windows.with_columns(took)
        .with_columns(cpu_ns=pl.when(sampler).then(rest).otherwise("cpu_ns"))
        .drop("own_ns")
    )

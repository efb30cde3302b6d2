"""How long did threads that could run wait for a CPU?

The kernel counts for each thread how long it ran, how long it waited in a run queue, and how
often it was given a CPU. A row of `thread_waits` is what that came to in a window of a second;
a window in which a thread did nothing has none.
"""

from __future__ import annotations

import polars as pl

from . import bins, quantiles, tables
from .tables import AnyTable

_KEYS = ["pid", "tid"]
_COUNTED = ("duration_ns", "cpu_ns", "runqueue_ns", "slices", "readings")
_DELAYS = ("p50_delay_ns", "worst_delay_ns")


def by_thread(thread_waits: AnyTable) -> pl.DataFrame:
    """Return how long each thread ran and waited, and the distribution of its delays.

    A delay is how long a thread waited until it was given a CPU. Of a window the median and
    the worst reading are known; for the percentiles all readings of a window but the worst
    count as the median. So a percentile is at most what all readings would have given.

    Parameters
    ----------
    thread_waits : polars.LazyFrame or polars.DataFrame
        The table `thread_waits`.

    Returns
    -------
    polars.DataFrame
        `pid`, `tid`, `windows` (in which it did something), `duration_ns` (of these),
        `cpu_ns`, `runqueue_ns`, `cpu_share` and `runqueue_share` (of that time), `slices`,
        `readings`,
        `mean_delay_ns` (a slice; null without any), `p50_delay_ns`, `p99_delay_ns`
        (nearest-rank) and `worst_delay_ns` (null if it never ran). Those that waited most
        come first.
    """
    table = tables.lazy(thread_waits, "thread_waits", (*_KEYS, *_COUNTED, *_DELAYS)).select(
        *_KEYS, *_COUNTED, *_DELAYS
    )
    duration, slices = pl.col("duration_ns"), pl.col("slices")
    sums = (
        table.group_by(_KEYS)
        .agg(
            pl.len().cast(pl.Int64).alias("windows"),
            pl.col(_COUNTED).cast(pl.Int64).sum(),
            pl.col("worst_delay_ns").max(),
        )
        .with_columns(
            cpu_share=pl.when(duration > 0).then(pl.col("cpu_ns") / duration),
            runqueue_share=pl.when(duration > 0).then(pl.col("runqueue_ns") / duration),
            mean_delay_ns=pl.when(slices > 0).then(pl.col("runqueue_ns") // slices),
        )
        .collect()
    )
    delays = quantiles.grouped(_readings(table), _KEYS, (0.5, 0.99), "delay_ns").select(
        *_KEYS, pl.col("p50_ns").alias("p50_delay_ns"), pl.col("p99_ns").alias("p99_delay_ns")
    )
    return (
        sums.join(delays, on=_KEYS, how="left")
        .select(
            *_KEYS,
            "windows",
            "duration_ns",
            "cpu_ns",
            "runqueue_ns",
            "cpu_share",
            "runqueue_share",
            "slices",
            "readings",
            "mean_delay_ns",
            "p50_delay_ns",
            "p99_delay_ns",
            "worst_delay_ns",
        )
        .sort("runqueue_ns", *_KEYS, descending=[True, False, False])
    )


def over_time(thread_waits: AnyTable, time_bins: int = 120) -> pl.DataFrame:
    """Return how much of each moment each thread ran and waited, for a chart.

    Parameters
    ----------
    thread_waits : polars.LazyFrame or polars.DataFrame
        The table `thread_waits`.
    time_bins : int
        At most so many windows of a thread are told apart; more are put together.

    Returns
    -------
    polars.DataFrame
        `pid`, `tid`, `t_ns`, `t_end_ns`, `cpu_share`, `runqueue_share` (of that time) and
        `worst_delay_ns`; by thread and time.
    """
    table = tables.lazy(thread_waits, "thread_waits", (*_KEYS, "t_ns", *_COUNTED, *_DELAYS))
    start, width = bins.time_bin(table, time_bins)
    duration = pl.col("duration_ns")
    return (
        table.filter(duration > 0)
        .group_by(*_KEYS, ((pl.col("t_ns") - start) // width).alias("bin"))
        .agg(
            pl.col("t_ns").min(),
            (pl.col("t_ns") + duration).max().alias("t_end_ns"),
            (pl.col("cpu_ns").sum() / duration.sum()).alias("cpu_share"),
            (pl.col("runqueue_ns").sum() / duration.sum()).alias("runqueue_share"),
            pl.col("worst_delay_ns").max(),
        )
        .drop("bin")
        .sort(*_KEYS, "t_ns")
        .collect()
    )


def _readings(table: pl.LazyFrame) -> pl.LazyFrame:
    """The readings' delays: of each window the worst, and all others as the median."""
    ran = table.filter(pl.col("readings") > 0)
    worst = ran.select(*_KEYS, pl.col("worst_delay_ns").alias("delay_ns"), sample_rate=pl.lit(1.0))
    others = ran.filter(pl.col("readings") > 1).select(
        *_KEYS,
        pl.col("p50_delay_ns").alias("delay_ns"),
        sample_rate=1.0 / (pl.col("readings") - 1),
    )
    return pl.concat([worst, others]).filter(pl.col("delay_ns").is_not_null())

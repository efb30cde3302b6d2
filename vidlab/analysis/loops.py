"""How late do event loops run what is due, and which stage blocked them?"""

from __future__ import annotations

import polars as pl

from . import bins, pauses, quantiles, tables, wakeups
from .tables import AnyTable

_KEYS = ["pid", "loop"]

#: What stands for a time in which the loop's thread was in no stage.
OUTSIDE = "(outside stages)"


def by_loop(loop_delays: AnyTable) -> pl.DataFrame:
    """Return how late each event loop ran its timers.

    Parameters
    ----------
    loop_delays : polars.LazyFrame or polars.DataFrame
        The table `loop_delays`.

    Returns
    -------
    polars.DataFrame
        `pid`, `loop`, `count`, `mean_ns`, `p50_ns`, `p99_ns` (nearest-rank), `max_ns` and
        `period_ns` (how often it was measured, the longest); sorted by `pid` and `loop`.
    """
    table = tables.lazy(loop_delays, "loop_delays", (*_KEYS, "delay_ns", "period_ns"))
    periods = table.group_by(_KEYS).agg(pl.col("period_ns").max()).collect()
    found = quantiles.grouped(table, _KEYS, (0.5, 0.99), "delay_ns")
    return found.join(periods, on=_KEYS, how="left", maintain_order="left")


def without_looks(loop_delays: AnyTable, runtime_metrics: AnyTable) -> pl.DataFrame:
    """Return the loops' timers, without what vidlab's own looks took of their delays.

    Returns
    -------
    polars.DataFrame
        `pid`, `tid`, `loop`, `t_ns`, `delay_ns` and `period_ns`.
    """
    columns = (*_KEYS, "tid", "t_ns", "delay_ns", "period_ns")
    known = tables.lazy(loop_delays, "loop_delays", columns).select(columns).collect()
    times = known.select("pid", "t_ns", t_end_ns=pl.col("t_ns") + pl.col("delay_ns"))
    took = pauses.within(times, wakeups.looks(runtime_metrics))
    return known.with_columns(delay_ns=(pl.col("delay_ns") - took).clip(0))


def over_time(loop_delays: AnyTable, time_bins: int = 200) -> pl.DataFrame:
    """Return the longest delay of each loop and moment, for a chart.

    Returns
    -------
    polars.DataFrame
        `pid`, `loop`, `t_ns`, `t_end_ns`, `delay_ns`, `count`; by loop and time.
    """
    table = tables.lazy(loop_delays, "loop_delays", (*_KEYS, "t_ns", "delay_ns"))
    start, width = bins.time_bin(table, time_bins)
    return (
        table.group_by(*_KEYS, ((pl.col("t_ns") - start) // width).alias("bin"))
        .agg(pl.col("delay_ns").max(), pl.len().cast(pl.Int64).alias("count"))
        .select(
            *_KEYS,
            (start + pl.col("bin") * width).alias("t_ns"),
            (start + (pl.col("bin") + 1) * width).alias("t_end_ns"),
            "delay_ns",
            "count",
        )
        .sort(*_KEYS, "t_ns")
        .collect()
    )


def blockers(loop_delays: AnyTable, spans: AnyTable, least_ns: int) -> pl.DataFrame:
    """Return which stages were under way in a loop's thread while it was late.

    Parameters
    ----------
    loop_delays, spans : polars.LazyFrame or polars.DataFrame
        These tables of a run.
    least_ns : int
        Delays below this go unexplained.

    Returns
    -------
    polars.DataFrame
        `pid`, `loop`, `stage` (`OUTSIDE` for the rest), `delays` (how many it had a part in)
        and `blocked_ns` (how much of them); the most blocked come first. Nested stages count
        for the outermost. Of a sampled recording a span blocked for all that it stands for,
        and the rest is what is left over all.
    """
    keys = (*_KEYS, "tid", "t_ns", "delay_ns")
    late = (
        tables.lazy(loop_delays, "loop_delays", keys)
        .filter(pl.col("delay_ns") >= least_ns)
        .select(*keys, t_end_ns=pl.col("t_ns") + pl.col("delay_ns"))
    )
    work = (
        tables.as_text(
            tables.top_level(spans, ("pid", "tid", "t_ns", "stage", "kind")), ["stage", "kind"]
        )
        .pipe(tables.weighted)
        # What is shorter than the shortest explained delay by far cannot be what blocked it.
        .filter(pl.col("kind") == "service", pl.col("duration_ns") >= least_ns // 20)
        .select(
            pl.col("pid").alias("span_pid"),
            pl.col("tid").alias("span_tid"),
            "stage",
            tables.WEIGHT,
            pl.col("t_ns").alias("begin_ns"),
            (pl.col("t_ns") + pl.col("duration_ns")).alias("end_ns"),
        )
    )
    overlap = pl.min_horizontal("t_end_ns", "end_ns") - pl.max_horizontal("t_ns", "begin_ns")
    # Two inequalities and nothing else, so that polars sorts instead of trying every pair.
    held = (
        late.join_where(
            work, pl.col("t_ns") < pl.col("end_ns"), pl.col("t_end_ns") > pl.col("begin_ns")
        )
        .filter(pl.col("pid") == pl.col("span_pid"), pl.col("tid") == pl.col("span_tid"))
        .select(
            *_KEYS,
            "t_ns",
            "stage",
            tables.whole_number(overlap * pl.col(tables.WEIGHT)).alias("blocked_ns"),
        )
    )
    explained = held.group_by(*_KEYS, "t_ns").agg(pl.col("blocked_ns").sum())
    rest = (
        late.join(explained, on=[*_KEYS, "t_ns"], how="left")
        .select(
            *_KEYS,
            "t_ns",
            pl.lit(OUTSIDE).alias("stage"),
            blocked_ns=pl.col("delay_ns") - pl.col("blocked_ns").fill_null(0),
        )
        .filter(pl.col("blocked_ns") != 0)
    )
    return (
        pl.concat([held, rest])
        .group_by(*_KEYS, "stage")
        .agg(
            pl.col("t_ns")
            .filter(pl.col("blocked_ns") > 0)
            .n_unique()
            .cast(pl.Int64)
            .alias("delays"),
            pl.col("blocked_ns").sum(),
        )
        .filter(pl.col("blocked_ns") > 0)
        .sort("blocked_ns", *_KEYS, "stage", descending=[True, False, False, False])
        .collect()
    )

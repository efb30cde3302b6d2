"""How did a runtime metric go over time?"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from . import bins, tables
from .tables import AnyTable

_KEYS = ["pid", "metric", "attribute"]


def metrics(runtime_metrics: AnyTable) -> pl.DataFrame:
    """Return every metric that was read, with its least, last and greatest value.

    Parameters
    ----------
    runtime_metrics : polars.LazyFrame or polars.DataFrame
        The table `runtime_metrics`.

    Returns
    -------
    polars.DataFrame
        `pid`, `metric`, `attribute`, `kind`, `readings`, `t_ns` (of the first), `least`,
        `median`, `most`, `last` (in the metric's unit); sorted by the first three.
    """
    value = pl.col("value")
    return (
        _readings(runtime_metrics)
        .sort("t_ns", maintain_order=True)
        .group_by(_KEYS)
        .agg(
            pl.col("kind").last(),
            pl.len().cast(pl.Int64).alias("readings"),
            pl.col("t_ns").min(),
            value.min().alias("least"),
            value.median().alias("median"),
            value.max().alias("most"),
            value.last().alias("last"),
        )
        .sort(_KEYS)
        .collect()
    )


def over_time(
    runtime_metrics: AnyTable, names: Sequence[str] | None = None, time_bins: int = 200
) -> pl.DataFrame:
    """Return metrics over time, counters as rates, for a chart.

    Parameters
    ----------
    runtime_metrics : polars.LazyFrame or polars.DataFrame
        The table `runtime_metrics`.
    names : sequence of str, optional
        Which metrics; by default all.
    time_bins : int
        How many parts the time from the first to the last reading is cut into.

    Returns
    -------
    polars.DataFrame
        `pid`, `metric`, `attribute`, `kind`, `t_ns` (the middle of the readings), `value`:
        the mean of the readings in that part of the time, or of a counter its growth a
        second since the reading before (the first has none). By metric and time.
    """
    table = _readings(runtime_metrics)
    if names is not None:
        table = table.filter(pl.col("metric").is_in(list(names)))
    start, width = bins.time_bin(table, time_bins)
    seconds = pl.col("t_ns").diff() / 1e9
    rate = pl.when(seconds > 0).then(pl.col("value").diff() / seconds)
    value = pl.when(pl.col("kind") == "counter").then(rate.over(_KEYS)).otherwise("value")
    return (
        table.sort("t_ns", maintain_order=True)
        .with_columns(value=value)
        .filter(pl.col("value").is_not_null())
        .group_by(*_KEYS, ((pl.col("t_ns") - start) // width).alias("bin"))
        .agg(
            pl.col("kind").last(),
            pl.col("t_ns").mean().round().cast(pl.Int64),
            pl.col("value").mean(),
        )
        .drop("bin")
        .select(*_KEYS, "kind", "t_ns", "value")
        .sort("metric", "attribute", "pid", "t_ns")
        .collect()
    )


def lately(runtime_metrics: AnyTable, name: str) -> pl.DataFrame:
    """Return what a metric came to in the later half of its readings.

    Returns
    -------
    polars.DataFrame
        `pid`, `attribute`, `readings` (all), `t_ns` (of the first in the later half) and
        `value`: the median of the later half; sorted by the first two.
    """
    later = (pl.len() + 1) // 2
    return (
        _readings(runtime_metrics)
        .filter(pl.col("metric") == name)
        .sort("t_ns", maintain_order=True)
        .group_by("pid", "attribute")
        .agg(
            pl.len().cast(pl.Int64).alias("readings"),
            pl.col("t_ns").tail(later).min(),
            pl.col("value").tail(later).median(),
        )
        .sort("pid", "attribute")
        .collect()
    )


def _readings(runtime_metrics: AnyTable) -> pl.LazyFrame:
    columns = (*_KEYS, "t_ns", "value", "kind")
    table = tables.lazy(runtime_metrics, "runtime_metrics", columns).select(columns)
    return tables.as_text(table, ("metric", "attribute", "kind"))

"""Cutting time, and durations, into bins: a chart draws these, never single events."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ..errors import InputError
from . import tables

#: The finest duration bins, per factor of ten.
PER_DECADE = 24

#: What is shorter counts as this long: no clock tells such durations apart.
SHORTEST_NS = 10

# What fine bins can be made coarser by; the last makes one bin of all int64 durations.
_COARSER = (1, 2, 3, 4, 6, 8, 12, 24, 48, 480)


def time_bin(table: pl.LazyFrame, bins: int, column: str = "t_ns") -> tuple[int, int]:
    """Return the first moment of `column`, and how wide its bins are: (t_ns, width_ns).

    Bin i holds the moments from t + i width up to, and without, t + (i + 1) width;
    `bins` of them cover all. The width of no moments at all is 1.

    Raises
    ------
    InputError
        If `bins` is not positive.
    """
    if bins < 1:
        raise InputError(f"time is cut into one bin at least, not {bins!r}")
    moments = pl.col(column)
    first, last = (
        table.select(moments.min().alias("first"), moments.max().alias("last")).collect().row(0)
    )
    if first is None:
        return 0, 1
    return first, -(-(last - first + 1) // bins)


def heatmap(table: pl.LazyFrame, by: Sequence[str], time_bins: int, cells: int) -> pl.DataFrame:
    """Return how many rows fall into each cell of time and duration, in each group.

    Parameters
    ----------
    table : polars.LazyFrame
        Has the columns `by`, `t_ns` and `duration_ns`; weighted by `sample_rate`, if it has it.
    time_bins, cells : int
        See `latency.over_time`.
    """
    most = cells // max(time_bins, 1)
    if most < 1:
        raise InputError(
            f"{time_bins} time bins don't fit into {cells} cells: give more cells, or fewer bins"
        )
    start, width = time_bin(table, time_bins)
    exponent = pl.max_horizontal("duration_ns", SHORTEST_NS).log10() * PER_DECADE
    fine = (
        tables.weighted(table)
        .group_by(
            *by,
            # A logarithm may come out just short of a whole number, and 1,000 in a bin too low.
            (exponent + 1e-9).floor().cast(pl.Int32).alias("fine"),
            ((pl.col("t_ns") - start) // width).cast(pl.Int32).alias("time"),
        )
        .agg(pl.col(tables.WEIGHT).sum())
        .collect(engine="streaming")
    )
    used = [
        pl.col("fine").max().floordiv(by_) - pl.col("fine").min().floordiv(by_) < most
        for by_ in _COARSER
    ]
    coarser = fine.group_by(by).agg(
        pl.coalesce(
            pl.when(fits).then(pl.lit(factor)) for fits, factor in zip(used, _COARSER, strict=True)
        ).alias("coarser")
    )
    decades = pl.col("coarse") * pl.col("coarser") / PER_DECADE
    # int64 ends at 10^18.96.
    high = pl.min_horizontal((pl.col("coarse") + 1) * pl.col("coarser") / PER_DECADE, 18.9)
    result = (
        fine.join(coarser, on=list(by), nulls_equal=True)
        .with_columns(coarse=pl.col("fine").floordiv(pl.col("coarser")))
        .group_by(*by, "time", "coarse", "coarser")
        .agg(tables.whole_number(pl.col(tables.WEIGHT).sum()).alias("count"))
        .select(
            *by,
            (start + pl.col("time").cast(pl.Int64) * width).alias("t_ns"),
            (start + (pl.col("time").cast(pl.Int64) + 1) * width).alias("t_end_ns"),
            pl.lit(10.0).pow(decades).round().cast(pl.Int64).alias("low_ns"),
            pl.lit(10.0).pow(high).round().cast(pl.Int64).alias("high_ns"),
            "count",
        )
    )
    return tables.plain(result).sort(*by, "t_ns", "low_ns")

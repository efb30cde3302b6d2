"""Nearest-rank percentiles of grouped values: exact, and from log-bucket histograms.

The q-quantile of n values is the value of rank ceil(q n) in ascending order: always
one that occurred. (Hyndman and Fan, "Sample Quantiles in Statistical Packages", 1996,
definition 1.) With weights it is the least value at which the running sum of weights
reaches q times their total, which is the same as repeating each value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from .. import histogram
from ..errors import InputError
from . import tables
from .packing import SortedGroups, sorted_groups

#: The quantiles that every table of percentiles has unless others are asked for.
DEFAULT = (0.5, 0.9, 0.99, 0.999)

# Columns of our own: no label, being an identifier, is called so.
_VALUE, _RATE, _ALL = "the value", "the rate", "all rows"

# A product such as 0.07 * 100 is a little more than 7: without this its rank would be 8.
_TIE = 1 - 1e-12


def column(quantile: float) -> str:
    """Return the name of a quantile's column, in nanoseconds.

    >>> [column(q) for q in (0.5, 0.99, 0.999, 0, 1)]
    ['p50_ns', 'p99_ns', 'p99_9_ns', 'p0_ns', 'p100_ns']
    """
    return f"p{quantile * 100:.6g}".replace(".", "_") + "_ns"


def checked(quantiles: Sequence[float] | float) -> list[float]:
    """Return the quantiles as a list.

    Raises
    ------
    InputError
        If one is not between 0 and 1.
    """
    several = [quantiles] if isinstance(quantiles, int | float) else list(quantiles)
    for quantile in several:
        if not 0 <= quantile <= 1:
            raise InputError(
                f"a quantile is between 0 and 1, such as 0.99 for the 99th percentile, "
                f"not {quantile!r}"
            )
    return several


def grouped(
    table: pl.LazyFrame,
    by: Sequence[str],
    quantiles: Sequence[float] | float = DEFAULT,
    value: str = "duration_ns",
) -> pl.DataFrame:
    """Return count, mean, percentiles and maximum of `value` in each group.

    Rows count 1 / `sample_rate` each, if the table has that column. As long as all have
    the same rate, which is the rule, weights change no percentile, and none are computed.

    Parameters
    ----------
    table : polars.LazyFrame
        Has the columns `by` and `value`, the latter integer nanoseconds, never null.
    by : sequence of str
        What makes a group; none for all rows.
    quantiles : sequence of float
        Between 0 and 1.

    Returns
    -------
    polars.DataFrame
        `by` (text as String), `count` Int64, `mean_ns`, one `pNN_ns` a quantile and
        `max_ns`, all Int64 nanoseconds; sorted by `by`.
    """
    several = checked(quantiles)
    keys = list(by) or [_ALL]
    sampled = tables.has(table, "sample_rate")
    rows = table.select(
        *by,
        *([] if by else [pl.lit(0).alias(_ALL)]),
        pl.col(value).alias(_VALUE),
        (pl.col("sample_rate") if sampled else pl.lit(1.0)).alias(_RATE),
    )
    rate = _common_rate(rows)
    packed = sorted_groups(rows, keys, _VALUE) if rate else None
    if packed is None or rate is None:
        result = _gathered(rows, keys, several)
    else:
        result = _picked(packed, several, rate)
    numbers = ["mean_ns", *map(column, several), "max_ns"]
    return (
        tables.plain(result)
        .select(*by, "count", pl.col(numbers).round().cast(pl.Int64))
        .sort(list(by) or "count")
    )


def _common_rate(rows: pl.LazyFrame) -> float | None:
    """The rate at which all rows were sampled; 1 of no rows, None if they differ."""
    rate = pl.col(_RATE)
    least, most = rows.select(rate.min().alias("least"), rate.max().alias("most")).collect().row(0)
    if least is None:
        return 1.0
    return float(least) if least == most else None


def _picked(groups: SortedGroups, quantiles: list[float], rate: float) -> pl.DataFrame:
    """Each quantile at its place among sorted values."""
    counts = groups.counts
    ranks = {q: np.ceil(counts * (q * _TIE)).clip(1).astype(np.int64) for q in quantiles}
    return groups.keys.with_columns(
        pl.Series("count", np.rint(counts / rate).astype(np.int64)),
        pl.Series("mean_ns", groups.sums() / counts),
        *(pl.Series(column(q), groups.at(rank - 1)) for q, rank in ranks.items()),
        pl.Series("max_ns", groups.at(counts - 1)),
    )


def _gathered(rows: pl.LazyFrame, keys: list[str], quantiles: list[float]) -> pl.DataFrame:
    """Each quantile at the first of a group's values at which the weights add up to it."""
    values = pl.col(_VALUE)
    weight = 1.0 / pl.col(_RATE)
    running = weight.cum_sum()
    # Weights are no whole numbers: summed up one by one they may come out short of their sum.
    last = pl.len().cast(pl.Int64) - 1
    return (
        rows.sort(_VALUE)
        .group_by(keys, maintain_order=True)
        .agg(
            tables.whole_number(weight.sum()).alias("count"),
            ((values * weight).sum() / weight.sum()).alias("mean_ns"),
            *(
                values.get(
                    pl.min_horizontal((running < quantile * _TIE * weight.sum()).sum(), last)
                ).alias(column(quantile))
                for quantile in quantiles
            ),
            values.max().alias("max_ns"),
        )
        .collect()
    )


def of_histograms(
    cube: pl.LazyFrame, by: Sequence[str], quantiles: Sequence[float] | float = DEFAULT
) -> pl.DataFrame:
    """Return what `grouped` does, from log-bucket histograms.

    Parameters
    ----------
    cube : polars.LazyFrame
        Columns `by`, `bucket`, `count` and `total_ns`.

    Returns
    -------
    polars.DataFrame
        As of `grouped`. Counts and means are exact, percentiles and maxima within
        `vidlab.histogram.RELATIVE_ERROR`.
    """
    several = checked(quantiles)
    keys = list(by) or [_ALL]
    running = pl.col("count").cum_sum()
    result = (
        cube.with_columns(*([] if by else [pl.lit(0).alias(_ALL)]))
        .group_by(*keys, "bucket")
        .agg(pl.col("count", "total_ns").sum())
        .filter(pl.col("count") > 0)
        .sort("bucket")
        .group_by(keys, maintain_order=True)
        .agg(
            tables.whole_number(pl.col("count").sum()).alias("events"),
            (pl.col("total_ns").sum() / pl.col("count").sum()).alias("mean_ns"),
            *(
                pl.col("bucket")
                .get((running < quantile * _TIE * pl.col("count").sum()).sum())
                .alias(column(quantile))
                for quantile in several
            ),
            pl.col("bucket").max().alias("max_ns"),
        )
        .collect()
        .rename({"events": "count"})
    )
    buckets = [*map(column, several), "max_ns"]
    return (
        tables.plain(result)
        .with_columns(pl.Series(name, histogram.value_of(result[name])) for name in buckets)
        .select(*by, "count", pl.col("mean_ns", *buckets).round().cast(pl.Int64))
        .sort(list(by) or "count")
    )

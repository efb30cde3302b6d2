"""What was counted in the kernel without an event each: histograms and counters.

A histogram's buckets are log-linear: each power of two is cut into 8 of equal width, and
values below 16, which are whole numbers, have one each. The value in a bucket's middle
stands for all in it: it is off by less than `RELATIVE_ERROR` of any of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from . import tables
from .quantiles import checked, column
from .tables import AnyTable

#: The greatest relative error of a quantile: half a bucket, of which the widest is an eighth of
#: its least value.
RELATIVE_ERROR = 1 / 16

_NEEDED = ("metric", "kind", "low", "high", "count", "unit")

# Columns of our own: no label, being an identifier, is called so.
_MIDDLE, _TOTAL = "the middle", "all of them"


def percentiles(
    metrics: AnyTable,
    by: str | Sequence[str] = ("stream_id", "codec"),
    quantiles: Sequence[float] | float = (0.5, 0.9, 0.99),
) -> pl.DataFrame:
    """Return nearest-rank percentiles of each histogram.

    Parameters
    ----------
    metrics : polars.LazyFrame or polars.DataFrame
        The table `kernel_metrics`.
    by : str or sequence of str
        Labels.
    quantiles : sequence of float
        Between 0 and 1.

    Returns
    -------
    polars.DataFrame
        `metric`, `unit`, `by`, `count`, one `pNN` a quantile and `max`, in the unit of the
        metric: within `RELATIVE_ERROR` of the whole numbers that were counted, and exact
        below 16. The most counted first, metric by metric.

    Raises
    ------
    InputError
        If a quantile is not between 0 and 1, or a column is missing.
    """
    several = checked(quantiles)
    keys = ["metric", "unit", *tables.names(by)]
    running, total = pl.col("count").cum_sum(), pl.col("count").sum()
    return (
        _buckets(metrics, keys)
        .sort("low")
        .group_by(keys)
        .agg(
            *(
                # As everywhere: the least value whose rank is at least q times their number.
                pl.col(_MIDDLE)
                .filter(running >= (quantile * total * (1 - 1e-12)).ceil().clip(1))
                .first()
                .alias(column(quantile).removesuffix("_ns"))
                for quantile in several
            ),
            pl.col(_MIDDLE).last().alias("max"),
            total.alias(_TOTAL),
        )
        .rename({_TOTAL: "count"})
        .select(*keys, "count", *(column(q).removesuffix("_ns") for q in several), "max")
        .sort("metric", "count", *keys[1:], descending=[False, True, *[False] * len(keys[1:])])
        .collect()
    )


def distribution(
    metrics: AnyTable, metric: str, by: str | Sequence[str] = ("stream_id", "codec")
) -> pl.DataFrame:
    """Return the buckets of one histogram.

    Parameters
    ----------
    metrics : polars.LazyFrame or polars.DataFrame
        The table `kernel_metrics`.
    metric : str
        Such as `ebpf_video_decode_us`.
    by : str or sequence of str
        Labels.

    Returns
    -------
    polars.DataFrame
        `metric`, `unit`, `by`, `low`, `high` (where the bucket ends), `count`, and `share`:
        of all that this group counted. Groups that counted most come first, and buckets in
        their order; none is empty.
    """
    keys = ["metric", "unit", *tables.names(by)]
    known = _buckets(metrics, keys).filter(pl.col("metric") == metric)
    total = pl.col("count").sum().over(keys)
    return (
        known.with_columns((pl.col("count") / total).alias("share"), total.alias(_TOTAL))
        .sort(_TOTAL, *keys, "low", descending=[True, *[False] * len(keys), False])
        .select(*keys, "low", "high", "count", "share")
        .collect()
    )


def counters(metrics: AnyTable, by: str | Sequence[str] = ("stream_id", "codec")) -> pl.DataFrame:
    """Return what each counter came to.

    Returns
    -------
    polars.DataFrame
        `metric`, `by`, `count`; a counter that counted nothing is not there.
    """
    keys = ["metric", *tables.names(by)]
    return (
        _known(metrics, keys)
        .filter(pl.col("kind") == "counter")
        .group_by(keys)
        .agg(pl.col("count").sum())
        .filter(pl.col("count") > 0)
        .sort("metric", "count", *keys[1:], descending=[False, True, *[False] * len(keys[1:])])
        .collect()
    )


def _buckets(metrics: AnyTable, keys: list[str]) -> pl.LazyFrame:
    """Return the buckets of histograms, each once in a group, and what stands for them."""
    return (
        _known(metrics, keys)
        .filter((pl.col("kind") == "histogram") & (pl.col("count") > 0))
        .group_by(*keys, "low", "high")
        .agg(pl.col("count").sum())
        .with_columns(((pl.col("low") + pl.col("high") - 1) / 2).alias(_MIDDLE))
    )


def _known(metrics: AnyTable, keys: list[str]) -> pl.LazyFrame:
    table = tables.lazy(metrics, "kernel_metrics", (*_NEEDED, *keys))
    return tables.as_text(table, ["kind", *keys])

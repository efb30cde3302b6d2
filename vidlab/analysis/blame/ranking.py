"""Which causes made frames late, added up over all of them."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from .. import tables
from ..tables import AnyTable
from .causes import CORRUPT_INPUT

BY = ("stream_id", "codec", "gpu", "stage")

_NEEDED = ("frame", "cause", "total_ns", "blamed_ns", "rank")


def ranked(blamed: AnyTable, by: str | Sequence[str] = BY) -> pl.DataFrame:
    """Return how much of the lateness each cause is to blame for, the most first.

    Parameters
    ----------
    blamed : polars.LazyFrame or polars.DataFrame
        What `per_frame` returned. A sampled frame counts for all that it stands for.
    by : str or sequence of str
        Among `stream_id`, `codec`, `gpu` and `stage`; none for the causes alone.

    Returns
    -------
    polars.DataFrame
        `by`, `cause`, `frames` (that have any time blamed on it), `first` (those of which it
        is the first cause), `seconds` (blamed) and `share` (of all blamed). Causes that are
        not to blame are left out.
    """
    keys = [*tables.names(by), "cause"]
    table = tables.weighted(tables.lazy(blamed, "blamed", [*_NEEDED, *keys]))
    weight, blame = pl.col(tables.WEIGHT), pl.col("blamed_ns")
    to_blame = (blame > 0) | (pl.col("cause").cast(pl.String) == CORRUPT_INPUT)
    # A frame may be held up by a cause at several stages, and counts once.
    told = table.filter(to_blame).select("frame", *keys, tables.WEIGHT, "blamed_ns", "rank")
    if "stage" not in keys:
        told = told.group_by("frame", *keys).agg(weight.first(), blame.sum(), pl.col("rank").min())
    each = tables.as_text(told, keys).with_columns(
        seconds=blame / 1e9 * weight, is_first=pl.col("rank") == 1
    )
    seconds = pl.col("seconds")
    return (
        each.group_by(keys)
        .agg(
            tables.whole_number(weight.sum()).alias("frames"),
            tables.whole_number(weight.filter("is_first").sum()).alias("first"),
            seconds.sum(),
        )
        .with_columns(share=pl.when(seconds.sum() > 0).then(seconds / seconds.sum()).otherwise(0.0))
        .sort("seconds", "frames", *keys, descending=[True, True, *[False] * len(keys)])
        .select(*keys, "frames", "first", "seconds", "share")
        .collect()
    )

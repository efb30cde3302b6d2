"""Which lines of the program hold the host's memory?"""

from __future__ import annotations

import polars as pl

from . import accumulation, tables
from .tables import AnyTable

_KEYS = ["pid", "file", "line"]


def lines(host_allocations: AnyTable) -> pl.DataFrame:
    """Return the lines whose allocations tracemalloc found among the largest.

    Parameters
    ----------
    host_allocations : polars.LazyFrame or polars.DataFrame
        The table `host_allocations`.

    Returns
    -------
    polars.DataFrame
        `pid`, `file`, `line`, `looks`, `first_bytes`, `last_bytes`, `blocks` (at the last
        look) and `grows` (it goes on growing, see `accumulation`). The largest come first.
    """
    table = tables.lazy(host_allocations, "host_allocations", (*_KEYS, "t_ns", "size_bytes"))
    found = (
        tables.as_text(table, ["file"])
        .sort("t_ns", maintain_order=True)
        .group_by(_KEYS)
        .agg(
            pl.len().cast(pl.Int64).alias("looks"),
            pl.col("size_bytes").first().alias("first_bytes"),
            pl.col("size_bytes").last().alias("last_bytes"),
            pl.col("blocks").last(),
            pl.col("size_bytes"),
        )
        .collect()
    )
    grows = [accumulation.goes_on(series) for series in found["size_bytes"].to_list()]
    return (
        found.drop("size_bytes")
        .with_columns(pl.Series("grows", grows, pl.Boolean))
        .sort("last_bytes", *_KEYS, descending=[True, False, False, False])
    )

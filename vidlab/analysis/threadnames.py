"""What threads are called."""

from __future__ import annotations

import polars as pl

from . import tables
from .tables import AnyTable

#: The column of a thread's name.
THREAD = "thread"

#: What all threads are called that have no name.
UNNAMED = "(threads without a name)"


def known(threads: AnyTable | None, samples: AnyTable, spans: pl.DataFrame) -> pl.DataFrame:
    """Return `pid`, `tid` and `thread`, the last name of each thread that has one.

    Python's name of a thread counts before the kernel's, which it has for a moment as it
    begins and as it ends.

    Parameters
    ----------
    threads : polars.LazyFrame or polars.DataFrame, optional
        The table `threads`.
    samples : polars.LazyFrame or polars.DataFrame
        The table `profile_samples`: those in a span name its thread, if nothing else does.
    spans : polars.DataFrame
        `span`, `pid` and `tid` of spans.
    """
    borne = (
        tables.lazy(samples, "profile_samples", ("span", THREAD))
        .select("span", pl.col(THREAD).cast(pl.String))
        .unique()
        .sort(THREAD)
    )
    parts = [spans.lazy().select("span", "pid", "tid").join(borne, on="span").drop("span")]
    if threads is not None:
        needs = ("t_ns", "pid", "tid", "name", "python")
        told = tables.lazy(threads, "threads", needs).sort("python", "t_ns", nulls_last=False)
        parts.append(told.select("pid", "tid", pl.col("name").cast(pl.String).alias(THREAD)))
    return (
        pl.concat(parts, how="vertical_relaxed")
        .drop_nulls()
        .unique(["pid", "tid"], keep="last", maintain_order=True)
        .collect()
    )


def named(rows: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of threads with the column `thread`: a name, or `UNNAMED`."""
    first = (pl.col("pid") == pl.col("tid")) & pl.col(THREAD).is_null()
    return rows.join(names, on=["pid", "tid"], how="left", maintain_order="left").with_columns(
        pl.when(first)
        .then(pl.lit("MainThread"))
        .otherwise(pl.col(THREAD).fill_null(UNNAMED))
        .alias(THREAD)
    )

"""What threads are called."""

from __future__ import annotations

import polars as pl

from . import tables
from .tables import AnyTable

#: The column of a thread's name where it is a label.
THREAD = "thread"

#: What all threads together are called that have no name.
UNNAMED = "(threads without a name)"

#: How the names of vidlab's own threads begin, which nobody has to hear of.
OWN = "vidlab"

_KEYS = ["pid", "tid"]


def known(
    threads: AnyTable | None,
    samples: AnyTable | None = None,
    spans: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return the last name of each thread that has one.

    Python's name of a thread counts before the kernel's, which it has for a moment as it
    begins and as it ends.

    Parameters
    ----------
    threads : polars.LazyFrame or polars.DataFrame, optional
        The table `threads`.
    samples : polars.LazyFrame or polars.DataFrame, optional
        The table `profile_samples`: those in a span name its thread, if nothing else does.
    spans : polars.DataFrame, optional
        `span`, `pid` and `tid` of spans, to go with the samples.

    Returns
    -------
    polars.DataFrame
        `pid`, `tid`, `name`, and `python`: whether Python knows the thread (null if only
        samples name it).
    """
    parts = [pl.LazyFrame(schema={"pid": pl.Int32, "tid": pl.Int32, "name": pl.String,
                                  "python": pl.Boolean})]  # fmt: skip
    if samples is not None and spans is not None:
        borne = (
            tables.lazy(samples, "profile_samples", ("span", THREAD))
            .select("span", name=pl.col(THREAD).cast(pl.String))
            .unique()
            .sort("name")
        )
        of_spans = spans.lazy().select("span", *_KEYS).join(borne, on="span").drop("span")
        parts.append(of_spans.with_columns(python=pl.lit(None, pl.Boolean)))
    if threads is not None:
        needs = ("t_ns", *_KEYS, "name", "python")
        told = tables.lazy(threads, "threads", needs).sort("python", "t_ns", nulls_last=False)
        parts.append(told.select(*_KEYS, pl.col("name").cast(pl.String), "python"))
    return (
        pl.concat(parts, how="vertical_relaxed")
        .filter(pl.all_horizontal(pl.col(*_KEYS, "name").is_not_null()))
        .unique(_KEYS, keep="last", maintain_order=True)
        .collect()
    )


def named(
    table: AnyTable, names: pl.DataFrame, column: str = "name", unnamed: str = "thread {}"
) -> pl.DataFrame:
    """Return a table with the name of each row's thread.

    Parameters
    ----------
    table : polars.LazyFrame or polars.DataFrame
        Has `pid` and `tid`.
    names : polars.DataFrame
        What `known` returned.
    column : str
        Where the name is put.
    unnamed : str
        What a thread is called that has none and is not the main one; {} stands for its number.

    Returns
    -------
    polars.DataFrame
        The table in its order, with the name and `python`: whether Python knows the thread
        (null if that is not known).
    """
    main = pl.when(pl.col("pid") == pl.col("tid")).then(pl.lit("MainThread"))
    nobody = pl.format(unnamed, "tid") if "{}" in unnamed else pl.lit(unnamed)
    return (
        table.lazy()
        .join(names.lazy().rename({"name": column}), on=_KEYS, how="left", maintain_order="left")
        .with_columns(pl.coalesce(column, main.otherwise(nobody)).alias(column))
        .collect()
    )


def without_ours(named_threads: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of threads, with `name`, that are not vidlab's own."""
    return named_threads.filter(~pl.col("name").str.starts_with(OWN))

"""Which threads and tasks does the program have, and what do they do?"""

from __future__ import annotations

import polars as pl

from . import scheduling, tables
from .tables import AnyTable

_KEYS = ["pid", "tid"]

#: How the names of vidlab's own threads begin, which nobody has to hear of.
OWN = "vidlab"

#: Tasks as they were made: those that were there at the first look bear numbers in no order,
#: but as a rule asyncio's names.
_ORDER = ("t_ns", pl.col("name").str.extract(r"^Task-(\d+)$").cast(pl.Int64), "task")


def named(table: AnyTable, threads: AnyTable) -> pl.DataFrame:
    """Return a table with the name of each row's thread.

    Parameters
    ----------
    table : polars.LazyFrame or polars.DataFrame
        Has `pid` and `tid`.
    threads : polars.LazyFrame or polars.DataFrame
        The table `threads`.

    Returns
    -------
    polars.DataFrame
        The table in its order, with `name` (the last that it had; "thread 4711" if none is
        known, and it is not the main thread) and `python`: whether Python knows the thread
        (null if that is not known).
    """
    known = tables.lazy(threads, "threads", (*_KEYS, "t_ns", "name", "python"))
    last = (
        tables.as_text(known, ["name"])
        .sort("t_ns", maintain_order=True)
        .group_by(_KEYS)
        .agg(pl.col("name").drop_nulls().last(), pl.col("python").last())
    )
    main = pl.when(pl.col("pid") == pl.col("tid")).then(pl.lit("MainThread"))
    unknown = main.otherwise(pl.format("thread {}", "tid"))
    return (
        table.lazy()
        .join(last, on=_KEYS, how="left", maintain_order="left")
        .with_columns(name=pl.coalesce("name", unknown))
        .collect()
    )


def without_ours(named_threads: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of threads, with `name`, that are not vidlab's own."""
    return named_threads.filter(~pl.col("name").str.starts_with(OWN))


def by_thread(threads: AnyTable, thread_waits: AnyTable) -> pl.DataFrame:
    """Return every thread: its name, when it lived, and how it fared.

    Parameters
    ----------
    threads, thread_waits : polars.LazyFrame or polars.DataFrame
        These tables of a run.

    Returns
    -------
    polars.DataFrame
        `pid`, `tid`, `name`, `python`, `daemon`, `t_ns` (when it was first seen), `t_end_ns`
        (when it ended; null if it did not), then the columns of `scheduling.by_thread`, null
        for a thread that no window saw. Those that ran most come first.
    """
    known = tables.lazy(threads, "threads", (*_KEYS, "t_ns", "op", "daemon"))
    op = pl.col("op").cast(pl.String)
    lives = known.group_by(_KEYS).agg(
        pl.col("daemon").last(),
        pl.col("t_ns").min(),
        pl.col("t_ns").filter(op == "ended").max().alias("t_end_ns"),
    )
    waits = scheduling.by_thread(thread_waits)
    all_of_them = lives.collect().join(waits, on=_KEYS, how="full", coalesce=True)
    return (
        named(all_of_them, threads)
        .select(*_KEYS, "name", "python", "daemon", "t_ns", "t_end_ns", *waits.columns[2:])
        .sort("cpu_ns", *_KEYS, descending=[True, False, False], nulls_last=True)
    )


def tasks(seen: AnyTable) -> pl.DataFrame:
    """Return every task that was seen, with its age and how far it came.

    Parameters
    ----------
    seen : polars.LazyFrame or polars.DataFrame
        The table `tasks`.

    Returns
    -------
    polars.DataFrame
        `pid`, `loop`, `task`, `name`, `coroutine`, `waits_at` (where it was last),
        `t_ns` and `t_end_ns` (from when to when it was seen), `age_ns`, `steps`, `looks`
        (how often it was seen), `first` (the first task of its loop: as a rule the program's
        main one, which waits for all others) and `there` (it was still there at one of the
        last two looks at its loop: at the end of a program all tasks are cancelled). The
        oldest come first.
    """
    keys = ["pid", "loop", "task"]
    texts = ("name", "coroutine", "waits_at")
    table = tables.lazy(seen, "tasks", (*keys, "t_ns", *texts, "age_ns", "steps"))
    loop = ["pid", "loop"]
    return (
        tables.as_text(table, texts)
        .with_columns(lately=pl.col("t_ns").unique().top_k(2).min().over(loop))
        .sort("t_ns", maintain_order=True)
        .group_by(keys)
        .agg(
            *(pl.col(text).last() for text in texts),
            pl.col("t_ns").min(),
            pl.col("t_ns").max().alias("t_end_ns"),
            pl.col("lately").last(),
            pl.col("age_ns", "steps").max(),
            pl.len().cast(pl.Int64).alias("looks"),
        )
        .with_columns(
            first=pl.col("task").sort_by(_ORDER, nulls_last=True).first().over(loop)
            == pl.col("task"),
            there=pl.col("t_end_ns") >= pl.col("lately"),
        )
        .drop("lately")
        .sort("age_ns", *keys, descending=[True, False, False, False])
        .collect()
    )


def stuck(seen: AnyTable, age_ns: int) -> pl.DataFrame:
    """Return the places at which tasks wait that never came any further.

    Left out are the first task of a loop, which waits for the others and ends with the
    program, and what was there at the first look and waits within an installed package: those
    are a framework's own.

    Parameters
    ----------
    seen : polars.LazyFrame or polars.DataFrame
        The table `tasks`.
    age_ns : int
        Tasks are left out that are younger, moved, or ended before the last look.

    Returns
    -------
    polars.DataFrame
        `pid`, `coroutine`, `waits_at`, `count` (tasks), `names` (of up to three of them),
        `t_ns` (when the first began) and `age_ns` (of the oldest). The most come first.
    """
    keys = ["pid", "coroutine", "waits_at"]
    return (
        tasks(seen)
        .lazy()
        .with_columns(at_first=pl.col("t_ns") == pl.col("t_ns").min().over("pid"))
        .filter(
            pl.col("age_ns") >= age_ns,
            pl.col("steps") == 0,
            pl.col("there"),
            ~pl.col("first"),
            ~(pl.col("at_first") & pl.col("waits_at").str.contains("site-packages")).fill_null(
                False
            ),
        )
        .group_by(keys, maintain_order=True)
        .agg(
            pl.len().cast(pl.Int64).alias("count"),
            pl.col("name").head(3).alias("names"),
            pl.col("t_ns").min(),
            pl.col("age_ns").max(),
        )
        .sort("count", "age_ns", *keys, descending=[True, True, False, False, False])
        .collect()
    )

"""Which threads and tasks does the program have, and what do they do?"""

from __future__ import annotations

import polars as pl

from . import scheduling, tables, threadnames
from .tables import AnyTable

_KEYS = ["pid", "tid"]

#: The number of a loop's main task, which the loop runs until it is done.
MAIN = 0

#: Where packages are installed, in the name of a file.
_INSTALLED = r"/(?:site|dist)-packages/"


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
        threadnames.named(all_of_them, threadnames.known(threads))
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
        (how often it was seen), `main` (the task that the loop runs until it is done, which
        waits for all others) and `there` (it was still there at one of the
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
            main=pl.col("task") == MAIN,
            there=pl.col("t_end_ns") >= pl.col("lately"),
        )
        .drop("lately")
        .sort("age_ns", *keys, descending=[True, False, False, False])
        .collect()
    )


def stuck(seen: AnyTable, age_ns: int) -> pl.DataFrame:
    """Return the places at which tasks wait that never came any further.

    Left out are the main task of a loop, which waits for the others and ends with the
    program, and what waits within an installed package and has none of the program's code:
    those are a framework's own.

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
        .filter(
            pl.col("age_ns") >= age_ns,
            pl.col("steps") == 0,
            pl.col("there"),
            ~pl.col("main"),
            ~pl.col("waits_at").str.contains(_INSTALLED).fill_null(False),
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

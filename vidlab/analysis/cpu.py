"""How much CPU went where: by stream, codec, GPU, stage and thread, exactly.

The CPU of stages is read from the thread's clock at both ends of a span (`clocks`), that of
whole threads from the kernel (`thread_waits`). What a sampling profiler says of the same is put
beside it, and shares out what no clock tells apart (`calibration`).
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from . import calibration, tables, threadnames
from .calibration import CLOCKS, LABELS
from .tables import AnyTable
from .threadnames import THREAD, UNNAMED

_TIMES = ("cpu_ns", "in_stages_ns", "unchecked_ns", "sampled_ns")
_COUNTS = ("spans", "unread", "unread_ns")

_ALL = "all rows"  # a column that is the same in every row; no label, being an identifier, is so


def by_label(
    spans: AnyTable,
    samples: AnyTable,
    by: str | Sequence[str] = LABELS,
    thread_waits: AnyTable | None = None,
    threads: AnyTable | None = None,
) -> pl.DataFrame:
    """Return the CPU of each label, stage or thread, beside what samples say of it.

    Parameters
    ----------
    spans : polars.LazyFrame or polars.DataFrame
        The table `spans`.
    samples : polars.LazyFrame or polars.DataFrame
        The table `profile_samples`; without rows the clocks alone tell.
    by : str or sequence of str
        Labels, `stage` and `thread`.
    thread_waits, threads : polars.LazyFrame or polars.DataFrame, optional
        The tables of these names: the CPU outside of stages, and the threads' names.

    Returns
    -------
    polars.DataFrame
        `by`, and

        * `cpu_ns`: what it took, of which `in_stages_ns` in spans whose clocks were read, and
          `unchecked_ns` as samples alone say: no clock was read around it;
        * `sampled_ns` and `samples`: what samples say, and how many they are;
        * `coverage`: what samples say of that which clocks know, as a share of it: 1 of a
          profiler that is right; null without samples. Its reciprocal is the factor by which
          samples are calibrated;
        * `spans`: how many were recorded, `unread` of them without clocks, in all
          `unread_ns` long: what they took is in that of the spans around them, and outside
          of stages where there are none.

        The most CPU comes first.

    Raises
    ------
    InputError
        If a column is missing.

    Examples
    --------
    >>> run = vl.datasets.load("profiles")
    >>> found = by_label(run.scan("spans"), run.scan("profile_samples"), by="codec")
    >>> found.filter(found["codec"].is_not_null())["codec"].to_list()
    ['mpeg2video', 'h264']
    """
    keys = tables.names(by)
    shared = calibration.shared_out(samples, spans, keys, thread_waits, threads)
    checked = pl.col("basis") == CLOCKS
    cpu, sampled, compared = pl.col("cpu_ns"), pl.col("sampled_ns"), "compared"
    used = shared.group_by(keys or pl.lit(0).alias(_ALL)).agg(
        cpu.sum(),
        cpu.filter(checked & pl.col("staged")).sum().alias("in_stages_ns"),
        cpu.filter(~checked).sum().alias("unchecked_ns"),
        sampled.sum(),
        pl.col("samples").sum(),
        (sampled.filter(checked).sum() / cpu.filter(checked).sum()).alias("coverage"),
        pl.col("samples").filter(checked).sum().alias(compared),
    )
    counted = _counted(spans, samples, keys, threads)
    numbers = [*_TIMES, "samples", *_COUNTS]
    return (
        used.join(counted, on=keys or _ALL, how="full", coalesce=True, nulls_equal=True)
        .with_columns(
            pl.col(numbers).fill_null(0).round().cast(pl.Int64),
            pl.when(pl.col(compared) > 0).then("coverage").alias("coverage"),
        )
        .select(*keys, *_TIMES, "samples", "coverage", *_COUNTS)
        .sort("cpu_ns", *keys, descending=[True, *[False] * len(keys)])
    )


def _counted(
    spans: AnyTable, samples: AnyTable, keys: Sequence[str], threads: AnyTable | None
) -> pl.DataFrame:
    """How many spans there are, and how many whose clocks were not read, by the keys."""
    labels = [key for key in keys if key != THREAD]
    by_thread = ["pid", "tid"] if THREAD in keys else []
    table = tables.lazy(spans, "spans", ["kind", "duration_ns", "cpu_ns", *by_thread, *labels])
    weight = pl.col(tables.WEIGHT)
    unread = pl.col("cpu_ns").is_null()
    counted = (
        tables.as_text(table.filter(pl.col("kind").cast(pl.String) == "service"), labels)
        .pipe(tables.weighted)
        .with_columns(pl.lit(0).alias(_ALL))
        .group_by(*labels, *by_thread, _ALL)
        .agg(
            weight.sum().alias("spans"),
            weight.filter(unread).sum().alias("unread"),
            (pl.col("duration_ns") * weight).filter(unread).sum().alias("unread_ns"),
        )
        .collect()
    )
    if not by_thread:
        return counted if not keys else counted.drop(_ALL)
    numbers = tables.lazy(spans, "spans", ["span", "pid", "tid"]).select("span", "pid", "tid")
    names = threadnames.known(threads, samples, numbers.collect())
    known = threadnames.named(counted, names, THREAD, UNNAMED)
    return known.group_by(keys).agg(pl.col(_COUNTS).sum())

"""Sampled stacks that share out an exact CPU total.

A sampling profiler says well which stacks a piece of work consists of, and badly how much CPU
it took: native code that runs without the interpreter's lock is missed, or counted for as long
as it could run. The thread CPU clock says exactly how much, and nothing of stacks. So samples
are put into *cells* of which the CPU is known, and those of a cell are scaled to its total:

* in stages, a cell is what the spans under the same labels took by themselves (`clocks`);
* outside of them, a cell is a thread: its CPU (`thread_waits`) without that of its stages.

A cell without samples keeps its total, with no stack. Samples of a cell of which no clock was
read are taken as they are; their `basis` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from ..schema.profiling import OWN_THREADS as OWN_THREADS
from . import clocks, tables, threadnames
from .offcpu import OUTSIDE
from .tables import AnyTable
from .threadnames import THREAD, UNNAMED

#: The labels that every table has.
LABELS = ("stream_id", "codec", "gpu")

#: What the CPU of a row follows from: clocks, or samples alone.
CLOCKS, SAMPLED = "clocks", "samples"

#: Which samples are of CPU.
CPU_TYPE, CPU_UNIT = "cpu", "nanoseconds"

#: What may be grouped by and is no label, besides the thread.
STAGE = "stage"

# Columns of our own: no label, being an identifier, is called so.
_PID, _OF_SPAN, _EXACT, _SUM, _RATE = "the pid", "{} of span", "exact", "the sum", "the rate"
_RECORDED = "the span is recorded"


def shared_out(
    samples: AnyTable,
    spans: AnyTable | None = None,
    by: str | Sequence[str] = LABELS,
    thread_waits: AnyTable | None = None,
    threads: AnyTable | None = None,
) -> pl.DataFrame:
    """Return the stacks that samples of CPU are of, each with its share of the exact CPU.

    Parameters
    ----------
    samples : polars.LazyFrame or polars.DataFrame
        The table `profile_samples`; only samples of CPU count.
    spans : polars.LazyFrame or polars.DataFrame, optional
        The table `spans`: the CPU of stages.
    by : str or sequence of str
        Labels, `stage` and `thread`. The CPU of stages is exact for each combination of these.
    thread_waits : polars.LazyFrame or polars.DataFrame, optional
        The table `thread_waits`: the CPU of whole threads, and so of what no stage covers.
    threads : polars.LazyFrame or polars.DataFrame, optional
        The table `threads`, for the threads' names.

    Returns
    -------
    polars.DataFrame
        `by`, `staged` (in a stage), `stack` (null if none was seen), `samples` (how many; 0
        where clocks alone know of it), `sampled_ns` (what these say), `cpu_ns` Float64 (what
        clocks make of it), and `basis`: `CLOCKS` or `SAMPLED`. The largest come first.

        A label that was entered inside a stage divides what the stage took as the samples do:
        no clock was read there.

    Raises
    ------
    InputError
        If a column is missing.
    """
    keys = tables.names(by)
    own = _own_cpu(spans, [key for key in keys if key != THREAD])
    names = threadnames.known(threads, samples, own)
    own = threadnames.named(own, names, THREAD, UNNAMED)
    exact = [_of_stages(own, keys)]
    if thread_waits is not None:
        exact.append(_outside(thread_waits, own, names, keys))
    cell = ["staged", _PID, *map(_OF_SPAN.format, keys), _OF_SPAN.format(THREAD)]
    cell = list(dict.fromkeys(cell))
    cells = pl.concat(exact).group_by(cell).agg(pl.col(_EXACT).sum().clip(0))
    seen = _seen(samples, own, keys)
    if thread_waits is not None:
        # What threads took of which Python knows no name is known by the clocks, as theirs.
        nobody = pl.col(THREAD).is_null() | (pl.col(THREAD) == OWN_THREADS)
        seen = seen.filter(pl.col("staged") | ~nobody)
    sums = seen.group_by(cell).agg(pl.col("sampled_ns").sum().alias(_SUM))
    # Frames that are not sampled are in the cells of those that stand for them.
    is_sampled = (pl.col(_RATE) < 1) | (_some_stand_for_others(spans) & ~pl.col(_RECORDED))
    stood_for = pl.col("staged") & pl.col(_EXACT).is_null() & is_sampled
    share = pl.col("sampled_ns") / pl.col(_SUM) * pl.col(_EXACT)
    no_clock = pl.col(_EXACT).is_null()
    scaled = (
        seen.join(sums, on=cell, nulls_equal=True)
        .join(cells, on=cell, how="left", nulls_equal=True)
        .filter(~stood_for)
        .with_columns(
            cpu_ns=pl.when(no_clock).then(pl.col("sampled_ns").cast(pl.Float64)).otherwise(share),
            basis=pl.when(no_clock).then(pl.lit(SAMPLED)).otherwise(pl.lit(CLOCKS)),
        )
    )
    unseen = (
        cells.join(seen, on=cell, how="anti", nulls_equal=True)
        .filter(pl.col(_EXACT) > 0)
        .with_columns(
            *(_shown(key, pl.col(_OF_SPAN.format(key))).alias(key) for key in keys),
            stack=pl.lit(None, pl.UInt32),
            samples=pl.lit(0, pl.Int64),
            sampled_ns=pl.lit(0, pl.Int64),
            cpu_ns=pl.col(_EXACT),
            basis=pl.lit(CLOCKS),
        )
    )
    group, sums_of = [*keys, "staged", "stack", "basis"], ["samples", "sampled_ns", "cpu_ns"]
    return (
        pl.concat([part.select(*group, *sums_of) for part in (scaled, unseen)])
        .group_by(group)
        .agg(pl.col(sums_of).sum())
        .select(*keys, "staged", "stack", *sums_of, "basis")
        .sort("cpu_ns", *keys, "stack", descending=[True, *[False] * (len(keys) + 1)])
    )


def _some_stand_for_others(spans: AnyTable | None) -> pl.Expr:
    """Whether only a sample of spans was recorded."""
    if spans is None or not tables.has(spans.lazy(), "sample_rate"):
        return pl.lit(False)
    least = spans.lazy().select(pl.col("sample_rate").min()).collect().item()
    return pl.lit(least is not None and least < 1.0)


def _type(key: str) -> type[pl.DataType]:
    return pl.Int16 if key == "gpu" else pl.String


def _own_cpu(spans: AnyTable | None, keys: Sequence[str]) -> pl.DataFrame:
    """What each span took by itself: `span`, `pid`, `tid`, its keys, and how much."""
    own = [_OF_SPAN.format(key) for key in keys]
    if spans is None:
        types: dict[str, Any] = {"span": pl.UInt64, "pid": pl.Int32, "tid": pl.Int32}
        types |= {name: _type(key) for key, name in zip(keys, own, strict=True)}
        return pl.DataFrame(schema={**types, _EXACT: pl.Float64})
    found = tables.plain(clocks.own_cpu(spans, keys))
    return found.select(
        "span",
        "pid",
        "tid",
        *(pl.col(key).cast(_type(key)).alias(name) for key, name in zip(keys, own, strict=True)),
        pl.col("own_cpu_ns").alias(_EXACT),
    )


def _of_stages(own: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """The cells of spans. Their thread makes a difference only if it is asked for."""
    thread = pl.col(THREAD) if THREAD in keys else pl.lit(None, pl.String)
    return own.select(
        pl.lit(True).alias("staged"),
        pl.lit(None, pl.Int32).alias(_PID),
        *(pl.col(_OF_SPAN.format(key)) for key in keys if key != THREAD),
        thread.alias(_OF_SPAN.format(THREAD)),
        _EXACT,
    )


def _outside(
    thread_waits: AnyTable, own: pl.DataFrame, names: pl.DataFrame, keys: Sequence[str]
) -> pl.DataFrame:
    """The cells of threads: what they took without what their spans did."""
    table = tables.lazy(thread_waits, "thread_waits", ("pid", "tid", "cpu_ns"))
    whole = table.group_by("pid", "tid").agg(pl.col("cpu_ns").sum().cast(pl.Float64)).collect()
    staged = own.group_by("pid", "tid").agg(pl.col(_EXACT).sum())
    rest = threadnames.named(
        whole.join(staged, on=["pid", "tid"], how="left").with_columns(
            (pl.col("cpu_ns") - pl.col(_EXACT).fill_null(0.0)).clip(0).alias(_EXACT)
        ),
        names,
        THREAD,
        UNNAMED,
    )
    return rest.select(
        pl.lit(False).alias("staged"),
        pl.col("pid").alias(_PID),
        *(pl.lit(None, _type(key)).alias(_OF_SPAN.format(key)) for key in keys if key != THREAD),
        pl.col(THREAD).alias(_OF_SPAN.format(THREAD)),
        _EXACT,
    )


def _seen(samples: AnyTable, own: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """The samples of CPU, by cell, by what they are shown under, and by stack."""
    labels = [key for key in keys if key not in (STAGE, THREAD)]
    needs = ["pid", "type", "unit", "value", "samples", "stack", "span", THREAD, *labels]
    table = tables.lazy(samples, "profile_samples", needs)
    rate = pl.col("sample_rate") if tables.has(table, "sample_rate") else pl.lit(1.0)
    of_cpu = (pl.col("type").cast(pl.String) == CPU_TYPE) & (
        pl.col("unit").cast(pl.String) == CPU_UNIT
    )
    found = (
        tables.as_text(table.filter(of_cpu & (pl.col("value") > 0)), [THREAD, *labels])
        .with_columns(rate.fill_null(1.0).alias(_RATE))
        .group_by("pid", "stack", "span", THREAD, *labels, _RATE)
        .agg(
            pl.col("value").sum().alias("sampled_ns"),
            pl.col("samples").clip(1).sum(),  # a row is one sample at least
        )
        .collect()
    )
    spans = own.rename({THREAD: _OF_SPAN.format(THREAD)}).drop("pid", "tid", _EXACT)
    joined = found.with_columns(staged=pl.col("span").fill_null(0) != 0).join(
        spans.with_columns(pl.lit(True).alias(_RECORDED)), on="span", how="left"
    )
    if STAGE not in keys:
        joined = joined.with_columns(pl.lit(None, pl.String).alias(_OF_SPAN.format(STAGE)))
    # A span that is not recorded had, as far as is known, the labels of the sample.
    recorded = pl.col(_RECORDED)
    cells = (
        joined.with_columns(recorded.fill_null(value=False))
        .with_columns(
            pl.when(recorded)
            .then(_OF_SPAN.format(name))
            .when("staged")
            .then(name)
            .alias(_OF_SPAN.format(name))
            for name in labels
        )
        .with_columns(
            pl.when("staged").then(None).otherwise("pid").alias(_PID),
            pl.coalesce(_OF_SPAN.format(THREAD), THREAD).alias(THREAD),
            *(pl.coalesce(_OF_SPAN.format(name), name).alias(name) for name in labels),
            _shown(STAGE, pl.col(_OF_SPAN.format(STAGE))).alias(STAGE),
        )
    )
    told_apart = pl.lit(THREAD in keys) | ~pl.col("staged")
    return cells.with_columns(pl.when(told_apart).then(THREAD).alias(_OF_SPAN.format(THREAD)))


def _shown(key: str, value: pl.Expr) -> pl.Expr:
    """What a row is shown under: outside of stages there is no stage's name."""
    return pl.when("staged").then(value).otherwise(pl.lit(OUTSIDE)) if key == STAGE else value

"""How much CPU each stage took by itself: the thread CPU clock, read at both ends of a span.

A span's `cpu_ns` is what its thread ran meanwhile, whatever it ran: spans inside it are part
of it. Its own is what is left without them. What lies inside a span is told by thread and
time, not by `parent`, which leads only to spans of the same frame.

Short spans have no clocks read (`cpu_ns` is null): what they took is the own CPU of the span
around them, and outside of stages if there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from . import tables
from .tables import AnyTable

_THREAD = ("pid", "tid")


def nested(spans: AnyTable, columns: Sequence[str] = ()) -> pl.DataFrame:
    """Return the spans whose clocks were read, each with the one that it lies directly inside.

    Parameters
    ----------
    spans : polars.LazyFrame or polars.DataFrame
        The table `spans`.
    columns : sequence of str
        Further columns to return.

    Returns
    -------
    polars.DataFrame
        `span`, `pid`, `tid`, `t_ns`, `t_end_ns`, `cpu_ns`, `columns`, `sample_rate` if the
        table has it, and `around`: the number of the span around it in its thread, null for
        none. A span that begins in another one and ends after it is inside of none.
    """
    needs = [*_THREAD, "span", "t_ns", "duration_ns", "cpu_ns", *columns]
    table = tables.lazy(spans, "spans", needs)
    rate = ["sample_rate"] if tables.has(table, "sample_rate") else []
    wanted = list(dict.fromkeys([*needs, *rate]))
    left = (
        table.filter(pl.col("cpu_ns").is_not_null())
        .select(wanted)
        .with_columns(t_end_ns=pl.col("t_ns") + pl.col("duration_ns"))
        .drop("duration_ns")
        .sort(*_THREAD, "t_ns", "t_end_ns", "span", descending=[False] * 3 + [True, False])
        .collect()
    )
    found: list[pl.DataFrame] = []
    above: pl.DataFrame | None = None
    # One level of nesting at a time, from the outside in. Of the spans that are left, those are
    # at the top that end after all that began before them.
    while left.height or not found:
        latest = pl.col("t_end_ns").cum_max().shift(1).over(_THREAD)
        is_top = (pl.col("t_end_ns") > latest).fill_null(True)
        level = left.filter(is_top)
        found.append(_inside(level, above))
        left, above = left.filter(~is_top), level
    return pl.concat(found)


def _inside(level: pl.DataFrame, above: pl.DataFrame | None) -> pl.DataFrame:
    """Return the spans of a level with their `around`: the last one above that began before."""
    if above is None:
        return level.with_columns(around=pl.lit(None, pl.UInt64))
    outer = above.select(*_THREAD, "t_ns", pl.col("span").alias("around")).sort("t_ns")
    return level.sort("t_ns").join_asof(outer, on="t_ns", by=_THREAD, check_sortedness=False)


def own_cpu(spans: AnyTable, columns: Sequence[str] = ()) -> pl.DataFrame:
    """Return the CPU that each span whose clocks were read took by itself.

    Parameters
    ----------
    spans, columns
        As of `nested`.

    Returns
    -------
    polars.DataFrame
        As of `nested`, with `own_cpu_ns` Float64: `cpu_ns` without that of the spans directly
        inside. A sampled span counts for all that it stands for, 1 / `sample_rate`; where one
        lies inside a span that is not sampled, the difference is right for many of them
        together and may be negative for one.
    """
    known = nested(spans, columns).lazy().pipe(tables.weighted)
    whole = known.with_columns(own_cpu_ns=pl.col("cpu_ns") * pl.col(tables.WEIGHT))
    inside = whole.group_by("around").agg(pl.col("own_cpu_ns").sum().alias("inside_ns"))
    return (
        whole.join(inside, left_on="span", right_on="around", how="left")
        .with_columns(own_cpu_ns=pl.col("own_cpu_ns") - pl.col("inside_ns").fill_null(0.0))
        .drop("inside_ns", tables.WEIGHT)
        .collect()
    )

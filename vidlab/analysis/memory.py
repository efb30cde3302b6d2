"""How much GPU memory is in use, when, and by whom: by stream, codec, device, site.

What the columns mean is told by `effective`: allocations count from when their call
returned, frees from when it began, and a block counts for those who took it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from ..errors import InputError
from ..schema import DRIVER, LEVELS, POOL
from . import bins as cut
from . import tables
from .allocation_events import COLUMNS, Ints, blocks, effective, group_numbers
from .tables import AnyTable

__all__ = [
    "COLUMNS",
    "at",
    "blocks",
    "by_stream",
    "effective",
    "hit_rate",
    "in_use",
    "peak",
    "per_frame",
    "with_stage",
]

Where = Mapping[str, Any]

_POOL, _DRIVER = LEVELS[POOL], LEVELS[DRIVER]


def in_use(
    allocations: AnyTable,
    by: str | Sequence[str] = (),
    level: str = _POOL,
    time_bins: int = 500,
    where: Where | None = None,
) -> pl.DataFrame:
    """Return the bytes in use over time, for a chart.

    Parameters
    ----------
    allocations : polars.LazyFrame or polars.DataFrame
        The table `allocations`, whole.
    by : str or sequence of str
        What makes a group: labels (stream_id, codec, gpu, …), device, kind, stack, …
    level : str
        pool (what the program holds), driver (what the device gave) or borrowed.
    time_bins : int
        How many parts the time from the first to the last change is cut into.
    where : mapping of str to value, optional
        Only what was taken under these values: `{"stream_id": "cam-7"}`.

    Returns
    -------
    polars.DataFrame
        `by`, `t_ns` and `t_end_ns` (the bin), `in_use_bytes` (at its end), `peak_bytes` (the
        most within it) and `blocks` (at its end); one row a group and bin, from the group's
        first change to the last bin of all. Sorted by `by` and time.

    Raises
    ------
    InputError
        If a column is missing or `time_bins` is not positive.
    """
    keys = tables.names(by)
    if time_bins < 1:
        raise InputError(f"time is cut into one bin at least, not {time_bins!r}")
    events = effective(allocations, keys, level, where)
    number, groups = group_numbers(events, keys)
    t_ns = events["t_ns"].to_numpy()
    start = int(t_ns[0]) if len(t_ns) else 0
    width = -(-(int(t_ns[-1]) - start + 1) // time_bins) if len(t_ns) else 1
    order, running, held = _running(events, number)
    bin_ = ((t_ns - start) // width)[order]
    cell = number[order].astype(np.int64) * time_bins + bin_
    edge = np.flatnonzero(np.diff(cell, prepend=-1))
    last = np.append(edge, len(cell))[1:] - 1
    ends, counts = running[last], held[last]
    most = np.maximum.reduceat(running, edge) if len(edge) else running
    group, in_bin = cell[edge] // time_bins, cell[edge] % time_bins
    # What a group brings along into a bin; and how many bins until its next change.
    before = np.where(np.diff(group, prepend=-1) == 0, np.roll(ends, 1), 0)
    bins = int(bin_.max(initial=-1)) + 1
    until = np.append(in_bin, bins)[1:]
    until = np.where(np.diff(group, append=-1) != 0, bins, until) - in_bin
    fill = np.repeat(np.arange(len(edge)), until)
    fresh = np.zeros(len(fill), bool)
    fresh[np.cumsum(until) - until] = True
    place = in_bin[fill] + np.arange(len(fill)) - (np.cumsum(until) - until)[fill]
    return groups[pl.Series(group[fill])].with_columns(
        pl.Series("t_ns", start + place * width, pl.Int64),
        pl.Series("t_end_ns", start + (place + 1) * width, pl.Int64),
        pl.Series("in_use_bytes", ends[fill], pl.Int64),
        pl.Series(
            "peak_bytes", np.where(fresh, np.maximum(most, before)[fill], ends[fill]), pl.Int64
        ),
        pl.Series("blocks", counts[fill], pl.Int64),
    )


def by_stream(
    allocations: AnyTable, stream_id: str, by: str | Sequence[str] = (), time_bins: int = 500
) -> pl.DataFrame:
    """Return the bytes that one stream's blocks of the pool level use over time: see `in_use`."""
    return in_use(allocations, by, time_bins=time_bins, where={"stream_id": stream_id})


def peak(
    allocations: AnyTable,
    by: str | Sequence[str] = (),
    level: str = _POOL,
    where: Where | None = None,
) -> pl.DataFrame:
    """Return the most that each group had in use at once, when, and which frame topped it up.

    Parameters
    ----------
    allocations, by, level, where
        As of `in_use`.

    Returns
    -------
    polars.DataFrame
        `by`, `peak_bytes`, `t_ns` (when it was reached first), and of the allocation that
        reached it `frame` and `stack`; most first.

    Examples
    --------
    >>> allocations = vl.datasets.load("gpu_memory").scan("allocations")
    >>> peak(allocations, by="codec").columns
    ['codec', 'peak_bytes', 't_ns', 'frame', 'stack']
    """
    keys = tables.names(by)
    events = effective(allocations, [*keys, "frame", "stack"], level, where)
    number, groups = group_numbers(events, keys)
    order, running, _ = _running(events, number)
    edge = np.flatnonzero(np.diff(number[order].astype(np.int64), prepend=-1))
    most = np.maximum.reduceat(running, edge) if len(edge) else running
    at_peak = np.flatnonzero(running == np.repeat(most, np.diff(np.append(edge, len(order)))))
    first = at_peak[np.searchsorted(at_peak, edge)]
    rows = events[pl.Series(order[first])]
    return groups.with_columns(
        pl.Series("peak_bytes", most, pl.Int64), rows["t_ns"], rows["frame"], rows["stack"]
    ).sort("peak_bytes", *keys, descending=[True, *[False] * len(keys)])


def at(
    allocations: AnyTable,
    t_ns: int,
    by: str | Sequence[str] = (),
    level: str = _POOL,
    where: Where | None = None,
) -> pl.DataFrame:
    """Return what is in use at a moment.

    Returns
    -------
    polars.DataFrame
        `by`, `in_use_bytes` and `blocks` (older than the recording: of what is known), most
        first; without `by` one row, and without it too if nothing was taken by then.
    """
    keys = tables.names(by)
    events = effective(allocations, keys, level, where)
    until = int(np.searchsorted(events["t_ns"].to_numpy(), t_ns, side="right"))
    number, groups = group_numbers(events, keys)
    number, change = number[:until], events["change_bytes"].to_numpy()[:until]
    height = groups.height if keys else 1
    total, held = np.zeros(height, np.int64), np.zeros(height, np.int64)
    np.add.at(total, number, change)
    np.add.at(held, number, np.sign(change))
    values = pl.DataFrame({"in_use_bytes": total, "blocks": held})
    result = pl.concat([groups, values], how="horizontal") if keys else values
    return result.filter((pl.col("in_use_bytes") != 0) | pl.lit(not keys)).sort(
        "in_use_bytes", *keys, descending=[True, *[False] * len(keys)]
    )


def hit_rate(
    allocations: AnyTable,
    by: str | Sequence[str] = ("device", "kind"),
    time_bins: int | None = None,
) -> pl.DataFrame:
    """Return how often a pool served an allocation without asking the driver.

    Parameters
    ----------
    allocations : polars.LazyFrame or polars.DataFrame
        The table `allocations`.
    by : str or sequence of str
    time_bins : int, optional
        Also by time, cut into so many parts.

    Returns
    -------
    polars.DataFrame
        `by` (and `t_ns`, `t_end_ns`), `asked` (allocations at the pool level), `missed` (those
        at the driver level that a pool made to serve one), `hit_rate` (1 - missed / asked; 0
        for an allocator that keeps nothing), `asked_bytes` and `driver_bytes`.
    """
    keys = tables.names(by)
    needs = [*keys, "t_ns", "op", "level", "status", "pooled", "generation", "size_bytes"]
    table = tables.as_text(tables.lazy(allocations, "allocations", needs), keys)
    table = table.filter(
        (pl.col("op") == "alloc") & (pl.col("status") == "ok") & (pl.col("generation") > 0)
    )
    times: list[str] = []
    if time_bins is not None:
        start, width = cut.time_bin(table, time_bins)
        begin = start + (pl.col("t_ns") - start) // width * width
        table = table.with_columns(t_ns=begin, t_end_ns=begin + width)
        times = ["t_ns", "t_end_ns"]
    asked = pl.col("level") == _POOL
    missed = (pl.col("level") == _DRIVER) & pl.col("pooled").fill_null(False)
    grouped = [*keys, *times]
    sums = [
        asked.sum().cast(pl.Int64).alias("asked"),
        missed.sum().cast(pl.Int64).alias("missed"),
        pl.col("size_bytes").filter(asked).sum().alias("asked_bytes"),
        pl.col("size_bytes").filter(missed).sum().alias("driver_bytes"),
    ]
    counted = table.group_by(grouped).agg(sums) if grouped else table.select(sums)
    rate = (1 - pl.col("missed") / pl.col("asked")).clip(0, 1)
    return (
        counted.filter(pl.col("asked") > 0)
        .select(
            *grouped,
            "asked",
            "missed",
            rate.alias("hit_rate"),
            "asked_bytes",
            "driver_bytes",
        )
        .collect()
        .pipe(lambda found: found.sort(grouped) if grouped else found)
    )


def per_frame(allocations: AnyTable, by: str | Sequence[str] = ("stream_id",)) -> pl.DataFrame:
    """Return how often, and how much, a frame asks the pools for memory.

    Parameters
    ----------
    allocations : polars.LazyFrame or polars.DataFrame
        The table `allocations`, or what `with_stage` returned, to go by `stage`.
    by : str or sequence of str

    Returns
    -------
    polars.DataFrame
        `by`, `frames` (that took any memory), `allocations`, `allocated_bytes` (of theirs),
        `allocations_per_frame`, `bytes_per_frame`; most bytes a frame first. What was taken
        for no frame is left out.
    """
    keys = tables.names(by)
    needs = [*keys, "op", "level", "status", "frame", "generation", "size_bytes"]
    table = tables.as_text(tables.lazy(allocations, "allocations", needs), keys).filter(
        (pl.col("op") == "alloc")
        & (pl.col("level") == _POOL)
        & (pl.col("status") == "ok")
        & pl.col("frame").is_not_null()
    )
    weight = pl.col(tables.WEIGHT)
    each = (
        tables.weighted(table)
        .group_by(*keys, "frame")
        .agg(
            weight.first().alias("frames"),
            weight.sum().alias("allocations"),
            (pl.col("size_bytes") * weight).sum().alias("allocated_bytes"),
        )
    )
    sums = [
        tables.whole_number(pl.col(name).sum())
        for name in ("frames", "allocations", "allocated_bytes")
    ]
    return (
        (each.group_by(keys).agg(sums) if keys else each.select(sums))
        .with_columns(
            (pl.col("allocations") / pl.col("frames")).alias("allocations_per_frame"),
            (pl.col("allocated_bytes") / pl.col("frames")).alias("bytes_per_frame"),
        )
        .sort("bytes_per_frame", *keys, descending=[True, *[False] * len(keys)])
        .collect()
    )


def with_stage(allocations: AnyTable, spans: AnyTable) -> pl.LazyFrame:
    """Return the allocations with the column `stage`: of the span in which each was made.

    Where only a sample of spans was recorded, the stages of most allocations are unknown, and
    the known ones stand for them: `sample_rate` is that of the span, and null where it was
    not recorded.
    """
    table = tables.lazy(allocations, "allocations", ("span",))
    known = tables.lazy(spans, "spans", ("span", "stage"))
    return tables.with_rates(table, known, "span", (pl.col("stage").cast(pl.String),))


def _running(events: pl.DataFrame, number: np.ndarray[Any, Any]) -> tuple[Ints, Ints, Ints]:
    """Rows by group and time, and the bytes and blocks that the row's group then has in use."""
    small = number.astype(np.uint16) if int(number.max(initial=0)) < 1 << 16 else number
    order = np.argsort(small, kind="stable")  # radix sort, where they are small
    change = events["change_bytes"].to_numpy()[order]
    running, held = np.cumsum(change), np.cumsum(np.sign(change))
    edge = np.flatnonzero(np.diff(number[order].astype(np.int64), prepend=-1))
    lengths = np.diff(np.append(edge, len(order)))
    for total in (running, held):
        total -= np.repeat(np.where(edge > 0, total[edge - 1], 0), lengths)
    return order, running, held

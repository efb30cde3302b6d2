"""When memory really changed, and whose bytes a free gives back.

An allocation counts from the moment its call returned, a free from the moment its call
began: so no block is ever in use twice, on whichever threads they happen. A free bears the
labels and the stack of the place that freed; whose bytes they were says the allocation, which
has the same process and generation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from . import tables
from .tables import AnyTable

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

#: What a free says of its block as its allocation did; all else is asked of the allocation.
_SHARED = frozenset(
    ("pid", "level", "kind", "device", "generation", "size_bytes", "address", "pooled")
)
_NEEDED = ("t_ns", "duration_ns", "op", "level", "status", "pid", "generation", "size_bytes")

#: The columns of an allocation that `effective` and `blocks` give by default.
COLUMNS = (
    "pid",
    "level",
    "kind",
    "device",
    "generation",
    "address",
    "size_bytes",
    "pooled",
    "tid",
    "context",
    "cuda_stream",
    "stack",
    "span",
    "frame",
    "labels",
    "stream_id",
    "codec",
    "gpu",
)


def effective(
    allocations: AnyTable,
    columns: Sequence[str] = COLUMNS,
    level: str | None = None,
    where: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """Return every change of the memory in use, in the order in which they took effect.

    Parameters
    ----------
    allocations : polars.LazyFrame or polars.DataFrame
        The table `allocations`, whole: without some of the frees, blocks look leaked. A free
        whose allocation is not in it (a bounded recording let it go) is left out.
    columns : sequence of str
        What of the allocation to give.
    level : str, optional
        Only this level: pool, driver or borrowed.
    where : mapping of str to value, optional
        Only allocations with these values, and their frees: `{"stream_id": "cam-7"}`.

    Returns
    -------
    polars.DataFrame
        `t_ns` (when it took effect), `change_bytes` (+ alloc, - free), `op`, and `columns`, of
        a free those of its allocation. Calls that failed are left out. Blocks older than the
        recording (generation 0) have no labels, stack, frame and the like: null.

    Raises
    ------
    InputError
        If a column is missing.
    """
    wanted = list(dict.fromkeys(columns))
    events = _ok(allocations, wanted, level, where)
    alloc, owner = _owners(events)
    alloc, owner, events = _narrowed(events, alloc, owner, where)
    t_ns = events["t_ns"].to_numpy() + np.where(alloc, events["duration_ns"].to_numpy(), 0)
    size = events["size_bytes"].to_numpy()
    # At the same nanosecond a block comes before it goes.
    order = np.argsort(t_ns * 2 + ~alloc, kind="stable")
    row, source = pl.Series(order), _indices(owner[order])
    result = {
        "t_ns": pl.Series(t_ns[order]),
        "change_bytes": pl.Series(np.where(alloc, size, -size)[order]),
        "op": events["op"].gather(row),
    }
    for name in wanted:
        result[name] = events[name].gather(row if name in _SHARED else source)
    return pl.DataFrame(result)


def blocks(
    allocations: AnyTable,
    columns: Sequence[str] = COLUMNS,
    level: str | None = None,
    where: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """Return the life of every block, one row each, by the time at which it was taken.

    Parameters
    ----------
    allocations, columns, level, where
        As of `effective`.

    Returns
    -------
    polars.DataFrame
        `t_ns` (taken), `free_ns` and `freed_by` (null if it was never freed), `freed_tid` (the
        thread that did), and `columns`. Blocks older than the recording are not among them.
    """
    wanted = list(dict.fromkeys(columns))
    events = _ok(allocations, [*wanted, "tid", "freed_by"], level, where)
    alloc, owner = _owners(events)
    alloc, owner, events = _narrowed(events, alloc, owner, where)
    t_ns = events["t_ns"].to_numpy()
    freed = np.full(len(t_ns), -1, np.int64)
    frees = np.flatnonzero(~alloc & (owner >= 0))
    freed[owner[frees]] = frees
    taken = np.flatnonzero(alloc & (owner >= 0))
    begins = t_ns[taken] + events["duration_ns"].to_numpy()[taken]
    order = np.argsort(begins, kind="stable")
    row, end = pl.Series(taken[order]), _indices(freed[taken[order]])
    return pl.DataFrame(
        {
            "t_ns": pl.Series(begins[order]),
            "free_ns": events["t_ns"].gather(end),
            "freed_by": events["freed_by"].gather(end),
            "freed_tid": events["tid"].gather(end),
            **{name: events[name].gather(row) for name in wanted},
        }
    )


def group_numbers(
    table: pl.DataFrame, by: Sequence[str]
) -> tuple[npt.NDArray[np.uint32], pl.DataFrame]:
    """Return the number of each row's group, and the groups, text as String, sorted by `by`.

    Raises
    ------
    InputError
        If a column is missing.
    """
    if not by:
        some = pl.DataFrame([pl.Series("n", [0] * min(table.height, 1))]).drop("n")
        return np.zeros(table.height, np.uint32), some
    numbers = np.zeros(table.height, np.int64)
    for name in by:  # each column's own numbers first: rows are not hashed one by one
        own = _dense(_whole_numbers(table[name]))
        numbers = _dense(numbers * (int(own.max(initial=0)) + 1) + own)
    first = np.zeros(int(numbers.max(initial=-1)) + 1, np.int64)
    first[numbers[::-1]] = np.arange(table.height - 1, -1, -1)
    groups = tables.plain(table.select(by)[pl.Series(first)])
    order = groups.with_row_index(" ").sort(by, maintain_order=True)[" "].to_numpy()
    place = np.empty(len(order), np.uint32)
    place[order] = np.arange(len(order))
    return place[numbers], groups[order]


def _whole_numbers(column: pl.Series) -> Ints:
    """Different numbers for different values of a column, 0 for null."""
    if column.dtype == pl.String:
        column = column.cast(pl.Categorical)
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.to_physical()
    if not column.dtype.is_integer():
        column = column.rank("dense")
    # Handles and addresses may be beyond int64: there they wrap, and stay different.
    values = _dense(column.fill_null(0).to_numpy().astype(np.int64)) + 1
    return np.where(column.is_null().to_numpy(), 0, values) if column.null_count() else values


def _dense(numbers: Ints) -> Ints:
    """Small numbers, different where these are."""
    if not len(numbers):
        return numbers
    least, most = int(numbers.min()), int(numbers.max())
    if most - least > 4 * len(numbers) + 1_000:
        found: Ints = np.searchsorted(pl.Series(numbers).unique().sort().to_numpy(), numbers)
        return found
    used = np.zeros(most - least + 1, bool)
    used[numbers - least] = True
    gapless: Ints = (np.cumsum(used) - 1)[numbers - least]
    return gapless


def _ok(
    allocations: AnyTable,
    columns: Sequence[str],
    level: str | None,
    where: Mapping[str, Any] | None,
) -> pl.DataFrame:
    """The calls that did not fail, with as few columns as it takes."""
    names = list(dict.fromkeys([*_NEEDED, *columns, *(where or {})]))
    table = tables.lazy(allocations, "allocations", names).select(names)
    keep = pl.col("status") == "ok"
    if level is not None:
        keep &= pl.col("level") == level
    if where:  # frees are told apart later, by their allocations: fewer rows to carry until then
        match = pl.all_horizontal(
            pl.col(name).eq_missing(pl.lit(value)) for name, value in where.items()
        )
        keep &= match | (pl.col("op") == "free") | (pl.col("generation") == 0)
    return table.filter(keep).collect()


def _owners(events: pl.DataFrame) -> tuple[Flags, Ints]:
    """Which rows are allocations, and each row's allocation: its row's number, or -1."""
    alloc = np.asarray((events["op"] == "alloc").to_numpy(), bool)
    generation = events["generation"].to_numpy().astype(np.int64)
    known = generation > 0
    owner = np.full(len(alloc), -1, np.int64)
    pids = events["pid"]
    if pids.n_unique() <= 1:
        parts = [np.flatnonzero(known)]
    else:
        pid = pids.fill_null(-1).to_numpy()
        parts = [np.flatnonzero(known & (pid == one)) for one in np.unique(pid)]
    for rows in parts:
        if not len(rows):
            continue
        numbers = generation[rows] - generation[rows].min()
        if numbers.max() > 8 * len(generation) + 1_000_000:  # not a process's running numbers
            numbers = np.unique(numbers, return_inverse=True)[1]
        taken = np.full(int(numbers.max()) + 1, -1, np.int64)
        of_alloc = alloc[rows]
        taken[numbers[of_alloc]] = rows[of_alloc]
        owner[rows] = taken[numbers]
    return alloc, owner


def _narrowed(
    events: pl.DataFrame, alloc: Flags, owner: Ints, where: Mapping[str, Any] | None
) -> tuple[Flags, Ints, pl.DataFrame]:
    """Leave out frees that nothing was taken for, and blocks that are not asked for."""
    older = events["generation"].to_numpy() == 0
    keep = older | (owner >= 0)
    if where:
        match = np.ones(events.height, bool)
        for name, value in where.items():
            match &= events[name].eq_missing(pl.Series([value], dtype=None)).to_numpy()
        # What is shared may also be asked of blocks that are older than the recording.
        if all(name in _SHARED for name in where):
            keep &= match
        else:
            keep &= (owner >= 0) & match[owner]
    if keep.all():
        return alloc, owner, events
    rows = np.flatnonzero(keep)
    place = np.full(events.height + 1, -1, np.int64)
    place[rows] = np.arange(len(rows))
    return alloc[rows], place[owner[rows]], events[pl.Series(rows)]


def _indices(rows: Ints) -> pl.Series:
    """Row numbers to gather, null for -1."""
    indices = pl.Series(rows)
    return indices.set(indices < 0, None) if (rows < 0).any() else indices

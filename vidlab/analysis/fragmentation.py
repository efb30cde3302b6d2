"""How the free memory of a pool is cut up: could it serve a large block at once?

A pool takes chunks from the driver and lays blocks into them. What lies between the blocks
is free, but only within one chunk does it serve one allocation. Chunks and blocks are known
by address, so the gaps can be told exactly. Left out, and said how much, is what has no
address or no chunk: blocks older than the recording, and what an allocator serves whose
driver calls are not seen. What CUDA's own stream-ordered pool keeps cannot be seen either:
each block of it is a chunk of its own here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from ..errors import InputError
from ..schema import DRIVER, LEVELS, POOL
from . import sites, tables
from .allocation_events import Ints, blocks, effective
from .tables import AnyTable

_POOL, _DRIVER = LEVELS[POOL], LEVELS[DRIVER]

_SPACE = ("pid", "device", "kind")
_NEVER = (1 << 63) - 1

_OVER_TIME = {
    "pid": pl.Int32,
    "device": pl.Int16,
    "kind": pl.String,
    "t_ns": pl.Int64,
    "chunks": pl.Int64,
    "chunk_bytes": pl.Int64,
    "in_use_bytes": pl.Int64,
    "free_bytes": pl.Int64,
    "largest_free_bytes": pl.Int64,
    "gaps": pl.Int64,
    "excluded_bytes": pl.Int64,
}


def over_time(
    allocations: AnyTable, samples: int = 200, times: Sequence[int] | None = None
) -> pl.DataFrame:
    """Return how fragmented the pools of each device were, over time.

    Parameters
    ----------
    allocations : polars.LazyFrame or polars.DataFrame
        The table `allocations`, whole.
    samples : int
        At how many moments, evenly from the first to the last event.
    times : sequence of int, optional
        At these moments instead, in nanoseconds of the run's clock.

    Returns
    -------
    polars.DataFrame
        `pid`, `device`, `kind`, `t_ns`, `chunks` (of the pools) and `chunk_bytes`,
        `in_use_bytes` (of blocks in them), `free_bytes`, `largest_free_bytes` (the largest gap
        between blocks), `gaps`, `fragmentation` ((free - largest) / free; null if nothing is
        free) and `excluded_bytes` (blocks in no known chunk, so not in the others).

    Raises
    ------
    InputError
        If a column is missing or `samples` is not positive.
    """
    if samples < 1:
        raise InputError(f"fragmentation needs one moment at least, not {samples!r}")
    columns = [*_SPACE, "address", "size_bytes", "pooled"]
    chunks = tables.plain(blocks(allocations, columns, _DRIVER).filter(pl.col("pooled")))
    taken = tables.plain(blocks(allocations, columns, _POOL))
    older = tables.plain(
        effective(allocations, [*_SPACE, "generation"], _POOL).filter(pl.col("generation") == 0)
    )
    moments = _moments(chunks, taken, samples) if times is None else np.unique(list(times))
    parts = []
    spaces = pl.concat([table.select(_SPACE) for table in (chunks, taken, older)]).unique()
    for space in spaces.sort(_SPACE).iter_rows():
        mine = [
            pl.col(name).eq_missing(pl.lit(value))
            for name, value in zip(_SPACE, space, strict=True)
        ]
        swept = _sweep(chunks.filter(mine), taken.filter(mine), moments)
        before = older.filter(mine)
        net = np.concatenate([[0], before["change_bytes"].to_numpy().cumsum()])
        swept["excluded_bytes"] += net[
            np.searchsorted(before["t_ns"].to_numpy(), moments, side="right")
        ]
        labels = dict(zip(_SPACE, space, strict=True))
        parts.append(
            pl.DataFrame({"t_ns": moments, **swept}).select(
                pl.lit(labels[name]).cast(dtype).alias(name)
                if name in labels
                else pl.col(name).cast(dtype)
                for name, dtype in _OVER_TIME.items()
            )
        )
    empty = pl.DataFrame(schema=_OVER_TIME)
    free, largest = pl.col("free_bytes"), pl.col("largest_free_bytes")
    share = pl.when(free > 0).then((free - largest) / free)
    return pl.concat([empty, *parts]).select(
        pl.exclude("excluded_bytes"), share.alias("fragmentation"), "excluded_bytes"
    )


def layout(allocations: AnyTable, t_ns: int, stacks: AnyTable | None = None) -> pl.DataFrame:
    """Return what lies where in the pools' chunks at a moment: blocks, and gaps between them.

    Parameters
    ----------
    allocations, stacks
        The tables of a run.
    t_ns : int
        The moment.

    Returns
    -------
    polars.DataFrame
        `pid`, `device`, `kind`, `chunk` (its address), `address`, `size_bytes`, `free`
        Boolean, and of a block its `site` and `stream_id`; by address. Blocks in no known
        chunk are left out.
    """
    at = pl.col("t_ns") <= t_ns, pl.col("free_ns").fill_null(_NEVER) > t_ns
    columns = [*_SPACE, "address", "size_bytes", "pooled", "stack", "stream_id"]
    chunks = tables.plain(blocks(allocations, columns, _DRIVER).filter(pl.col("pooled"), *at))
    taken = tables.plain(blocks(allocations, columns, _POOL).filter(*at))
    used = (
        taken.sort("address")
        .join_asof(
            chunks.sort("address").select(
                *_SPACE,
                "address",
                pl.col("address").alias("chunk"),
                (pl.col("address") + pl.col("size_bytes").cast(pl.UInt64)).alias("chunk_end"),
            ),
            on="address",
            by=list(_SPACE),
            strategy="backward",
            check_sortedness=False,  # both are sorted by address, just above
        )
        .with_columns(end=pl.col("address") + pl.col("size_bytes").cast(pl.UInt64))
        .filter(pl.col("end") <= pl.col("chunk_end"))
    )
    # A gap lies before each block, and before the end of each chunk.
    ends = chunks.select(
        *_SPACE,
        pl.col("address").alias("chunk"),
        (pl.col("address") + pl.col("size_bytes").cast(pl.UInt64)).alias("address"),
        pl.lit(None, pl.UInt64).alias("end"),
    )
    marks = pl.concat([used.select(*_SPACE, "chunk", "address", "end"), ends])
    begin = pl.col("end").shift(1).over(*_SPACE, "chunk", order_by="address")
    gaps = (
        marks.with_columns(begin=begin.fill_null(pl.col("chunk")))
        .filter(pl.col("begin") < pl.col("address"))
        .select(
            *_SPACE,
            "chunk",
            pl.col("begin").alias("address"),
            (pl.col("address") - pl.col("begin")).cast(pl.Int64).alias("size_bytes"),
            pl.lit(True).alias("free"),
            pl.lit(None, pl.String).alias("site"),
            pl.lit(None, pl.String).alias("stream_id"),
        )
    )
    sited = sites.with_sites(used, stacks).with_columns(free=pl.lit(False))
    return pl.concat([gaps, sited.select(gaps.columns)]).sort(*_SPACE, "address")


def _moments(chunks: pl.DataFrame, taken: pl.DataFrame, samples: int) -> Ints:
    known = [
        table[column].drop_nulls().to_numpy()
        for table in (chunks, taken)
        for column in ("t_ns", "free_ns")
    ]
    every = np.concatenate(known)
    if not len(every):
        return np.zeros(0, np.int64)
    return np.unique(np.linspace(every.min(), every.max(), samples).astype(np.int64))


def _sweep(chunks: pl.DataFrame, taken: pl.DataFrame, moments: Ints) -> dict[str, Ints]:
    """The free gaps of one address space at each moment."""
    names = ("chunks", "chunk_bytes", "in_use_bytes", "free_bytes", "largest_free_bytes", "gaps")
    result = {name: np.zeros(len(moments), np.int64) for name in (*names, "excluded_bytes")}
    (c_start, c_end, c_first, c_last), (b_start, b_end, b_first, b_last) = (
        _lives(table, moments) for table in (chunks, taken)
    )
    for n in range(len(moments)):
        here = (c_first <= n) & (n < c_last)
        start, end = c_start[here], c_end[here]
        here = (b_first <= n) & (n < b_last)
        low, high = b_start[here], b_end[here]
        home = np.searchsorted(start, low, side="right") - 1
        inside = (home >= 0) & (high <= end[home]) if len(start) else np.zeros(len(low), bool)
        result["excluded_bytes"][n] = (high - low)[~inside].sum()
        low, high, home = low[inside], high[inside], home[inside]
        # Each chunk's own beginning counts as the end of a block before its first.
        edges = np.concatenate([start, high])
        order = np.argsort(np.concatenate([np.arange(len(start)) * 2, home * 2 + 1]), kind="stable")
        after = np.append(low, end)
        following = np.argsort(
            np.concatenate([home * 2, np.arange(len(start)) * 2 + 1]), kind="stable"
        )
        gaps = np.maximum(after[following] - edges[order], 0)
        gaps = gaps[gaps > 0]
        values = (len(start), (end - start).sum(), (high - low).sum(), gaps.sum())
        for name, value in zip(names, (*values, gaps.max(initial=0), len(gaps)), strict=True):
            result[name][n] = value
    return result


def _lives(table: pl.DataFrame, moments: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Begin and end of each block, by address, and the moments at which it is there."""
    ordered = table.sort("address")
    first = np.searchsorted(moments, ordered["t_ns"].to_numpy(), side="left")
    last = np.searchsorted(moments, ordered["free_ns"].fill_null(_NEVER).to_numpy(), side="left")
    seen = first < last  # most blocks come and go between two moments
    start = ordered["address"].to_numpy().astype(np.int64)[seen]
    return start, start + ordered["size_bytes"].to_numpy()[seen], first[seen], last[seen]

"""What is alive at a moment, how old it is, and what two moments differ in.

Age counts in seconds and in frames: how many frames of the block's own stream were
delivered since it was taken. A stall ages nothing in frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from ..errors import InputError
from ..schema import LEVELS, POOL
from . import sites, tables
from .allocation_events import COLUMNS, blocks, effective
from .tables import AnyTable

_POOL = LEVELS[POOL]

#: How long a block must have lived to count as long-lived, in seconds.
LONG_LIVED = 30.0

_LABELS = ("stream_id", "codec", "gpu")


def live(
    allocations: AnyTable,
    t_ns: int,
    stacks: AnyTable | None = None,
    frames: AnyTable | None = None,
    level: str = _POOL,
) -> pl.DataFrame:
    """Return the live set at a moment: one row a block, the largest first.

    Parameters
    ----------
    allocations : polars.LazyFrame or polars.DataFrame
        The table `allocations`, whole.
    t_ns : int
        The moment, on the run's clock.
    stacks : polars.LazyFrame or polars.DataFrame, optional
        The table `stacks`: sites by name.
    frames : polars.LazyFrame or polars.DataFrame, optional
        The table `frames`: ages in frames.
    level : str
        pool, driver or borrowed.

    Returns
    -------
    polars.DataFrame
        `site`, the columns `allocation_events.COLUMNS` of each block, `t_ns` (taken),
        `age_s`, and `age_frames` (null without a stream, or without `frames`). What is older
        than the recording comes as one row a process, device and kind: generation 0, its bytes
        together, of no known age. So the sizes add up to `memory.at`.
    """
    found = blocks(allocations, COLUMNS, level)
    alive = found.filter(
        pl.col("t_ns") <= t_ns, pl.col("free_ns").is_null() | (pl.col("free_ns") > t_ns)
    )
    alive = tables.plain(alive).drop("free_ns", "freed_by", "freed_tid")
    aged = _aged(alive, t_ns, frames)
    older = _older(allocations, t_ns, level, aged)
    return sites.with_sites(pl.concat([aged, older]), stacks).sort(
        "size_bytes", "t_ns", "generation", descending=[True, False, False], nulls_last=True
    )


def diff(
    allocations: AnyTable,
    t0_ns: int,
    t1_ns: int,
    stacks: AnyTable | None = None,
    frames: AnyTable | None = None,
    by: str | Sequence[str] = _LABELS,
    seconds: float | None = LONG_LIVED,
    long_lived_frames: int | None = None,
    level: str = _POOL,
) -> pl.DataFrame:
    """Return how the live set changed from one moment to another, by site and labels.

    Parameters
    ----------
    allocations, stacks, frames, level
        As of `live`.
    t0_ns, t1_ns : int
        The two moments.
    by : str or sequence of str
        The labels (or other columns of an allocation) that make a group, besides the site.
    seconds : float, optional
        A block is long-lived if at the second moment it is older than this; None: age in
        seconds does not count.
    long_lived_frames : int, optional
        Or if it is older than so many frames of its stream; needs `frames`.

    Returns
    -------
    polars.DataFrame
        `site`, `by`, of the blocks taken in between and alive at the second moment
        `long_lived_blocks`, `long_lived_bytes` and the rest, `young_blocks` and `young_bytes`;
        `freed_blocks` and `freed_bytes` of those alive at the first and freed since;
        `change_bytes` of it all; `oldest_s` and `oldest_frames` of what is left over. The most
        long-lived bytes come first. Blocks older than the recording are left out.

    Raises
    ------
    InputError
        If the moments are the wrong way round, or age in frames is asked for without frames.
    """
    if t1_ns < t0_ns:
        raise InputError(f"the second moment, {t1_ns}, lies before the first, {t0_ns}: swap them")
    if long_lived_frames is not None and frames is None:
        raise InputError("age in frames needs the table frames: pass frames=run.scan('frames')")
    keys = tables.names(by)
    columns = [*dict.fromkeys([*keys, "stack", "stream_id", "size_bytes"])]
    found = tables.plain(blocks(allocations, columns, level))
    ends = pl.col("free_ns").fill_null((1 << 63) - 1)
    alive0 = (pl.col("t_ns") <= t0_ns) & (ends > t0_ns)
    taken = (pl.col("t_ns") > t0_ns) & (pl.col("t_ns") <= t1_ns) & (ends > t1_ns)
    changed = found.with_columns(
        taken=taken.fill_null(False), freed=alive0 & (ends <= t1_ns)
    ).filter(pl.col("taken") | pl.col("freed"))
    aged = sites.with_sites(_aged(changed, t1_ns, frames), stacks)
    old = pl.lit(False)
    if seconds is not None:
        old |= pl.col("age_s") > seconds
    if long_lived_frames is not None:
        old |= (pl.col("age_frames") > long_lived_frames).fill_null(False)
    size, taken, freed = pl.col("size_bytes"), pl.col("taken"), pl.col("freed")
    return (
        aged.with_columns(old=old)
        .group_by("site", *keys)
        .agg(
            (taken & pl.col("old")).sum().cast(pl.Int64).alias("long_lived_blocks"),
            size.filter(taken & pl.col("old")).sum().alias("long_lived_bytes"),
            (taken & ~pl.col("old")).sum().cast(pl.Int64).alias("young_blocks"),
            size.filter(taken & ~pl.col("old")).sum().alias("young_bytes"),
            freed.sum().cast(pl.Int64).alias("freed_blocks"),
            size.filter(freed).sum().alias("freed_bytes"),
            (size.filter(taken).sum() - size.filter(freed).sum()).alias("change_bytes"),
            pl.col("age_s").filter(taken).max().alias("oldest_s"),
            pl.col("age_frames").filter(taken).max().alias("oldest_frames"),
        )
        .sort(
            "long_lived_bytes",
            "change_bytes",
            "site",
            *keys,
            descending=[True, True, False, *[False] * len(keys)],
        )
    )


def _aged(found: pl.DataFrame, t_ns: int, frames: AnyTable | None) -> pl.DataFrame:
    """Blocks with their age at a moment, in seconds and in frames of their stream."""
    age = ((t_ns - pl.col("t_ns")) / 1e9).alias("age_s")
    if frames is None:
        return found.with_columns(age, age_frames=pl.lit(None, pl.Int64))
    done = tables.plain(
        tables.delivered(frames, ["stream_id"]).select("stream_id", "t_done_ns").collect()
    )
    moments = {
        stream: np.sort(part["t_done_ns"].to_numpy())
        for (stream,), part in done.drop_nulls().partition_by("stream_id", as_dict=True).items()
    }
    ages = np.zeros(found.height, np.int64)
    known = np.zeros(found.height, bool)
    taken = found["t_ns"].to_numpy()
    streams = found["stream_id"]
    for stream in streams.unique().drop_nulls():
        rows = np.flatnonzero((streams == stream).fill_null(False).to_numpy())
        of_stream = moments.get(stream, np.zeros(0, np.int64))
        until = np.searchsorted(of_stream, t_ns, side="right")
        ages[rows] = until - np.searchsorted(of_stream, taken[rows], side="right")
        known[rows] = True
    return found.with_columns(age, pl.Series("age_frames", ages).set(pl.Series(~known), None))


def _older(allocations: AnyTable, t_ns: int, level: str, like: pl.DataFrame) -> pl.DataFrame:
    """What is left of the blocks older than the recording, in the columns of `like`."""
    columns = ["pid", "device", "kind", "level"]
    events = effective(allocations, [*columns, "generation"], level).filter(
        pl.col("generation") == 0, pl.col("t_ns") <= t_ns
    )
    sums = (
        tables.plain(events)
        .group_by(columns)
        .agg(pl.col("change_bytes").sum().alias("size_bytes"))
        .filter(pl.col("size_bytes") != 0)
        .with_columns(generation=pl.lit(0, pl.UInt64))
    )
    return sums.select(
        pl.col(name) if name in sums.columns else pl.lit(None, dtype).alias(name)
        for name, dtype in like.schema.items()
    ).cast(like.schema)

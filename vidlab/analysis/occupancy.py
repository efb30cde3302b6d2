"""How much each allocation site has in use, frame by frame.

Sites are told apart by their call stack and by labels. A share is how far a run has come for
a stream: 0.25 is when a quarter of its frames had come. So streams of different length and
pace add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from . import allocation_events, framecounts
from .framecounts import Clock
from .growth import SECTIONS
from .tables import AnyTable

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: The steps in which a run is looked at; a step's value is the lowest of so many moments.
STEPS, MOMENTS = 128, 4

_BINS = STEPS * MOMENTS


@dataclass(frozen=True)
class Occupancy:
    """The blocks of each group: the allocations of one call stack under the same labels.

    Attributes
    ----------
    groups : DataFrame
        A row for each group: `stack`, the labels, `frames` (how many its streams had),
        `live_bytes`, `live_blocks`, `oldest_frames`, `newest_frames`.
    group : ndarray of int64
        Each block's group, a row number.
    taken, freed : ndarray of float64
        The shares at which it was taken and freed; freed is infinite if it outlived the
        last frame.
    size_bytes : ndarray of float64
    survivors : DataFrame
        `group`, `pid`, `generation` of the blocks that outlived the last frame, oldest first.
    """

    groups: pl.DataFrame
    group: Ints
    taken: Floats
    freed: Floats
    size_bytes: Floats
    survivors: pl.DataFrame

    def series(self, age: float = 0.0) -> tuple[Floats, Floats]:
        """Return blocks and bytes in use that are older than `age`, a share of the run.

        Each is an array with a row for each group and `STEPS` columns.
        """
        since = self.taken + age
        counted = np.flatnonzero((self.freed > since) & (since < 1))
        group, size = self.group[counted], self.size_bytes[counted]
        begin, end = _bins(since[counted]), _bins(self.freed[counted])
        blocks, sizes = (
            _lowest(self._summed(group, begin, weight) - self._summed(group, end, weight))
            for weight in (np.ones_like(size), size)
        )
        return blocks, sizes

    def stale(self, since: float) -> tuple[Ints, Ints]:
        """Return how many survivors are older than any block of their group ever got.

        Of those that were taken from the share `since` on. And of five equal sections of the
        time in which such blocks can have been taken: in how many some were.
        """
        count = self.groups.height
        ended = np.isfinite(self.freed)
        longest = np.zeros(count)
        np.maximum.at(longest, self.group[ended], (self.freed - self.taken)[ended])
        alive = np.flatnonzero(~ended & (self.taken >= since) & (self.taken < 1))
        group, taken = self.group[alive], self.taken[alive]
        stale = taken + longest[group] < 1
        group, taken = group[stale], taken[stale]
        section = ((taken - since) / (1 - longest[group] - since) * SECTIONS).astype(np.int64)
        met = np.zeros((count, SECTIONS), bool)
        met[group, np.minimum(section, SECTIONS - 1)] = True
        return np.bincount(group, minlength=count), met.sum(axis=-1)

    def _summed(self, group: Ints, bins: Ints, weight: Floats) -> Floats:
        width = _BINS + 1  # the last bin is what never happens
        shape = (self.groups.height, width)
        flat = np.bincount(group * width + bins, weight, shape[0] * width)
        changes: Floats = flat.astype(np.float64).reshape(shape)[:, :_BINS]
        return changes


def _bins(shares: Floats) -> Ints:
    return (np.minimum(shares, 1.0) * _BINS).astype(np.int64)


def _lowest(changes: Floats) -> Floats:
    in_use = np.cumsum(changes, axis=-1)
    lowest: Floats = in_use.reshape(-1, STEPS, MOMENTS).min(axis=-1)
    return lowest


def occupancy(
    allocations: AnyTable,
    frames: AnyTable | None = None,
    by: Sequence[str] = (),
    level: str = "pool",
) -> Occupancy:
    """Return how much each call stack and labels had in use.

    Parameters
    ----------
    allocations : polars.LazyFrame or polars.DataFrame
        The table `allocations`.
    frames : polars.LazyFrame or polars.DataFrame, optional
        The table `frames`; see `framecounts.clocks`.
    by : sequence of str
        The labels.
    level : str
        Of which level: pool, driver or borrowed.
    """
    keys = ["stack", *by]
    columns = list(dict.fromkeys([*keys, "stream_id", "pid", "generation", "size_bytes"]))
    blocks = allocation_events.blocks(allocations, columns, level)
    group, groups = allocation_events.group_numbers(blocks, keys)
    stream, streams = allocation_events.group_numbers(blocks, ["stream_id"])
    clocks = framecounts.clocks(allocations, frames)
    of_stream = [clocks.get(name, clocks[None]) for name in streams["stream_id"]]
    came, gone = _in_frames(blocks, stream, of_stream)
    total = np.array([clock.total for clock in of_stream])[stream]
    # What is freed after the last frame came was held by a pipeline that had ended.
    gone = np.where((gone < total) | (np.isfinite(gone) & (total == 0)), gone, np.inf)
    alive = np.isinf(gone) & (came < np.maximum(total, 1))
    size = blocks["size_bytes"].to_numpy().astype(np.float64)
    live = pl.DataFrame(
        {
            "group": group[alive],
            "size_bytes": blocks["size_bytes"].filter(pl.Series(alive)),
            "age": (total - came)[alive].round().astype(np.int64),
        }
    )
    per_group = live.group_by("group").agg(
        pl.col("size_bytes").sum().alias("live_bytes"),
        pl.len().cast(pl.Int64).alias("live_blocks"),
        pl.col("age").max().alias("oldest_frames"),
        pl.col("age").min().alias("newest_frames"),
    )
    met = pl.DataFrame({"group": group, "stream": stream}).unique()
    frames_of = met.with_columns(
        frames=pl.Series([clock.total for clock in of_stream], dtype=pl.Float64).gather(
            met["stream"]
        )
    )
    counted = frames_of.group_by("group").agg(pl.col("frames").sum().round().cast(pl.Int64))
    described = (
        groups.with_row_index("group")
        .join(counted, on="group", how="left", maintain_order="left")
        .join(per_group, on="group", how="left", maintain_order="left")
        .with_columns(pl.col("live_bytes", "live_blocks").fill_null(0))
        .drop("group")
    )
    scale = np.maximum(total, 1)
    survivors = blocks.filter(pl.Series(alive)).select("pid", "generation")
    return Occupancy(
        described,
        group.astype(np.int64),
        came / scale,
        gone / scale,
        size,
        survivors.with_columns(live["group"]),
    )


def _in_frames(
    blocks: pl.DataFrame, stream: npt.NDArray[np.uint32], clocks: Sequence[Clock]
) -> tuple[Floats, Floats]:
    """Return how many frames had come when each block was taken, and freed: infinite if never."""
    taken = blocks["t_ns"].to_numpy()
    never = np.iinfo(np.int64).max
    freed = blocks["free_ns"].fill_null(never).to_numpy()
    came, gone = np.zeros(taken.size), np.full(taken.size, np.inf)
    for number, clock in enumerate(clocks):
        own = np.flatnonzero(stream == number)
        came[own] = clock.at(taken[own])
        ended = own[freed[own] != never]
        gone[ended] = clock.at(freed[ended])
    return came, gone

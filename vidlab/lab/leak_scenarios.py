"""Allocation tables of made-up pipelines, in which it is known what leaks.

A pipeline has some sixty allocation sites; each behaves in one way, with numbers of its own
that the seed draws. Frames come at a rate that changes, with stalls. The tables have the
columns of a finished run that the leak verdict reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from .leak_sites import LEAKY, SHARES, SITES, Blocks, Floats
from .leak_sites import filling as filling_cache
from .leak_sites import leak as leaked_blocks
from .leak_sites import size as drawn_size

CODECS = ("h264", "hevc", "av1", "vp9")


@dataclass(frozen=True)
class Scenario:
    """A run, and what is wrong with it.

    Attributes
    ----------
    allocations, frames, stacks : DataFrame
        Tables as a finished run has them, without the columns that say nothing here.
    culprit : int or None
        The `stack` that leaks.
    leaked_bytes_per_1000 : float
        What it leaks in 1,000 frames of its stream (or of all, if it is spread over them).
    filling : int or None
        The `stack` whose cache is not yet full at the end.
    behaviours : dict
        For each stack the name of its behaviour.
    """

    allocations: pl.DataFrame
    frames: pl.DataFrame
    stacks: pl.DataFrame
    culprit: int | None
    leaked_bytes_per_1000: float
    filling: int | None
    behaviours: dict[int, str]


def scenario(
    seed: int,
    frames: int = 20_000,
    sites: int = 60,
    leak: bool = False,
    filling: bool = False,
    spread: bool = False,
) -> Scenario:
    """Return a pipeline's tables.

    Parameters
    ----------
    seed : int
        Draws the number of streams, each site's behaviour and all its numbers.
    frames : int
        Frames of all streams together.
    sites : int
        Allocation sites.
    leak : bool
        One of the sites leaks one buffer in 1,000 frames, besides what it does.
    filling : bool
        One of the sites is a cache that is not full at the end.
    spread : bool
        The leak is met by all streams, rather than one.
    """
    random = np.random.default_rng([seed, 7])
    streams = int(random.integers(1, 5))
    counts = np.maximum(1, random.dirichlet(np.full(streams, 8.0)) * frames).astype(int)
    clocks = [_clock(random, int(count)) for count in counts]
    own = random.integers(0, streams, sites)
    names = [str(name) for name in random.choice(list(SITES), sites, p=SHARES)]
    culprit = int(random.integers(sites)) if leak else None
    if culprit is not None:
        names[culprit] = str(random.choice(LEAKY))
    full = (culprit + 1 if culprit is not None else 0) % sites if filling else None
    parts = []
    leaked = 0.0
    for site, name in enumerate(names):
        stream = int(own[site])
        n = int(counts[stream])
        if site == full:
            parts.append((site, stream, filling_cache(random, n)))
            continue
        if name in SITES:
            parts.append((site, stream, SITES[name](random, n)))
        if site == culprit:
            size = drawn_size(random)
            hit = range(streams) if spread else [stream]
            per_stream = frames / 1_000 / len(hit)
            parts += [
                (site, index, leaked_blocks(random, int(counts[index]), size, per_stream))
                for index in hit
            ]
            leaked = size * frames / (frames if spread else n)
    if full is not None:
        names[full] = "filling"
    return Scenario(
        _allocations(parts, clocks),
        _frames(clocks),
        _stacks(sites),
        None if culprit is None else culprit + 1,
        leaked,
        None if full is None else full + 1,
        {site + 1: name for site, name in enumerate(names)},
    )


# --- as tables ----------------------------------------------------------------------


def _clock(random: np.random.Generator, n: int) -> Floats:
    """When each frame comes, in ns: at up to four rates, with a few stalls."""
    rates = random.choice([10.0, 25.0, 30.0, 60.0], int(random.integers(1, 5)))
    edges = np.sort(random.integers(0, n, rates.size - 1))
    intervals = 1e9 / rates[np.searchsorted(edges, np.arange(n), side="right")]
    stalls = random.integers(0, n, int(random.integers(0, 4)))
    intervals[stalls] += random.uniform(1e9, 60e9, stalls.size)
    return 5e12 + np.cumsum(intervals)


def _allocations(parts: list[tuple[int, int, Blocks]], clocks: list[Floats]) -> pl.DataFrame:
    pieces = []
    for site, stream, (taken, freed, sizes) in parts:
        clock = clocks[stream]
        last = clock.size - 1
        inside = taken < last
        taken, freed, sizes = taken[inside], freed[inside], sizes[inside]
        begin, end = (
            np.interp(moments, np.arange(clock.size), clock) for moments in (taken, freed)
        )
        own = [np.full(taken.size, number) for number in (site, stream)]
        pieces.append((*own, begin, end, freed < last, sizes, taken))
    sites, streams, begins, ends, gone, given, moments = (
        np.concatenate(column) for column in zip(*pieces, strict=True)
    )
    gone = gone.astype(bool)

    def both(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.concatenate([values, values[gone]])

    frame = moments.astype(np.uint64) + np.uint64(1) + (streams * 1_000_000).astype(np.uint64)
    is_free = np.repeat([0, 1], [begins.size, int(gone.sum())])
    rows = is_free.size
    return pl.DataFrame(
        {
            "t_ns": np.concatenate([begins, ends[gone]]).astype(np.int64),
            "pid": np.full(rows, 100, np.int32),
            "tid": np.full(rows, 100, np.int32),
            "duration_ns": np.full(rows, 1_500, np.int64),
            "op": _text(is_free, ["alloc", "free"]),
            "level": _text(np.zeros(rows), ["pool"]),
            "freed_by": pl.Series([None, "refcount"], dtype=pl.Enum(["refcount"])).gather(is_free),
            "status": _text(np.zeros(rows), ["ok"]),
            "generation": both(np.arange(1, begins.size + 1)).astype(np.uint64),
            "size_bytes": both(np.ceil(given / 512) * 512).astype(np.int64),
            # All is freed in one place.
            "stack": np.where(is_free, 9_999, both(sites) + 1).astype(np.uint32),
            "frame": both(frame),
            "stream_id": _text(both(streams), [f"cam-{n:02d}" for n in range(len(clocks))]),
            "codec": _text(both(streams) % len(CODECS), CODECS),
        }
    )


def _text(codes: npt.NDArray[Any], names: Sequence[str]) -> pl.Series:
    return pl.Series(names, dtype=pl.Enum(names)).gather(codes.astype(np.uint32))


def _frames(clocks: list[Floats]) -> pl.DataFrame:
    parts = [
        pl.DataFrame(
            {
                "frame": np.arange(1, clock.size + 1, dtype=np.uint64) + 1_000_000 * index,
                "t_demux_ns": clock.astype(np.int64),
                "t_decoded_ns": clock.astype(np.int64),
            }
        ).with_columns(stream_id=pl.lit(f"cam-{index:02d}"), codec=pl.lit(CODECS[index]))
        for index, clock in enumerate(clocks)
    ]
    return pl.concat(parts)


def _stacks(sites: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "stack": np.arange(1, sites + 1, dtype=np.uint32),
            "frames": [
                [
                    {"function": "alloc", "file": "/x/site-packages/cupy/cuda/m.py", "line": 1},
                    {"function": f"stages.site_{n}", "file": "/app/stages.py", "line": 10 * n},
                ]
                for n in range(1, sites + 1)
            ],
        },
        schema_overrides={
            "frames": pl.List(
                pl.Struct({"function": pl.String, "file": pl.String, "line": pl.Int32})
            )
        },
    )

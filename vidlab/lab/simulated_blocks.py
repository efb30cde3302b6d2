"""Which blocks the frames of a simulated pipeline take, when, and when they are given back.

Each frame of a stream takes a block at some sites, and gives it back one to three frame
intervals later. Some sites keep blocks on top: see `Leak`, `Cache` and `Delayed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from .simulated import Stream

Ints = npt.NDArray[np.int64]

#: Between a frame's allocations.
_APART_NS = 50_000


@dataclass(frozen=True)
class Leak:
    """A site of which one block is never freed, once in `every` frames of a stream.

    `stream` None is all streams.
    """

    site: int = 0
    stream: int | None = 0
    every: int = 1_000
    holder: str = "list app.kept"


@dataclass(frozen=True)
class Cache:
    """A site that keeps up to `capacity` blocks until the end, in each stream it is for.

    It is full at the share `full_at` of the run; beyond 1 it is still filling at the end.
    `saturating` has it fill fast and then ever slower, as where keys come at random. When it
    is full, a new block drives the oldest out, once in `churn` frames; 0 is never, as with
    what a warm-up takes.
    """

    site: int = 1
    stream: int | None = 0
    capacity: int = 32
    full_at: float = 0.3
    saturating: bool = False
    churn: int = 50
    holder: str = "cache app.resized"


@dataclass(frozen=True)
class Delayed:
    """A site whose blocks lie in reference cycles: freed once in `every` frames, by the GC."""

    site: int = 2
    stream: int | None = 0
    every: int = 200


Keeper = Leak | Cache | Delayed


@dataclass
class Blocks:
    """Blocks in arrays, by the time at which they were asked for.

    `free_ns` is -1 for those never freed; `kept` is the number of the keeper that took it,
    -1 for none; `frame` counts within the stream.
    """

    stream: Ints
    frame: Ints
    site: Ints
    t_ns: Ints
    free_ns: Ints
    by_gc: npt.NDArray[np.bool_]
    kept: Ints

    @classmethod
    def together(cls, parts: Sequence[Blocks]) -> Blocks:
        """Return the blocks of all streams in the order in which they were asked for."""
        joined = [np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)]
        order = np.argsort(joined[3], kind="stable")
        return cls(*(values[order] for values in joined))


def of_stream(
    stream: Stream,
    begun: Ints,
    sites: int,
    per_frame: int,
    keepers: Sequence[Keeper],
    random: np.random.Generator,
) -> Blocks:
    """Return the blocks that a stream's frames take, `begun` being when each frame began."""
    count, width = len(begun), min(per_frame, sites)
    interval = 1e9 / stream.rate
    frame = np.repeat(np.arange(count), width)
    place = np.tile(np.arange(width), count)
    site = (np.repeat(random.integers(0, sites, count), width) + place) % sites
    t_ns = _moments(begun, frame, place, random)
    free_ns = t_ns + (interval * random.uniform(1, 3, len(t_ns))).astype(np.int64)
    by_gc = np.zeros(len(t_ns), bool)
    kept = np.full(len(t_ns), -1)
    extra: list[tuple[Ints, Ints, Ints, Ints]] = []
    for number, keeper in enumerate(keepers):
        if keeper.stream not in (None, stream.index):
            continue
        if isinstance(keeper, Delayed):
            late = site == keeper.site
            collected = (frame[late] // keeper.every + 1) * keeper.every
            last = begun[-1] + int(4 * interval)  # a collection at the end
            free_ns[late] = np.where(
                collected < count, begun[np.minimum(collected, count - 1)] + 1_000, last
            )
            free_ns[late] = np.maximum(free_ns[late], t_ns[late] + _APART_NS)
            by_gc |= late
            continue
        if isinstance(keeper, Leak):
            # A phase of its own, and never exactly periodic.
            steps = np.arange(0, count, keeper.every) + random.integers(0, keeper.every)
            taken = np.unique(steps + random.integers(-keeper.every // 8, keeper.every // 8 + 1))
            capacity = 0
        else:
            taken, capacity = _filled(keeper, count, random), keeper.capacity
        taken = taken[(taken >= 0) & (taken < count)]
        at = _moments(begun, taken, np.full(len(taken), width + number), random)
        freed = np.full(len(taken), -1)
        if capacity and len(taken) > capacity:
            freed[:-capacity] = at[capacity:] + 5_000
        extra.append((taken, np.full(len(taken), keeper.site), at, freed))
        kept = np.concatenate([kept, np.full(len(taken), number)])
    frame = np.concatenate([frame, *(e[0] for e in extra)])
    by_gc = np.concatenate([by_gc, np.zeros(len(frame) - len(by_gc), bool)])
    return Blocks(
        np.full(len(frame), stream.index),
        frame,
        np.concatenate([site, *(e[1] for e in extra)]),
        np.concatenate([t_ns, *(e[2] for e in extra)]),
        np.concatenate([free_ns, *(e[3] for e in extra)]),
        by_gc,
        kept,
    )


def _moments(begun: Ints, frame: Ints, place: Ints, random: np.random.Generator) -> Ints:
    jitter = random.integers(0, _APART_NS // 2, len(frame))
    moments: Ints = begun[frame] + (place + 1) * _APART_NS + jitter
    return moments


def _filled(cache: Cache, count: int, random: np.random.Generator) -> Ints:
    """In which frames a cache takes a block: while it fills, and as it renews itself."""
    part = np.arange(cache.capacity) / cache.capacity
    if cache.saturating:
        part = np.log1p(-part * cache.capacity / (cache.capacity + 1)) / -np.log(cache.capacity + 1)
    fill = part * cache.full_at * count
    fill += random.uniform(0, 1, cache.capacity) * cache.full_at * count / cache.capacity / 2
    full = int(cache.full_at * count)
    churn = np.arange(full, count, cache.churn) if cache.churn else np.zeros(0, np.int64)
    taken: Ints = np.sort(np.concatenate([fill.astype(np.int64), churn]))
    return taken

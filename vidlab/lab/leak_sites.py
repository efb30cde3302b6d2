"""What allocation sites do in a made-up pipeline: each behaviour as blocks over frames."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Blocks of a site: the frame at which each is taken, at which it is given back (infinite if
#: never), and its size in bytes.
Blocks = tuple[Floats, Floats, Floats]

MIB = 1 << 20
_NEVER = np.inf


def _transient(random: np.random.Generator, n: int) -> Blocks:
    """Buffers of a frame, on some or all frames, for less than a frame to many."""
    taken = _on_some_frames(random, n)
    lives = random.exponential(random.uniform(0.3, 12), taken.size)
    return taken, taken + lives, _sizes(random, taken.size)


def _in_flight(random: np.random.Generator, n: int) -> Blocks:
    """As many buffers as a queue is deep: its depth swings over thousands of frames."""
    taken = _on_some_frames(random, n)
    swing = np.sin(taken / n * random.uniform(3, 40) + random.uniform(0, 7))
    lives: Floats = random.uniform(5, 60) * (1.3 + swing) * random.uniform(0.8, 1.2, taken.size)
    return taken, taken + lives, _sizes(random, taken.size)


def _warm_up(random: np.random.Generator, n: int) -> Blocks:
    """Buffers taken in the beginning, and kept."""
    count = int(random.integers(1, 40))
    taken = np.sort(random.beta(1, 4, count)) * random.uniform(0.001, 0.28) * n
    return taken, np.full(count, _NEVER), _sizes(random, count)


def _lru(random: np.random.Generator, n: int) -> Blocks:
    """A cache of so many entries, full within 30 % of the run, that turns over."""
    capacity = int(random.integers(4, 300))
    full_at = random.uniform(0.02, 0.3) * n
    first = np.sort(random.random(capacity)) * full_at
    misses = random.uniform(0.1, 6) * capacity * random.random()
    later = np.sort(random.uniform(full_at, n, int(misses)))
    taken = np.concatenate([first, later])
    out = np.full(taken.size, _NEVER)
    # Which entry goes: the oldest, or any (entries that are hit stay on).
    if random.random() < 0.5:
        out[: later.size] = later
        return taken, out, _sizes(random, taken.size)
    held = list(range(capacity))
    for number, (moment, place) in enumerate(
        zip(later, random.integers(0, capacity, later.size), strict=True), capacity
    ):
        out[held[place]] = moment
        held[place] = number
    return taken, out, _sizes(random, taken.size)


def _cache_by_bytes(random: np.random.Generator, n: int) -> Blocks:
    """A cache of so many bytes with entries of many sizes: their number wanders."""
    mean = int(random.integers(5, 120))
    full_at = random.uniform(0.02, 0.3) * n
    rate = mean / full_at
    slower = random.uniform(0.05, 1) * rate
    taken = np.concatenate(
        [
            np.sort(random.random(int(rate * full_at)) * full_at),
            np.sort(random.uniform(full_at, n, int(slower * (n - full_at)))),
        ]
    )
    sizes = size(random) * random.lognormal(0, 1, taken.size)
    room = sizes[: int(rate * full_at)].sum()
    ends = np.cumsum(sizes)
    out = np.full(taken.size, _NEVER)
    # The entry i goes when what came after it fills the room.
    gone = np.searchsorted(ends, ends - sizes + room)
    known = gone < taken.size
    out[known] = taken[gone[known]]
    return taken, np.maximum(out, taken), sizes


def _pool(random: np.random.Generator, n: int) -> Blocks:
    """Reference pictures: a group of them is replaced at each key frame."""
    gop, depth = int(random.integers(12, 300)), int(random.integers(1, 9))
    starts = np.repeat(np.arange(0, n, gop, dtype=float), depth)
    taken = starts + np.tile(np.arange(depth, dtype=float), starts.size // depth)
    return taken, taken + gop, _sizes(random, taken.size)


def _grow_only_pool(random: np.random.Generator, n: int) -> Blocks:
    """A pool that takes a buffer whenever more are needed at a time than ever before."""
    load = random.gamma(random.uniform(2, 20), 1.0, n // 5).round()
    high = np.maximum.accumulate(load)
    more = np.diff(high, prepend=0).astype(int)
    taken = np.repeat(np.arange(more.size) * 5.0, more)
    return taken, np.full(taken.size, _NEVER), _sizes(random, taken.size)


def _delayed(random: np.random.Generator, n: int) -> Blocks:
    """Some buffers wait in reference cycles for the next garbage collection."""
    taken = np.sort(random.uniform(0, n, int(random.uniform(0.005, 0.2) * n)))
    mean = random.uniform(0.01, 0.17) * n
    jitter = random.choice([0.02, 0.3])
    collections = np.cumsum(mean * random.uniform(1 - jitter, 1 + jitter, int(3 * n / mean) + 3))
    freed = collections[np.searchsorted(collections, taken)]
    missed = random.random(taken.size) < random.choice([0.0, 0.05])  # an older generation's
    freed = np.where(missed, freed + mean, freed)
    soon = random.random(taken.size) < random.uniform(0, 0.9)
    return taken, np.where(soon, taken + 1, freed), _sizes(random, taken.size)


def leak(random: np.random.Generator, n: int, size: float, count: float) -> Blocks:
    """One buffer in so many frames stays: regularly, with jitter, or at random."""
    every = n / count
    kind = random.integers(3)
    taken: Floats
    if kind == 2:
        taken = np.sort(random.uniform(0, n, round(count)))
    else:
        taken = (np.arange(float(round(count))) + random.random()) * every
        if kind == 1:
            taken = np.clip(taken + random.uniform(-0.5, 0.5, taken.size) * every, 0, n - 1)
    return taken, np.full(taken.size, _NEVER), np.full(taken.size, size)


def filling(random: np.random.Generator, n: int) -> Blocks:
    """A cache of what was met: new keys become rare, but at the end there still are some."""
    keys = int(random.integers(80, 1_500))
    lookups = int(keys * random.uniform(1.0, 2.5))
    weights = np.arange(1, keys + 1) ** -random.choice([0.0, 0.6, 1.0])
    looked_up = random.choice(keys, lookups, p=weights / weights.sum())
    first = np.sort(np.unique(looked_up, return_index=True)[1])
    moments = np.sort(random.uniform(0, n, lookups))
    taken = moments[first]
    return taken, np.full(taken.size, _NEVER), _sizes(random, taken.size)


SITES: dict[str, Callable[[np.random.Generator, int], Blocks]] = {
    "transient": _transient,
    "in flight": _in_flight,
    "warm-up": _warm_up,
    "lru": _lru,
    "cache by bytes": _cache_by_bytes,
    "pool": _pool,
    "grow-only pool": _grow_only_pool,
    "delayed": _delayed,
}

#: How common each is.
SHARES = (0.3, 0.1, 0.12, 0.12, 0.08, 0.08, 0.06, 0.14)

#: What a site does besides leaking; "nothing" is a site that does nothing else.
LEAKY = ("nothing", "transient", "transient", "in flight", "warm-up", "delayed")


def _on_some_frames(random: np.random.Generator, n: int) -> Floats:
    share = random.choice([0.05, 0.2, 0.5, 1.0], p=[0.3, 0.3, 0.25, 0.15])
    some = np.flatnonzero(random.random(n) < share).astype(np.float64)
    return some + random.random()


def size(random: np.random.Generator) -> float:
    return float(random.choice([0.5, 1.0, 1.98, 2.97, 8.0]) * MIB)


def _sizes(random: np.random.Generator, n: int) -> Floats:
    usual = size(random)
    if random.random() < 0.7:
        return np.full(n, usual)
    return usual * np.asarray(random.choice([0.25, 1.0, 1.5, 4.0], n))

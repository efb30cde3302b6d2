"""Which allocation site leaks: a verdict for each site and labels, by frames and not seconds.

What is in use at a site is followed over the frames of its streams, three ways: by blocks
older than 1/50, 3/50 and 1/8 of the run, among which buffers in flight and those that wait for
a garbage collection do not show. The first 30 % of the frames are warm-up. Then a site is

* **leaking** if it climbs by more than chance allows (`growth.chance`, with the false alarms of
  all sites of a run taken together), in at least four of five sections of the time, at a rate
  that does not fall;
* **growing** if it climbs by more than chance allows, and still does at the end, but ever more
  slowly (a cache that fills up), or only lately, or if what survives is held by a cache;
* **not enough data** if it climbs evenly, but by too little to tell it from chance;
* **steady** else.

Where several labels meet the same site, they are also looked at together: what leaks one buffer
in 1,000 frames may be too little to see under each of them. And where the number of blocks stays
alike, their bytes are followed in the same way: an array that is appended to is made anew, ever
larger.

A cache whose content comes at a constant rate to the end can't be told from a leak by its
allocations: what holds it says so, if holders are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ..errors import InputError
from . import growth, sites, tables
from .occupancy import STEPS, Occupancy, occupancy
from .tables import AnyTable

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LEAKING, GROWING, STEADY, UNDECIDED = VERDICTS = (
    "leaking",
    "growing",
    "steady",
    "not enough data",
)

#: The share of the frames in which a pipeline warms up and fills its caches.
WARM_UP = 0.3

#: How probable it may be that any site of a run, wandering like a walk, climbs so far by
#: chance. What a pipeline really does climbs by less: false alarms are rarer.
FALSE_ALARM = 0.03

#: In how many of five sections a leak must climb.
_SECTIONS = growth.SECTIONS - 1

#: Labels of a site that leaks in all of them together need to climb no less surely than this.
_SHARE = 0.3

#: What climbs evenly, and is no more probable by chance than this, may be a leak.
_HINT = 0.1

#: The number of blocks that climbs no less probably than this stays alike.
_ALIKE = 0.05

#: So many blocks older than any that was ever freed are a hint of a leak, too.
_STALE = 4

#: Fewer moves than this can't be told from chance, whatever they are, and fewer frames than
#: this are no run.
_MOVES, MIN_FRAMES = 7, 100

#: How old blocks are that count, as a share of the run, in each of the three views.
_AGES = (0.02, 0.06, 0.125)

#: No more can be left out as warm-up: something must be left.
MAX_WARM_UP = 0.7

_RANK = {LEAKING: 0, GROWING: 1, UNDECIDED: 2, STEADY: 3}


def verdicts(
    allocations: AnyTable,
    frames: AnyTable | None = None,
    stacks: AnyTable | None = None,
    holders: AnyTable | None = None,
    by: str | Sequence[str] = ("stream_id", "codec"),
    *,
    level: str = "pool",
    warm_up: float = WARM_UP,
    confidence: float = 0.95,
) -> pl.DataFrame:
    """Return for each allocation site and labels whether it leaks, and how fast.

    Parameters
    ----------
    allocations : polars.LazyFrame or polars.DataFrame
        The table `allocations`.
    frames : polars.LazyFrame or polars.DataFrame, optional
        The table `frames`, by which frames are counted; without it, those for which
        something was allocated are.
    stacks, holders : polars.LazyFrame or polars.DataFrame, optional
        The tables of these names, for the columns `site` and `holder`, `holder_kind`, `chain`.
    by : str or sequence of str
        The labels by which sites are told apart; may be empty.
    level : str
        Of which level: pool, driver or borrowed.
    warm_up : float
        The share of the frames that is warm-up: what is taken then and kept is no leak.
    confidence : float
        That of the interval from `low` to `high`.

    Returns
    -------
    polars.DataFrame
        `verdict`, the labels, `site` (the innermost function that is not of a package),
        `bytes_per_1000_frames` with `low` and `high` (null without frames), `live_bytes`,
        `live_blocks` as the last frame came, `oldest_frames` and `newest_frames` (how many
        frames ago the first and the last of these were taken), `frames` (of its streams),
        `holder`, `holder_kind`, `chain` and `stack`. Leaking sites come first, by `low`.

    Examples
    --------
    >>> run = vl.datasets.load("leak_queue")
    >>> tables = [run.scan(name) for name in ("allocations", "frames", "stacks", "holders")]
    >>> verdicts(*tables).select("verdict", "codec", "holder_kind").rows()[0]
    ('leaking', 'av1', 'queue')
    """
    labels = tables.names(by)
    if not 0 <= warm_up <= MAX_WARM_UP:
        raise InputError(f"warm_up is a share of the run from 0 to {MAX_WARM_UP}, not {warm_up!r}")
    found = occupancy(allocations, frames, labels, level)
    groups = found.groups.hstack(_judged(found, warm_up, confidence))
    groups = sites.with_sites(groups, stacks)
    groups = sites.with_holders(groups, found.survivors, holders)
    cached = (pl.col("verdict") == LEAKING) & pl.col("holder_kind").eq_missing(pl.lit("cache"))
    verdict = pl.when(cached).then(pl.lit(GROWING)).otherwise("verdict").alias("verdict")
    return (
        groups.with_columns(verdict)
        .with_columns(rank=pl.col("verdict").replace_strict(_RANK, return_dtype=pl.Int8))
        .sort("rank", "low", descending=[False, True], nulls_last=True, maintain_order=True)
        .select(
            "verdict", *labels, "site", "bytes_per_1000_frames", "low", "high", "live_bytes",
            "live_blocks", "oldest_frames", "newest_frames", "frames", "holder", "holder_kind",
            "chain", "stack",
        )
    )  # fmt: skip


@dataclass(frozen=True)
class _View:
    """In-use blocks and bytes of all groups that are of some age, and where warm-up ends."""

    blocks: Floats
    bytes: Floats
    skipped: int
    start: int

    @classmethod
    def of(cls, found: Occupancy, age: float, warm_up: float) -> _View:
        blocks, size = found.series(age)
        # A block shows when it is old enough: so late does the warm-up end.
        return cls(blocks, size, round(age * STEPS), round((warm_up + age) * STEPS))

    def __getitem__(self, rows: Any) -> _View:
        return _View(self.blocks[rows], self.bytes[rows], self.skipped, self.start)

    def summed(self) -> _View:
        """All groups as one."""
        total = (self.blocks.sum(axis=0, keepdims=True), self.bytes.sum(axis=0, keepdims=True))
        return _View(*total, self.skipped, self.start)

    @property
    def in_time(self) -> tuple[Floats, Floats]:
        """Blocks and bytes after the warm-up."""
        return self.blocks[:, self.start :], self.bytes[:, self.start :]


@dataclass(frozen=True)
class _Evidence:
    """What the views say of each group."""

    chance: Floats  # the least, of all views
    view: Ints  # which view that is
    sections: Bools  # in which sections it climbs, in that view
    moves: Ints
    slope: tuple[Floats, Floats, Floats]  # bytes a step, in that view


def _evidence(views: Sequence[_View], confidence: float) -> _Evidence:
    series = [view.in_time for view in views]
    looked_at = [blocks for blocks, _ in series]
    chances = np.array([growth.chance(one) for one in looked_at])
    best = chances.argmin(axis=0)
    rows = np.arange(best.size)
    slopes = np.array([growth.slope(size, confidence) for _, size in series])
    return _Evidence(
        chances[best, rows],
        best,
        np.array([growth.sections(one) for one in looked_at])[best, rows],
        growth.moves(looked_at[0]),
        tuple(slopes[best, :, rows].T),
    )


def _judged(found: Occupancy, warm_up: float, confidence: float) -> pl.DataFrame:
    """Return for each group its verdict and its slope."""
    views = [_View.of(found, age, warm_up) for age in _AGES]
    evidence = _evidence(views, confidence)
    frames = found.groups["frames"].to_numpy()
    testable = int(np.count_nonzero(evidence.moves >= _MOVES))
    limit = FALSE_ALARM / max(1, testable)
    verdict = [
        _verdict(views, evidence, row, limit, warm_up) if frames[row] >= MIN_FRAMES else UNDECIDED
        for row in range(found.groups.height)
    ]
    stale, met = found.stale(warm_up)
    for row in np.flatnonzero((stale >= _STALE) & (met >= _SECTIONS)):
        if verdict[row] == STEADY:
            verdict[row] = UNDECIDED
    _judge_together(found.groups["stack"], views, evidence, verdict, limit, warm_up)
    swelling = _judge_sizes(found, verdict, limit, warm_up, confidence)
    for own, other in zip(evidence.slope, swelling.slope, strict=True):
        own[swelling.rows] = other
    per_1000 = 1000 * STEPS / np.maximum(frames, 1)
    known = pl.Series(frames > 0)
    names = ("bytes_per_1000_frames", "low", "high")
    slopes = {
        name: pl.Series(value * per_1000).set(~known, None)
        for name, value in zip(names, evidence.slope, strict=True)
    }
    return pl.DataFrame({"verdict": pl.Series(verdict, dtype=pl.String), **slopes})


@dataclass(frozen=True)
class _Swelling:
    """The groups that take more and more with no more blocks, and their slopes."""

    rows: list[int]
    slope: tuple[Floats, Floats, Floats]


def _judge_sizes(
    found: Occupancy, verdict: list[str], limit: float, warm_up: float, confidence: float
) -> _Swelling:
    """Find the blocks that are made anew ever larger, as an array that is appended to is."""
    whole = _View.of(found, 0.0, warm_up)
    blocks, size = whole.in_time
    alike = growth.chance(blocks) > _ALIKE
    rows = np.flatnonzero(alike & np.isin(verdict, STEADY) & (growth.moves(size) >= _MOVES))
    # The largest step counts as one, so that none counts for more.
    step = np.abs(np.diff(size[rows], axis=-1)).max(axis=-1, keepdims=True, initial=1.0)
    sizes = _View(whole.bytes[rows] / step, whole.bytes[rows], 0, whole.start)
    evidence = _evidence([sizes], confidence)
    climbing = []
    for row in range(rows.size):
        own = _verdict([sizes], evidence, row, limit, warm_up)
        if own in (LEAKING, GROWING):
            verdict[rows[row]] = own
            climbing.append(row)
    mean, low, high = (values[climbing] for values in evidence.slope)
    return _Swelling([int(row) for row in rows[climbing]], (mean, low, high))


def _verdict(
    views: Sequence[_View], evidence: _Evidence, row: int, limit: float, warm_up: float
) -> str:
    sections = evidence.sections[row]
    enough = np.count_nonzero(sections) >= _SECTIONS
    if evidence.chance[row] > limit:
        scarce = evidence.chance[row] <= _HINT and evidence.moves[row] < 2 * _MOVES
        return UNDECIDED if scarce and enough else STEADY
    number = int(evidence.view[row])
    view = views[number]
    if growth.stopped(view.blocks[row, view.start :]):
        return STEADY
    if not enough or evidence.slope[1][row] <= 0 or _was_there(view.bytes[row], view.start):
        return GROWING
    arrivals, share = _arrivals(view, row, warm_up)
    return GROWING if growth.slows_down(arrivals, share) else LEAKING


def _was_there(series: Floats, start: int) -> bool:
    """Return whether a site had as much as in the end by the end of its warm-up."""
    return bool(series[start // 2 : start].max(initial=-1) >= series[-1])


def _arrivals(view: _View, row: int, warm_up: float) -> tuple[Floats, float]:
    """Return when blocks came that stay, in equal bins, and the share of these that is warm-up."""
    arrivals = np.diff(growth.retained(view.blocks[row, view.skipped :]), prepend=0.0)
    return arrivals, warm_up * STEPS / arrivals.size


def _judge_together(
    stacks: pl.Series,
    views: Sequence[_View],
    evidence: _Evidence,
    verdict: list[str],
    limit: float,
    warm_up: float,
) -> None:
    """Find the sites that leak under several labels, too little to be seen in each."""
    stack = stacks.fill_null(0).to_numpy()
    climbs = evidence.chance <= _SHARE
    undecided = climbs & np.isin(verdict, (STEADY, UNDECIDED))
    for number in np.unique(stack[undecided]):
        rows = np.flatnonzero((stack == number) & np.isin(verdict, (STEADY, UNDECIDED)))
        if rows.size < 2:
            continue
        together = [view[rows].summed() for view in views]
        found = _evidence(together, 0.95)
        if _verdict(together, found, 0, limit, warm_up) == LEAKING:
            for row in rows[climbs[rows]]:
                verdict[row] = LEAKING

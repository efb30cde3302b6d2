"""Pieces of frames' lives, and what each is put down to as more becomes known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .causes import (
    ALLOCATOR,
    ASLEEP,
    ENCODER_LAG,
    GARBAGE_COLLECTION,
    GIL,
    IO,
    QUEUE_WAIT,
    REORDERING,
    RUN_QUEUE,
    UNEXPLAINED,
    WORK,
)
from .intervals import Disjoint, Ints, overlaps, rest

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Told:
    """How a piece's cause is known: which it is, by which table, and whether its place is."""

    cause: str
    exact: bool
    evidence: str


#: A piece of which nothing is known yet.
OPEN = -1

TOLD = (
    Told(GARBAGE_COLLECTION, True, "gc_pauses"),
    Told(ALLOCATOR, True, "allocations"),
    Told(RUN_QUEUE, True, "kernel_offcpu"),
    Told(GIL, True, "wakeups"),
    Told(IO, True, "kernel_offcpu"),
    Told(ASLEEP, True, "kernel_offcpu"),
    Told(WORK, True, "kernel_offcpu"),
    Told(RUN_QUEUE, False, "spans"),
    Told(WORK, False, "spans"),
    Told(ASLEEP, False, "spans"),
    Told(QUEUE_WAIT, True, "spans"),
    Told(REORDERING, True, "spans"),
    Told(ENCODER_LAG, True, "spans"),
    Told(UNEXPLAINED, True, "frames"),
)  # fmt: skip
(BY_GC, BY_ALLOCATOR, BY_RUN_QUEUE, BY_GIL, BY_IO, BY_SLEEP, ON_CPU,
 RUN_QUEUE_OF, WORK_OF, ASLEEP_OF, IN_QUEUE, IN_REORDERING, IN_ENCODER,
 BY_NOTHING) = range(len(TOLD))  # fmt: skip


@dataclass(frozen=True)
class Pieces:
    """Pieces of lives; together all of them, and no two overlap.

    Attributes
    ----------
    life, begin, end, row : ndarray of int64
        Whose life, when, and the row of the span, -1 for none.
    told : ndarray of int8
        An index into `TOLD`, or `OPEN`.
    """

    life: Ints
    begin: Ints
    end: Ints
    row: Ints
    told: npt.NDArray[np.int8]

    @property
    def length(self) -> Ints:
        """How long each is."""
        return self.end - self.begin

    def within(self, which: Flags, keys: Ints, others: Disjoint, told: int,
               budget: Ints | None = None) -> Pieces:  # fmt: skip
        """Return the pieces with the parts of some that lie within other times told.

        Parameters
        ----------
        which : ndarray of bool
            Of which pieces.
        keys : ndarray of int64
            Of each piece: which of the other times are its.
        others : mapping of int to begins and ends
        told : int
        budget : ndarray of int64, optional
            Of each span: no more than so much of it, the later parts of each time first.
        """
        if not others:
            return self
        asked = np.flatnonzero(which)
        rows, begins, ends = overlaps(keys[asked], self.begin[asked], self.end[asked], others)
        if budget is not None and rows.size:
            taken = _allotted(self.row[asked[rows]], ends - begins, budget)
            kept = taken > 0
            rows, begins, ends = rows[kept], (ends - taken)[kept], ends[kept]
        if not rows.size:
            return self
        left, left_begins, left_ends = rest(self.begin[asked], self.end[asked], rows, begins, ends)
        stay = np.ones(len(self.life), bool)
        stay[asked[rows]] = False
        inside, outside = asked[rows], asked[left]
        return Pieces(
            np.concatenate([self.life[stay], self.life[inside], self.life[outside]]),
            np.concatenate([self.begin[stay], begins, left_begins]),
            np.concatenate([self.end[stay], ends, left_ends]),
            np.concatenate([self.row[stay], self.row[inside], self.row[outside]]),
            np.concatenate(
                [self.told[stay], np.full(len(inside), told, np.int8), self.told[outside]]
            ),
        )

    def shared(self, which: Flags, amounts: tuple[tuple[int, Ints], ...], last: int) -> Pieces:
        """Return the pieces with some of each span shared out, in order, among amounts.

        Parameters
        ----------
        which : ndarray of bool
            Which pieces; all of a span.
        amounts : tuple of (told, ndarray of int64)
            What, and how much of each span; what is beyond goes to `last`.
        last : int
        """
        asked = np.flatnonzero(which)
        if not asked.size:
            return self
        row, length = self.row[asked], self.length[asked]
        before = _earlier(row, self.begin[asked], length)
        low = np.zeros(len(asked), np.int64)
        whole = np.iinfo(np.int64).max
        parts = []
        for told, amount in (*amounts, (last, None)):
            high = np.full(len(asked), whole) if amount is None else low + amount[row]
            begin = np.maximum(before, low)
            end = np.minimum(before + length, high)
            kept = end > begin
            at = self.begin[asked] - before
            parts.append((asked[kept], (at + begin)[kept], (at + end)[kept], told))
            low = high
        stay = ~which
        place = np.concatenate([part[0] for part in parts])
        return Pieces(
            np.concatenate([self.life[stay], self.life[place]]),
            np.concatenate([self.begin[stay], *(part[1] for part in parts)]),
            np.concatenate([self.end[stay], *(part[2] for part in parts)]),
            np.concatenate([self.row[stay], self.row[place]]),
            np.concatenate([self.told[stay], *(np.full(len(p[0]), p[3], np.int8) for p in parts)]),
        )

    def renamed(self, which: Flags, told: int) -> Pieces:
        """Return the pieces with some told, whole."""
        names = np.where(which, np.int8(told), self.told)
        return Pieces(self.life, self.begin, self.end, self.row, names)

    def per_span(self, which: Flags, spans: int) -> Ints:
        """Return how much these pieces are of each span."""
        mine = which & (self.row >= 0)
        total = np.bincount(self.row[mine], self.length[mine], spans)
        return np.rint(total).astype(np.int64)


def _allotted(rows: Ints, lengths: Ints, budget: Ints) -> Ints:
    """How much of each length is within the budget of its row, the first ones first."""
    order = np.argsort(rows, kind="stable")
    before = _before(rows[order], lengths[order])
    taken = np.empty_like(lengths)
    taken[order] = np.clip(budget[rows[order]] - before, 0, lengths[order])
    return taken


def _earlier(rows: Ints, begins: Ints, lengths: Ints) -> Ints:
    """The sum of the lengths of each one's row that begin before it."""
    before = np.zeros_like(lengths)
    several = np.flatnonzero(np.bincount(rows)[rows] > 1)  # most rows have but one
    order = several[np.lexsort((begins[several], rows[several]))]
    before[order] = _before(rows[order], lengths[order])
    return before


def _before(rows: Ints, lengths: Ints) -> Ints:
    """The sum of the lengths before each of its row; rows come in order."""
    if not rows.size:
        return lengths
    total = np.cumsum(lengths) - lengths
    first = np.append(True, rows[1:] != rows[:-1])
    return total - total[np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))]

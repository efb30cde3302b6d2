"""Durations with their moments: those of whole frames, or of one stage, in NumPy arrays.

They are kept in the order of the durations. Whatever is chosen of them is then in order as
well, and each percentile of it a look at one place.

The numbers are those of `analysis.latency` and `analysis.quantiles`: nearest-rank, and a row
of a sampled stream counts for all that it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ...analysis import bins

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]
Numbers = npt.NDArray[np.unsignedinteger[Any]]
Scalar = TypeVar("Scalar", bound=np.generic)

# A product such as 0.07 * 100 is a little more than 7: without this its rank would be 8.
_TIE = 1 - 1e-12


@dataclass(frozen=True, eq=False)
class _Whole:
    """All rows that there are, in the order of their durations."""

    t_ns: Ints
    ns: Ints
    group: Numbers
    frame: npt.NDArray[np.int32]

    @cached_property
    def fine(self) -> npt.NDArray[np.int16]:
        exponent = np.log10(np.maximum(self.ns, bins.SHORTEST_NS)) * bins.PER_DECADE
        return np.floor(exponent + 1e-9).astype(np.int16)


class Durations:
    """Rows in the order of their durations, or some of these; a column is taken when asked for."""

    def __init__(self, whole: _Whole, places: Places | None = None) -> None:
        self._whole, self._places = whole, places

    @classmethod
    def ordered(
        cls, t_ns: Ints, ns: Ints, group: Numbers, frame: npt.NDArray[np.int32]
    ) -> Durations:
        """Return these rows in the order of their durations; equally long ones stay as they were.

        Parameters
        ----------
        t_ns, ns : ndarray of int64
            When each began, and how long it took.
        group : ndarray of unsigned int
            Which labels it has: a row of `Groups.table`.
        frame : ndarray of int32
            The row of its frame among the delivered frames of the run; -1 if it is none of them.
        """
        order = ascending(ns)
        whole = _Whole(t_ns.take(order), ns.take(order), group.take(order), frame.take(order))
        return cls(whole)

    def __len__(self) -> int:
        return len(self._whole.ns if self._places is None else self._places)

    @cached_property
    def t_ns(self) -> Ints:
        """When each began."""
        return self._taken(self._whole.t_ns)

    @cached_property
    def ns(self) -> Ints:
        """How long each took; ascending."""
        return self._taken(self._whole.ns)

    @cached_property
    def group(self) -> Numbers:
        """The group of each one's labels."""
        return self._taken(self._whole.group)

    @cached_property
    def frame(self) -> npt.NDArray[np.int32]:
        """The row of each one's frame, or -1."""
        return self._taken(self._whole.frame)

    @cached_property
    def fine(self) -> npt.NDArray[np.int16]:
        """Each one's duration bin, as of `analysis.bins`."""
        return self._taken(self._whole.fine)

    def where(self, chosen: Bools) -> Durations:
        """Return the rows that are chosen."""
        return self.at(np.flatnonzero(chosen))

    def at(self, places: Places) -> Durations:
        """Return the rows at these places, which are ascending."""
        return Durations(self._whole, places if self._places is None else self._places.take(places))

    def between(self, low_ns: int, high_ns: int) -> Durations:
        """Return the rows that took from `low_ns` to `high_ns`, both included."""
        first, last = np.searchsorted(self.ns, [low_ns, high_ns + 1])
        return self.at(np.arange(first, last))

    def last(self, count: int) -> Durations:
        """Return the longest of them, so many at most."""
        return self.at(np.arange(max(len(self) - count, 0), len(self)))

    def _taken(self, column: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        return column if self._places is None else column.take(self._places)


def ascending(values: Ints) -> Places:
    """Return the places of values that are not negative, by value; of equal ones by place.

    Sixteen bits at a time: NumPy sorts these by counting, several times faster than whole
    values.
    """
    if not len(values) or values.min() < 0:
        return np.argsort(values, kind="stable")
    order = np.argsort((values & 0xFFFF).astype(np.uint16), kind="stable")
    for shift in range(16, int(values.max()).bit_length(), 16):
        digits = ((values >> shift) & 0xFFFF).astype(np.uint16)
        order = order.take(np.argsort(digits.take(order), kind="stable"))
    return order


def nearest_rank(count: int, quantile: float) -> int:
    """Return the place of a quantile among so many values in ascending order."""
    return max(int(np.ceil(count * (quantile * _TIE))), 1) - 1


def weighted_rank(weights: Floats, quantile: float) -> int:
    """Return the place of a quantile among values in ascending order that stand for so many."""
    running = np.cumsum(weights)
    wanted = quantile * _TIE * float(weights.sum())
    return min(int(np.searchsorted(running, wanted)), len(running) - 1)


def rank(count: int, weights: Floats | None, quantile: float) -> int:
    """Return the place of a quantile; without weights all values stand for equally many."""
    return nearest_rank(count, quantile) if weights is None else weighted_rank(weights, quantile)


def ranks_of_groups(
    counts: npt.NDArray[np.intp], weights: Floats | None, quantile: float
) -> Places:
    """Return the place of a quantile in each of several groups, one after the other.

    Parameters
    ----------
    counts : ndarray of int
        How many values each group has: one at least. Each group's are in ascending order.
    weights : ndarray of float64, optional
        How many each value stands for.
    """
    first = np.cumsum(counts) - counts
    if weights is None:
        places = np.ceil(counts * (quantile * _TIE)).astype(np.intp)
        return np.asarray(first + np.maximum(places, 1) - 1)
    found = [
        weighted_rank(weights[begin : begin + count], quantile)
        for begin, count in zip(first, counts, strict=True)
    ]
    return np.asarray(first + np.array(found, np.intp))


def time_bin(t_ns: Ints, count: int) -> tuple[int, int]:
    """Return the first of the moments, and how wide bins are: as `analysis.bins.time_bin`."""
    if not len(t_ns):
        return 0, 1
    first = int(t_ns.min())
    return first, -(-(int(t_ns.max()) - first + 1) // count)


def bin_of(t_ns: Ints, start: int, width: int) -> Places:
    """Return in which bin each moment is."""
    return np.asarray((t_ns - start) // width, dtype=np.intp)

"""Durations with their moments: those of whole frames, or of one stage, in NumPy arrays.

They are kept in the order of the durations. Whatever is chosen of them is then in order as
well, and each percentile of it a look at one place. What is told of parts of time is told of
the same rows in the order of time.
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

#: The first moment and the last of a part of time, in nanoseconds, both included.
Times = tuple[int, int]

#: The longest of some rows are sought among so many times as many of all rows at first.
_AMONG = 16


@dataclass(frozen=True, eq=False)
class Moments:
    """Rows in the order of time: a part of time is a slice of each column.

    Attributes
    ----------
    t_ns : ndarray of int64
        When each began; ascending.
    group : ndarray of unsigned int
        The group of its labels.
    fine : ndarray of int16
        Its duration bin, as of `analysis.bins`.
    framed : ndarray of bool
        Whether it is of a delivered frame.
    place : ndarray of int32
        Its place among all rows in the order of their durations.
    """

    t_ns: Ints
    group: Numbers
    fine: npt.NDArray[np.int16]
    framed: Bools
    place: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.t_ns)

    def of_groups(self, groups: Bools) -> Moments:
        """Return the rows of these groups."""
        rows = np.flatnonzero(_is_of(self.group, groups))
        return Moments(*(column.take(rows) for column in self._columns))

    def during(self, times: Times) -> Moments:
        """Return the rows that began then."""
        rows = slice(*np.searchsorted(self.t_ns, [times[0], times[1] + 1]))
        return Moments(*(column[rows] for column in self._columns))

    def bins(self, count: int) -> tuple[int, int, Places]:
        """Return the first of so many bins, how wide they are, and between which rows each is."""
        start, width = time_bin(self.t_ns[[0, -1]] if len(self) else self.t_ns, count)
        return start, width, np.searchsorted(self.t_ns, start + width * np.arange(count + 1))

    def of_frames(self) -> Ints:
        """Return the first moment and the last of what is of a delivered frame, if anything is."""
        if not self.framed.any():
            return self.t_ns[:0]
        return self.t_ns[[self.framed.argmax(), -1 - self.framed[::-1].argmax()]]

    @property
    def _columns(self) -> tuple[npt.NDArray[Any], ...]:
        return self.t_ns, self.group, self.fine, self.framed, self.place


@dataclass(frozen=True, eq=False)
class _Whole:
    """All rows that there are, in the order of their durations."""

    t_ns: Ints
    ns: Ints
    group: Numbers
    frame: npt.NDArray[np.int32]
    moments: Moments


class Durations:
    """Rows in the order of their durations, or some of these; a column is taken when asked for.

    Which of all rows they are is known by their places, or by a flag for each of all: whoever
    needs but one of these does not wait for the other.
    """

    def __init__(
        self, whole: _Whole, places: Places | slice | None = None, flags: Bools | None = None
    ) -> None:
        self._whole = whole
        if places is not None:
            self.places = places
        if flags is not None:
            self.flags = flags
        self._is_flagged = flags is not None
        self.is_all = places is None and flags is None

    @classmethod
    def of(
        cls,
        t_ns: Ints,
        ns: Ints,
        group: Numbers,
        frame: npt.NDArray[np.int32],
        order: Places | None = None,
    ) -> Durations:
        """Return these rows; equally long ones stay as they were.

        Parameters
        ----------
        t_ns, ns : ndarray of int64
            When each began, and how long it took.
        group : ndarray of unsigned int
            Which labels it has: a row of `Groups.table`.
        frame : ndarray of int32
            The row of its frame among the delivered frames of the run; -1 if it is none of them.
        order : ndarray of int, optional
            `ascending` of `ns`, where that is known.
        """
        order = ascending(ns) if order is None else order
        # Rows come by time, or each group's do: what is nearly in order this sorts quickly.
        by_time = np.argsort(t_ns, kind="stable")
        place = np.empty(len(ns), np.int32)
        place[order] = np.arange(len(ns), dtype=np.int32)
        exponent = np.log10(np.maximum(ns, bins.SHORTEST_NS)) * bins.PER_DECADE
        moments = Moments(
            t_ns.take(by_time),
            group.take(by_time),
            np.floor(exponent + 1e-9).astype(np.int16).take(by_time),
            (frame >= 0).take(by_time),
            place.take(by_time),
        )
        columns = t_ns.take(order), ns.take(order), group.take(order), frame.take(order)
        return cls(_Whole(*columns, moments))

    def __len__(self) -> int:
        return len(self.ns) if isinstance(self.places, slice) else len(self.places)

    @cached_property
    def places(self) -> Places | slice:
        """Which of all rows they are; ascending."""
        return slice(0, len(self._whole.ns)) if self.is_all else np.flatnonzero(self.flags)

    @cached_property
    def flags(self) -> Bools:
        """Whether each of all rows is one of them."""
        flags = np.zeros(len(self._whole.ns), bool)
        flags[self.places] = True
        return flags

    @property
    def moments(self) -> Moments:
        """All rows that there are, in the order of time."""
        return self._whole.moments

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

    def of_groups(self, groups: Bools) -> Durations:
        """Return the rows of these groups, of all that there are."""
        return Durations(self._whole, flags=_is_of(self._whole.group, groups))

    def during(self, times: Times) -> Durations:
        """Return the rows that began then."""
        flags = (self._whole.t_ns >= times[0]) & (self._whole.t_ns <= times[1])
        return Durations(self._whole, flags=flags if self.is_all else flags & self.flags)

    def where(self, chosen: Bools) -> Durations:
        """Return the rows that are chosen."""
        return self.at(np.flatnonzero(chosen))

    def at(self, places: Places) -> Durations:
        """Return the rows at these places, which are ascending."""
        own = self.places
        return Durations(
            self._whole, places + own.start if isinstance(own, slice) else own.take(places)
        )

    def between(self, low_ns: int, high_ns: int) -> Durations:
        """Return the rows that took from `low_ns` to `high_ns`, both included."""
        first, last = np.searchsorted(self._whole.ns, [low_ns, high_ns + 1]).tolist()
        own = self.places
        if isinstance(own, slice):
            first, last = max(first, own.start), min(last, own.stop)
            return Durations(self._whole, slice(first, max(first, last)))
        return Durations(self._whole, own[slice(*np.searchsorted(own, [first, last]))])

    def last(self, count: int) -> Durations:
        """Return the longest of them, so many at most."""
        if self._is_flagged:  # to list them all would take longer
            first = max(len(self.flags) - _AMONG * count, 0)
            longest = np.flatnonzero(self.flags[first:]) + first
            if len(longest) >= count:
                return Durations(self._whole, longest[len(longest) - count :])
        own = self.places
        if isinstance(own, slice):
            return Durations(self._whole, slice(max(own.stop - count, own.start), own.stop))
        return Durations(self._whole, own[max(len(own) - count, 0) :])

    def _taken(self, column: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        # `take` gathers twice as fast as an index does.
        own = self.places
        return column[own] if isinstance(own, slice) else column.take(own)


def _is_of(group: Numbers, groups: Bools) -> Bools:
    """Whether each row is of these groups."""
    ends = np.flatnonzero(np.diff(groups, prepend=False, append=False)).tolist()
    if len(ends) != 2:
        return groups.take(group)
    # A codec's groups lie side by side, and a stream is of one, as a rule: no look-up is needed.
    found: Bools = (group >= ends[0]) & (group < ends[1])
    return found


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


def time_bin(t_ns: Ints, count: int) -> tuple[int, int]:
    """Return the first of the moments, and how wide bins are: as `analysis.bins.time_bin`."""
    if not len(t_ns):
        return 0, 1
    first = int(t_ns.min())
    return first, -(-(int(t_ns.max()) - first + 1) // count)


def bin_of(t_ns: Ints, start: int, width: int) -> Places:
    """Return in which bin each moment is."""
    return np.asarray((t_ns - start) // width, dtype=np.intp)

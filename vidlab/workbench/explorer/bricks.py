"""The spans of a run as compact arrays, a brick for each stage.

In a brick the spans of each group of labels lie side by side, and of a group by time: labels
and a part of time are a few slices of it.

Counts are exact, and percentiles are those of `analysis.latency.percentiles`; of a run with
many spans those of `from_cube`, within `histogram.RELATIVE_ERROR`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ... import histogram
from ...histogram import Histogram
from . import durations, ranks
from .counts import Counts
from .durations import Bools, Durations, Ints, Numbers, Places, Times
from .framed import Framed, Part
from .groups import Groups

#: A time of all groups has many slices: short strides leave few rows at their ends.
_STRIDE = 512

#: Slices that are looked up one by one, at most; beyond, every row is looked at.
_SLICES = 2_000


class Brick:
    """The spans of a stage, by group and time.

    Parameters
    ----------
    groups : Groups
    every : Durations
        All frames.
    t_ns, ns : ndarray of int64
        When each began, and how long it took.
    group : ndarray of unsigned int
        Ascending; those of one group are ascending by time.
    frame : ndarray of int32
        The row of its frame among the delivered ones; -1 if it is none of them.
    """

    def __init__(
        self,
        groups: Groups,
        every: Durations,
        t_ns: Ints,
        ns: Ints,
        group: Numbers,
        frame: npt.NDArray[np.int32],
    ) -> None:
        self._groups, self._every = groups, every
        self._t_ns, self._ns, self._group, self._frame = t_ns, ns, group, frame
        self._begins = np.searchsorted(group, np.arange(len(groups) + 1))
        self._used = np.diff(self._begins) > 0

    def __len__(self) -> int:
        return len(self._ns)

    def durations(self) -> Durations:
        """Return them in the order of their durations."""
        return Durations.of(self._t_ns, self._ns, self._group, self._frame)

    def sum_up(self) -> None:
        """Make the histograms now, rather than when they are asked for."""
        self._counts.sum_up()
        self._framed.counts.sum_up()

    def exact(
        self, groups: Bools | None, times: Times | None, frames: Bools | None, quantile: float
    ) -> tuple[int, int, int, float] | None:
        """Return of what is chosen: the count, the median, the quantile, and the sum, in ns.

        Parameters
        ----------
        groups : ndarray of bool, optional
            Which groups count.
        times : (int, int), optional
            When the spans began.
        frames : ndarray of bool, optional
            Of which frames they are, by row.
        quantile : float

        Returns
        -------
        None if nothing is chosen.
        """
        chosen = self._chosen(groups, times, frames)
        ns, group = self._ns.take(chosen), self._group.take(chosen)
        if not len(ns):
            return None
        weights, each = self._groups.weights(group)
        if weights is None:
            ordered = np.sort(ns)
            places = [ranks.nearest_rank(len(ns), q) for q in (0.5, quantile)]
            count, total = len(ns) * each, float(ns.sum()) * each
        else:
            order = durations.ascending(ns)
            ordered, weights = ns[order], weights[order]
            places = [ranks.weighted_rank(weights, q) for q in (0.5, quantile)]
            count, total = float(weights.sum()), float(ordered @ weights)
        median, of_quantile = (int(ordered[place]) for place in places)
        return round(count), median, of_quantile, total

    def histogram(self, parts: Iterable[Part], times: Times | None) -> Histogram:
        """Return the histogram of what is chosen, as by `exact`.

        Parameters
        ----------
        parts : iterable of Part
            Which groups count, and of which frames the spans are.
        times : (int, int), optional
            When the spans began.
        """
        counts = np.zeros(self._counts.buckets)
        for part in parts:
            counts += self._count(part, times) / part.rate
        used = np.flatnonzero(counts)
        return Histogram((used + self._buckets[0]).astype(np.int32), counts[used])

    def _count(self, part: Part, times: Times | None) -> Ints:
        if part.frames is not None and times is None:
            return self._framed.count(part.frames, part.groups)
        groups = part.groups & self._used
        if part.frames is not None or (times is not None and groups.sum() > _SLICES):
            frames = None if part.frames is None else part.frames.flags
            return self._counts.of_rows(self._chosen(groups, times, frames))
        if times is None:  # groups that lie side by side are one slice
            edges = np.diff(groups.astype(np.int8), prepend=0, append=0)
            begins = self._begins[np.flatnonzero(edges == 1)]
            ends = self._begins[np.flatnonzero(edges == -1)]
        else:
            limits, own = [times[0], times[1] + 1], np.flatnonzero(groups)
            firsts, lasts = self._begins[own], self._begins[own + 1]
            slices = [
                self._t_ns[first:last].searchsorted(limits)
                for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
            ]
            begins, ends = firsts + np.array(slices, np.intp).reshape(-1, 2).T
        return self._counts.of_slices(begins, ends)

    @cached_property
    def _buckets(self) -> tuple[int, Counts]:
        """The lowest bucket; and the rows' buckets, of which this is the first."""
        buckets = histogram.bucket_of(self._ns)
        lowest = int(buckets.min(initial=0))
        above = (buckets - lowest).astype(np.uint16)
        return lowest, Counts(above, int(above.max(initial=0)) + 1, _STRIDE)

    @property
    def _counts(self) -> Counts:
        return self._buckets[1]

    @cached_property
    def _framed(self) -> Framed:
        return Framed(self._every, self._frame, self._group, self._counts)

    def _chosen(self, groups: Bools | None, times: Times | None, frames: Bools | None) -> Places:
        """The places of the rows that are chosen, looking at each."""
        # `take` gathers twice as fast as an index does.
        parts = [] if groups is None else [groups.take(self._group)]
        if times is not None:
            parts.append((self._t_ns >= times[0]) & (self._t_ns <= times[1]))
        if frames is not None:
            parts.append(np.append(frames, False).take(self._frame))
        # Taking from places is several times faster than from a mask.
        return np.flatnonzero(np.logical_and.reduce(parts)) if parts else np.arange(len(self))

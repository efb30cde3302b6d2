"""The spans of a run as compact arrays, a brick for each stage.

In a brick the spans of each group of labels lie side by side, and of a group by time: labels
and a part of time are a few slices of it. At every so many rows it holds the histogram of all
rows before, so that the histogram of a slice is the difference of two of these, and of the
few rows at the slice's ends.

Counts are exact, and percentiles are those of `analysis.latency.percentiles`; of a run with
many spans those of `from_cube`, within `histogram.RELATIVE_ERROR`.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from ... import histogram
from ...histogram import Histogram
from . import durations
from .durations import Bools, Durations, Ints, Numbers, Places
from .groups import Groups

#: After so many rows there is a histogram of all before.
_STRIDE = 2_048

#: Slices that are looked up one by one, at most; beyond, every row is looked at.
_SLICES = 2_000

#: The first moment and the last of a part of time, in nanoseconds, both included.
Times = tuple[int, int]


class Brick:
    """The spans of a stage, by group and time.

    Parameters
    ----------
    groups : Groups
    t_ns, ns : ndarray of int64
        When each began, and how long it took.
    group : ndarray of unsigned int
        Ascending; those of one group are ascending by time.
    frame : ndarray of int32
        The row of its frame among the delivered ones; -1 if it is none of them.
    """

    def __init__(
        self, groups: Groups, t_ns: Ints, ns: Ints, group: Numbers, frame: npt.NDArray[np.int32]
    ) -> None:
        self._groups = groups
        self._t_ns, self._ns, self._group, self._frame = t_ns, ns, group, frame
        self._begins = np.searchsorted(group, np.arange(len(groups) + 1))

    def __len__(self) -> int:
        return len(self._ns)

    def durations(self) -> Durations:
        """Return them in the order of their durations."""
        return Durations.ordered(self._t_ns, self._ns, self._group, self._frame)

    def sum_up(self) -> None:
        """Make the histograms now, rather than when they are asked for."""
        assert self._sums.shape[0]

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
        ns, group = self._ns[chosen], self._group[chosen]
        if not len(ns):
            return None
        weights, each = self._groups.weights(group)
        if weights is None:
            ordered = np.sort(ns)
            places = [durations.nearest_rank(len(ns), q) for q in (0.5, quantile)]
            count, total = len(ns) * each, float(ns.sum()) * each
        else:
            order = durations.ascending(ns)
            ordered, weights = ns[order], weights[order]
            places = [durations.weighted_rank(weights, q) for q in (0.5, quantile)]
            count, total = float(weights.sum()), float(ordered @ weights)
        median, of_quantile = (int(ordered[place]) for place in places)
        return round(count), median, of_quantile, total

    def histogram(
        self, groups: Bools | None, times: Times | None, frames: Bools | None
    ) -> Histogram:
        """Return the histogram of what is chosen, as by `exact`."""
        every = np.ones(len(self._groups), bool) if groups is None else groups
        every = every & (np.diff(self._begins) > 0)
        counts = np.zeros(self._sums.shape[1])
        rates = self._groups.rates
        for rate in np.unique(rates[every]):
            counts += self._count(every & (rates == rate), times, frames) / rate
        used = np.flatnonzero(counts)
        return Histogram((used + self._lowest).astype(np.int32), counts[used])

    def _count(self, groups: Bools, times: Times | None, frames: Bools | None) -> Ints:
        if frames is not None or (times is not None and groups.sum() > _SLICES):
            chosen = self._chosen(groups, times, frames)
            return np.bincount(self._bucket[chosen], minlength=self._sums.shape[1])
        if times is None:  # groups that lie side by side are one slice
            edges = np.diff(groups.astype(np.int8), prepend=0, append=0)
            begins = self._begins[np.flatnonzero(edges == 1)]
            ends = self._begins[np.flatnonzero(edges == -1)]
        else:
            limits = [times[0], times[1] + 1]
            slices = [
                first + np.searchsorted(self._t_ns[first : self._begins[group + 1]], limits)
                for group in np.flatnonzero(groups)
                for first in [self._begins[group]]
            ]
            begins, ends = np.array(slices, np.intp).reshape(-1, 2).T
        return self._of_slices(begins, ends)

    def _of_slices(self, begins: Places, ends: Places) -> Ints:
        """How many rows of these slices are in each bucket."""
        low, high = -(-begins // _STRIDE), ends // _STRIDE
        long = high > low
        inner = self._sums[high[long]].sum(0) - self._sums[low[long]].sum(0)
        first = np.concatenate([begins, high[long] * _STRIDE])
        last = np.concatenate([np.where(long, low * _STRIDE, ends), ends[long]])
        lengths = last - first
        rows = np.arange(lengths.sum()) + np.repeat(first - np.cumsum(lengths) + lengths, lengths)
        return np.asarray(inner + np.bincount(self._bucket[rows], minlength=len(inner)))

    @cached_property
    def _buckets(self) -> tuple[int, npt.NDArray[np.uint16]]:
        """The lowest bucket, and how far each row's is above it."""
        buckets = histogram.bucket_of(self._ns)
        lowest = int(buckets.min(initial=0))
        return lowest, (buckets - lowest).astype(np.uint16)

    @property
    def _lowest(self) -> int:
        return self._buckets[0]

    @property
    def _bucket(self) -> npt.NDArray[np.uint16]:
        return self._buckets[1]

    @cached_property
    def _sums(self) -> npt.NDArray[np.int64]:
        """How many rows of each bucket are before row 0, `_STRIDE`, 2 `_STRIDE`, …"""
        buckets = int(self._bucket.max(initial=0)) + 1
        strides = len(self) // _STRIDE
        cells = np.arange(strides * _STRIDE) // _STRIDE * buckets
        counts = np.bincount(cells + self._bucket[: len(cells)], minlength=strides * buckets)
        sums = np.zeros((strides + 1, buckets), np.int64)
        np.cumsum(counts.reshape(strides, buckets), axis=0, out=sums[1:])
        return sums

    def _chosen(
        self, groups: Bools | None, times: Times | None, frames: Bools | None
    ) -> Places | slice:
        """The places of the rows that are chosen, looking at each."""
        # `take` gathers twice as fast as an index does.
        parts = [] if groups is None else [groups.take(self._group)]
        if times is not None:
            parts.append((self._t_ns >= times[0]) & (self._t_ns <= times[1]))
        if frames is not None:
            parts.append(np.append(frames, False).take(self._frame))
        # Taking from places is several times faster than from a mask.
        return np.flatnonzero(np.logical_and.reduce(parts)) if parts else slice(None)

"""How many rows are in each bucket of a histogram: of slices of rows, without looking at each."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from .durations import Ints, Places

Buckets = npt.NDArray[np.uint16]


class Counts:
    """Rows in some order, each in a bucket.

    At every stride it holds the histogram of all rows before, so that the histogram of a slice
    is the difference of two of these, and of the few rows at the slice's ends.

    Parameters
    ----------
    bucket : ndarray of uint16
        Of each row.
    buckets : int
        How many buckets there are.
    stride : int
        After so many rows there is a histogram of all before.
    """

    def __init__(self, bucket: Buckets, buckets: int, stride: int) -> None:
        self.bucket, self.buckets, self._stride = bucket, buckets, stride

    def sum_up(self) -> None:
        """Make the histograms now, rather than when they are asked for."""
        assert self._sums.shape[0]

    def of_rows(self, rows: Places) -> Ints:
        """Return how many of these rows are in each bucket."""
        return np.bincount(self.bucket.take(rows), minlength=self.buckets)

    def of_slices(self, begins: Places, ends: Places) -> Ints:
        """Return how many rows of these slices, taken together, are in each bucket."""
        low, high = -(-begins // self._stride), ends // self._stride
        long = high > low
        inner = self._sums[high[long]].sum(0) - self._sums[low[long]].sum(0)
        first = np.concatenate([begins, high[long] * self._stride])
        last = np.concatenate([np.where(long, low * self._stride, ends), ends[long]])
        lengths = last - first
        rows = np.arange(lengths.sum()) + np.repeat(first - np.cumsum(lengths) + lengths, lengths)
        return np.asarray(inner + self.of_rows(rows))

    @cached_property
    def _sums(self) -> npt.NDArray[np.int32]:
        """How many rows of each bucket are before row 0, `stride`, 2 `stride`, …"""
        strides = len(self.bucket) // self._stride
        cells = np.arange(strides * self._stride) // self._stride * self.buckets
        cells += self.bucket[: len(cells)]
        counts = np.bincount(cells, minlength=strides * self.buckets)
        sums = np.zeros((strides + 1, self.buckets), np.int32)
        np.cumsum(counts.reshape(strides, self.buckets), axis=0, out=sums[1:])
        return sums

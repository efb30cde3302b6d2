"""The log-bucket histogram: counts that merge exactly, quantiles of a known relative error.

A positive value v falls into bucket i = ceil(log(v) / log(gamma)), which covers
the interval (gamma^(i-1), gamma^i]. Its representative 2 gamma^i / (gamma + 1) is
off by at most (gamma - 1) / (gamma + 1) of v at either end of the interval: 1 %
for the gamma = 1.02 used here. Histograms of the same gamma are merged by adding
counts, in any order and with the same result.

The bucket rule is DDSketch's: C. Masson, J. E. Rim, H. K. Lee, "DDSketch: a fast
and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019.
Unlike the sketch, no bucket is ever collapsed: all of int64 needs 2,208 of them, a
stage's durations a few hundred.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

#: The ratio of a bucket's ends. Part of the run format: histograms of another do not merge.
GAMMA = 1.02

#: The greatest relative error of a quantile.
RELATIVE_ERROR = (GAMMA - 1) / (GAMMA + 1)

#: The bucket of values that are not positive (a clock read twice in the same
#: nanosecond); its representative is 0. One nanosecond falls into bucket 0.
ZERO_BUCKET = -1


def bucket_of(values: npt.ArrayLike) -> Ints:
    """Return the bucket of each value.

    Parameters
    ----------
    values : array_like of int or float
        Durations in nanoseconds, any shape.

    Returns
    -------
    ndarray of int32, same shape

    Examples
    --------
    >>> bucket_of([0, 1, 2, 1_000_000]).tolist()
    [-1, 0, 36, 698]
    """
    floats = np.asarray(values, dtype=np.float64)
    buckets = np.ceil(np.log(np.maximum(floats, 1.0)) / math.log(GAMMA)).astype(np.int32)
    return np.where(floats > 0, buckets, np.int32(ZERO_BUCKET))


def value_of(buckets: npt.ArrayLike) -> Floats:
    """Return the value that stands for each bucket, in the unit of what was counted."""
    indices = np.asarray(buckets, dtype=np.float64)
    return np.where(indices > ZERO_BUCKET, 2 * GAMMA**indices / (GAMMA + 1), 0.0)


@dataclass(frozen=True)
class Histogram:
    """Counts by bucket.

    Attributes
    ----------
    buckets : ndarray of int32
        The buckets that are not empty, ascending.
    counts : ndarray of float64
        How much each holds. Not whole numbers where a sampled event stands for several.
    """

    buckets: Ints
    counts: Floats

    @classmethod
    def of(cls, values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Histogram:
        """Return the histogram of these values, each counted once or by its weight."""
        return cls.summed(bucket_of(values), weights)

    @classmethod
    def summed(cls, buckets: npt.ArrayLike, counts: npt.ArrayLike | None = None) -> Histogram:
        """Return the histogram of buckets that may repeat, such as rows of a run's cube."""
        distinct, inverse = np.unique(
            np.asarray(buckets, dtype=np.int32).ravel(), return_inverse=True
        )
        weights = None if counts is None else np.asarray(counts, dtype=np.float64).ravel()
        sums = np.bincount(inverse, weights, minlength=len(distinct)).astype(np.float64)
        return cls(distinct, sums)

    @property
    def total(self) -> float:
        """The sum of all counts."""
        return float(self.counts.sum())

    def __add__(self, other: Histogram) -> Histogram:
        return merged([self, other])

    def quantile(self, share: float) -> float:
        """Return the nearest-rank quantile: the first value at which `share` of all is reached.

        Parameters
        ----------
        share : float
            0.99 for the 99th percentile; from 0, the least value, to 1, the greatest.

        Returns
        -------
        float
            Within `RELATIVE_ERROR` of the exact one; NaN of an empty histogram.

        Examples
        --------
        >>> round(Histogram.of([10, 20, 30, 40]).quantile(0.5))
        20
        """
        if not len(self.buckets):
            return math.nan
        running = np.cumsum(self.counts)
        # Weights are sums of floats: 0.29 * 100 is a little more than 29.
        wanted = share * running[-1] * (1 - 1e-12)
        index = min(int(np.searchsorted(running, wanted)), len(running) - 1)
        return float(value_of(self.buckets[index]))


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """Return the histogram of all that these counted."""
    parts = [Histogram(np.empty(0, np.int32), np.empty(0)), *histograms]
    return Histogram.summed(
        np.concatenate([part.buckets for part in parts]),
        np.concatenate([part.counts for part in parts]),
    )

"""Where quantiles are among values in ascending order.

They are those of `analysis.latency` and `analysis.quantiles`: nearest-rank, and a row of a
sampled stream counts for all that it stands for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .durations import Floats, Places

# A product such as 0.07 * 100 is a little more than 7: without this its rank would be 8.
_TIE = 1 - 1e-12


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

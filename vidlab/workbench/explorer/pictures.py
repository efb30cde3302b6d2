"""What a view draws of durations: cells of a heatmap, steps of a tail, points of the worst."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl

from ...analysis import bins
from . import durations
from .durations import Durations, Floats, Ints, Moments
from .flagged import Flagged

#: What fine bins of durations can be made coarser by.
_COARSER = (1, 2, 3, 4, 6, 8, 12, 24, 48, 480)

#: Steps of a tail, between the rarest of all and all.
_STEPS = 120

#: Of how many of the longest rows the worst of each bin are looked for at first.
_AT_A_TIME = 1 << 13

_CELL = ("t_ns", "t_end_ns", "low_ns", "high_ns", "count")


def heatmap(
    rows: Moments, weights: Floats | None, each: float, time_bins: int, cells: int
) -> pl.DataFrame:
    """Return how many fall into each cell of time and duration: as `analysis.bins.heatmap`.

    Parameters
    ----------
    rows : Moments
    weights, each
        As of `Groups.weights`.
    time_bins, cells : int
        Parts of time, and the most cells in all.

    Returns
    -------
    polars.DataFrame
        `t_ns`, `t_end_ns`, `low_ns`, `high_ns` and `count`, all Int64; no empty cells.
    """
    if not len(rows):
        return pl.DataFrame(schema=dict.fromkeys(_CELL, pl.Int64))
    start, width, ends = rows.bins(time_bins)
    most = cells // time_bins
    low, high = int(rows.fine.min()), int(rows.fine.max())
    factor = next(f for f in _COARSER if high // f - low // f < most)
    # One part of time after the other: what is counted of each stays in the processor's cache.
    fine = [
        np.bincount(rows.fine[a:b], None if weights is None else weights[a:b], high + 1)
        for a, b in pairwise(ends.tolist())
    ]
    first = low // factor
    row_of_fine = np.arange(low, high + 1) // factor - first
    count = int(row_of_fine[-1]) + 1
    begins = np.searchsorted(row_of_fine, np.arange(count))
    counts = np.add.reduceat(np.stack(fine)[:, low:], begins, axis=1).ravel()
    used = np.flatnonzero(counts)
    time, row = used // count, used % count + first
    # int64 ends at 10^18.96.
    high_end = np.minimum((row + 1) * factor / bins.PER_DECADE, 18.9)
    return pl.DataFrame(
        {
            "t_ns": start + time * width,
            "t_end_ns": start + (time + 1) * width,
            "low_ns": np.rint(10.0 ** (row * factor / bins.PER_DECADE)).astype(np.int64),
            "high_ns": np.rint(10.0**high_end).astype(np.int64),
            "count": np.rint(counts[used] * each).astype(np.int64),
        }
    )


def tail(ns: Ints, own: Flagged, weights: Floats | None) -> tuple[Ints, Floats]:
    """Return some of the values, and the share of all that took as long, or longer.

    Parameters
    ----------
    ns : ndarray of int64
        In ascending order.
    own : Flagged
        Which of these are looked at: one at least.
    weights : ndarray of float64, optional
        How many each of them stands for.
    """
    count = len(own)
    ranks = np.unique(np.rint(np.geomspace(1, count, _STEPS)).astype(np.intp))
    values = np.unique(ns.take(own.places(count - ranks)))
    first = own.ranks(np.searchsorted(ns, values))
    if weights is None:
        return values, (count - first) / count
    before = np.concatenate([[0.0], np.cumsum(weights)])
    return values, 1 - before[first] / before[-1]


def worst_of_bins(rows: Durations, ends: Ints, bins: int, each: int) -> Durations:
    """Return the longest `each` rows of every bin of time that are of delivered frames.

    Parameters
    ----------
    rows : Durations
    ends : ndarray of int64
        The first moment of such a row, and the last; empty if there is none.
    bins, each : int
    """
    start, width = durations.time_bin(ends, bins)
    count = _AT_A_TIME
    while True:  # the longest of each bin are, as a rule, among the longest of all
        longest = rows.last(count)
        known = longest.where(longest.frame >= 0)
        # NumPy sorts small numbers by counting.
        back = durations.bin_of(known.t_ns, start, width)[::-1].astype(np.uint16)
        of_bin = np.bincount(back, minlength=bins)
        if len(longest) < count or (of_bin >= each).all():
            order = np.argsort(back, kind="stable")
            begins = np.repeat(np.cumsum(of_bin) - of_bin, of_bin)
            chosen = order[np.arange(len(back)) - begins < each]
            return known.at(np.sort(len(back) - 1 - chosen))
        count *= 4

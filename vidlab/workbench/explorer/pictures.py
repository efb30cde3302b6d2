"""What a view draws of durations: cells of a heatmap, steps of a tail, points of the worst."""

from __future__ import annotations

import numpy as np
import polars as pl

from ...analysis import bins
from . import durations
from .durations import Durations, Floats, Ints, Places

#: What fine bins of durations can be made coarser by.
_COARSER = (1, 2, 3, 4, 6, 8, 12, 24, 48, 480)

#: Steps of a tail, between the rarest of all and all.
_STEPS = 120

#: Of how many of the longest rows the worst of each bin are looked for at first.
_AT_A_TIME = 1 << 15

_CELL = ("t_ns", "t_end_ns", "low_ns", "high_ns", "count")


def heatmap(
    rows: Durations, weights: Floats | None, each: float, time_bins: int, cells: int
) -> pl.DataFrame:
    """Return how many fall into each cell of time and duration: as `analysis.bins.heatmap`.

    Parameters
    ----------
    rows : Durations
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
    start, width = durations.time_bin(rows.t_ns, time_bins)
    most = cells // time_bins
    low, high = int(rows.fine[0]), int(rows.fine[-1])
    factor = next(f for f in _COARSER if high // f - low // f < most)
    first = low // factor
    # A cell of each bin that durations can fall into, for each bin of time.
    row_of_fine = np.arange(low, high + 1) // factor - first
    count = int(row_of_fine[-1]) + 1
    cell = durations.bin_of(rows.t_ns, start, width) * count + row_of_fine.take(rows.fine - low)
    counts = np.bincount(cell, weights, time_bins * count)
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


def tail(ns: Ints, weights: Floats | None) -> tuple[Ints, Floats]:
    """Return some of the values, and the share of all that took as long, or longer.

    Parameters
    ----------
    ns : ndarray of int64
        In ascending order, one at least.
    weights : ndarray of float64, optional
        How many each stands for.
    """
    count = len(ns)
    ranks = np.unique(np.rint(np.geomspace(1, count, _STEPS)).astype(np.intp))
    values = np.unique(ns[count - ranks])
    first = np.searchsorted(ns, values)
    if weights is None:
        return values, (count - first) / count
    before = np.concatenate([[0.0], np.cumsum(weights)])
    return values, 1 - before[first] / before[-1]


def worst_of_bins(bin_: Places, each: int) -> Places:
    """Return the places of the last `each` rows of every bin, ascending.

    Of rows in the order of their duration these are the longest.
    """
    if not len(bin_):
        return np.empty(0, np.intp)
    wanted = np.minimum(np.bincount(bin_), each)
    count = min(_AT_A_TIME, len(bin_))
    while True:  # the longest of each bin are, as a rule, among the longest of all
        first = len(bin_) - count
        back = bin_[: first - 1 if first else None : -1]
        of_bin = np.bincount(back, minlength=len(wanted))
        if count == len(bin_) or (of_bin >= wanted).all():
            order = np.argsort(back, kind="stable")
            begins = np.repeat(np.cumsum(of_bin) - of_bin, of_bin)
            chosen = order[np.arange(count) - begins < each]
            return np.sort(len(bin_) - 1 - chosen)
        count = min(4 * count, len(bin_))

"""Times that do not overlap, under the key 0: what they share, and how long they are."""

from __future__ import annotations

import numpy as np
import polars as pl

from ...analysis.blame.intervals import Disjoint, disjoint, overlaps, rest


def times_of(spans: pl.DataFrame) -> Disjoint:
    """Return the union of the times of `t_ns` and `duration_ns`."""
    begins = spans["t_ns"].to_numpy()
    return disjoint(
        np.zeros(spans.height, np.int64), begins, begins + spans["duration_ns"].to_numpy()
    )


def shared(some: Disjoint, others: Disjoint) -> Disjoint:
    """Return the times that are in both."""
    if 0 not in some or 0 not in others:
        return {}
    begins, ends = some[0]
    _, low, high = overlaps(np.zeros(len(begins), np.int64), begins, ends, others)
    return {0: (low, high)}


def without(some: Disjoint, others: Disjoint) -> Disjoint:
    """Return the times that are in the first alone."""
    if 0 not in some or 0 not in others:
        return some
    begins, ends = some[0]
    rows, low, high = overlaps(np.zeros(len(begins), np.int64), begins, ends, others)
    whole = np.setdiff1d(np.arange(len(begins)), rows)
    _, left, until = rest(begins, ends, rows, low, high)
    begins, ends = np.append(begins[whole], left), np.append(ends[whole], until)
    return disjoint(np.zeros(len(begins), np.int64), begins, ends)


def length(of: Disjoint) -> int:
    """Return how long these times are together, in nanoseconds."""
    return int(sum((ends - begins).sum() for begins, ends in of.values()))

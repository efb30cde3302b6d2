"""The spans of a stage by the frame that they are of: of a stage's brick another order.

Nearly all stages have one span of each frame, at most. So there is one bucket for each frame,
at the frame's row, and a short list of whatever else there is. As frames' rows are in the
order of their latencies, all that took so long are a slice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .counts import Buckets, Counts
from .durations import Bools, Durations, Ints, Numbers, Places
from .groups import Groups

#: There is but one slice to look up.
_STRIDE = 4_096


@dataclass(frozen=True, eq=False)
class Frames:
    """Some of a run's frames.

    Attributes
    ----------
    flags : ndarray of bool
        Whether each of all frames is one of these.
    rows : slice or ndarray of int
        The rows of those that have the chosen labels.
    """

    flags: Bools
    rows: Places | slice


@dataclass(frozen=True, eq=False)
class Part:
    """What is chosen, of one sample rate: spans of these groups; and of frames, if not of all."""

    rate: float
    groups: Bools
    frames: Frames | None


def parts(
    groups: Groups, chosen: Bools | None, frames: Bools | None, every: Durations
) -> list[Part]:
    """Return what is chosen, by sample rate.

    Parameters
    ----------
    groups : Groups
    chosen : ndarray of bool, optional
        Which groups count.
    frames : ndarray of bool, optional
        Of which frames spans count, by row.
    every : Durations
        All frames.
    """
    if chosen is None:
        chosen = np.ones(len(groups), bool)
    rates = np.unique(groups.rates[chosen])
    own = [(rate, chosen & (groups.rates == rate)) for rate in rates.tolist()]
    if frames is None:
        return [Part(*part, None) for part in own]
    rows = np.flatnonzero(frames)
    if chosen.all() and len(own) == 1:
        return [Part(*part, Frames(frames, _as_slice(rows))) for part in own]
    group = every.group.take(rows)
    return [Part(rate, mask, Frames(frames, rows[mask.take(group)])) for rate, mask in own]


def _as_slice(rows: Places) -> Places | slice:
    is_one = len(rows) > 0 and rows[-1] - rows[0] == len(rows) - 1
    return slice(int(rows[0]), int(rows[-1]) + 1) if is_one else rows


class Framed:
    """The spans of a stage by their frame.

    Parameters
    ----------
    every : Durations
        All frames.
    frame : ndarray of int32
        The row of each span's frame; -1 if it is of none of these.
    group : ndarray of unsigned int
        The group of each span's labels.
    counts : Counts
        The spans' buckets.
    """

    def __init__(
        self, every: Durations, frame: npt.NDArray[np.int32], group: Numbers, counts: Counts
    ) -> None:
        bucket, none = counts.bucket, counts.buckets
        # One whose labels are not the frame's is not told by the frame's.
        own = np.flatnonzero(frame >= 0)
        own = own[every.group.take(frame.take(own)) == group.take(own)]
        first = np.full(len(every), -1, np.int32)
        first[frame.take(own[::-1])] = own[::-1]
        of_frame = np.full(len(every), none, np.uint16)
        has_one = np.flatnonzero(first >= 0)
        of_frame[has_one] = bucket.take(first.take(has_one))
        self.counts = Counts(of_frame, none + 1, _STRIDE)
        is_other = frame >= 0
        is_other[first.take(has_one)] = False
        others = np.flatnonzero(is_other)
        self._frame, self._group = frame.take(others), group.take(others)
        self._bucket: Buckets = bucket.take(others)

    def count(self, frames: Frames, groups: Bools) -> Ints:
        """Return how many spans of these frames and groups are in each bucket."""
        rows = frames.rows
        if isinstance(rows, slice):
            counts = self.counts.of_slices(np.array([rows.start]), np.array([rows.stop]))
        else:
            counts = self.counts.of_rows(rows)
        is_chosen = frames.flags.take(self._frame) & groups.take(self._group)
        others = self._bucket[is_chosen]
        return np.asarray(counts + np.bincount(others, minlength=len(counts)))[:-1]

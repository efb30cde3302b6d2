"""The frames that one frame is compared with: those of its stream, under the same labels."""

from __future__ import annotations

from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import polars as pl

from ...analysis import blame, latency
from ...analysis.punctual import ENOUGH
from ...runs.run import Run
from ..slices import Slice
from . import advice

#: What is read of them.
_COLUMNS = ("frame", "stream_id", "codec", "gpu", "t_demux_ns", "t_done_ns", "fate",
            "picture_type", "reordered", "pid", "sample_rate")  # fmt: skip

#: The labels that they share.
LABELS = {"stream_id": pl.String, "codec": pl.String, "gpu": pl.Int16}


class Siblings:
    """Frames of one stream under the same labels.

    Parameters
    ----------
    part : Slice
        Their run, and when frames are late.
    row : dict
        One's columns of the table `frames`.
    """

    def __init__(self, part: Slice, row: dict[str, Any]) -> None:
        run, opened = part.run, row["frame"] >> 32
        self._labels = {name: row[name] for name in LABELS}
        same = [
            pl.col(name).eq_missing(pl.lit(self._labels[name], type))
            for name, type in LABELS.items()
        ]
        rows = run.scan("frames").filter(
            pl.col("frame").is_between(opened << 32, (opened + 1 << 32) - 1)
        )
        self._frames = latency.late(
            rows.select(_COLUMNS), run.scan("streams"), part.deadline
        ).filter(same)
        few = self._frames.filter(~pl.col("late")).height < ENOUGH
        others = Slice(run, deadline_ms=part.deadline).late_frames() if few else self._frames
        self._baseline = blame.typical(run, others)
        self._usual: dict[str | None, pl.DataFrame] = {}

    def deadline_ns(self, frame: int) -> int | None:
        """Return beyond which latency one of them is late; None if unknown, or not delivered."""
        own = self._frames.filter(pl.col("frame") == frame)["deadline_ns"]
        return own.item() if own.len() else None

    def usual(self, picture_type: str | None) -> pl.DataFrame:
        """Return what punctual ones spend, or those of the run if these are too few.

        `stage`, `cause` and `usual_ns`, of one with this type of picture.
        """
        known = self._usual.get(picture_type)
        if known is None:
            found = self._baseline.of({**self._labels, "picture_type": picture_type})
            known = found.select("stage", "cause", usual_ns="typical_ns")
            self._usual[picture_type] = known
        return known

    @cached_property
    def has_b_frames(self) -> bool | None:
        """Whether they are shown in another order than they come; None if not known."""
        return advice.has_b_frames(self._frames.lazy())


# Who looks at one frame of a stream looks at others: of a finished run they are kept.
_KNOWN: WeakKeyDictionary[Run, dict[tuple[object, ...], Siblings]] = WeakKeyDictionary()


def of(part: Slice, row: dict[str, Any]) -> Siblings:
    """Return the siblings of a frame.

    Parameters
    ----------
    part : Slice
        Its run, and when frames are late.
    row : dict
        The frame's columns of the table `frames`.
    """
    if not part.run.compacted:
        return Siblings(part, row)
    known = _KNOWN.setdefault(part.run, {})
    alike = (row["frame"] >> 32, part.deadline, *(row[name] for name in LABELS))
    if alike not in known:
        known[alike] = Siblings(part, row)
    return known[alike]

"""The frames that one frame is compared with: those of its stream, under the same labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import polars as pl

from ..analysis import blame, latency
from ..analysis.punctual import ENOUGH
from ..runs.run import Run
from .slices import Slice

#: What is read of them.
_COLUMNS = ("frame", "stream_id", "codec", "gpu", "t_demux_ns", "t_done_ns", "fate",
            "picture_type", "pid", "sample_rate")  # fmt: skip

#: The labels that they share.
LABELS = {"stream_id": pl.String, "codec": pl.String, "gpu": pl.Int16}


@dataclass(frozen=True)
class Siblings:
    """Frames of one stream under the same labels.

    Attributes
    ----------
    frames : polars.DataFrame
        Those that were delivered, each late or not (`analysis.latency.late`).
    baseline : blame.Baseline
        What punctual ones of them, or if these are too few of the run, usually spend.
    """

    frames: pl.DataFrame
    baseline: blame.Baseline


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
        return _read(part, row)
    known = _KNOWN.setdefault(part.run, {})
    alike = (row["frame"] >> 32, part.deadline, *(row[name] for name in LABELS))
    if alike not in known:
        known[alike] = _read(part, row)
    return known[alike]


def _read(part: Slice, row: dict[str, Any]) -> Siblings:
    run, opened = part.run, row["frame"] >> 32
    table = run.scan("frames")
    columns = [name for name in _COLUMNS if name in table.collect_schema()]
    frames = table.select(columns).filter(
        pl.col("frame").is_between(opened << 32, (opened + 1 << 32) - 1)
    )
    same = [pl.col(name).eq_missing(pl.lit(row[name], type)) for name, type in LABELS.items()]
    found = latency.late(frames, run.scan("streams"), part.deadline).filter(same)
    few = found.filter(~pl.col("late")).height < ENOUGH
    compared = Slice(run, deadline_ms=part.deadline).late_frames() if few else found
    return Siblings(found, blame.typical(run, compared))

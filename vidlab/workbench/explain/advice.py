"""What can be done about a cause."""

from __future__ import annotations

import polars as pl

from ...analysis import blame
from ...analysis.blame import causes
from . import deeds

#: What to do about reordering where there is nothing to reorder.
_NO_B_FRAMES = (
    "the stream has no B-frames: the decoder's threads hold pictures back, each one, until "
    "more packets come; give it fewer"
)

#: What to do about a stage that others wait for, by what it did, or what takes it long; or
#: about a cause. Shorter than `Cause.advice`, which has a line for itself.
_FASTER = "make it cheaper, or run several of it; longer queues do not help"
_DO_OF = {
    deeds.AWAY: "see what its thread does between frames: it leaves what waits",
    deeds.ELSEWHERE: "give these frames a thread of their own",
    causes.WORK: "make it cheaper, or run several of it: see its CPU flame graph",
    causes.ASLEEP: "find what it sleeps for: its stacks show where it is off the CPU",
    causes.IO: "read ahead, or move reading and writing off the frames' way",
    causes.RUN_QUEUE: "more CPUs, or fewer threads: codecs start one a CPU",
    causes.GIL: "give the thread that holds it a process of its own",
    causes.ALLOCATOR: "let the pool keep its memory, and fill it before the first frame",
}


def of_frame(cause: str, b_frames: bool | None) -> str:
    """Return what to do about a cause of one frame's lateness.

    Parameters
    ----------
    cause : str
    b_frames : bool or None
        Whether its stream has pictures to reorder (`has_b_frames`).
    """
    if cause == causes.REORDERING and b_frames is False:
        return _NO_B_FRAMES
    return blame.CAUSES[cause].advice


def in_short(cause: str, b_frames: bool | None) -> str:
    """Return the same of many frames, as briefly as it can be said."""
    return _DO_OF.get(cause) or of_frame(cause, b_frames)


def of_stage(did: deeds.Facts) -> str:
    """Return what to do about a stage that others wait for, by what it did (`Did.facts`)."""
    return _DO_OF.get(did["did"], _DO_OF.get(deeds.most_spent(did), _FASTER))


def has_b_frames(frames: pl.LazyFrame) -> bool | None:
    """Return whether frames are shown in another order than they come; None if not known.

    Parameters
    ----------
    frames : polars.LazyFrame
        `picture_type` and `reordered` of a stream's.
    """
    kind = pl.col("picture_type").cast(pl.String)
    found = frames.select(kind.count(), (kind == "B").sum().alias("b"), pl.col("reordered").sum())
    known, b_frames, reordered = found.collect().row(0)
    return bool(b_frames or reordered) if known else None

"""Why was this frame late, and why were frames late at all?"""

from __future__ import annotations

import argparse
import math
import os

import polars as pl

from ...errors import InputError
from ...runs.run import Run, open_run
from ..slices import Slice
from . import frameids
from .frame import Explanation
from .lateness import LateExplanation

AnyRun = Run | str | os.PathLike[str]


def explain(
    run: AnyRun,
    frame: int | str | None = None,
    *,
    deadline_ms: float | None = None,
    stream_id: str | None = None,
    codec: str | None = None,
    gpu: int | None = None,
) -> Explanation:
    """Return where a frame's time went: stages, waits, and what held it up inside each.

    Parameters
    ----------
    run : Run or path
    frame : int or str, optional
        Its number, or STREAM:SEQ such as "cam-3:117", SEQ being its packet's number in the
        stream. By default the frame that was latest.
    deadline_ms : float, optional
        The latency beyond which a frame is late; by default the run's own deadline, and if it
        has none, three nominal frame intervals of the stream.
    stream_id, codec, gpu
        Among which frames to look; by default all.

    Raises
    ------
    InputError
        If there is no such frame, or the deadline is not positive.
    RunError
        If there is no run at the path, or it cannot be read.

    Examples
    --------
    >>> print(vl.explain(vl.datasets.load("queue_backs_up"), frame="cam-2:34"))
    cam-2:34 (hevc): … ms from the read of its packet to the sink, … ms beyond its deadline …
    """
    part = _slice(run, deadline_ms, stream_id, codec, gpu)
    wanted = _worst(part) if frame is None else frame
    return Explanation(part, frameids.found(part, wanted))


def explain_late(
    run: AnyRun,
    *,
    deadline_ms: float | None = None,
    stream_id: str | None = None,
    codec: str | None = None,
    gpu: int | None = None,
) -> LateExplanation:
    """Return why frames were late: how much of the lateness each cause is to blame for.

    A cause is blamed for what a late frame spent on it beyond what punctual frames of the same
    stream spend. Time is blamed once, whatever went on at the same time.

    Parameters
    ----------
    run : Run or path
    deadline_ms, stream_id, codec, gpu
        As of `explain`.

    Raises
    ------
    InputError
        If the deadline is not positive.
    RunError
        If there is no run at the path, or it cannot be read.

    Examples
    --------
    >>> print(vl.explain_late(vl.datasets.load("queue_backs_up")))
    … of 600 delivered frames were late (beyond 200 ms)
    …
    """
    return LateExplanation(_slice(run, deadline_ms, stream_id, codec, gpu))


def as_asked(run: AnyRun, options: argparse.Namespace) -> Explanation | LateExplanation:
    """Return what the options of `arguments.add_explain` ask for, of a run."""
    slice_of = {
        "deadline_ms": options.deadline_ms,
        "stream_id": options.stream_id,
        "codec": options.codec,
        "gpu": options.gpu,
    }
    if options.frame is None and not options.worst:
        return explain_late(run, **slice_of)
    return explain(run, options.frame, **slice_of)


def _slice(
    run: AnyRun,
    deadline_ms: float | None,
    stream_id: str | None,
    codec: str | None,
    gpu: int | None,
) -> Slice:
    if deadline_ms is not None and not 0 < deadline_ms < math.inf:
        raise InputError(f"the deadline is in milliseconds and above 0, not {deadline_ms:g}")
    opened = run if isinstance(run, Run) else open_run(run)
    part = Slice(opened, stream_id, codec, gpu, deadline_ms)
    for label in ("stream_id", "codec", "gpu"):
        _check(part, label)
    return part


def _check(part: Slice, label: str) -> None:
    """See to it that a label that is asked for occurs: else nobody's frames were late."""
    value = getattr(part, label)
    if value is None:
        return
    known = part.run.scan("frames").select(pl.col(label).cast(pl.String).unique()).collect()
    names = known[label].drop_nulls().sort().to_list()
    if names and str(value) not in names:
        listed = ", ".join(names[: frameids.LISTED])
        more = ", …" if len(names) > frameids.LISTED else ""
        raise InputError(f"{part.run.path} has no frame of {label} {value}: it has {listed}{more}")


def _worst(part: Slice) -> int:
    """The frame that was latest; where no deadline is known, the slowest."""
    frames = part.late_frames()
    if not frames.height:
        raise InputError(
            f"no frame was delivered in {part.run.path}: name one of the others by its number, "
            "or STREAM:SEQ"
        )
    beyond = pl.col("end_to_end_ns") - pl.col("deadline_ns").fill_null(0)
    worst: int = frames.sort(beyond, "frame", descending=[True, False])["frame"][0]
    return worst

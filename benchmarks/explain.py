"""Late frames explained: is the planted cause named first, is its time found, and how fast.

Causes are planted on known frames of a real pipeline, and what `analysis.blame` says of these
frames is compared with what was planted. Beside it is what one sees without such an analysis:
the longest span of the frame, taken for the cause.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

import vidlab as vl
from vidlab.analysis import blame, latency
from vidlab.lab import planted, synthetic
from vidlab.lab.planted_score import score
from vidlab.runs.run import Run, open_run

from .figure import Figure, report

#: Planted frames of each cause, in each of two streams.
EACH = 10

#: What may be missed, and by how much the time may be off, in percent: for most causes, and
#: for estimates and what other programs on the machine add to.
MISSED, OFF = 5.0, 10.0
MISSED_OF = {"gil": 20.0}
OFF_OF = {"gil": 20.0, "run_queue": 20.0}

#: Frames of the run for times, and how many of them are explained one by one.
FRAMES, EXPLAINED = 1_000_000, 20

#: The cause that a span's kind suggests.
_SUGGESTED = {"service": "work", "queue": "queue_wait", "reorder": "reordering"}


def main() -> None:
    go_first()
    with tempfile.TemporaryDirectory() as folder:
        report([*blamed(Path(folder) / "planted"), *times(Path(folder) / "large")])


def go_first() -> None:
    """Have this process, and those that it starts, go before what else runs, where it may.

    Else it is for others on the machine that frames are late, and not for what is planted.
    """
    with contextlib.suppress(OSError):  # the kernel shares out CPUs among sessions: have one
        os.setsid()
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("-20")
    with contextlib.suppress(OSError):  # and where it does not
        os.setpriority(os.PRIO_PROCESS, 0, -20)


def blamed(path: Path, each: int = EACH) -> Iterator[Figure]:
    """Plant causes, and say how many are named and how much of their time is found."""
    recorded = planted.record(path, each=each)
    truth = recorded.truth
    run = open_run(path)
    late = latency.late(run.scan("frames"), deadline_ms=planted.DEADLINE_MS)
    for row in score(blame.per_frame(run, late), truth).iter_rows(named=True):
        cause = row["cause"]
        missed = 100 * (1 - row["first_share"])
        name = f"blame: {cause}: planted frames with another first"
        yield Figure(name, missed, "%", None, MISSED_OF.get(cause, MISSED))
        off = 100 * abs(1 - row["ratio"])
        name = f"blame: {cause}: blamed time, off the planted"
        yield Figure(name, off, "%", None, OFF_OF.get(cause, OFF))
    yield Figure("blame: the same by each frame's longest span", naive(run, truth), "%")
    yield Figure("blame: frames left out: no CPU was free", recorded.disturbed, "frames")


def naive(run: Run, truth: pl.DataFrame) -> float:
    """Return how often, in percent, a frame's longest span does not tell the planted cause."""
    longest = (
        run.scan("spans")
        .filter(pl.col("parent").is_null())
        .join(truth.lazy().select("frame", "cause"), on="frame")
        .group_by("frame", "cause")
        .agg(pl.col("kind").cast(pl.String).max_by("duration_ns"))
        .collect()
    )
    named = longest["kind"].replace_strict(_SUGGESTED, default="other") == longest["cause"]
    return 100 * (1 - named.sum() / truth.height)


def times(path: Path) -> Iterator[Figure]:
    """Say how long one late frame takes, and all of them, in a large run."""
    synthetic.write_run(path, frames=FRAMES, streams=64)
    run = open_run(path)
    late = latency.late(run.scan("frames"), run.scan("streams"))
    chosen = late.filter("late").sample(EXPLAINED, seed=1)["frame"].to_list()

    def all_late() -> None:
        frames = latency.late(run.scan("frames"), run.scan("streams"))
        blame.ranked(blame.per_frame(run, frames))

    parts = [1e3 * seconds(lambda f=frame: vl.explain(run, frame=f)) for frame in chosen]
    yield Figure("explain a frame of 1,000,000", statistics.median(parts), "ms", None, 50)
    # As text it comes with what is usual of its stream, and the evidence.
    first = [1e3 * seconds(lambda f=frame: str(vl.explain(path, frame=f))) for frame in chosen]
    yield Figure("the same as text", statistics.median(first), "ms")
    for frame in chosen:
        str(vl.explain(run, frame=frame))
    told = [1e3 * seconds(lambda f=frame: str(vl.explain(run, frame=f))) for frame in chosen]
    yield Figure("the same where its stream has been looked at", statistics.median(told), "ms")
    yield Figure("all their late frames blamed and ranked", min_of(all_late), "s")
    took = min_of(lambda: str(vl.explain_late(run)))
    yield Figure("explain all late frames of 1,000,000, as text", took, "s", None, 3)


def min_of(run: Callable[[], Any], rounds: int = 3) -> float:
    """The shortest of some rounds: others may have had the CPUs meanwhile."""
    return min(seconds(run) for _ in range(rounds))


def seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()

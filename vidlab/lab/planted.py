"""Frames that are late for known causes: a real pipeline, with ground truth for its analyses.

Real clips are decoded, worked on and encoded, and recorded as any program is. On frames that
are chosen beforehand something is done that makes them late, one frame at a time, and how long
that took is measured beside the recording. `record` returns both; `planted_score` compares what
an analysis says with it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from ..analysis.blame.causes import (
    ALLOCATOR,
    ASLEEP,
    CORRUPT_INPUT,
    GARBAGE_COLLECTION,
    GIL,
    RUN_QUEUE,
    WORK,
)
from ..capture.engine import Engine
from ..capture.frames.engine import Frames
from ..capture.gpu.engine import GpuMemory
from ..capture.runtime.engine import Runtime
from ..errors import InputError
from ..recording import record as record_run
from ..runs.manifest import Manifest
from ..runs.run import open_run
from . import planted_means as means
from .clips import Clip, make_clips
from .packages import cupy_module
from .planted_pipeline import PlantedStream
from .planted_plan import CAUSES, Plant, Walk, frames_needed, plan, rate_of
from .uploads import device

#: A frame is late beyond this. One with B-frames around it takes up to 60 ms by itself.
DEADLINE_MS = 95.0

#: Frames a second of each clip.
RATE = 50

#: The streams, one after the other: a clip each, in which every second frame is a B-frame
#: that no other needs.
STREAMS = {
    "cam-1": Clip(
        "planted-h264",
        "libx264",
        {
            "preset": "veryfast",
            "crf": "24",
            "bf": "1",
            "b-pyramid": "0",
            "g": "50",
            "sc_threshold": "0",
            "x264-params": "b-adapt=0",
        },
        rate=RATE,
    ),
    "cam-2": Clip(
        "planted-hevc",
        "libx265",
        {
            "preset": "ultrafast",
            "crf": "26",
            "x265-params": "bframes=1:b-adapt=0:b-pyramid=0:keyint=50:min-keyint=50:scenecut=0"
            ":log-level=none",
        },
        rate=RATE,
    ),
}

#: The manifest's parameter that holds the ground truth.
PARAMETER = "planted_frames"

#: The columns of the ground truth.
_SCHEMA = {
    "frame": pl.UInt64,
    "seq": pl.UInt32,
    "stream_id": pl.String,
    "cause": pl.String,
    "stage": pl.String,
    "planted_ns": pl.Int64,
}


@dataclass(frozen=True)
class Truth:
    """A recorded run, and what was done to which frame in it.

    Attributes
    ----------
    path : Path
        The run's folder.
    truth : polars.DataFrame
        One row a planted frame: `frame` (UInt64, as in the run), `seq`, `stream_id`, `cause`
        (as in `analysis.blame`), `stage` (or queue) and `planted_ns` (Int64): how long it was
        held up, by a clock of the planter's.
    disturbed : int
        Frames that are not in it, as the machine had no CPU for them while they were held up.
    """

    path: Path
    truth: pl.DataFrame
    disturbed: int = 0


def record(
    path: str | os.PathLike[str],
    *,
    each: int = 10,
    streams: int = len(STREAMS),
    causes: Sequence[str] = CAUSES,
) -> Truth:
    """Record a pipeline in which known frames are late for known causes.

    The engines are `Frames`, `Runtime` and, with `allocator`, `GpuMemory`. The truth is in the
    run's manifest as well (`truth_of`).

    Parameters
    ----------
    path : path
        The run's folder; a run that is there is replaced.
    each : int
        How many frames of each stream every cause strikes; each takes 0.3 s.
    streams : int
        How many of `STREAMS`.
    causes : sequence of str
        Which of `CAUSES`.

    Raises
    ------
    InputError
        If a cause cannot be planted.
    MissingDependencyError
        If PyAV or, for `allocator`, CuPy or a C compiler is not installed.
    """
    if each < 1 or not 1 <= streams <= len(STREAMS):
        raise InputError(
            f"there is one plant of each cause at least, and 1 to {len(STREAMS)} streams: "
            f"not {each} in {streams}"
        )
    cupy = _cupy() if ALLOCATOR in causes else None
    recorded_by: list[Engine] = [Frames(), Runtime("staging")]
    if cupy is not None:
        recorded_by.append(GpuMemory())
    rows, disturbed = [], 0
    with tempfile.TemporaryDirectory(prefix="vidlab-") as folder, ExitStack() as stack:
        shows = [
            _Show(stream_id, clip, causes, each)
            for stream_id, clip in list(STREAMS.items())[:streams]
        ]
        ways = _ways(causes, stack)
        driver = means.SlowDriver(cupy) if cupy is not None else None
        with (
            record_run(
                path,
                engines=recorded_by,
                parameters={"deadline_ms": DEADLINE_MS},
                overwrite=True,
            ) as recording,
            ExitStack() as inside,
        ):
            if driver is not None:
                ways[ALLOCATOR] = inside.enter_context(driver).allocate
            for show in shows:
                shown = show.run(ways, cupy, Path(folder))
                rows += [show.row(plant, shown) for plant in show.plants]
                disturbed += shown.disturbed
    truth = _identified(recording.path, rows)
    manifest = Manifest.read(recording.path)
    replace(manifest, parameters={**manifest.parameters, PARAMETER: truth.to_dicts()}).write(
        recording.path
    )
    return Truth(recording.path, truth, disturbed)


def truth_of(path: str | os.PathLike[str]) -> Truth:
    """Return the ground truth of a run that `record` has made, from its manifest.

    Raises
    ------
    InputError
        If the run has none.
    """
    run = open_run(path)
    rows = run.manifest.parameters.get(PARAMETER)
    if rows is None:
        raise InputError(f"{run.path} has no planted frames: make one with lab.planted.record")
    return Truth(run.path, pl.DataFrame(rows, schema=_SCHEMA))


class _Show:
    """A stream that is to be shown: its clip, and the plan for it."""

    def __init__(self, stream_id: str, clip: Clip, causes: Sequence[str], each: int) -> None:
        self.stream_id = stream_id
        wanted = replace(clip, seconds=frames_needed(causes, each) / clip.rate)
        (whole,) = make_clips([wanted])
        self.plants = plan(Walk.through(whole), causes, each)
        spoilt = tuple(p.packet for p in self.plants if p.cause == CORRUPT_INPUT)
        (self.path,) = make_clips([replace(wanted, corrupt=spoilt)]) if spoilt else (whole,)
        # Before the recording: what is decoded here is not to be in it.
        self.walk, self.rate = Walk.through(self.path), rate_of(self.path)

    def run(self, ways: dict[str, Callable[[], int]], cupy: Any, folder: Path) -> PlantedStream:
        """Show it, and return it with what was done to its frames."""
        stream = PlantedStream(
            self.stream_id, self.path, self.rate, self.walk, self.plants, ways, cupy
        )
        stream.run(folder / f"{self.stream_id}.mp4")
        return stream

    def row(self, plant: Plant, shown: PlantedStream) -> dict[str, Any]:
        """What was done to a frame; without `planted_ns` if nothing was in the end."""
        return {
            "stream_id": self.stream_id,
            "pts": plant.pts,
            "cause": plant.cause,
            "stage": plant.stage,
            "planted_ns": shown.planted_ns.get(plant.pts),
        }


def _ways(causes: Sequence[str], stack: ExitStack) -> dict[str, Callable[[], int]]:
    """For each cause that strikes a working thread, what does so."""
    ways: dict[str, Callable[[], int]] = {ASLEEP: means.sleep, WORK: means.compute}
    if RUN_QUEUE in causes:  # the first: these are processes, and memory is small still
        neighbours = means.Neighbours()
        stack.callback(neighbours.close)
        ways[RUN_QUEUE] = neighbours.contend
    if GARBAGE_COLLECTION in causes:
        garbage = means.Garbage()
        stack.callback(garbage.close)
        ways[GARBAGE_COLLECTION] = garbage.collect
    if GIL in causes:
        hog = means.Hog()
        stack.callback(hog.close)
        ways[GIL] = hog.hold
    return ways


def _cupy() -> Any:
    """CuPy, on host memory where there is no GPU, with its libraries loaded."""
    device()
    cupy = cupy_module()
    cupy.zeros(1)
    cupy.get_default_memory_pool().free_all_blocks()  # what is asked for is not to be at hand
    return cupy


def _identified(path: Path, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """The rows with the numbers that their frames have in the run."""
    schema = {name: kind for name, kind in _SCHEMA.items() if name not in ("frame", "seq")}
    planted = pl.DataFrame(rows, schema={**schema, "pts": pl.Int64})
    frames = (
        open_run(path)
        .scan("frames")
        .select("frame", "seq", pl.col("stream_id").cast(pl.String), "pts")
    )
    return (
        planted.drop_nulls("planted_ns")
        .join(frames.collect(), on=["stream_id", "pts"], how="inner")
        .select(pl.col(name).cast(kind) for name, kind in _SCHEMA.items())
        .sort("frame")
    )

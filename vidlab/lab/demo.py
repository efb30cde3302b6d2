"""`vidlab demo`: record a pipeline of eight streams with planted faults, and find them."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..capture.engine import Engine
from ..capture.frames.engine import Frames
from ..capture.gpu.devices.sampler import GpuSampler
from ..capture.gpu.engine import GpuMemory
from ..capture.profiles.engine import Profiles
from ..capture.runtime.engine import Runtime
from ..errors import VidlabError
from ..progress import progress
from ..recording import record
from ..runs.run import open_run
from ..workbench.report import write_report
from . import faults, uploads
from .clips import CLIPS, Clip, make_clips
from .diagnosis import diagnose, matched
from .faults import Fault, Saboteur
from .pipeline import Source, probe, run_pipeline
from .summary import summary

#: A frame is late beyond this: decoders that reorder, and AV1's, take up to 0.15 s at 25/s.
DEADLINE_MS = 200.0

#: Samples a second. The agent looks at all of the pipeline's 50 threads for each.
SAMPLE_RATE = 20

#: The clip with corrupt packets: H.264's, in its second group of pictures.
CORRUPT = replace(CLIPS[0], name="h264-corrupt", corrupt=(61, 62, 63))

#: Each stream's clip. Two streams a codec, one of them with corrupt packets.
STREAMS: dict[str, Clip] = {
    "cam-1": CLIPS[0],
    "cam-2": CLIPS[1],
    "cam-3": CLIPS[2],
    "cam-4": CLIPS[3],
    "cam-5": CORRUPT,
    "cam-6": CLIPS[1],
    "cam-7": CLIPS[2],
    "cam-8": CLIPS[3],
}


def planted(seconds: float) -> list[Fault]:
    """Return the demo's faults for streams of this length, none at the same time as another
    that strikes all streams."""
    return [
        Fault(faults.SLOW_STAGE, codec="av1", stage="filter"),
        Fault(faults.CORRUPT_PACKETS, stream_id="cam-5"),
        Fault(
            faults.QUEUE_BACKS_UP,
            stream_id="cam-4",
            stage="encode",
            begins_s=0.1 * seconds,
            ends_s=0.45 * seconds,
        ),
        Fault(faults.GC_STALL, begins_s=0.5 * seconds, ends_s=0.5 * seconds + 0.3),
        Fault(faults.GIL_HOG, begins_s=0.7 * seconds, ends_s=0.7 * seconds + 1.0),
    ]


def planted_leaks() -> list[Fault]:
    """Return the demo's leaks of GPU memory: each codec's path has one, with its own holder."""
    return [
        Fault(faults.LEAK, codec=codec, holder=holder)
        for codec, holder in zip(("h264", "hevc", "av1", "vp9"), uploads.MEMORIES, strict=True)
    ]


@dataclass(frozen=True)
class Demo:
    """What a demo has shown; as text, a dozen lines.

    Attributes
    ----------
    run, report : Path
        What it has left behind.
    lines : list of str
        Which streams were late, where their time went, and why, by the analyses.
    planted, found : list of Fault
        The faults that were planted, and those of them that the analyses name.
    """

    run: Path
    report: Path
    lines: list[str]
    planted: list[Fault]
    found: list[Fault]

    def __str__(self) -> str:
        lines = [*self.lines]
        if self.planted:
            lines.append(f"{len(self.found)} of {len(self.planted)} planted faults were found")
            lines += [
                f"  - not found: {fault.kind}" for fault in self.planted if fault not in self.found
            ]
        lines.append(f"run: {self.run}   report: {self.report}")
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        """Return the same for machines, as JSON values."""
        return {
            "run": str(self.run),
            "report": str(self.report),
            "summary": self.lines,
            "planted": [fault.facts() for fault in self.planted],
            "found": [fault.facts() for fault in self.found],
        }


def run_demo(
    output: str | os.PathLike[str] = "runs/demo",
    report: str | os.PathLike[str] = "reports/demo.html",
    inputs: Sequence[str | os.PathLike[str]] | None = None,
    seconds: float | None = None,
) -> Demo:
    """Record the demo pipeline, and return what the analyses find in it.

    Parameters
    ----------
    output : path
        The run's folder; a run that is there is replaced.
    report : path
        The report's file, `.html` or `.pdf`.
    inputs : sequence of path, optional
        Your own clips, a stream each; then no faults are planted. By default eight streams
        of four clips, which are made first.
    seconds : float, optional
        How much of each clip; by default all of it.

    Raises
    ------
    InputError
        If an input has no video that can be decoded.
    RecordingError
        If the run cannot be written.
    """
    sources = _own(inputs, seconds) if inputs else _made(seconds)
    longest = max(float(source.frame_count / source.rate) for source in sources)
    device, why_not = _device()
    engines: list[Engine] = [Frames(), Runtime(), *_profilers()]
    faults_here = [] if inputs else planted(longest)
    if device:
        engines += [GpuMemory(), GpuSampler()]
        faults_here += [] if inputs else planted_leaks()
    parameters: dict[str, Any] = {} if inputs else {"deadline_ms": DEADLINE_MS}
    if device:
        parameters["device"] = device
    parameters["planted"] = [fault.facts() for fault in faults_here]
    frames = sum(source.frame_count for source in sources)
    saboteur = Saboteur(faults_here)
    with (
        tempfile.TemporaryDirectory(prefix="vidlab-") as folder,
        record(output, engines=engines, parameters=parameters, overwrite=True),
        progress("recording", frames, "frame") as advance,
    ):
        streams = run_pipeline(sources, Path(folder), saboteur, advance, on_gpu=bool(device))
    del streams  # until the recording's end they hold what they have not given back
    run = open_run(output)
    causes = diagnose(run)
    lines = summary(run, causes)
    lines.append(f"GPU memory is that of: {device}" if device else why_not)
    return Demo(
        run.path,
        write_report(output, report),
        lines,
        faults_here,
        matched(faults_here, causes, saboteur.t_start_ns),
    )


def _profilers() -> list[Engine]:
    """Return the engine of CPU profiles, if what it needs is installed."""
    if importlib.util.find_spec("pyroscope") is None:
        return []
    return [Profiles(sample_rate=SAMPLE_RATE)]


def _device() -> tuple[str | None, str]:
    """Return the name of the device that CuPy works on, or why it has none."""
    try:
        return uploads.device(), ""
    except VidlabError as error:
        return None, f"GPU memory was left out: {error}"


def _made(seconds: float | None) -> list[Source]:
    paths = make_clips(STREAMS.values())
    return [probe(path, stream_id, seconds) for stream_id, path in zip(STREAMS, paths, strict=True)]


def _own(inputs: Sequence[str | os.PathLike[str]], seconds: float | None) -> list[Source]:
    paths = [Path(path) for path in inputs]
    names = [path.stem for path in paths]
    # A stream's name is its own: clips of the same name get a number.
    return [
        probe(path, f"{path.stem}-{number}" if names.count(path.stem) > 1 else path.stem, seconds)
        for number, path in enumerate(paths, 1)
    ]

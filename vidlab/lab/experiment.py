"""Run a pipeline, record it, plant faults in it, and answer why its frames were late.

The demo is one experiment of many; notebooks and `vidlab experiment` run others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from ..runs.run import Run
from ..workbench.explain.answers import explain_late
from ..workbench.explain.lateness import LateExplanation
from . import backends
from .faults import Fault
from .performing import perform
from .setups import Paths, set_up

#: The columns of `Experiment.faults`.
_FAULTS = {
    "fault": pl.String,
    "strikes": pl.String,
    "stage": pl.String,
    "holder": pl.String,
    "from_s": pl.Float64,
    "to_s": pl.Float64,
    "found": pl.String,
}


@dataclass(frozen=True)
class Experiment:
    """What an experiment has shown; as text, a page.

    Attributes
    ----------
    run : Run
        What was recorded.
    device : str
        The device whose memory was used, or why there was none.
    planted, found : list of Fault
        The faults that were planted, and those of them that the analyses name.
    causes : list of str
        What the analyses found wrong in the run, in a sentence each.
    late : LateExplanation
        What made the late frames late: see `vidlab.explain_late`.
    """

    run: Run
    device: str
    planted: list[Fault]
    found: list[Fault]
    causes: list[str]
    late: LateExplanation

    def __str__(self) -> str:
        lines = [str(self.late)]
        if self.causes:
            lines += ["by the analyses:", *(f"  - {sentence}" for sentence in self.causes)]
        if self.planted:
            lines.append(f"{len(self.found)} of {len(self.planted)} planted faults were found")
            missed = (fault for fault in self.planted if fault not in self.found)
            lines += [f"  - not found: {fault.kind}, of {_struck(fault)}" for fault in missed]
        return "\n".join([*lines, f"GPU memory: {self.device}", f"run: {self.run.path}"])

    def faults(self) -> pl.DataFrame:
        """Return the planted faults, a row each.

        `fault`, `strikes` (a stream, a codec, or all), `stage`, and what is the `holder` of a
        leak; `from_s` and `to_s` after the pipeline's start, null if to its end; `found`, whether
        the analyses name it: yes or no.
        """
        rows = [
            {
                "fault": fault.kind,
                "strikes": _struck(fault),
                "stage": fault.stage,
                "holder": fault.holder,
                "from_s": fault.begins_s,
                "to_s": fault.ends_s,
                "found": "yes" if fault in self.found else "no",
            }
            for fault in self.planted
        ]
        return pl.DataFrame(rows, _FAULTS)

    def facts(self) -> dict[str, Any]:
        """Return the same for machines, as JSON values."""
        return {
            "run": str(self.run.path),
            "device": self.device,
            "experiment": self.run.manifest.parameters["experiment"],
            "planted": [fault.facts() for fault in self.planted],
            "found": [fault.facts() for fault in self.found],
            "diagnosed": self.causes,
            "explained": self.late.facts(),
        }


def _struck(fault: Fault) -> str:
    return fault.stream_id or fault.codec or "all streams"


def run_experiment(
    output: str | os.PathLike[str] = "runs/experiment",
    *,
    input: Paths = "",
    streams: int | None = None,
    codec: str | Sequence[str] = "",
    gpu: int | None = None,
    backend: str = backends.AUTO,
    engines: str | Sequence[str] = "frames,gpu,runtime",
    faults: str | Sequence[str] = "",
    deadline_ms: float | None = None,
    seconds: float | None = None,
) -> Experiment:
    """Run the lab's pipeline as the parameters say, record it, and answer.

    Each stream is demuxed at its nominal rate, decoded, filtered, searched for motion and
    encoded, by a thread a step with bounded queues between, and copied to the GPU if there is
    one. Lists are sequences, or text with commas between: papermill's and a command line's.

    Parameters
    ----------
    output : path
        The run's folder; a run that is there is replaced.
    input : path, or list of paths
        Your own clips. By default clips are made.
    streams : int, optional
        How many streams run at once; by default one of each input, or 4. They take the clips
        in turn.
    codec : list of str
        The codecs of the clips that are made: h264, hevc, av1, vp9; by default all.
    gpu : int, optional
        The index of the device that all streams work on, which is their label `gpu` too. By
        default the first, and no label.
    backend : str
        Whose memory pictures are copied to by CuPy: "cuda", a GPU's; "hostcuda", host memory
        in place of one; "cpu", nobody's; "auto", the first of these that works.
    engines : list of str
        What to record with: frames, gpu, kernel, runtime, profiles; or "all".
    faults : list of str
        What to plant: slow_stage, corrupt_packets, queue_backs_up, gc_stall, gil_hog, leak; or
        "all". By default nothing.
    deadline_ms : float, optional
        A frame is late beyond this; by default beyond 200 ms if clips are made, and beyond
        three frame intervals if they are your own.
    seconds : float, optional
        How much of each clip; by default all of it.

    Raises
    ------
    InputError
        If a parameter makes no sense, by itself or with the others.
    MissingDependencyError
        If a package is missing that is needed for what is asked for.
    RecordingError
        If the run cannot be written, or another recording is running.
    """
    setup = set_up(input, streams, codec, gpu, backend, engines, faults, deadline_ms, seconds)
    performed = perform(setup, output)
    return Experiment(
        performed.run,
        setup.device or setup.why_not,
        setup.faults,
        performed.found,
        [cause.sentence for cause in performed.causes],
        explain_late(performed.run),
    )

"""`vidlab demo`: record a pipeline of eight streams with planted faults, and find them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..workbench.report import write_report
from . import backends, planting
from .faults import LEAK, Fault
from .performing import perform
from .setups import set_up
from .summary import summary

#: Two of each codec, one of them with corrupt packets.
STREAMS = 8


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
    device, _ = backends.ready(backends.AUTO)
    profiles = ["profiles"] if importlib.util.find_spec("pyroscope") is not None else []
    setup = set_up(
        list(inputs or ()),
        streams=None if inputs else STREAMS,
        engines=["frames", "gpu", "runtime", *profiles],
        faults=[] if inputs else [kind for kind in planting.KINDS if device or kind != LEAK],
        seconds=seconds,
    )
    performed = perform(setup, output)
    lines = summary(performed.run, performed.causes)
    lines.append(f"GPU memory is that of: {setup.device}" if setup.device else setup.why_not)
    return Demo(
        performed.run.path,
        write_report(output, report),
        lines,
        setup.faults,
        performed.found,
    )

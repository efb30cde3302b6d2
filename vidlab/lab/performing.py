"""Run a setup's pipeline, record it, and have the analyses look for what was planted."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..labelsets import labels
from ..progress import progress
from ..recording import record
from ..runs.run import Run, open_run
from .diagnosis import Cause, diagnose, matched
from .faults import Fault, Saboteur
from .pipeline import run_pipeline
from .setups import Setup


@dataclass(frozen=True)
class Performed:
    """A setup that was run and recorded, and what the analyses find wrong in it.

    Attributes
    ----------
    run : Run
    causes : list of Cause
        By `diagnosis.diagnose`, which knows nothing of what was planted.
    found : list of Fault
        Those of the planted faults that a cause names.
    """

    run: Run
    causes: list[Cause]
    found: list[Fault]


def perform(setup: Setup, output: str | os.PathLike[str]) -> Performed:
    """Run a setup's pipeline and record it into this folder; a run that is there is replaced.

    RecordingError if the run cannot be written.
    """
    frames = sum(source.frame_count for source in setup.sources)
    saboteur = Saboteur(setup.faults)
    with (
        tempfile.TemporaryDirectory(prefix="vidlab-") as folder,
        record(
            output, engines=setup.engines, parameters=setup.parameters, overwrite=True
        ) as recording,
        progress("recording", frames, "frame") as advance,
        labels(gpu=setup.gpu),
    ):
        streams = run_pipeline(
            setup.sources,
            Path(folder),
            saboteur,
            advance,
            on_gpu=setup.device is not None,
            gpu=setup.gpu or 0,
        )
    del streams  # until the recording's end they hold what they have not given back
    run = open_run(recording.path)
    causes = diagnose(run)
    return Performed(run, causes, matched(setup.faults, causes, saboteur.t_start_ns))

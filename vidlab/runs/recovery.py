"""Recovery: a run whose recording was killed becomes a whole one."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from .compaction import finish
from .manifest import FILE_NAME, RECORDING, RECOVERED, Manifest

#: What a recovered run's manifest says about itself.
NOTE = (
    "the recording was killed and then recovered: spans and frames are whole up to that "
    "moment, other tables may lack their last second"
)


def recover(path: str | os.PathLike[str]) -> Manifest:
    """Finish a run whose recording was killed: compact what it left, state `recovered`.

    A run that ended by itself is compacted if it is not yet, and keeps its state.

    Returns
    -------
    Manifest
        The run's new manifest.

    Raises
    ------
    RunError
        If the run is still being recorded or compacted, or the files cannot be
        written; it is then as it was.
    """
    run = Path(path)
    manifest = Manifest.read(run)
    if manifest.state == RECORDING:
        manifest = dataclasses.replace(manifest, state=RECOVERED, notes=(*manifest.notes, NOTE))
    manifest = finish(run, manifest)
    for left_over in run.glob(f".{FILE_NAME}.*"):  # the kill came while one was written
        left_over.unlink(missing_ok=True)
    return manifest

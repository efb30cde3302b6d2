"""Record an unmodified program: `vidlab record SCRIPT`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import labelsets
from ..capture import propagation
from ..capture.gpu import hostcuda as host_memory
from ..errors import InputError, RunError
from ..recording import record_children
from ..runs.manifest import Manifest
from . import child
from .recorded import engine_lines
from .recording_options import RecordingOptions

#: The folder whose `sitecustomize` lets a Python process join the run as it starts.
BOOTSTRAP = Path(__file__).parents[1] / "capture" / "bootstrap"


@dataclass(frozen=True)
class Recorded:
    """How a recorded program ended, and what is in its run.

    Attributes
    ----------
    exit_code : int
        The program's exit code, or minus the signal that killed it.
    path : Path
        The run's folder.
    manifest : Manifest or None
        The run's; None if the program has deleted or damaged it.
    """

    exit_code: int
    path: Path
    manifest: Manifest | None

    @property
    def took_part(self) -> bool:
        """Whether any process of the program was recorded: one of the run's is vidlab's own."""
        return self.manifest is not None and len(self.manifest.processes) > 1

    def __str__(self) -> str:
        if self.manifest is None or not self.took_part:
            return (
                f"nothing was recorded into {self.path}: no process of the program took part. "
                "Is it a Python program, of a Python that has numpy and pyarrow?"
            )
        if not self.manifest.tables:
            return f"recorded {self.path}, not yet finished: vidlab compact {self.path}"
        frames = self.manifest.tables["frames"].rows
        told = f"recorded {self.path}, {frames:,} frames: vidlab report {self.path}"
        return "\n".join([told, *engine_lines(self.path, self.manifest)])


def record_script(command: Sequence[str], options: RecordingOptions | None = None) -> Recorded:
    """Run a program as it would run without vidlab, and record it.

    The program gets this process's standard streams and signals. It and its own Python
    children join the run as they start, before any of their own code. To be called in the
    main thread.

    Parameters
    ----------
    command : sequence of str
        A Python script and its arguments; "-m", a module and its arguments; or any
        program and its arguments, of whose Python processes the run then is.
    options : RecordingOptions, optional
        Where the run goes, and what is recorded.

    Raises
    ------
    InputError
        If there is no such program, or no such probe set.
    RecordingError
        If the run cannot be written.
    """
    resolved = _resolved(command)
    asked = options or RecordingOptions()
    arguments = asked.of_recording(command)
    name = command[1] if command[0] == "-m" else command[0]
    run = Path(asked.output) if asked.output is not None else new_run(Path(name).stem)
    environment = {"PYTHONPATH": _python_path()}
    if asked.hostcuda:
        environment |= host_memory.for_children()
    # Until the program has ended, signals are its own; then they are ours, before the
    # recording is finished.
    with contextlib.ExitStack() as recording, child.signals_held_back() as mask:
        recording.enter_context(record_children(run, **arguments))
        if asked.labels:  # by the rules of the recording
            with labelsets.labels(**asked.labels):
                environment[propagation.LABELS_VARIABLE] = propagation.labels_as_text()
        exit_code = child.run_child(resolved, {**os.environ, **environment}, mask)
    manifest = None
    with contextlib.suppress(RunError, OSError):
        manifest = Manifest.read(run)
        if exit_code < 0:
            note = f"the program was ended by {signal.Signals(-exit_code).name}"
            manifest = replace(manifest, notes=(*manifest.notes, note))
            manifest.write(run)
    return Recorded(exit_code, run, manifest)


def _python_path() -> str:
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(BOOTSTRAP), *([before] if before else [])])


def _resolved(command: Sequence[str]) -> list[str]:
    """Return the command with the program, or Python before a script, in front."""
    first, *arguments = command
    if first == "-m":
        if not arguments:
            raise InputError("-m needs a module, as of python -m: vidlab record -m MODULE …")
        return [sys.executable, *command]
    path = Path(first)
    if path.is_file() and (path.suffix in (".py", ".pyz") or not os.access(path, os.X_OK)):
        return [sys.executable, *command]
    if path.is_dir() and (path / "__main__.py").is_file():
        return [sys.executable, *command]
    if shutil.which(first) is None:
        raise InputError(
            f"there is no script and no program {first!r}: vidlab record SCRIPT …, or -m MODULE …"
        )
    return list(command)


def new_run(name: str) -> Path:
    """Return the path of a run that is not there yet, of this name and time."""
    base = Path("runs", f"{name or 'run'}-{time.strftime('%Y%m%d-%H%M%S')}")
    number, path = 1, base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path

"""Record an unmodified program: `vidlab record SCRIPT`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import labelsets
from ..capture import propagation
from ..capture.ebpf.engine import KernelEvents
from ..capture.engine import Engine
from ..capture.frames.adaptive import Adaptive
from ..capture.frames.engine import Frames
from ..capture.gpu import hostcuda as host_memory
from ..capture.gpu.devices.sampler import GpuSampler
from ..capture.gpu.engine import GpuMemory
from ..capture.profiles.engine import Profiles
from ..capture.runtime.engine import Runtime
from ..errors import InputError, RunError
from ..labelrules import LabelRules
from ..recording import record_children
from ..runs.manifest import Manifest
from . import child
from .probes import named

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
        engines = {engine.name for engine in self.manifest.engines}
        if KernelEvents.name in engines:
            told += self._kernel_events()
        if Profiles.name in engines:
            told += self._profiles()
        return told

    def _kernel_events(self) -> str:
        """Return how many kernel events there are, or why none, in a line of its own."""
        from ..runs.run import open_run  # it is compacted, so that polars is here
        from .kernel_summary import events, refusal

        run = open_run(self.path)
        return (
            f"\n{refusal(run) or f'{events(run):,} kernel events: the notebook 04_kernel_events'}"
        )

    def _profiles(self) -> str:
        """Return how often the profiler looked, or why it did not, in lines of their own."""
        import polars as pl

        from ..runs.run import open_run

        run = open_run(self.path)
        samples = run.scan("profile_samples").filter(pl.col("type").cast(pl.String) == "cpu")
        count = samples.select(pl.col("samples").sum()).collect().item()
        if count:
            return f"\n{count:,} samples of the CPU: the notebook 05_profiles"
        of_ours = (
            pl.col("evidence").cast(pl.String).str.json_path_match("$.engine") == Profiles.name
        )
        failed = run.scan("findings").filter(of_ours).select(pl.col("message").cast(pl.String))
        why = failed.unique(maintain_order=True).collect()["message"].to_list()
        told = "; ".join(why) or "the program was not on a CPU for long enough"
        return f"\nno profiles were recorded: {told}"


def record_script(
    command: Sequence[str],
    output: str | os.PathLike[str] | None = None,
    *,
    sampling: Mapping[str, float] | Adaptive | None = None,
    labels: Mapping[str, str] | None = None,
    deadline_ms: float | None = None,
    max_bytes: int | None = None,
    keep_seconds: float | None = None,
    overwrite: bool = False,
    hostcuda: bool = False,
    probes: Sequence[str] = (),
    profiles: bool = False,
    runtime: str = "production",
    label_rules: LabelRules | None = None,
) -> Recorded:
    """Run a program as it would run without vidlab, and record it.

    The program gets this process's standard streams and signals. It and its own Python
    children join the run as they start, before any of their own code. To be called in the
    main thread.

    Parameters
    ----------
    command : sequence of str
        A Python script and its arguments; "-m", a module and its arguments; or any
        program and its arguments, of whose Python processes the run then is.
    output : path, optional
        The run's folder; by default a new one in `runs`.
    sampling : mapping of str to float, or Adaptive, optional
        The share of the frames that is recorded: of each operation, or as things go.
    labels : mapping of str to str, optional
        Labels on all that is recorded.
    deadline_ms : float, optional
        The latency beyond which a frame is late.
    max_bytes, keep_seconds, overwrite
        As of `vidlab.record`.
    hostcuda : bool
        Run the program's CuPy on host memory, where there is no GPU.
    probes : sequence of str
        Probe sets of kernel events, such as "cuda" and "sched", or "module:attribute", of
        each process that takes part; see `KernelEvents`.
    profiles : bool
        Whether to record CPU profiles too; see `Profiles`.
    runtime : str
        The profile of the engine `Runtime`: production, staging or debug.
    label_rules : LabelRules, optional
        What becomes of label values before they are written.

    Raises
    ------
    InputError
        If there is no such program, or no such probe set.
    RecordingError
        If the run cannot be written.
    """
    resolved = _resolved(command)
    hidden = {*label_rules.redact, *label_rules.drop} if label_rules else set()
    if hidden & {*(labels or {})}:
        raise InputError(
            f"the label {min(hidden & {*(labels or {})})} is to be kept out of the run: "
            "do not give it with --label either, since the command line is in the run"
        )
    engines: list[Engine] = [Frames(sampling=sampling), GpuMemory(), GpuSampler(), Runtime(runtime)]
    if probes:
        engines.append(KernelEvents(named(probes)))
    if profiles:
        engines.append(Profiles())
    name = command[1] if command[0] == "-m" else command[0]
    run = Path(output) if output is not None else new_run(Path(name).stem)
    environment = {"PYTHONPATH": _python_path()}
    if hostcuda:
        environment |= host_memory.for_children()
    parameters: dict[str, object] = {"command": list(command)}
    if deadline_ms is not None:
        parameters["deadline_ms"] = deadline_ms
    if hostcuda:
        parameters["device"] = host_memory.DEVICE_NAME
    # Until the program has ended, signals are its own; then they are ours, before the
    # recording is finished.
    with contextlib.ExitStack() as recording, child.signals_held_back() as mask:
        recording.enter_context(
            record_children(
                run,
                engines=engines,
                max_bytes=max_bytes,
                keep_seconds=keep_seconds,
                parameters=parameters,
                overwrite=overwrite,
                label_rules=label_rules,
            )
        )
        if labels:  # by the rules of the recording
            with labelsets.labels(**labels):
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

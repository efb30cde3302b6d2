"""How something is to be recorded, as a person has said it: for scripts and for cells alike."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..capture.ebpf.engine import KernelEvents
from ..capture.engine import Engine
from ..capture.frames.adaptive import Adaptive
from ..capture.frames.engine import Frames
from ..capture.gpu import hostcuda as host_memory
from ..capture.gpu.devices.sampler import GpuSampler
from ..capture.gpu.engine import GpuMemory
from ..capture.profiles.engine import Profiles
from ..capture.runtime.engine import Runtime
from ..errors import InputError
from ..labelrules import LabelRules
from .probes import named


@dataclass(frozen=True)
class RecordingOptions:
    """The options of `vidlab record` and of `%%record`.

    Attributes
    ----------
    output : path, optional
        The run's folder; by default a new one in `runs`.
    overwrite : bool
        Replace the run that is there.
    labels : mapping of str to str
        Labels on all that is recorded.
    sampling : mapping of str to float, or Adaptive, optional
        The share of the frames that is recorded: of each operation, or as things go.
    deadline_ms : float, optional
        The latency beyond which a frame is late.
    hostcuda : bool
        Run CuPy on host memory, where there is no GPU.
    probes : sequence of str
        Probe sets of kernel events, such as "cuda" and "sched", or "module:attribute", of
        each process that takes part; see `KernelEvents`.
    profiles : bool
        Whether to record CPU profiles too; see `Profiles`.
    runtime : str
        The profile of the engine `Runtime`: production, staging or debug.
    label_rules : LabelRules, optional
        What becomes of label values before they are written.
    max_bytes, keep_seconds
        As of `vidlab.record`.
    """

    output: str | os.PathLike[str] | None = None
    overwrite: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    sampling: Mapping[str, float] | Adaptive | None = None
    deadline_ms: float | None = None
    hostcuda: bool = False
    probes: Sequence[str] = ()
    profiles: bool = False
    runtime: str = "production"
    label_rules: LabelRules | None = None
    max_bytes: int | None = None
    keep_seconds: float | None = None

    def of_recording(self, command: Sequence[str]) -> dict[str, Any]:
        """Return the arguments of `vidlab.record`, but for the path.

        Parameters
        ----------
        command : sequence of str
            What is recorded and how it was called, for the manifest.

        Raises
        ------
        InputError
            If a label is to be kept out of the run and is given too; or if there is no such
            probe set.
        """
        hidden = {*self.label_rules.redact, *self.label_rules.drop} if self.label_rules else set()
        if hidden & {*self.labels}:
            raise InputError(
                f"the label {min(hidden & {*self.labels})} is to be kept out of the run: "
                "do not give it with --label either, since the command line is in the run"
            )
        parameters: dict[str, Any] = {"command": list(command)}
        if self.deadline_ms is not None:
            parameters["deadline_ms"] = self.deadline_ms
        if self.hostcuda:
            parameters["device"] = host_memory.DEVICE_NAME
        return {
            "engines": self._engines(),
            "parameters": parameters,
            "max_bytes": self.max_bytes,
            "keep_seconds": self.keep_seconds,
            "overwrite": self.overwrite,
            "label_rules": self.label_rules,
        }

    def _engines(self) -> list[Engine]:
        engines: list[Engine] = [
            Frames(sampling=self.sampling),
            GpuMemory(),
            GpuSampler(),
            Runtime(self.runtime),
        ]
        if self.probes:
            engines.append(KernelEvents(named(self.probes)))
        if self.profiles:
            engines.append(Profiles())
        return engines

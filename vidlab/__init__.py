"""Record a video pipeline, then see why a frame was late and what holds the GPU memory.

    import vidlab as vl

    with vl.record("runs/first"):
        with vl.open_video("clip.mp4") as video:
            for frame in video.frames():
                with vl.stage("filter", frame):
                    ...

    run = vl.open_run("runs/first")
    vl.analysis.latency.percentiles(run.scan("spans"), by=["stage", "codec"])

Names are imported when they are first used: a program that is recorded never
loads what only an analysis needs.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import analysis, charts, datasets, lab
    from .capture.ebpf.engine import KernelEvents
    from .capture.frames.adaptive import Adaptive
    from .capture.frames.engine import Frames
    from .capture.frames.ffmpeg import run_ffmpeg
    from .capture.frames.refs import Traced
    from .capture.frames.sinks import deliver
    from .capture.frames.stages import stage
    from .capture.frames.traced_queue import TracedAsyncQueue, TracedProcessQueue, TracedQueue
    from .capture.frames.video import open_output, open_video
    from .capture.gpu import hostcuda
    from .capture.gpu.devices.sampler import GpuSampler
    from .capture.gpu.engine import GpuMemory
    from .capture.gpu.holding.holders import holders
    from .capture.gpu.scope import gpu_scope
    from .capture.profiles.engine import Profiles
    from .capture.runtime.engine import Runtime
    from .errors import VidlabError
    from .labelrules import LabelRules
    from .labelsets import labels
    from .recording import record
    from .runs.compaction import compact
    from .runs.recovery import recover
    from .runs.run import Run, open_run
    from .runs.verification import verify
    from .workbench.attaching import attach
    from .workbench.explain.answers import explain, explain_late
    from .workbench.explorer.opening import explore
    from .workbench.importing import import_pprof
    from .workbench.report import write_report

#: Where each name comes from: "module:attribute", or a whole "module".
_SOURCES = {
    "Adaptive": "capture.frames.adaptive:Adaptive",
    "Frames": "capture.frames.engine:Frames",
    "GpuMemory": "capture.gpu.engine:GpuMemory",
    "GpuSampler": "capture.gpu.devices.sampler:GpuSampler",
    "KernelEvents": "capture.ebpf.engine:KernelEvents",
    "LabelRules": "labelrules:LabelRules",
    "Profiles": "capture.profiles.engine:Profiles",
    "Run": "runs.run:Run",
    "Runtime": "capture.runtime.engine:Runtime",
    "Traced": "capture.frames.refs:Traced",
    "TracedAsyncQueue": "capture.frames.traced_queue:TracedAsyncQueue",
    "TracedProcessQueue": "capture.frames.traced_queue:TracedProcessQueue",
    "TracedQueue": "capture.frames.traced_queue:TracedQueue",
    "VidlabError": "errors:VidlabError",
    "analysis": "analysis",
    "attach": "workbench.attaching:attach",
    "charts": "charts",
    "compact": "runs.compaction:compact",
    "datasets": "datasets",
    "deliver": "capture.frames.sinks:deliver",
    "explain": "workbench.explain.answers:explain",
    "explain_late": "workbench.explain.answers:explain_late",
    "explore": "workbench.explorer.opening:explore",
    "gpu_scope": "capture.gpu.scope:gpu_scope",
    "holders": "capture.gpu.holding.holders:holders",
    "hostcuda": "capture.gpu.hostcuda",
    "import_pprof": "workbench.importing:import_pprof",
    "lab": "lab",
    "labels": "labelsets:labels",
    "open_output": "capture.frames.video:open_output",
    "open_run": "runs.run:open_run",
    "open_video": "capture.frames.video:open_video",
    "record": "recording:record",
    "recover": "runs.recovery:recover",
    "run_ffmpeg": "capture.frames.ffmpeg:run_ffmpeg",
    "stage": "capture.frames.stages:stage",
    "verify": "runs.verification:verify",
    "write_report": "workbench.report:write_report",
}

__all__ = [  # noqa: RUF022  # in the order in which a reader meets them
    "record",
    "labels",
    "stage",
    "open_video",
    "open_output",
    "deliver",
    "Traced",
    "TracedQueue",
    "TracedAsyncQueue",
    "TracedProcessQueue",
    "run_ffmpeg",
    "gpu_scope",
    "holders",
    "hostcuda",
    "Frames",
    "GpuMemory",
    "GpuSampler",
    "KernelEvents",
    "Runtime",
    "Profiles",
    "Adaptive",
    "LabelRules",
    "open_run",
    "Run",
    "datasets",
    "explain",
    "explain_late",
    "analysis",
    "charts",
    "lab",
    "explore",
    "attach",
    "import_pprof",
    "write_report",
    "compact",
    "recover",
    "verify",
    "VidlabError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    source = _SOURCES.get(name)
    if source is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module_name, _, attribute = source.partition(":")
    module = importlib.import_module(f"{__name__}.{module_name}")
    value = getattr(module, attribute) if attribute else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext vidlab` calls: `%%record` and `%explain` are there from now on."""
    importlib.import_module(f"{__name__}.workbench.magics").load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """What `%unload_ext vidlab` calls."""
    importlib.import_module(f"{__name__}.workbench.magics").unload(shell)


# A process that a recording one has started takes part in its run, and has its CuPy on host
# memory if that one has.
if os.environ.get("VIDLAB_RUN") or os.environ.get("VIDLAB_HOSTCUDA"):
    from .capture.joining import join as _join

    _join()

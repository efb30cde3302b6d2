"""The engines by name, for recordings and for the child processes that join them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable

from ..runs.manifest import EngineFacts
from ..runs.writer import RunWriter
from .engine import Engine

#: Where the engines are, by the names that they have in a manifest.
ENGINES = {
    "frames": "frames.engine:Frames",
    "gpu_memory": "gpu.engine:GpuMemory",
    "gpu_sampler": "gpu.devices.sampler:GpuSampler",
    "runtime": "runtime.engine:Runtime",
    "kernel_events": "ebpf.engine:KernelEvents",
    "profiles": "profiles.engine:Profiles",
}

#: Those that record unless others are asked for. Kernel events need a privilege,
#: profiles a package.
DEFAULT = ("frames", "gpu_memory", "gpu_sampler", "runtime")


def default_engines() -> list[Engine]:
    """Return an engine of each kind that records by default."""
    return [_class_of(name)() for name in DEFAULT]


def rebuilt(engines: Iterable[EngineFacts], writer: RunWriter) -> Iterable[Engine]:
    """Yield the engines that a manifest tells of, made anew in a child process."""
    for facts in engines:
        try:
            yield _class_of(facts.name)(**facts.parameters)
        except Exception as error:
            writer.finding(
                "engine_failed",
                f"a child process cannot make the engine {facts.name} "
                f"({type(error).__name__}: {error}): it records without",
                severity="error",
                engine=facts.name,
            )


def _class_of(name: str) -> Callable[..., Engine]:
    """Return the class of the engine of this name."""
    module, _, attribute = ENGINES[name].partition(":")
    found: Callable[..., Engine] = getattr(
        importlib.import_module(f"{__package__}.{module}"), attribute
    )
    return found

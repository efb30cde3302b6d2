"""CuPy's default pools: what they hold of each device, and how much of that is in use."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ..gpu.devices import libcuda
from ..gpu.devices.meters import on_hostcuda
from .parts import Reading


class Pools:
    """Reads the metrics `vidlab.cupy.*`, once the program has imported CuPy.

    CUDA is never started: only devices on which the program has a context are read.
    """

    def read(self) -> Sequence[Reading]:
        """Return the metrics as they are now; none if CuPy is not in use."""
        cupy: Any = sys.modules.get("cupy")
        default_pool = getattr(cupy, "get_default_memory_pool", None)
        pinned_pool = getattr(cupy, "get_default_pinned_memory_pool", None)
        if default_pool is None or pinned_pool is None:
            return ()  # not imported, or not whole yet
        readings: list[Reading] = []
        for device in _devices(cupy):
            with cupy.cuda.Device(device):
                pool = default_pool()
                total, free = pool.total_bytes(), pool.free_bytes()
            of_device = f"gpu={device}"
            readings += [
                ("vidlab.cupy.pool.total", of_device, total),
                ("vidlab.cupy.pool.used", of_device, total - free),
                ("vidlab.cupy.pool.free", of_device, free),
                ("vidlab.cupy.pool.fragmentation", of_device, free / total if total else 0.0),
            ]
        if readings:
            readings.append(
                ("vidlab.cupy.pinned_pool.free_blocks", "", pinned_pool().n_free_blocks())
            )
        return readings

    def close(self) -> None:
        """Nothing is kept."""


def _devices(cupy: Any) -> Iterator[int]:
    """Yield the devices on which the program has a context."""
    if on_hostcuda():
        yield from range(cupy.cuda.runtime.getDeviceCount())
        return
    cuda = libcuda.started()
    if cuda is not None:
        yield from (n for n in range(cuda.device_count()) if cuda.has_context(n))

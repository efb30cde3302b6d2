"""Where readings of the devices come from: NVML, hostcuda's own books, or nowhere."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, NamedTuple, Protocol

from ....clock import now_ns
from .. import hostcuda
from . import libcuda
from .numbering import devices
from .nvml import LostError, Reading


class Note(NamedTuple):
    """A finding to be: its kind, message, severity and evidence."""

    kind: str
    message: str
    severity: str
    evidence: dict[str, Any]


class Meter(Protocol):
    """Reads all devices that the process sees."""

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to read, for good."""

    def read(self) -> list[Reading]:
        """Return a reading of each device."""

    def notes(self) -> list[Note]:
        """Return what has come up since the last call."""

    def close(self) -> None:
        """Let go of it."""


class NvmlMeter:
    """NVML's devices, except those that are lost.

    Parameters
    ----------
    nvml : module
        `pynvml`, initialised.
    """

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._notes: list[Note] = []
        self._lost: set[str] = set()
        self._told: set[str] = set()
        self._driver = libcuda.started()
        self._devices = devices(nvml, self._driver, lost=self._lose)
        if not self._devices and not self._notes:
            self._notes.append(
                Note(
                    "gpu_not_sampled",
                    "this process sees no GPU: CUDA_VISIBLE_DEVICES names none, or its user may "
                    "not use them",
                    "info",
                    {},
                )
            )

    @property
    def ended(self) -> bool:
        return not self._devices

    def read(self) -> list[Reading]:
        if self._driver is None:
            self._driver = libcuda.started()
            if self._driver is not None:  # now CUDA's own numbers of the devices are known
                found = devices(self._nvml, self._driver, self._devices, self._lose)
                self._devices = [device for device in found if device.uuid not in self._lost]
        readings = []
        for device in list(self._devices):
            try:
                readings.append(device.read(self._driver))
            except LostError as error:
                self._devices.remove(device)
                self._lost.add(device.uuid)
                self._lose(device.number, str(error), device.name)
        self._note_what_is_missing()
        return readings

    def notes(self) -> list[Note]:
        notes, self._notes = self._notes, []
        return notes

    def close(self) -> None:
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()  # NVML counts: the program's own use of it goes on

    def _lose(self, number: int, reason: str, name: str = "") -> None:
        called = f"device {number} ({name})" if name else f"device {number}"
        self._notes.append(
            Note(
                "gpu_lost",
                f"{called} does not answer any more ({reason}): it is no longer sampled; "
                "nvidia-smi -r or a restart brings it back",
                "error",
                {"device": number, "reason": reason},
            )
        )

    def _note_what_is_missing(self) -> None:
        """Tell of each function once, whichever devices it is that lack it."""
        missing: dict[tuple[str, str, str], list[int]] = {}
        for device in self._devices:
            while device.missing:
                missing.setdefault(device.missing.pop(), []).append(device.number)
        for (function, columns, reason), numbers in missing.items():
            if columns in self._told:
                continue
            self._told.add(columns)
            what = "device " + ", ".join(map(str, numbers))
            self._notes.append(
                Note(
                    "gpu_reading_missing",
                    f"{what} does not tell {columns} ({function}: {reason}): it stays empty",
                    "info",
                    {"columns": columns, "function": function, "devices": numbers},
                )
            )


class HostMeter:
    """hostcuda's books: its memory, exactly, and nothing that it does not have."""

    ended = False

    def read(self) -> list[Reading]:

        t_ns = now_ns()
        books = hostcuda.books()
        duration_ns = now_ns() - t_ns
        return [
            Reading(
                device=number,
                device_name=hostcuda.DEVICE_NAME,
                t_ns=t_ns,
                duration_ns=duration_ns,
                used_bytes=book.used_bytes,
                total_bytes=book.total_bytes,
                process_used_bytes=book.process_used_bytes,
                async_reserved_bytes=_async_reserved(number),
            )
            for number, book in enumerate(books)
        ]

    def notes(self) -> list[Note]:
        return []

    def close(self) -> None:
        pass


class NoMeter:
    """Nothing to read from, and why."""

    ended = False  # hostcuda may yet be installed

    def __init__(self, reason: str) -> None:
        self._notes = [Note("gpu_not_sampled", f"the GPUs are not sampled: {reason}", "info", {})]

    def read(self) -> list[Reading]:
        return []

    def notes(self) -> list[Note]:
        notes, self._notes = self._notes, []
        return notes

    def close(self) -> None:
        pass


def find_meter() -> Meter:
    """Return what there is to read from, here and now."""
    if on_hostcuda():
        return HostMeter()
    try:
        import pynvml
    except ImportError:
        return NoMeter("install the package nvidia-ml-py: pip install 'vidlab[gpu]'")
    try:
        pynvml.nvmlInit()
        return NvmlMeter(pynvml)
    except pynvml.NVMLError as error:
        return NoMeter(
            f"NVML says '{error}'. It is part of NVIDIA's driver, libnvidia-ml.so.1: install the "
            "driver; a container needs --gpus all and the driver capability 'utility'"
        )


def on_hostcuda() -> bool:
    """Return whether this process's CUDA is the host's memory."""
    return hostcuda.installed()


def use_of_cuda() -> object:
    """Return something that is another thing once this process has begun to use its GPUs."""
    if on_hostcuda():
        return [(book.used_bytes, book.process_used_bytes) for book in hostcuda.books()]
    return libcuda.started() is not None


def _async_reserved(number: int) -> int | None:
    """What CuPy's stream-ordered pool has taken of a device of hostcuda; None without CuPy."""
    runtime: Any = sys.modules.get("cupy_backends.cuda.api.runtime")
    with contextlib.suppress(Exception):  # it is being imported, or does not serve this
        pool = runtime.deviceGetDefaultMemPool(number)
        return int(runtime.memPoolGetAttribute(pool, runtime.cudaMemPoolAttrReservedMemCurrent))
    return None

"""What NVML, the driver's management library, tells of one device.

It is read through nvidia-ml-py, the module `pynvml`. Each quantity has one or more
functions, the newest first. One that a driver lacks, or keeps from this user, is not
asked again: its columns stay empty, and `Device.missing` says why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ....clock import now_ns
from .libcuda import Driver


@dataclass(frozen=True, slots=True)
class Reading:
    """A row of the table `gpu_samples`; None is what is not known."""

    device: int
    device_name: str
    t_ns: int
    duration_ns: int
    used_bytes: int | None = None
    total_bytes: int | None = None
    process_used_bytes: int | None = None
    async_reserved_bytes: int | None = None
    utilization: float | None = None
    memory_utilization: float | None = None
    decoder: float | None = None
    encoder: float | None = None
    sm_clock_mhz: float | None = None
    memory_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None

    def columns(self) -> dict[str, Any]:
        """Return the row's columns."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


class Missing(NamedTuple):
    """A quantity that a device does not tell: NVML's function, its columns, and why."""

    function: str
    columns: str
    reason: str


class LostError(Exception):
    """The device does not answer any more: it has fallen off the bus, or needs a reset."""


class Device:
    """One device, as NVML sees it.

    Parameters
    ----------
    nvml : module
        `pynvml`, initialised.
    handle
        The device's handle.
    number : int
        The number that CUDA gives it in this process.

    Attributes
    ----------
    name, uuid : str
    missing : list of Missing
        What it does not tell, as far as it has been asked.

    Raises
    ------
    LostError
        If it does not answer.
    """

    def __init__(self, nvml: Any, handle: Any, number: int) -> None:
        self.number = number
        self.missing: list[Missing] = []
        self._nvml = nvml
        self._lost = lost_errors(nvml)
        self._lost_memory = self._lost | {
            nvml.NVML_ERROR_UNKNOWN,
            nvml.NVML_ERROR_INVALID_ARGUMENT,
            nvml.NVML_ERROR_UNINITIALIZED,
        }
        self._lacks = {
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            nvml.NVML_ERROR_NOT_SUPPORTED,
            nvml.NVML_ERROR_NO_PERMISSION,
            nvml.NVML_ERROR_INVALID_ARGUMENT,
            nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        }
        self._ways = {
            columns: [
                (name, _bound(getattr(nvml, name), handle, *arguments))
                for name, *arguments in functions
                if hasattr(nvml, name)
            ]
            for columns, functions in _functions(nvml).items()
        }
        self.name = text(self._ask("device_name")) or "unknown"
        self.uuid = text(self._ask("uuid"))

    def read(self, driver: Driver | None = None) -> Reading:
        """Read everything, its memory first.

        Parameters
        ----------
        driver : Driver, optional
            CUDA's own driver, if the process uses it: it knows of stream-ordered memory.

        Raises
        ------
        LostError
            If the device does not answer any more.
        """
        t_ns = now_ns()
        memory = self._ask("used_bytes, total_bytes", self._lost_memory)
        process_used = self._process_used(driver)
        reserved = None if driver is None else driver.async_reserved_bytes(self.number)
        duration_ns = now_ns() - t_ns
        load = self._ask("utilization, memory_utilization")
        decoder, encoder = self._ask("decoder"), self._ask("encoder")
        power_mw = self._ask("power_w")
        return Reading(
            device=self.number,
            device_name=self.name,
            t_ns=t_ns,
            duration_ns=duration_ns,
            used_bytes=None if memory is None else memory.used,
            total_bytes=None if memory is None else memory.total,
            process_used_bytes=process_used,
            async_reserved_bytes=reserved,
            utilization=None if load is None else float(load.gpu),
            memory_utilization=None if load is None else float(load.memory),
            decoder=None if decoder is None else float(decoder[0]),
            encoder=None if encoder is None else float(encoder[0]),
            sm_clock_mhz=_float(self._ask("sm_clock_mhz")),
            memory_clock_mhz=_float(self._ask("memory_clock_mhz")),
            power_w=None if power_mw is None else power_mw / 1000,
            temperature_c=_float(self._ask("temperature_c")),
        )

    def _process_used(self, driver: Driver | None) -> int | None:
        """Memory that this process holds; None if that is not told.

        A process that computes and draws is in both lists, with the same figure. Inside
        a container a driver may not see the processes under the numbers that they have
        there: a process that uses the device and is not listed is not known to hold 0.
        """
        compute = self._ask("process_used_bytes")
        graphics = self._ask("process_used_bytes (graphics)")
        if compute is None:
            return None
        held: dict[tuple[int, int], int] = {}
        for process in (*compute, *(graphics or ())):
            if process.pid != os.getpid():
                continue
            if process.usedGpuMemory is None:
                return None
            part = (process.gpuInstanceId, process.computeInstanceId)
            held[part] = max(held.get(part, 0), process.usedGpuMemory)
        if not held and driver is not None and driver.has_context(self.number):
            return None
        return sum(held.values())

    def _ask(self, columns: str, lost: Collection[int] | None = None) -> Any:
        """Return what the first function that the driver has says; None without one.

        What an error that is not of this device alone means depends on the question:
        every device can tell its memory.
        """
        ways = self._ways[columns]
        why: Missing | None = None
        while ways:
            name, function = ways[0]
            try:
                return function()
            except self._nvml.NVMLError as error:
                if error.value in (lost or self._lost):
                    raise LostError(f"{name}: {error}") from error
                if error.value not in self._lacks:
                    return None  # not this time
                del ways[0]
                # Why not, says the one that is there.
                absent = error.value == self._nvml.NVML_ERROR_FUNCTION_NOT_FOUND
                why = why if absent and why else Missing(name, columns, str(error))
                if not ways:
                    self.missing.append(why)
        return None


def _functions(nvml: Any) -> dict[str, list[tuple[Any, ...]]]:
    """The functions by which NVML tells each quantity, with their arguments."""
    return {
        "device_name": [("nvmlDeviceGetName",)],
        "uuid": [("nvmlDeviceGetUUID",)],
        # The second version leaves out what the driver keeps for itself, as nvidia-smi does.
        "used_bytes, total_bytes": [
            ("nvmlDeviceGetMemoryInfo", nvml.nvmlMemory_v2),
            ("nvmlDeviceGetMemoryInfo",),
        ],
        # By their versions: the plain name raises another error where the driver is older.
        "process_used_bytes": [
            ("nvmlDeviceGetComputeRunningProcesses_v3",),
            ("nvmlDeviceGetComputeRunningProcesses_v2",),
        ],
        "process_used_bytes (graphics)": [
            ("nvmlDeviceGetGraphicsRunningProcesses_v3",),
            ("nvmlDeviceGetGraphicsRunningProcesses_v2",),
        ],
        "utilization, memory_utilization": [("nvmlDeviceGetUtilizationRates",)],
        "decoder": [("nvmlDeviceGetDecoderUtilization",)],
        "encoder": [("nvmlDeviceGetEncoderUtilization",)],
        "sm_clock_mhz": [("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM)],
        "memory_clock_mhz": [("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM)],
        "power_w": [("nvmlDeviceGetPowerUsage",)],
        "temperature_c": [
            ("nvmlDeviceGetTemperatureV", nvml.NVML_TEMPERATURE_GPU),
            ("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        ],
    }


def lost_errors(nvml: Any) -> set[int]:
    """The errors of a device that has fallen off the bus, or waits for a reset."""
    return {
        nvml.NVML_ERROR_GPU_IS_LOST,
        nvml.NVML_ERROR_RESET_REQUIRED,
        nvml.NVML_ERROR_GPU_NOT_FOUND,
    }


def _bound(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: function(*arguments)


def text(value: Any) -> str:
    """A name, which some versions of nvidia-ml-py give as bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _float(value: Any) -> float | None:
    return None if value is None else float(value)

"""Which devices a process sees, and what CUDA calls each of them there.

NVML counts the machine's devices in the order of the bus; CUDA those that
`CUDA_VISIBLE_DEVICES` names, the fastest first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from .libcuda import Driver
from .nvml import Device, LostError, lost_errors, text


def devices(
    nvml: Any,
    driver: Driver | None,
    known: Iterable[Device] = (),
    lost: Callable[[int, str], None] = lambda number, reason: None,
) -> list[Device]:
    """Return the devices that this process sees, under the numbers that CUDA gives them.

    Where CUDA runs it is asked; else `CUDA_VISIBLE_DEVICES` is read as CUDA would, taking
    the devices to be equally fast.

    Parameters
    ----------
    nvml : module
        `pynvml`, initialised.
    driver : Driver or None
        CUDA's driver, if the process uses it.
    known : iterable of Device
        Devices that are there already: they are numbered anew, and kept.
    lost : callable
        Told the number of a device that does not answer, and why.
    """
    by_uuid = {device.uuid: device for device in known}
    if driver is None:
        found = _visible(nvml)
    else:
        found = [_by_uuid(nvml, driver.uuid(number)) for number in range(driver.device_count())]
    numbered = []
    for number, handle in enumerate(found):
        try:
            if isinstance(handle, nvml.NVMLError):
                if handle.value in lost_errors(nvml):
                    raise LostError(str(handle))
                continue  # kept from this user
            device = Device(nvml, handle, number)
        except LostError as error:
            lost(number, str(error))
            continue
        device = by_uuid.get(device.uuid, device)
        device.number = number
        numbered.append(device)
    return numbered


def _visible(nvml: Any) -> list[Any]:
    """The handles of the devices that CUDA would see, in its order; errors for those without."""
    handles = [_try(nvml, nvml.nvmlDeviceGetHandleByIndex, i) for i in range(_count(nvml))]
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return handles
    found: list[Any] = []
    for name in map(str.strip, named.split(",")):
        if name.isdecimal() and int(name) < len(handles):
            found.append(handles[int(name)])
        elif name.startswith(("GPU-", "MIG-")):
            found.append(_by_prefix(nvml, handles, name))
        else:
            break  # CUDA takes those before the first that it cannot find
    return found


def _count(nvml: Any) -> int:
    return int(nvml.nvmlDeviceGetCount())


def _by_prefix(nvml: Any, handles: Iterable[Any], name: str) -> Any:
    """The handle of the device whose identity begins like this: CUDA takes any such part."""
    for handle in handles:
        if not isinstance(handle, nvml.NVMLError):
            uuid = _try(nvml, nvml.nvmlDeviceGetUUID, handle)
            if not isinstance(uuid, nvml.NVMLError) and text(uuid).startswith(name):
                return handle
    return _by_uuid(nvml, name[4:])


def _by_uuid(nvml: Any, uuid: str | None) -> Any:
    """The handle of a device or of a part of a divided one; an error if NVML gives none."""
    if uuid is None:
        return nvml.NVMLError(nvml.NVML_ERROR_NOT_FOUND)
    found = _try(nvml, nvml.nvmlDeviceGetHandleByUUID, f"GPU-{uuid}".encode())
    if isinstance(found, nvml.NVMLError) and found.value not in lost_errors(nvml):
        return _try(nvml, nvml.nvmlDeviceGetHandleByUUID, f"MIG-{uuid}".encode())
    return found


def _try(nvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what the function returns, or the NVMLError that it raises."""
    try:
        return function(*arguments)
    except nvml.NVMLError as error:
        return error

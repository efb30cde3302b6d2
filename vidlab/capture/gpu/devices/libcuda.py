"""What the CUDA driver knows, asked only where the program has started it.

Nothing here starts CUDA or makes a context: a process that has started CUDA cannot use
it in its forked children, and a context takes hundreds of megabytes of the device.
`libcuda.so.1` is found only if the program has loaded it, and used only if it answers.
"""

from __future__ import annotations

import ctypes
import os
from uuid import UUID

_SUCCESS = 0

#: Of `CUmemPool_attribute`: what a stream-ordered pool has taken of the device.
_RESERVED_CURRENT = 5

#: Of `CUstreamCaptureMode`: calls that may be made while another thread captures a graph.
_RELAXED = 2


class Driver:
    """The CUDA driver of a process that uses it. Devices have CUDA's numbers."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def device_count(self) -> int:
        """Return how many devices the process sees."""
        count = ctypes.c_int()
        return count.value if self._call("cuDeviceGetCount", ctypes.byref(count)) else 0

    def uuid(self, number: int) -> str | None:
        """Return the identity of a device, the part after ``GPU-`` or ``MIG-``."""
        device, identity = self._device(number), (ctypes.c_ubyte * 16)()
        if device is None:
            return None
        # The second version tells the parts of a divided device apart.
        for function in ("cuDeviceGetUuid_v2", "cuDeviceGetUuid"):
            if self._call(function, ctypes.byref(identity), device):
                return str(UUID(bytes=bytes(identity)))
        return None

    def has_context(self, number: int) -> bool:
        """Return whether the process holds the device's primary context: CuPy's own."""
        flags, active = ctypes.c_uint(), ctypes.c_int()
        device = self._device(number)
        return (
            device is not None
            and self._call(
                "cuDevicePrimaryCtxGetState", device, ctypes.byref(flags), ctypes.byref(active)
            )
            and active.value != 0
        )

    def async_reserved_bytes(self, number: int) -> int | None:
        """Return what the device's default stream-ordered pool has taken; None if not told."""
        device, pool, value = self._device(number), ctypes.c_void_p(), ctypes.c_uint64()
        if device is None or not self.has_context(number):
            return None
        told = self._call("cuDeviceGetDefaultMemPool", ctypes.byref(pool), device) and self._call(
            "cuMemPoolGetAttribute", pool, _RESERVED_CURRENT, ctypes.byref(value)
        )
        return value.value if told else None

    def allow_calls_beside_captures(self) -> None:
        """Let this thread ask about events while another thread captures a CUDA graph.

        Without this, asking would make that capture fail.
        """
        self._call("cuThreadExchangeStreamCaptureMode", ctypes.byref(ctypes.c_int(_RELAXED)))

    def _device(self, number: int) -> ctypes.c_int | None:
        device = ctypes.c_int()
        return device if self._call("cuDeviceGet", ctypes.byref(device), number) else None

    def _call(self, name: str, *arguments: object) -> bool:
        try:
            function = getattr(self._library, name)
        except AttributeError:  # an older driver
            return False
        return bool(function(*arguments) == _SUCCESS)


def started() -> Driver | None:
    """Return the driver, if the program has started it in this process and it works."""
    try:
        library = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return None
    driver = Driver(library)
    return driver if driver.device_count() else None

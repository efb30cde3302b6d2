"""Which CUDA context and which CUDA stream a thread works on."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any


class Contexts(dict[int, int]):
    """The handles of the devices' CUDA contexts, each asked for once; 0 if it is not told."""

    def __init__(self, cupy: Any) -> None:
        super().__init__()
        self._cuda = cupy.cuda

    def __missing__(self, device: int) -> int:
        try:
            if self._cuda.device.get_device_id() != device:
                return 0  # of another device than the one that is current: some other time
            handle = int(self._cuda.driver.ctxGetCurrent())
        except Exception:  # a device without a driver to ask, such as host memory
            self[device] = 0
            return 0
        if handle:  # else the thread has none yet: a call that failed may come before there is one
            self[device] = handle
        return handle


def current_stream(cupy: Any) -> Callable[[], int]:
    """Return a function to the handle of the calling thread's current CUDA stream.

    CuPy makes an object to tell it; the C function that it asks does not.
    """
    address = current_stream_function(cupy)
    if address:
        return ctypes.PYFUNCTYPE(ctypes.c_ssize_t)(address)
    get_stream = cupy.cuda.get_current_stream
    return lambda: int(get_stream().ptr)


def current_stream_function(cupy: Any) -> int:
    """Return the address of CuPy's C function to the current stream; 0 if it has none such."""
    try:
        capsule = cupy.cuda.stream.__pyx_capi__["get_current_stream_ptr"]
    except (AttributeError, KeyError):
        return 0
    api = ctypes.pythonapi
    get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", api)
    )
    name = get_name(capsule)
    return int(get_pointer(capsule, name)) if name == b"intptr_t (void)" else 0

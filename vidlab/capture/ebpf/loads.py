"""Whether a process may have loaded a library since it was last looked at.

To read what a process has mapped takes milliseconds. In this process the loader counts what
it loads, which is a microsecond's look. Another process is looked at every few seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from typing import Any

#: How often another process is looked at.
OTHERS_S = 5.0


class _Info(ctypes.Structure):
    """struct dl_phdr_info, of glibc and musl."""

    _fields_ = [
        ("address", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("headers", ctypes.c_void_p),
        ("header_count", ctypes.c_uint16),
        ("loaded", ctypes.c_ulonglong),
        ("unloaded", ctypes.c_ulonglong),
    ]


_Look = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(_Info), ctypes.c_size_t, ctypes.POINTER(ctypes.c_ulonglong)
)


def _first(info: Any, size: int, into: Any) -> int:
    if size >= ctypes.sizeof(_Info):
        into[0] = info[0].loaded
    return 1  # one is enough: they all say the same


_look = _Look(_first)


def loaded() -> int:
    """Return how many libraries this process has ever loaded; 0 if its loader does not tell."""
    count = ctypes.c_ulonglong(0)
    with contextlib.suppress(AttributeError):
        # Not a call that lets other threads run: the loader holds a lock meanwhile, for which a
        # thread may wait that has the interpreter.
        ctypes.pythonapi.dl_iterate_phdr(_look, ctypes.byref(count))
    return count.value


class Loads:
    """Tells when to look for libraries again.

    Parameters
    ----------
    pid : int
    """

    def __init__(self, pid: int) -> None:
        self._own = pid == os.getpid() and loaded() > 0
        self._count = 0
        self._looked_s = 0.0
        self.changed()

    def changed(self) -> bool:
        """Return whether there may be other libraries than when this was last true."""
        if self._own:
            count, self._count = self._count, loaded()
            return count != self._count
        now = time.monotonic()
        if now - self._looked_s < OTHERS_S:
            return False
        self._looked_s = now
        return True

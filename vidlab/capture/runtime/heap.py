"""The C heap: what malloc has taken from the system, and how much of that is in use.

`mallinfo2` is glibc's, since 2.33. It takes each arena's lock in turn and counts its free
pieces: microseconds, or milliseconds in a heap that is badly torn.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from .parts import Missing, Reading


class _MallInfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",  # what the arenas take, without single mappings
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",  # what single mappings take
            "usmblks",
            "fsmblks",
            "uordblks",  # of the arenas, in use
            "fordblks",  # of the arenas, free
            "keepcost",
        )
    )


class Heap:
    """Reads the metrics `vidlab.malloc.*`."""

    def __init__(self) -> None:
        try:
            self._mallinfo = ctypes.CDLL(None).mallinfo2
        except (OSError, AttributeError):
            raise Missing(
                "this C library does not tell of its heap (mallinfo2, in glibc since 2.33), "
                "so there are no metrics vidlab.malloc"
            ) from None
        self._mallinfo.restype = _MallInfo
        self._mallinfo.argtypes = ()

    def read(self) -> Sequence[Reading]:
        """Return the metrics as they are now."""
        info = self._mallinfo()
        arena, free = info.arena, info.fordblks
        return [
            ("vidlab.malloc.arena", "", arena),
            ("vidlab.malloc.used", "", info.uordblks),
            ("vidlab.malloc.free", "", free),
            ("vidlab.malloc.mapped", "", info.hblkhd),
            ("vidlab.malloc.fragmentation", "", free / arena if arena else 0.0),
        ]

    def close(self) -> None:
        """Nothing is kept."""

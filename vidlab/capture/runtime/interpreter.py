"""The interpreter: the garbage collector's counts, and the blocks of Python's allocator."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

from .parts import Reading

_OF_GENERATION = tuple(f"generation={n}" for n in range(3))

_COUNTS = (
    ("cpython.gc.collections", "collections"),
    ("cpython.gc.collected_objects", "collected"),
    ("cpython.gc.uncollectable_objects", "uncollectable"),
)


class Interpreter:
    """Reads the metrics `cpython.gc.*`: since the process began."""

    def read(self) -> Sequence[Reading]:
        """Return the metrics as they are now."""
        return [
            (metric, attribute, counts[key])
            for attribute, counts in zip(_OF_GENERATION, gc.get_stats(), strict=False)
            for metric, key in _COUNTS
        ]

    def close(self) -> None:
        """Nothing is kept."""


class Blocks:
    """Reads `vidlab.cpython.allocated_blocks`.

    Python counts them by a walk through its arenas, with the GIL held: a gigabyte of small
    objects takes milliseconds, which is why `production` leaves it out.
    """

    def read(self) -> Sequence[Reading]:
        """Return the metric as it is now."""
        return [("vidlab.cpython.allocated_blocks", "", sys.getallocatedblocks())]

    def close(self) -> None:
        """Nothing is kept."""

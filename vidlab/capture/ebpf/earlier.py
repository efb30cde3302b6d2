"""What recordings with a pin have told so far, for the next one to go on from.

Counts in the kernel only grow. What was told of them is kept beside them, so that each
recording tells what came since the one before it told; one that was killed told nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...clock import now_ns
from .kernel import bpf
from .kernel.bpf import MapType
from .kernel.maps import Map
from .objects import Objects
from .program.words import COUNTS
from .reading.columns import Columns
from .reading.counters import KEY, Buckets, Histogram

#: Where the kernel's misses are among the counts: it keeps them elsewhere.
_MISSES = COUNTS.index("spare")

#: What names spans, frames and label sets, by numbers that are a process's own.
_OWN_NUMBERS = ("span", "frame", "labels")


class Earlier:
    """What was told before; it makes its maps by `objects`, and closes them.

    Parameters
    ----------
    objects : Objects
    programs : int
        How many programs there are.
    metrics : dict of str to int
        How many buckets each metric can have.
    """

    def __init__(self, objects: Objects, programs: int, metrics: dict[str, int]) -> None:
        self.since_ns = now_ns()
        self._told: dict[str, Map] = {}
        try:
            self._counts = objects.map("told", "counts", MapType.ARRAY, 4, 64, programs)
            for name, most in metrics.items():
                self._told[name] = objects.map(
                    "told-of", name, MapType.HASH, KEY.itemsize, 8, most, bpf.F_NO_PREALLOC
                )
        except BaseException:
            self.close()
            raise

    def told(
        self, counts: npt.NDArray[np.uint64], misses: dict[int, int]
    ) -> tuple[npt.NDArray[np.uint64], dict[int, int]]:
        """Return what of all counts and misses was not told before, and note that it is now.

        Parameters
        ----------
        counts : ndarray
            As `Counts.read` returns them, a row a program.
        misses : dict of int to int
            By program.
        """
        before = np.frombuffer(self._counts.read().values, np.uint64).reshape(-1, len(COUNTS))
        for number, row in enumerate(counts):
            now = row.copy()
            now[_MISSES] = misses.get(number, 0)
            self._counts.update(number.to_bytes(4, "little"), now.tobytes())
        gained = {
            number: count - int(before[number, _MISSES])
            for number, count in misses.items()
            if number >= 0
        }
        return counts - before, gained

    def histogram(self, name: str, map: Map) -> Histogram:
        """Return what counts a metric from where it was told last."""
        return _Told(map, self._told[name])

    def forget_names(self, columns: Columns) -> None:
        """Blank what names spans, frames and labels of an earlier process.

        Numbers of spans and labels are a process's own: in this one they name others.
        """
        earlier = columns["t_ns"] < self.since_ns
        if earlier.any():
            for name in _OWN_NUMBERS:
                columns[name][earlier] = 0

    def close(self) -> None:
        """Let go of the maps."""
        for map in (*self._told.values(), *([self._counts] if hasattr(self, "_counts") else ())):
            map.close()


class _Told(Histogram):
    """A histogram whose last reading is kept in a map."""

    def __init__(self, map: Map, told: Map) -> None:
        super().__init__(map)
        self._told = told
        entries = told.read()
        keys = np.frombuffer(entries.keys, KEY)
        counts = np.frombuffer(entries.values, np.uint64)
        order = np.lexsort((keys["bucket"], keys["labels"]))
        self._last = Buckets(keys["labels"][order], keys["bucket"][order], counts[order])

    def since_last(self) -> Buckets:
        before = self._last
        gained = super().since_last()
        known = dict(zip(_keys(before), before.counts.tolist(), strict=True))
        for key, count in zip(_keys(gained), gained.counts.tolist(), strict=True):
            self._told.update(key, (known.get(key, 0) + count).to_bytes(8, "little"))
        return gained


def _keys(of: Buckets) -> list[bytes]:
    keys = np.empty(len(of.counts), KEY)
    keys["labels"], keys["bucket"] = of.labels, of.bucket
    return [key.tobytes() for key in keys]

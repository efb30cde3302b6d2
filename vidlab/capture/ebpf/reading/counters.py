"""What programs count without an event: read in batches, summed over the CPUs.

Counters only ever grow, and reading them changes nothing. "Since the last reading" is a
subtraction here. To take values out of the kernel instead (deleting entries, or writing
zeros) would lose what programs add between the look and the removal: on other CPUs they
hold pointers to the very values, and add to them with no lock. A subtraction loses
nothing, whatever runs meanwhile, and lets several readers each have a last reading of
their own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..kernel.maps import Map, possible_cpus
from ..program.counting import SUB_BUCKETS
from ..program.words import COUNTS

#: A histogram's key in the kernel.
KEY = np.dtype([("labels", "<u4"), ("bucket", "<u4")])


class Counts:
    """The counts of a session's probes: a PERCPU_ARRAY of eight u64 a probe.

    Each count is exact, and all are once nothing runs any more. While probes are hit, one
    count may be read a moment before another, so that a hit is there and its outcome is not.

    Parameters
    ----------
    map : Map
        Read only; whoever made it closes it.
    """

    def __init__(self, map: Map) -> None:
        self._map = map
        self._last = np.zeros((map.max_entries, len(COUNTS)), np.uint64)

    def read(self) -> npt.NDArray[np.uint64]:
        """Return all counts since the map was made: a row a probe, columns as in `COUNTS`."""
        entries = self._map.read()
        values = np.frombuffer(entries.values, np.uint64)
        by_cpu = values.reshape(-1, possible_cpus(), len(COUNTS))
        counts: npt.NDArray[np.uint64] = np.add.reduce(by_cpu, axis=1)
        return counts

    def since_last(self) -> npt.NDArray[np.uint64]:
        """Return what was counted since the last call of this, or since the map was made."""
        now = self.read()
        gained, self._last = now - self._last, now
        return gained


class Buckets(NamedTuple):
    """Values that a histogram counted, sorted by labels and bucket. None has a count of zero.

    Attributes
    ----------
    labels : ndarray of uint32
        The label set of the thread's span.
    bucket : ndarray of uint32
        Its number; `bounds` tells what it holds. A plain counter has them all in bucket 0.
    counts : ndarray of uint64
    """

    labels: npt.NDArray[np.uint32]
    bucket: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.uint64]


class Histogram:
    """A metric's buckets: a PERCPU_HASH from `KEY` to a u64.

    Parameters
    ----------
    map : Map
        Read only; whoever made it closes it.
    """

    def __init__(self, map: Map) -> None:
        self._map = map
        none = np.zeros(0, np.uint32)
        self._last = Buckets(none, none, np.zeros(0, np.uint64))

    def read(self) -> Buckets:
        """Return all that was counted since the map was made."""
        entries = self._map.read()
        keys = np.frombuffer(entries.keys, KEY)
        values = np.frombuffer(entries.values, np.uint64).reshape(-1, possible_cpus())
        counts = np.add.reduce(values, axis=1)
        return _sorted(keys["labels"], keys["bucket"], counts)

    def since_last(self) -> Buckets:
        """Return what was counted since the last call of this, or since the map was made."""
        now = self.read()
        before, self._last = self._last, now
        counts = now.counts.copy()
        # Keys are never removed, so that each of the last reading is in this one.
        counts[np.searchsorted(_joined(now), _joined(before))] -= before.counts
        kept = counts > 0
        return Buckets(now.labels[kept], now.bucket[kept], counts[kept])


def bounds(
    buckets: npt.NDArray[np.uint32],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the least value of each bucket, and the least that is beyond it.

    The same as `counting.bounds`, for many; all of them are exact in floating point.
    """
    buckets = np.asarray(buckets, np.int64)
    shift = np.maximum(buckets // SUB_BUCKETS - 1, 0)
    low = np.ldexp((buckets - shift * SUB_BUCKETS).astype(np.float64), shift.astype(np.int32))
    return low, low + np.ldexp(1.0, shift.astype(np.int32))


def _sorted(
    labels: npt.NDArray[np.uint32],
    buckets: npt.NDArray[np.uint32],
    counts: npt.NDArray[np.uint64],
) -> Buckets:
    kept = np.flatnonzero(counts)
    order = kept[np.lexsort((buckets[kept], labels[kept]))]
    return Buckets(labels[order], buckets[order], counts[order])


def _joined(of: Buckets) -> npt.NDArray[np.uint64]:
    return of.labels.astype(np.uint64) << np.uint64(32) | of.bucket

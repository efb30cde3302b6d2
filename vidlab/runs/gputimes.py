"""The GPU time of spans: known after a span has been written, and kept apart until compaction."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..schema import UNKNOWN
from .segments import Segments

#: To what `gpu_duration_ns` is rounded: half the resolution of CUDA events, which
#: cudaEventElapsedTime gives as about 0.5 microseconds. The digits below are noise,
#: and would take a byte per span at rest.
GRAIN_NS = 256


class GpuTimes:
    """The times that the segments of a run hold, by span: 12 bytes each."""

    def __init__(self) -> None:
        self._spans = np.zeros(0, np.uint64)
        self._grains = np.zeros(0, np.int32)

    def refresh(self, segments: Segments) -> None:
        """Read them anew."""
        spans, grains = [], []
        for _, batch in segments.batches("gpu_times"):
            # Copies of what is needed: a batch would keep all of its columns in memory.
            spans.append(batch["span"].to_numpy().copy())
            durations = np.rint(batch["gpu_duration_ns"].to_numpy() / GRAIN_NS)
            grains.append(np.clip(durations, 0, np.iinfo(np.int32).max).astype(np.int32))
            del batch
        if not spans:
            return
        self._spans, self._grains = np.concatenate(spans), np.concatenate(grains)
        del spans, grains
        pa.default_memory_pool().release_unused()
        order = np.argsort(self._spans, kind="stable")
        self._spans, self._grains = self._spans[order], self._grains[order]

    def forget(self) -> None:
        """Let go of all times."""
        self._spans, self._grains = self._spans[:0].copy(), self._grains[:0].copy()

    def of(self, spans: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the GPU time of each of these spans, in nanoseconds; UNKNOWN if not timed."""
        if not len(self._spans):
            return np.full(len(spans), UNKNOWN, np.int64)
        places = np.minimum(np.searchsorted(self._spans, spans), len(self._spans) - 1)
        durations_ns = self._grains[places].astype(np.int64) * GRAIN_NS
        return np.where(self._spans[places] == spans, durations_ns, UNKNOWN)

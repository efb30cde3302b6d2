"""The GPU time of spans: known after a span has been written, and kept apart until compaction."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..schema import UNKNOWN
from .segments import Segments

#: To what `gpu_duration_ns` is rounded: half the resolution of CUDA events, which
#: cudaEventElapsedTime gives as about 0.5 microseconds. The digits below are noise,
#: and would take a byte per span at rest.
GRAIN_NS = 256


class GpuTimes:
    """The times that the segments of a run hold, by span."""

    def __init__(self) -> None:
        self._spans = np.zeros(0, np.uint64)
        self._durations_ns = np.zeros(0, np.int64)

    def refresh(self, segments: Segments) -> None:
        """Read them anew."""
        batches = [batch for _, batch in segments.batches("gpu_times")]
        if not batches:
            return
        spans = np.concatenate([batch["span"].to_numpy() for batch in batches])
        durations = np.concatenate([batch["gpu_duration_ns"].to_numpy() for batch in batches])
        order = np.argsort(spans, kind="stable")
        self._spans = spans[order]
        self._durations_ns = np.rint(durations[order] / GRAIN_NS).astype(np.int64) * GRAIN_NS

    def of(self, spans: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return the GPU time of each of these spans, in nanoseconds; UNKNOWN if not timed."""
        if not len(self._spans):
            return np.full(len(spans), UNKNOWN, np.int64)
        places = np.minimum(np.searchsorted(self._spans, spans), len(self._spans) - 1)
        return np.where(self._spans[places] == spans, self._durations_ns[places], UNKNOWN)

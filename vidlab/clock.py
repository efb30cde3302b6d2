"""The one clock: CLOCK_MONOTONIC nanoseconds.

`time.perf_counter_ns`, `bpf_ktime_get_ns` and CLOCK_MONOTONIC are the same
clock on Linux, so tables from all engines join without offsets. Wall-clock time
appears in the manifest only, as anchors.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

#: Nanoseconds of CLOCK_MONOTONIC, as `int`.
now_ns = time.perf_counter_ns

#: Nanoseconds of CPU that the calling thread has used, as `int`: a system call.
thread_cpu_ns = time.thread_time_ns


@dataclass(frozen=True)
class Anchor:
    """One moment on both clocks: `monotonic_ns`, and `wall_ns` since the Unix epoch."""

    monotonic_ns: int
    wall_ns: int


def anchor() -> Anchor:
    """Return this moment on both clocks, good to about a microsecond.

    The wall clock is read between two readings of the monotonic one, and of
    five tries the tightest is kept.
    """

    def reading() -> tuple[int, int, int]:
        before = now_ns()
        wall = time.time_ns()
        return now_ns() - before, before, wall

    width, before, wall = min(reading() for _ in range(5))
    return Anchor(before + width // 2, wall)

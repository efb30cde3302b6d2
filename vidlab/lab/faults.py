"""Faults to plant in a pipeline, each of a known kind, to see whether analyses find them.

A fault is described by a `Fault`, which goes into the run's manifest as the ground
truth. `Saboteur` carries the faults out. The pipeline asks it before a stage takes
its next frame and while a stage works; what corrupts packets is in the clip itself, what
leaks in `uploads`. Allocations of GPU memory fail by `fail_allocation` and `sweep`.
"""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from ..capture.gpu.faults import fail_allocation
from ..clock import now_ns
from .sweeps import Sweep, Trial, sweep

__all__ = ["Fault", "Saboteur", "Sweep", "Trial", "fail_allocation", "sweep"]

#: The kinds of faults.
QUEUE_BACKS_UP = "queue_backs_up"  # a stage stops taking frames from its queue
GIL_HOG = "gil_hog"  # a thread computes without letting other Python threads run
GC_STALL = "gc_stall"  # the garbage collector goes through a large heap
CORRUPT_PACKETS = "corrupt_packets"  # packets arrive damaged
SLOW_STAGE = "slow_stage"  # a stage takes long, for one codec
LEAK = "leak"  # GPU memory is never given back, for one codec

#: How long a stage with `QUEUE_BACKS_UP` stays away before each frame.
AWAY_S = 0.4

#: What a stage with `SLOW_STAGE` waits for, per frame, in frame intervals: it cannot keep up.
SLOW_INTERVALS = 1.125

#: How long the hog holds the GIL at a time, and lets go of it in between: long beside what
#: threads wait for it on a machine with much to do.
HOLD_S, REST_S = 0.15, 0.05

#: Objects that the collector goes through in a stall: about 0.2 s, and 250 MB.
HEAP_OBJECTS = 1_500_000


@dataclass(frozen=True)
class Fault:
    """A planted fault.

    Attributes
    ----------
    kind : str
        One of the kinds of this module.
    stream_id, codec, stage : str or None
        What it strikes; None: all.
    begins_s, ends_s : float
        When, in seconds after the pipeline's start; without an end: to the pipeline's.
    holder : str or None
        What holds the memory of a leak: container, closure, queue or context variable.
    """

    kind: str
    stream_id: str | None = None
    codec: str | None = None
    stage: str | None = None
    begins_s: float = 0.0
    ends_s: float | None = None
    holder: str | None = None

    def facts(self) -> dict[str, str | float]:
        """Return what is known of it as JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def lasts(self, since_start_s: float) -> bool:
        """Return whether it strikes at this time."""
        return self.begins_s <= since_start_s and (
            self.ends_s is None or since_start_s < self.ends_s
        )


class Saboteur:
    """Carries faults out while `at_large`; what they need is prepared before."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._faults = tuple(faults)
        #: When the pipeline started, CLOCK_MONOTONIC nanoseconds.
        self.t_start_ns = 0
        self._over = threading.Event()
        self._rounds = _rounds(HOLD_S) if self._has(GIL_HOG) else 0
        self._heap = _heap(HEAP_OBJECTS) if self._has(GC_STALL) else []

    def before_take(self, stage: str, stream_id: str) -> None:
        """Called when a stage is about to take its next frame: keeps it away for a while."""
        if self._strikes(QUEUE_BACKS_UP, stage, stream_id=stream_id):
            time.sleep(AWAY_S)

    def leak(self, codec: str) -> str | None:
        """Return what holds the memory that this codec's path leaks; None if it does not."""
        leaks = (fault for fault in self._faults if fault.kind == LEAK and fault.codec == codec)
        return next((fault.holder for fault in leaks), None)

    def at_work(self, stage: str, codec: str, interval_s: float) -> None:
        """Called while a stage works on a frame: makes it wait, as for a slow service.

        `interval_s` is the time from one frame of its stream to the next.
        """
        if self._strikes(SLOW_STAGE, stage, codec=codec):
            time.sleep(SLOW_INTERVALS * interval_s)

    def _strikes(self, kind: str, stage: str, **subject: str) -> bool:
        now = self._elapsed()
        return any(
            fault.kind == kind
            and fault.stage == stage
            and all(getattr(fault, name) == value for name, value in subject.items())
            and fault.lasts(now)
            for fault in self._faults
        )

    @contextlib.contextmanager
    def at_large(self) -> Iterator[None]:
        """Carry the faults out while the block runs: its begin is the pipeline's start."""
        workers = {GIL_HOG: self._hog_gil, GC_STALL: self._stall_by_gc}
        threads = [
            threading.Thread(target=workers[fault.kind], args=(fault,), name=fault.kind)
            for fault in self._faults
            if fault.kind in workers
        ]
        self.t_start_ns = now_ns()
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
            self._heap.clear()

    def _elapsed(self) -> float:
        return (now_ns() - self.t_start_ns) / 1e9

    def _has(self, kind: str) -> bool:
        return any(fault.kind == kind for fault in self._faults)

    def _begun(self, fault: Fault) -> bool:
        """Wait for the fault's beginning; False if the pipeline is over before."""
        return not self._over.wait(fault.begins_s - self._elapsed())

    def _hog_gil(self, fault: Fault) -> None:
        if self._begun(fault):
            while fault.lasts(self._elapsed()) and not self._over.is_set():
                sum(range(self._rounds))  # one call into C that never lets go of the GIL
                time.sleep(REST_S)

    def _stall_by_gc(self, fault: Fault) -> None:
        if self._begun(fault):
            while fault.lasts(self._elapsed()) and not self._over.is_set():
                gc.collect()


def _heap(count: int) -> list[object]:
    """Return so many objects that the garbage collector has to look at."""
    gc.disable()  # or it would look at them many times while they are made
    try:
        heap: list[object] = [(number, {}) for number in range(count)]
    finally:
        gc.enable()
    gc.collect()  # from now on it takes them for old, and looks at them when it is told to
    return heap


def _rounds(seconds: float) -> int:
    """Return up to which number `sum(range(number))` takes this long here."""
    tried = 500_000

    def once() -> float:
        before = time.monotonic()
        sum(range(tried))
        return time.monotonic() - before

    # The fastest of some tries: others may have had the CPU meanwhile.
    return round(tried * seconds / min(once() for _ in range(5)))

"""The engine `GpuSampler`: what the GPUs are doing, read every half second."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from ....clock import now_ns
from ....errors import InputError
from ....runs import processes
from ....runs.background import Background
from ....runs.writer import RunWriter
from .meters import HostMeter, Meter, find_meter, on_hostcuda, use_of_cuda

#: The periods that can be chosen. Reading a device takes a millisecond or so.
_LEAST_PERIOD_S, _MOST_PERIOD_S = 0.01, 3600.0

#: How long the end of a recording waits for a reading that is going on.
_PATIENCE_S = 2.0

#: A forked child that ends sooner is not sampled.
_CHILD_AFTER_NS = 250_000_000


class GpuSampler:
    """Reads each device's memory, load, clocks, power and temperature: `gpu_samples`.

    It reads through NVML, the driver's management library, with nvidia-ml-py. What a
    driver does not tell stays empty, and a finding says so once; so it does for a device
    that is lost. Where `hostcuda` is installed, it reads that. Devices that this process
    does not see (`CUDA_VISIBLE_DEVICES`) are not read.

    A spawned child has a sampler of its own. In a forked one sampling goes on once the
    child itself uses the GPU.

    Parameters
    ----------
    period_s : float
        From one reading to the next, in seconds; at least 0.01. There is one as the
        recording begins, and one as it ends.

    Raises
    ------
    InputError
        If the period cannot be used.

    Examples
    --------
    >>> GpuSampler(period_s=0.1).parameters()
    {'period_s': 0.1}
    """

    name = "gpu_sampler"

    def __init__(self, period_s: float = 0.5) -> None:
        if not _LEAST_PERIOD_S <= period_s <= _MOST_PERIOD_S:
            raise InputError(
                "period_s is the time between two readings in seconds, "
                f"{_LEAST_PERIOD_S:g} to {_MOST_PERIOD_S:g}, not {period_s!r}"
            )
        self._period_s = float(period_s)
        self._background: Background | None = None
        self._writer: RunWriter | None = None
        self._meter: Meter | None = None
        self._failed = False
        #: The thread is to read nothing now: it is being ended.
        self._quiet = False
        self._next_ns = 0
        #: In a forked child that has not used a GPU yet; what `use_of_cuda` says there.
        self._in_child = False
        self._unused: object = None
        self._reading = threading.Lock()

    def parameters(self) -> dict[str, Any]:
        """Return the keyword arguments that make another one like it."""
        return {"period_s": self._period_s}

    def start(self, writer: RunWriter) -> None:
        """Take a first reading, and go on reading in a thread."""
        if self._background is not None:
            return
        self._writer = writer
        self._failed = self._quiet = self._in_child = False
        self._sample()
        self._background = Background(self._round, self._period_s)
        self._go_on()
        processes.watch_forks(self)

    def stop(self) -> None:
        """Take a last reading, and end the thread."""
        background = self._background
        if background is None:
            return
        self._quiet = True
        background.stop(_PATIENCE_S)
        if not self._in_child:
            self._sample()
        meter, self._background, self._writer, self._meter = self._meter, None, None, None
        if meter is not None and not self._reading.locked():
            meter.close()

    def _go_on(self) -> None:
        """Read in a thread, if there is anything left to read."""
        if self._background is not None and not (self._meter and self._meter.ended):
            self._quiet = False
            with contextlib.suppress(RuntimeError):  # no thread is to be had
                self._background.start()

    def _round(self) -> None:
        """What the thread calls: each period, and when it is woken."""
        background = self._background
        if self._quiet or background is None or now_ns() < self._next_ns:
            return
        if self._in_child:
            if use_of_cuda() == self._unused:
                return
            self._in_child = False
        self._sample()
        if self._meter is not None and self._meter.ended:
            background.leave()

    def _sample(self) -> None:
        writer = self._writer
        # Where a driver hangs, so does a reading: nothing waits for it.
        if writer is None or not self._reading.acquire(blocking=False):
            return
        try:
            meter = self._meter
            if meter is None or (on_hostcuda() and not isinstance(meter, HostMeter)):
                self._meter = meter = find_meter()
            # Half a period early at most: a thread's alarm does not come to the nanosecond.
            self._next_ns = now_ns() + int(self._period_s * 0.5e9)
            for reading in meter.read():
                writer.row("gpu_samples", labels=0, **reading.columns())
            for note in meter.notes():
                writer.finding(note.kind, note.message, note.severity, labels=0, **note.evidence)
        except Exception as error:  # the next reading may go better
            if not self._failed:
                self._failed = True
                writer.finding(
                    "gpu_sampler_failed",
                    f"a GPU could not be read ({type(error).__name__}: {error}), so samples are "
                    "missing",
                    severity="error",
                    labels=0,
                )
        finally:
            self._reading.release()

    # --- forks ------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Have no thread while the process forks."""
        if self._background is not None:
            self._quiet = True
            self._background.stop(patience_s=0.25)
            # CUDA itself does not survive a fork, so that a child has not begun to use it.
            self._unused = use_of_cuda() if on_hostcuda() else False

    def after_fork_in_parent(self) -> None:
        """Go on, at once if a reading is due: a program may fork more often than that."""
        self._go_on()
        if self._background is not None and now_ns() >= self._next_ns:
            self._background.wake()

    def after_fork_in_child(self) -> None:
        """Wait for the child to use the GPU: reading makes it a process of the run."""
        if self._background is None:
            return
        self._background.leave()
        self._reading = threading.Lock()
        self._meter = None
        self._in_child = True
        self._next_ns = now_ns() + _CHILD_AFTER_NS
        self._go_on()

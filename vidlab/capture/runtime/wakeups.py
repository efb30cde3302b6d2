"""How late a sleeping thread runs Python again: for want of a CPU, or of the GIL.

A thread of vidlab's own sleeps for a moment, and looks how much later than asked it is
back. The kernel tells how long of that it was ready to run without a CPU (see `scheduler`).
The rest is an estimate of its wait for the GIL: the moments that the timer and the
switching of threads take are in it too, some tens of microseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

from ...clock import now_ns, thread_cpu_ns
from ...runs.writer import RunWriter
from ...schema import TABLES, UNKNOWN
from .pacing import Paced

_RECORD = TABLES["wakeups"].record
assert _RECORD is not None
_SIZE = _RECORD.size
_pack_into = _RECORD.struct.pack_into

#: How often the thread looks whether it has something to do, if it has nothing.
_IDLE_NS = 3_600_000_000_000

#: Of prctl.h: by how much the kernel may put a thread's alarms off, 50 µs by default.
_SET_TIMER_SLACK = 29


class Probe:
    """Sleeps, and writes `wakeups`, in a thread.

    Attributes
    ----------
    period_ns : int
        How long it sleeps; 0 for no probing.
    cpu_ns : int
        The CPU time that its thread has used.
    """

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self.period_ns = 0
        self.cpu_ns = 0
        self._asked_ns = self._slept_at_ns = 0
        self._runqueue_ns = 0
        self._clocks = -1
        self._thread = Paced(self._woken, "vidlab-probe", self._begin)

    def follow(self, period_ns: int) -> None:
        """Sleep so long from now on; start the thread if it is needed and there is none."""
        before, self.period_ns = self.period_ns, period_ns
        if period_ns and not self._thread.thread:
            self._slept_at_ns = 0
            self._thread.start_in(0.0)
        elif not before and period_ns:
            self._thread.wake()

    def stop(self, patience_s: float) -> None:
        """End the thread."""
        self._thread.stop(patience_s)
        self._close()

    def leave(self) -> None:
        """In a forked child, that has no such thread: forget it."""
        self._thread.leave()
        self._close()
        self.period_ns = self.cpu_ns = 0

    def _begin(self) -> None:
        """Have the kernel count for this thread, and wake it as soon as it can."""
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(_SET_TIMER_SLACK, 1, 0, 0, 0)
        self._close()
        with contextlib.suppress(OSError):
            self._clocks = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._slept_at_ns = 0
        self._runqueue_ns = self._read()

    def _close(self) -> None:
        file, self._clocks = self._clocks, -1
        if file >= 0:
            with contextlib.suppress(OSError):
                os.close(file)

    def _woken(self) -> float:
        """Write down how late it is; return for how many seconds to sleep now."""
        t_ns = now_ns()
        try:
            if self._slept_at_ns and t_ns - self._slept_at_ns >= self._asked_ns:
                self._write(t_ns, t_ns - self._slept_at_ns - self._asked_ns)
        except Exception:
            self._writer.lost("wakeups", 1)
        self.cpu_ns = thread_cpu_ns()
        asked_ns = self.period_ns
        self._asked_ns = asked_ns or _IDLE_NS
        self._slept_at_ns = now_ns() if asked_ns else 0
        return self._asked_ns / 1e9

    def _write(self, t_ns: int, late_ns: int) -> None:
        before_ns, self._runqueue_ns = self._runqueue_ns, self._read()
        if UNKNOWN in (before_ns, self._runqueue_ns):
            runqueue_ns = gil_ns = UNKNOWN
        else:
            runqueue_ns = min(late_ns, self._runqueue_ns - before_ns)
            gil_ns = late_ns - runqueue_ns
        buffer = self._writer.buffer("wakeups")
        position = buffer.position
        if position == buffer.end:
            position = buffer.roll()
        buffer.position = position + _SIZE
        _pack_into(
            buffer.view,
            position,
            t_ns - late_ns,
            self._asked_ns,
            late_ns,
            runqueue_ns,
            gil_ns,
            0,
            0,
            0,
            1,
        )

    def _read(self) -> int:
        """Return how long this thread has been ready to run without a CPU; UNKNOWN if not told."""
        try:
            return int(os.pread(self._clocks, 96, 0).split()[1])
        except (OSError, IndexError, ValueError):
            return UNKNOWN

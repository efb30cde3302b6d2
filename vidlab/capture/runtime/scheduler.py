"""How long each thread waited for a CPU, in windows of a second.

The kernel keeps for each thread, in `/proc/self/task/<tid>/schedstat`, its time on a CPU and
its time ready to run without one, in nanoseconds, and how often it was given a CPU
(https://docs.kernel.org/scheduler/sched-stats.html). No privilege is needed. The files are
kept open, as reading one then costs a microsecond and not fifteen.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Sequence

from ...runs.writer import RunWriter
from .parts import Missing, Pen, Reading

WINDOW_NS = 1_000_000_000

#: So many files are kept open at most, and so small a part of those that the process may open.
_MOST_FILES = 256
_FILES_SHARE = 8

TASKS = "/proc/self/task"


def threads_here() -> list[str]:
    """Return the process's threads, as the kernel numbers them. May raise `Missing`."""
    try:
        return os.listdir(TASKS)  # noqa: PTH208 - a Path costs more than the call
    except OSError as error:
        raise _no_threads(error) from error


class _Clocks:
    """A thread's counts as they were last read, and as they were when the window began."""

    __slots__ = (
        *("cpu_ns", "runqueue_ns", "slices", "text", "file"),
        *("cpu_before_ns", "runqueue_before_ns", "slices_before"),
        *("since_ns", "readings", "delays_ns"),
    )

    def __init__(self, file: int, since_ns: int) -> None:
        self.file = file
        self.text = b""
        self.cpu_ns = self.runqueue_ns = self.slices = 0
        self.cpu_before_ns = self.runqueue_before_ns = self.slices_before = 0
        self.begin_window(since_ns)

    def begin_window(self, t_ns: int) -> None:
        self.cpu_before_ns = self.cpu_ns
        self.runqueue_before_ns = self.runqueue_ns
        self.slices_before = self.slices
        self.since_ns = t_ns
        self.readings = 0
        self.delays_ns: list[int] = []

    def take(self, text: bytes) -> None:
        """Take a reading."""
        self.readings += 1
        if text == self.text:  # most threads, most of the time
            return
        cpu, runqueue, slices = text.split()
        cpu_ns, runqueue_ns, count = int(cpu), int(runqueue), int(slices)
        if count > self.slices:
            self.delays_ns.append((runqueue_ns - self.runqueue_ns) // (count - self.slices))
        self.text = text
        self.cpu_ns, self.runqueue_ns, self.slices = cpu_ns, runqueue_ns, count


class Scheduler:
    """Reads every thread's clocks; writes `thread_waits` and `vidlab.thread.runqueue.time`.

    A thread that did not run in a window has no row for it. What a thread did since it was
    last read is not known once it has ended.
    """

    least_period_ns = 0

    def __init__(self, writer: RunWriter | None = None, pen: Pen | None = None) -> None:
        self._writer = writer
        self._pen = pen
        self._threads: dict[str, _Clocks] = {}
        #: How many threads there were when they were last listed.
        self._links = -1
        self._ended_ns = 0
        self._since_ns = 0
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._spare_files = min(_MOST_FILES, max(0, allowed) // _FILES_SHARE)

    def look(self, t_ns: int) -> None:
        """Read all threads; write the window down if it is over."""
        first = not self._since_ns
        if first:
            self._since_ns = t_ns
        self._read_all(t_ns)
        if first:
            for clocks in self._threads.values():  # what they did before is not of this window
                clocks.begin_window(t_ns)
            if not any(clocks.cpu_ns for clocks in self._threads.values()):
                raise Missing(
                    "this kernel does not tell how long threads wait for a CPU "
                    "(CONFIG_SCHED_INFO), so there are no thread_waits"
                )
        elif t_ns - self._since_ns >= WINDOW_NS:
            self._end_window(t_ns)

    def read(self) -> Sequence[Reading]:
        """Return the metric as it is now."""
        self._read_all(self._since_ns)
        return [self._total()]

    def finish(self, t_ns: int) -> None:
        """Write down the window that is not over yet."""
        if self._since_ns and t_ns > self._since_ns:
            self._read_all(t_ns)
            self._end_window(t_ns)

    def close(self) -> None:
        """Close what is kept open."""
        for clocks in self._threads.values():
            self._let_go(clocks)
        self._threads.clear()

    def _read_all(self, t_ns: int) -> None:
        ended = self._read_known(t_ns)
        # Where none has ended, and there are as many as before, none has begun: a listing
        # costs as much as reading all of them.
        links = _links()
        if ended or links != self._links:
            self._links = links
            threads = self._threads
            here = set(threads_here())
            for tid in threads.keys() - here:
                self._end(tid, t_ns)
            for tid in here - threads.keys():
                # It has begun within the window, so that all it did is of the window.
                threads[tid] = clocks = _Clocks(self._open(tid), self._since_ns)
                self._read(tid, clocks, t_ns)

    def _read_known(self, t_ns: int) -> bool:
        """Read the threads that are known; return whether one has ended."""
        ended = False
        for tid, clocks in list(self._threads.items()):
            if not self._read(tid, clocks, t_ns):
                ended = True
        return ended

    def _read(self, tid: str, clocks: _Clocks, t_ns: int) -> bool:
        """Read a thread's clocks; return False if it has ended."""
        try:
            if clocks.file >= 0:
                clocks.take(os.pread(clocks.file, 96, 0))
            else:
                clocks.take(_read_once(tid))
        except (OSError, ValueError):
            self._end(tid, t_ns)
            return False
        return True

    def _total(self) -> Reading:
        """Return what all threads have waited for a CPU, those that have ended too."""
        living_ns = sum(clocks.runqueue_ns for clocks in self._threads.values())
        return ("vidlab.thread.runqueue.time", "", (self._ended_ns + living_ns) / 1e9)

    def _open(self, tid: str) -> int:
        if self._spare_files > 0:
            with contextlib.suppress(OSError):
                file = os.open(f"{TASKS}/{tid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
                self._spare_files -= 1
                return file
        return -1

    def _end(self, tid: str, t_ns: int) -> None:
        clocks = self._threads.pop(tid)
        self._ended_ns += clocks.runqueue_ns
        self._let_go(clocks)
        self._write(tid, clocks, t_ns)

    def _let_go(self, clocks: _Clocks) -> None:
        if clocks.file >= 0:
            self._spare_files += 1
            with contextlib.suppress(OSError):
                os.close(clocks.file)
            clocks.file = -1

    def _end_window(self, t_ns: int) -> None:
        self._since_ns = t_ns
        for tid, clocks in self._threads.items():
            self._write(tid, clocks, t_ns)
            clocks.begin_window(t_ns)
        if self._pen is not None:
            self._pen.write(t_ns, [self._total()])

    def _write(self, tid: str, clocks: _Clocks, t_ns: int) -> None:
        """Write a thread's window down, if it ran in it or waited to."""
        cpu_ns = clocks.cpu_ns - clocks.cpu_before_ns
        runqueue_ns = clocks.runqueue_ns - clocks.runqueue_before_ns
        if self._writer is None or not (cpu_ns or runqueue_ns):
            return
        delays_ns = sorted(clocks.delays_ns)
        self._writer.row(
            "thread_waits",
            t_ns=clocks.since_ns,
            tid=int(tid),
            labels=0,
            duration_ns=t_ns - clocks.since_ns,
            cpu_ns=cpu_ns,
            runqueue_ns=runqueue_ns,
            slices=clocks.slices - clocks.slices_before,
            readings=clocks.readings,
            p50_delay_ns=delays_ns[(len(delays_ns) - 1) // 2] if delays_ns else None,
            worst_delay_ns=delays_ns[-1] if delays_ns else None,
        )


def _links() -> int:
    """Return the links of the folder of threads: one more for each. May raise `Missing`."""
    try:
        return os.stat(TASKS).st_nlink  # noqa: PTH116 - a Path costs more than the call
    except OSError as error:
        raise _no_threads(error) from error


def _no_threads(error: OSError) -> Missing:
    return Missing(f"the process's threads cannot be read ({error}): /proc has to be mounted")


def _read_once(tid: str) -> bytes:
    """Return a thread's clocks without keeping its file open."""
    file = os.open(f"{TASKS}/{tid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(file, 96, 0)
    finally:
        os.close(file)

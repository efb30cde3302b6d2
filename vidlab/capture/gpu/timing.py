"""How long a stage's work takes on the GPU: two CUDA events, read once the GPU is past them.

A stage records an event on the current CUDA stream as it begins, and one as it ends: that
takes microseconds and waits for nothing. A thread of the recording looks every 10 ms, while
there are any, whether they have happened, and writes the time between the two, a record of
the table `gpu_times`. It asks (`cudaEventQuery`) and never waits: the pipeline is not
synchronised.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from time import sleep
from typing import Any, NamedTuple, Protocol

from ...clock import now_ns
from ...runs import processes
from ...runs.background import Background
from ...schema import TABLES
from .devices import libcuda
from .devices.meters import on_hostcuda

_RECORD = TABLES["gpu_times"].record
assert _RECORD is not None
_SIZE = _RECORD.size
_pack_into = _RECORD.struct.pack_into

#: Host memory does no work that could be timed. Tests of the way that a time takes say True.
TIME_ON_HOSTCUDA = False

#: How often the thread looks, while it has something to look for.
_INTERVAL_S = 0.01

#: How long the end of a recording waits for what the GPU has not done yet.
PATIENCE_S = 2.0

#: How much longer it waits for the thread, which may have no CPU just then, to notice that.
_GRACE_S = 10.0

#: Stages that may wait for the GPU; what comes on top is lost.
MOST_WAITING = 1 << 17

# CUDA's statuses: an event that has not happened; no driver, no device; calls that are not
# for now, as a stream captures a graph.
_NOT_READY = 600
_NO_DEVICE = frozenset({35, 100})
_CAPTURING = frozenset(range(900, 910))


class Begun(NamedTuple):
    """A stage's first event."""

    device: int
    event: int


class Timed(NamedTuple):
    """A stage's two events; `stream` is that of the second."""

    device: int
    stream: int
    start: int
    end: int


class Writer(Protocol):
    """What a timer needs of `runs.writer.RunWriter`."""

    def buffer(self, table: str) -> Any: ...
    def lost(self, table: str, count: int) -> None: ...
    def finding(
        self, kind: str, message: str, severity: str = "warning", **evidence: Any
    ) -> None: ...


class Timer:
    """Times the stages of one recording on the GPU. Any thread may call it.

    Nothing here raises: what cannot be timed is a stage without GPU time, and the first of
    its kind is a finding.

    Parameters
    ----------
    writer : RunWriter
        What the records go to.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._noted: set[str] = set()
        self._background = Background(self._called, 60.0)
        self._begin_anew()
        processes.watch_forks(self)

    def _begin_anew(self) -> None:
        self._cuda: _Cuda | None = None
        #: Nothing is timed any more: there is no device, or the recording has ended.
        self._off = False
        #: Events that can be used again, by device.
        self._free: dict[int, deque[int]] = {}
        #: Pairs with their spans: new ones, and those that are waited for, by stream in order.
        self._new: deque[tuple[int, Timed]] = deque()
        self._waiting: dict[tuple[int, int], deque[tuple[int, Timed]]] = {}
        self._held = 0  # how many of the latter
        self._idle = True
        self._working = False
        self._pausing = False
        self._ending_ns: int | None = None

    # --- in the program's threads -----------------------------------------------------

    def begin(self) -> Begun | None:
        """Record a first event on the current stream; None if that cannot be."""
        if self._off:
            return None
        try:
            cuda = self._cuda or self._find_cuda()
            if cuda is None:
                return None
            device = cuda.device()
            event = self._record(cuda, device, cuda.stream().ptr)
            return None if event is None else Begun(device, event)
        except Exception as error:
            self._failed(error)
            return None

    def end(self, begun: Begun) -> Timed | None:
        """Record a second event on the current stream, and return both; None if that cannot be."""
        cuda = self._cuda
        if cuda is None:  # the process has forked meanwhile
            return None
        device, start = begun
        try:
            if self._off:
                cuda.destroy(start)
                return None
            stream, event = cuda.stream().ptr, None
            if cuda.device() == device:
                event = self._record(cuda, device, stream)
            else:
                self._note(
                    "gpu_time_missing",
                    "a stage has ended with another device current than it began with: such "
                    "stages have no GPU time",
                )
            if event is not None:
                return Timed(device, stream, start, event)
            self._free[device].append(start)
        except Exception as error:
            self._failed(error)
        return None

    def take(self, span: int, timed: Timed) -> None:
        """Find out, later, how long this span took."""
        if self._off or len(self._new) + self._held >= MOST_WAITING:
            self._writer.lost("gpu_times", 1)
            return
        self._new.append((span, timed))
        if self._idle:
            self._idle = False
            self._background.wake()

    def drop(self, timed: Timed) -> None:
        """Take back the events of a stage that is not recorded after all."""
        with contextlib.suppress(KeyError):  # the process has forked meanwhile
            self._free[timed.device] += (timed.start, timed.end)

    def stop(self) -> None:
        """Write what the GPU is done with within 2 seconds; the rest is lost, and counted."""
        self._ending_ns = now_ns() + int(PATIENCE_S * 1e9)
        self._off = True
        self._background.stop(PATIENCE_S + _GRACE_S)
        cuda = self._cuda
        if cuda is None or self._working:
            return
        with contextlib.suppress(Exception):  # no thread has come to it, or there was none
            device = cuda.device()
            try:
                self._work(cuda)
            finally:
                cuda.set_device(device)

    def _record(self, cuda: _Cuda, device: int, stream: int) -> int | None:
        """Record an event on a stream, unless it only captures what it is given."""
        if cuda.captures(stream):
            return None
        free = self._free.get(device)
        if free is None:
            free = self._free.setdefault(device, deque())
        try:
            event = free.pop()
        except IndexError:
            event = cuda.create(0)
        cuda.record(event, stream)
        return event

    def _find_cuda(self) -> _Cuda | None:
        """Return CuPy's functions once the program has imported it. This never imports it."""
        if on_hostcuda() and not TIME_ON_HOSTCUDA:
            self._off = True
            return None
        cuda = getattr(sys.modules.get("cupy"), "cuda", None)
        if not hasattr(cuda, "get_current_stream"):
            self._note(
                "gpu_time_missing",
                "a stage with gpu=True has no GPU time, as CuPy was not imported when it began",
            )
            return None
        found = _Cuda(cuda)
        found.device()  # raises where there is none
        if not self._background.thread:
            with contextlib.suppress(RuntimeError):  # no thread is to be had: all is lost
                self._background.start()
        self._cuda = found
        return found

    def _failed(self, error: Exception) -> None:
        status = getattr(error, "status", 0)
        if status in _CAPTURING:
            return
        if status in _NO_DEVICE:
            self._off = True
            self._note("gpu_time_missing", f"stages have no GPU time: no GPU works here ({error})")
            return
        self._note(
            "gpu_time_failed",
            f"the GPU time of a stage could not be taken ({type(error).__name__}: {error})",
            "warning",
        )

    def _note(self, kind: str, message: str, severity: str = "info") -> None:
        if kind not in self._noted:
            self._noted.add(kind)
            self._writer.finding(kind, message, severity)

    # --- in a thread of the recording -------------------------------------------------

    def _called(self) -> None:
        """What the thread calls when it is woken."""
        cuda = self._cuda
        if cuda is None:
            return
        self._working = True
        try:
            driver = libcuda.started()
            if driver is not None:
                driver.allow_calls_beside_captures()
            self._work(cuda)
        except Exception as error:
            self._failed(error)
        finally:
            self._working = False
            self._idle = True  # also if it has failed

    def _work(self, cuda: _Cuda) -> None:
        """Look again and again, until nothing is left to look for."""
        while True:
            self._look(cuda)
            if self._ending_ns is not None:
                if not self._waiting or now_ns() > self._ending_ns:
                    self._let_go(cuda)
                    return
            elif self._pausing:
                return
            elif not self._waiting:
                self._idle = True
                if not self._new:
                    return
                self._idle = False
            sleep(_INTERVAL_S)

    def _look(self, cuda: _Cuda) -> None:
        """Write down what has happened since the last look."""
        for _ in range(len(self._new)):
            span, timed = self._new.popleft()
            self._waiting.setdefault((timed.device, timed.stream), deque()).append((span, timed))
        for (device, stream), queue in list(self._waiting.items()):
            # Without this, asking would make a context on the first device, if there is none.
            with contextlib.suppress(Exception):
                cuda.set_device(device)
            while queue and self._settle(cuda, *queue[0]):
                queue.popleft()
            if not queue:
                del self._waiting[device, stream]
        self._held = sum(map(len, self._waiting.values()))

    def _settle(self, cuda: _Cuda, span: int, timed: Timed) -> bool:
        """Write how long a span took; return False if that is not known yet."""
        try:
            status = cuda.query(timed.end)
            if status == _NOT_READY:
                return False
            # The first event may be on another stream, and not have happened yet.
            duration_ns = round(cuda.elapsed_ms(timed.start, timed.end) * 1e6)
        except Exception as error:
            if getattr(error, "status", 0) == _NOT_READY:
                return False
            self._failed(error)
            self._writer.lost("gpu_times", 1)
            return True
        self._free[timed.device] += (timed.start, timed.end)
        if duration_ns < 0:  # the second event, on another stream, was the first to happen
            self._writer.lost("gpu_times", 1)
            return True
        buffer = self._writer.buffer("gpu_times")
        position = buffer.position
        if position == buffer.end:
            position = buffer.roll()
        buffer.position = position + _SIZE
        _pack_into(buffer.view, position, now_ns(), span, duration_ns, 1)
        return True

    def _let_go(self, cuda: _Cuda) -> None:
        """At the end: count what is still not known, and destroy the events that nobody uses."""
        for queue in self._waiting.values():
            self._writer.lost("gpu_times", len(queue))
            for _, timed in queue:
                self._free[timed.device] += (timed.start, timed.end)
        self._waiting.clear()
        for free in self._free.values():
            with contextlib.suppress(Exception):
                while free:
                    cuda.destroy(free.pop())

    # --- forks ------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Have no thread while the process forks."""
        self._pausing = True
        self._background.stop(patience_s=0.25)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._pausing = False
        if self._cuda is not None and not self._off:
            with contextlib.suppress(RuntimeError):
                self._background.start()
                self._background.wake()

    def after_fork_in_child(self) -> None:
        """Forget all events: CUDA does not survive a fork, so they are the parent's alone."""
        self._background.leave()
        self._begin_anew()


class _Cuda:
    """The functions of CuPy that are used here, as they are below other engines' patches."""

    def __init__(self, cuda: Any) -> None:
        runtime = cuda.runtime
        self.stream = cuda.get_current_stream
        self.device = _original(runtime, "getDevice")
        self.set_device = _original(runtime, "setDevice")
        self.captures = _original(runtime, "streamIsCapturing")
        self.create = _original(runtime, "eventCreateWithFlags")
        self.record = _original(runtime, "eventRecord")
        self.query = _original(runtime, "eventQuery")
        self.elapsed_ms = _original(runtime, "eventElapsedTime")
        self.destroy = _original(runtime, "eventDestroy")


def _original(runtime: Any, name: str) -> Any:
    """These calls are not the program's: those who watch for its own are not to see them."""
    function = getattr(runtime, name)
    return getattr(function, "__wrapped__", function)

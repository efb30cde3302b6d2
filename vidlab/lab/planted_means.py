"""By what frames are made late, and how long each took by a clock of its own.

Each has a method that is called while the frame is worked on and returns the nanoseconds that
it took away from it: what a recording should find, measured without one.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..clock import now_ns
from ..errors import VidlabError

#: How long a frame is held up, about.
HELD_S = 0.12

#: Processes that want the CPU that a thread is on, and how long it is to wait there at most.
BURNERS, PATIENCE_S = 5, 1.5

#: A thread that needs the GIL lets go of it for so long, over and over, to see it gone.
_NAP_NS = 500_000

#: A piece of work in C that lets go of the GIL: about a millisecond.
_PIECE = bytes(1 << 20)

#: Objects that the heap for the collector grows by until it takes long enough.
_OBJECTS = 250_000

#: What a process does that takes a CPU from others. It reads a byte, burns until the next,
#: and ends with whoever started it.
_BURN = """
import os, select, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
while os.read(0, 1):
    while not select.select([0], [], [], 0)[0]:
        pass
    if not os.read(0, 1):
        break
"""


def sleep() -> int:
    """Wait for nothing that anybody records."""
    begin = now_ns()
    time.sleep(HELD_S)
    return now_ns() - begin


def compute() -> int:
    """Have a CPU for long, without the GIL; the time that others had the CPU is not in it."""
    begin = time.thread_time_ns()
    while time.thread_time_ns() - begin < HELD_S * 1e9:
        hashlib.sha256(_PIECE).digest()
    return time.thread_time_ns() - begin


class Garbage:
    """A heap that the collector takes long to go through, when it is let."""

    def __init__(self) -> None:
        self._heap: list[list[Any]] = []
        gc.collect()
        while self._collected() < HELD_S * 1e9:
            gc.disable()  # or it would look at the objects many times while they are made
            try:
                self._heap.append([[] for _ in range(_OBJECTS)])
            finally:
                gc.enable()
        gc.freeze()  # what collects by itself is not to see it

    def _collected(self) -> int:
        """The CPU time of a collection: on a busy machine it goes on for longer."""
        begin = time.thread_time_ns()
        gc.collect()
        return time.thread_time_ns() - begin

    def collect(self) -> int:
        """Collect garbage all through the heap."""
        begin = now_ns()
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        return now_ns() - begin

    def close(self) -> None:
        """Let go of the heap."""
        gc.unfreeze()
        self._heap.clear()


class Hog:
    """A thread that holds the GIL for a while when it is told to.

    It calls a function of C that waits, and that nobody has told to let go of the GIL: how long
    it holds it does not depend on who else wants a CPU.
    """

    def __init__(self) -> None:
        self._wait = ctypes.PyDLL(None).usleep  # unlike a CDLL, it keeps the GIL
        self._go, self._done = threading.Event(), threading.Event()
        self._over = False
        self._held = (0, 0)
        self._thread = threading.Thread(target=self._run, name="hog", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self._go.wait() and not self._over:
            self._go.clear()
            begin = now_ns()
            self._wait(round(HELD_S * 1e6))
            self._held = (begin, now_ns())
            self._done.set()

    def hold(self) -> int:
        """Have the GIL held while the calling thread needs it."""
        self._done.clear()
        self._go.set()
        waits = []
        while not self._done.is_set():
            since = now_ns() + _NAP_NS
            time.sleep(_NAP_NS / 1e9)  # lets go of the GIL, and wants it back
            waits.append((since, now_ns()))
        begin, end = self._held
        return sum(max(0, min(until, end) - max(since, begin)) for since, until in waits)

    def close(self) -> None:
        """End the thread."""
        self._over = True
        self._go.set()
        self._thread.join()


class Neighbours:
    """Processes that want the CPU that a thread is on."""

    def __init__(self) -> None:
        self._cpu = max(os.sched_getaffinity(0))
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BURN, str(self._cpu)], stdin=subprocess.PIPE
            )
            for _ in range(BURNERS)
        ]

    def contend(self) -> int:
        """Compute beside them, without the GIL, until the thread has waited for long enough."""
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {self._cpu})
        begin, since = waited_ns(), time.monotonic()
        self._tell()
        try:
            while waited_ns() - begin < HELD_S * 1e9 and time.monotonic() - since < PATIENCE_S:
                hashlib.sha256(_PIECE).digest()
        finally:
            self._tell()
            os.sched_setaffinity(0, allowed)
        return waited_ns() - begin

    def _tell(self) -> None:
        for process in self._processes:
            os.write(process.stdin.fileno(), b"!")  # type: ignore[union-attr]

    def close(self) -> None:
        """End them."""
        for process in self._processes:
            process.stdin.close()  # type: ignore[union-attr]
        for process in self._processes:
            process.wait()


def waited_ns() -> int:
    """For how long the calling thread was ready to run and had no CPU, as the kernel counts."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_bytes().split()[1])
    except OSError as error:
        raise VidlabError(
            f"this kernel does not tell how long threads wait for a CPU ({error}): plant the "
            "causes on one that was built with CONFIG_SCHED_INFO"
        ) from error


class SlowDriver:
    """A CUDA runtime whose malloc takes long when it is told to: below all that records.

    It stands where the trampolines of `capture.gpu.driver` call CuPy's own function. Enter it
    while a recording with `GpuMemory` runs.
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._size = 1 << 20
        self._slow = False
        self.took_ns = 0
        runtime = sys.modules["cupy_backends.cuda.api.runtime"]
        self._address = _pointer(runtime.__pyx_capi__["malloc"])
        # CuPy's C function: the size, and whether Python's overriding is to be skipped.
        signature = ctypes.PYFUNCTYPE(ctypes.c_ssize_t, ctypes.c_size_t, ctypes.c_int)
        self._call = signature(self._address)
        self._ours = signature(self._malloc)

    def _malloc(self, size: int, skip: int) -> int:
        begin = now_ns()
        if self._slow:
            self._slow = False
            time.sleep(HELD_S)  # without the GIL, as the driver is waited for
            address = int(self._call(size, skip))
            self.took_ns = now_ns() - begin
            return address
        return int(self._call(size, skip))

    def __enter__(self) -> Self:
        from ..capture.gpu.driver.slots import extension

        extension().original("malloc", ctypes.cast(self._ours, ctypes.c_void_p).value)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        from ..capture.gpu.driver.slots import extension

        extension().original("malloc", self._address)

    def allocate(self) -> int:
        """Ask for more memory than CuPy's pool has at hand, when the driver is slow."""
        self._size += 1 << 16  # what was given back last time does not do
        self.took_ns, self._slow = 0, True
        self._cupy.empty(self._size, "u1")
        if self._slow:
            self._slow = False
            raise VidlabError("CuPy's pool had the memory at hand: no driver allocation was slow")
        return self.took_ns


def _pointer(capsule: Any) -> int:
    """The C function in a capsule."""
    api = ctypes.pythonapi
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    return int(pointer(("PyCapsule_GetPointer", api))(capsule, name_of(capsule)))

"""The GPU memory engine: every allocation and free of CuPy's, at the pool and the driver level."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

from ...errors import InputError, VidlabError
from ...runs.background import Background
from ...schema import DRIVER, POOL
from ..patching import Patches
from .devices import libcuda
from .devices.meters import on_hostcuda
from .driver import level as driver
from .driver.slots import extension
from .holding import holders
from .tracking import tracker as tracking
from .tracking.borrowing import Borrowing
from .tracking.contexts import Contexts, current_stream, current_stream_function
from .tracking.pool import PoolLevel
from .tracking.stacks import Stacks
from .tracking.tracker import Tracker, Writer

#: How often it is looked whether the allocator is still ours.
_INTERVAL_S = 0.1

#: The deepest stack: what is further out is left out.
_MOST_DEPTH = 128


class GpuMemory:
    """Records the allocations and frees of GPU memory by this process's CuPy.

    Parameters
    ----------
    stack_depth : int
        How many of the innermost calls are kept of where an allocation was made: 0
        to 128.
    holders : bool
        Whether to find out, at the end, what holds the blocks that are still in use.

    Notes
    -----
    Recorded are the default pool, the stream-ordered, managed and pinned allocators, any
    allocator that the program sets before or while it is recorded, and memory that it
    borrows. Where there is no CuPy or no GPU, nothing is recorded and one finding says so.

    Examples
    --------
    >>> GpuMemory(stack_depth=8).parameters()
    {'stack_depth': 8, 'holders': True}
    """

    name = "gpu_memory"

    def __init__(self, stack_depth: int = 32, holders: bool = True) -> None:
        if not 0 <= stack_depth <= _MOST_DEPTH:
            raise InputError(f"stack_depth is from 0 to {_MOST_DEPTH} calls, not {stack_depth!r}")
        self._stack_depth = stack_depth
        self._holders = holders
        self._patches: Patches | None = None
        self._tracker: Tracker | None = None
        self._pool: PoolLevel | None = None
        self._borrowing: Borrowing | None = None
        self._watch: _Watch | None = None
        self._driver: object | None = None

    def parameters(self) -> dict[str, Any]:
        """Return the keyword arguments that make another one like it."""
        return {"stack_depth": self._stack_depth, "holders": self._holders}

    def start(self, writer: Writer) -> None:
        """Begin to record into this run."""
        missing = _what_is_missing()
        if missing is not None:
            writer.finding(
                "gpu_memory_not_recorded", f"GPU memory is not recorded: {missing}", "info"
            )
            return
        self._tracker = Tracker(writer, Stacks(writer, self._stack_depth))
        self._patches = Patches()
        try:
            self._patches.set(tracking, "active", self._tracker)
            self._patches.when_imported("cupy", self._install)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Leave CuPy as it was. What is still allocated goes on to work as before."""
        tracker, patches, pool = self._tracker, self._patches, self._pool
        borrowing, watch = self._borrowing, self._watch
        self._tracker = self._patches = self._pool = self._borrowing = self._watch = None
        if tracker is None or patches is None:
            return
        try:
            if watch is not None:
                watch.end()
            if self._holders and pool is not None:
                _store_survivors(tracker)
        finally:
            patches.restore()
            if pool is not None:
                pool.stop()
            if borrowing is not None:
                borrowing.stop()
            driver.uninstall(self._driver)
            tracker.close()

    def _install(self, cupy: ModuleType) -> None:
        """Take CuPy's places, as soon as it is imported and before the program goes on."""
        tracker, patches = self._tracker, self._patches
        if tracker is None or patches is None:
            return
        tracker.contexts = Contexts(cupy)
        tracker.current_stream = current_stream(cupy)
        _use_extension(tracker, cupy)
        self._driver = driver.install(tracker, patches)
        _note_older(tracker, cupy)
        pool = self._pool = PoolLevel(cupy, tracker)
        pool.start(patches)
        self._borrowing = Borrowing(cupy, tracker)
        self._borrowing.start(patches)
        self._watch = _Watch(tracker, pool)


class _Watch:
    """Sees to it that the program's allocator is recorded, even if it was set behind our back."""

    def __init__(self, tracker: Tracker, pool: PoolLevel) -> None:
        self._tracker = tracker
        self._pool = pool
        self._background = Background(self._look, _INTERVAL_S, "vidlab-gpu")
        self._background.start()
        self._pid = os.getpid()

    def _look(self) -> None:
        try:
            if not self._pool.check():
                self._tracker.finding(
                    "allocator_replaced",
                    "the program has set CuPy's allocator by a function that it kept from "
                    "before the recording: it is recorded from now on, and what it "
                    f"handed out in up to {_INTERVAL_S:g} s before is not",
                    severity="info",
                )
        except Exception:
            self._tracker.failure()

    def end(self) -> None:
        """End the thread, which a forked child does not have."""
        if os.getpid() == self._pid:
            self._background.stop(patience_s=5.0)


def _what_is_missing() -> str | None:
    """Return what there is not that a program needs to use GPU memory; None if all is there."""
    if "cupy" not in sys.modules and importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed; pip install 'vidlab[gpu]' installs it"
    if _hostcuda_wanted():
        return None
    try:
        ctypes.CDLL("libcuda.so.1")  # this starts nothing
    except OSError:
        return (
            "no CUDA driver is installed here (libcuda.so.1); "
            "vl.hostcuda.install() gives CuPy a device in host memory, for a trial"
        )
    return None


def _hostcuda_wanted() -> bool:
    asked = os.environ.get("VIDLAB_HOSTCUDA", "").strip()
    return asked not in ("", "0") or on_hostcuda()


def _note_older(tracker: Tracker, cupy: Any) -> None:
    """Write down what the default pool and the current one have taken already."""
    if on_hostcuda():
        devices = list(range(cupy.cuda.runtime.getDeviceCount()))
    else:
        cuda = libcuda.started()
        count = 0 if cuda is None else cuda.device_count()
        devices = [n for n in range(count) if cuda is not None and cuda.has_context(n)]
    pools = [cupy.get_default_memory_pool()]
    current = getattr(cupy.cuda.get_allocator(), "__self__", None)
    if isinstance(current, cupy.cuda.MemoryPool) and current is not pools[0]:
        pools.append(current)
    for device in devices:
        with cupy.cuda.Device(device):
            for pool in pools:
                tracker.older(DRIVER, device, pool.total_bytes(), pooled=True)
                tracker.older(POOL, device, pool.used_bytes(), pooled=False)


def _use_extension(tracker: Tracker, cupy: Any) -> None:
    """Do in C, where that can be built, what each event needs."""
    try:
        native = extension()
    except VidlabError:
        return  # the driver level says so
    tracker.use(native)
    address = current_stream_function(cupy)
    native.current_stream_from(address)
    if address:
        tracker.current_stream = native.current_stream


def _store_survivors(tracker: Tracker) -> None:
    try:
        holders.store_survivors(tracker, tracker.writer)
    except Exception:
        tracker.failure()

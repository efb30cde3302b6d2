"""Recordings of GPU memory on the real CuPy, and allocators of every sort."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vidlab.capture.gpu import hostcuda
from vidlab.capture.gpu.engine import GpuMemory
from vidlab.capture.gpu.tracking import tracker as tracking
from vidlab.capture.gpu.tracking.tracker import Tracker
from vidlab.recording import Recording, record
from vidlab.runs.run import open_run


class GpuRecording:
    """A recording of GPU memory, running until `rows` is asked for or the test ends."""

    def __init__(self, path: Path, *engines: Any, **parameters: Any) -> None:
        gc.collect()  # what earlier tests left is not to be freed in this one
        self.recording: Recording = record(path, engines=[*engines, GpuMemory(**parameters)])
        assert tracking.active is not None
        self.tracker: Tracker = tracking.active

    def stop(self) -> None:
        self.recording.stop()

    def rows(self, table: str = "allocations", **equal: Any) -> list[dict[str, Any]]:
        """The rows of a table, those whose columns have these values, in the order of time."""
        self.stop()
        rows = open_run(self.recording.path).scan(table).collect().to_dicts()
        found = [row for row in rows if all(row[key] == value for key, value in equal.items())]
        return sorted(found, key=lambda row: row.get("t_ns", 0))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., GpuRecording]]:
    """Starts a recording of GPU memory; checks that the tracker itself never failed."""
    started: list[GpuRecording] = []

    def begin(**parameters: Any) -> GpuRecording:
        started.append(GpuRecording(tmp_path / f"run{len(started)}", **parameters))
        return started[-1]

    yield begin
    for each in started:
        each.stop()
        assert each.tracker.failures == 0, each.rows("findings")


@pytest.fixture(autouse=True)
def _async_pools_keep_nothing() -> None:
    """What an earlier test's stream-ordered pool keeps must not count in this one's books."""
    if not hostcuda.installed():
        return
    from cupy.cuda import runtime

    for device in range(runtime.getDeviceCount()):
        pool = runtime.deviceGetDefaultMemPool(device)
        runtime.memPoolSetAttribute(pool, runtime.cudaMemPoolAttrReleaseThreshold, 0)
        runtime.deviceSynchronize()
        runtime.memPoolTrimTo(pool, 0)


class Rmm:
    """A stand-in for RMM's allocator: its memory is CuPy's `UnownedMemory` of its own buffers."""

    class Buffer:
        def __init__(self, size: int, log: list[str]) -> None:
            from cupy.cuda import runtime

            self.log = log
            self.size = size
            self.ptr = runtime.malloc(size)
            log.append("malloc")

        def __del__(self) -> None:
            from cupy.cuda import runtime

            runtime.free(self.ptr)
            self.log.append("free")

    def __init__(self) -> None:
        self.log: list[str] = []

    def __call__(self, size: int) -> Any:
        import cupy

        if size == 0:
            return cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(0, 0, None, 0), 0)
        buffer = Rmm.Buffer(size, self.log)
        device = cupy.cuda.device.get_device_id()
        memory = cupy.cuda.UnownedMemory(buffer.ptr, size, buffer, device)
        return cupy.cuda.MemoryPointer(memory, 0)


def _async_pool() -> Any:
    import cupy

    cupy.disable_experimental_feature_warning = True
    return cupy.cuda.MemoryAsyncPool().malloc


def _default_pool() -> Any:
    import cupy

    return cupy.get_default_memory_pool().malloc


def _managed_pool() -> Any:
    import cupy

    return cupy.cuda.MemoryPool(cupy.cuda.malloc_managed).malloc


def _python_function() -> Any:
    import cupy

    runtime = cupy.cuda.runtime
    return cupy.cuda.PythonFunctionAllocator(
        lambda size, device: runtime.malloc(size), lambda address, device: runtime.free(address)
    ).malloc


#: How each sort of allocator is made, and the kind of memory that it gives.
ALLOCATORS: dict[str, tuple[Callable[[], Any], str]] = {
    "default pool": (_default_pool, "device"),
    "managed pool": (_managed_pool, "managed"),
    "async pool": (_async_pool, "async"),
    "unpooled": (lambda: None, "device"),
    "function": (lambda: _function_over(_default_pool()), "device"),
    "python functions": (_python_function, "device"),
    "rmm": (Rmm, "device"),
}


def _function_over(malloc: Any) -> Any:
    def allocate(size: int) -> Any:
        return malloc(size)

    return allocate


@pytest.fixture
def allocators() -> Iterator[None]:
    """Puts CuPy's allocators back to what they were."""
    import cupy

    before = cupy.cuda.get_allocator()
    yield
    cupy.cuda.set_allocator(before)
    cupy.cuda.set_pinned_memory_allocator(cupy.get_default_pinned_memory_pool().malloc)

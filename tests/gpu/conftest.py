"""Recordings of GPU memory on a real GPU, with CuPy's allocators and pools put back after each."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vidlab.capture.gpu.engine import GpuMemory
from vidlab.capture.gpu.tracking import tracker as tracking
from vidlab.recording import record
from vidlab.runs.run import open_run


class GpuRecording:
    """A recording of GPU memory, running until `rows` is asked for or the test ends."""

    def __init__(self, path: Path, *engines: Any, **parameters: Any) -> None:
        self.recording = record(path, engines=[*engines, GpuMemory(**parameters)])
        assert tracking.active is not None
        self.tracker = tracking.active

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

    def begin(*engines: Any, **parameters: Any) -> GpuRecording:
        path = tmp_path / f"run{len(started)}"
        started.append(GpuRecording(path, *engines, **parameters))
        return started[-1]

    yield begin
    for each in started:
        each.stop()
        assert each.tracker.failures == 0, each.rows("findings")


@pytest.fixture
def empty_pools() -> Iterator[None]:
    """Begins and ends with CuPy's own allocators, and with nothing in their pools."""
    import cupy

    _give_all_back(cupy)
    yield
    _give_all_back(cupy)


def _give_all_back(cupy: Any) -> None:
    pool, pinned = cupy.get_default_memory_pool(), cupy.get_default_pinned_memory_pool()
    cupy.cuda.set_allocator(pool.malloc)
    cupy.cuda.set_pinned_memory_allocator(pinned.malloc)
    gc.collect()
    pool.free_all_blocks()
    pinned.free_all_blocks()
    assert pool.total_bytes() == 0, "a test before this one holds memory still"

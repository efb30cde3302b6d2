"""Metrics: their table, and that each reading is what the system says elsewhere."""

from __future__ import annotations

import ctypes
import gc
import importlib
import itertools
import os
import resource
import threading
from pathlib import Path
from typing import Any

import pytest

from vidlab.capture.runtime import heap
from vidlab.capture.runtime.engine import Runtime
from vidlab.capture.runtime.heap import Heap
from vidlab.capture.runtime.interpreter import Interpreter
from vidlab.capture.runtime.parts import Missing, Pen
from vidlab.capture.runtime.pools import Pools
from vidlab.capture.runtime.process import Process
from vidlab.schema import METRIC_KINDS, TABLES
from vidlab.schema.metrics import METRICS, by_name


def readings(source: Any) -> dict[tuple[str, str], float]:
    return {(metric, attribute): value for metric, attribute, value in source.read()}


def test_the_table_of_metrics_is_whole() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.kind in (*METRIC_KINDS, "histogram")
        assert (metric.kind == "histogram") == (metric.table != "runtime_metrics")
        columns = {column.name for column in TABLES[metric.table].columns}
        assert metric.column in columns
        assert metric.name.startswith(("process.", "cpython.", "vidlab."))
        assert metric.meaning
        assert "\n" not in metric.meaning


def test_names_kinds_units_and_attributes_are_opentelemetrys() -> None:
    name = "opentelemetry.semconv._incubating"
    found: dict[str, tuple[str, str]] = {}
    keys: set[str] = set()
    for part in ("process", "cpython", "cpu", "system"):
        if part in ("process", "cpython"):
            module = pytest.importorskip(f"{name}.metrics.{part}_metrics")
            lines = Path(module.__file__).read_text().split("Final = ")[1:]
            for line in lines:
                kind = line.partition("Instrument: ")[2].partition("\n")[0]
                unit = line.partition("Unit: ")[2].partition("\n")[0]
                found[line.split('"')[1]] = (kind, unit)
        module = importlib.import_module(f"{name}.attributes.{part}_attributes")
        keys |= {value for value in vars(module).values() if isinstance(value, str)}
    known = [metric for metric in METRICS if not metric.name.startswith("vidlab.")]
    assert len(known) == 10
    for metric in known:
        assert found[metric.name] == (metric.kind, metric.unit)
        assert metric.attribute in keys | {""}
    assert not [metric.name for metric in METRICS if metric not in known and metric.name in found]


def test_every_reading_is_of_a_metric_and_has_its_attribute(writer: Any, recorded: Any) -> None:
    engine = Runtime()
    found = engine.read_once()
    Pen(writer).write(5, found)
    engine.stop()
    for metric, attribute, value in found:
        known = by_name(metric)
        expected = known.attribute_text("x")[:-1] if known.attribute else ""
        assert attribute.startswith(expected)
        assert value >= 0
    written = recorded.records("runtime_metrics")
    texts = [(row["metric"], row["attribute"], row["value"]) for row in written]
    assert sorted(texts) == sorted((m, a or "(other)", float(v)) for m, a, v in found)
    assert {row["kind"] for row in written} == set(METRIC_KINDS)
    parts = {by_name(metric).part for metric, _, _ in found}
    assert parts >= {"process", "scheduler", "interpreter", "blocks", "heap"}


def test_the_process_is_read_as_the_system_has_it() -> None:
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(3)]
    gc.collect()  # files that nobody refers to any more are not to be closed meanwhile
    source = Process(lambda: {"probe": 1_500_000})
    before = readings(source)
    for thread in threads:
        thread.start()
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(7)]
    ballast = bytearray(64 << 20)
    ballast[:] = b"x" * len(ballast)
    now = readings(source)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    listed = len(list(Path("/proc/self/fd").iterdir())) - 1
    running = len(list(Path("/proc/self/task").iterdir()))
    over.set()
    for thread, file in itertools.zip_longest(threads, files):
        os.close(file)
        if thread is not None:
            thread.join()
    assert now["process.unix.file_descriptor.count", ""] == listed
    assert listed == before["process.unix.file_descriptor.count", ""] + 7
    assert abs(now["process.thread.count", ""] - running) <= 1  # others may end meanwhile
    assert running > 3
    # Other memory may have been given back meanwhile: how much it has grown says little.
    assert abs(now["process.memory.usage", ""] - resident) < 32 << 20
    assert now["process.memory.usage", ""] > len(ballast)
    status = Path("/proc/self/status").read_text()
    (size,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmSize"))
    assert now["process.memory.virtual", ""] == pytest.approx(int(size) * 1024, rel=0.05)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    assert faults >= now["process.paging.faults", "type=minor"] >= faults - 10_000
    assert (
        now["process.paging.faults", "type=minor"] > before["process.paging.faults", "type=minor"]
    )
    used = sum(os.times()[:2])
    assert sum(
        now["process.cpu.time", f"mode={mode}"] for mode in ("user", "system")
    ) == pytest.approx(used, abs=0.5)
    assert now["vidlab.runtime.cpu.time", "thread=probe"] == 0.0015
    source.close()
    source._files_tell = False
    assert source._open_files() == len(list(Path("/proc/self/fd").iterdir())) - 1


def test_collections_are_counted_by_generation() -> None:
    before = readings(Interpreter())
    cycle: list[Any] = []
    cycle.append(cycle)
    del cycle
    gc.collect(2)
    now = readings(Interpreter())
    assert now["cpython.gc.collections", "generation=2"] >= (
        before["cpython.gc.collections", "generation=2"] + 1
    )
    collected = "cpython.gc.collected_objects"
    assert sum(now[collected, f"generation={n}"] for n in range(3)) > sum(
        before[collected, f"generation={n}"] for n in range(3)
    )


def test_a_torn_heap_is_fragmented() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = (ctypes.c_void_p,)
    source = Heap()
    gc.collect()  # what other tests have left is not to be let go of meanwhile
    before = readings(source)
    blocks = [libc.malloc(60_000) for _ in range(4_000)]
    full = readings(source)
    for block in blocks[::2]:
        libc.free(block)
    torn = readings(source)
    for block in blocks[1::2]:
        libc.free(block)
    used, free = "vidlab.malloc.used", "vidlab.malloc.free"
    assert full[used, ""] - before[used, ""] > 200_000_000
    assert torn[free, ""] - full[free, ""] > 100_000_000
    share = torn[free, ""] / torn["vidlab.malloc.arena", ""]
    fragmentation = "vidlab.malloc.fragmentation"
    assert torn[fragmentation, ""] == share > full[fragmentation, ""] + 0.02


def test_a_c_library_without_mallinfo2_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        def __init__(self, name: str | None) -> None: ...

    monkeypatch.setattr(heap.ctypes, "CDLL", Musl)
    with pytest.raises(Missing, match="mallinfo2"):
        Heap()


def test_without_cupy_there_are_no_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(__import__("sys").modules, "cupy", raising=False)
    assert Pools().read() == ()


@pytest.mark.needs("hostcuda")
def test_cupys_pools_are_read_by_device() -> None:
    import cupy

    gc.collect()  # what other tests have left is not to come back to the pool meanwhile
    pool = cupy.get_default_memory_pool()
    with cupy.cuda.Device(1):
        kept = cupy.empty(3 << 20, cupy.uint8)
        given_back = cupy.empty(1 << 20, cupy.uint8)
        del given_back
        total, used = pool.total_bytes(), pool.used_bytes()
    found = readings(Pools())
    assert found["vidlab.cupy.pool.total", "gpu=1"] == total
    assert found["vidlab.cupy.pool.used", "gpu=1"] == used >= kept.nbytes
    assert found["vidlab.cupy.pool.free", "gpu=1"] == total - used >= 1 << 20
    assert found["vidlab.cupy.pool.fragmentation", "gpu=1"] == (total - used) / total
    assert ("vidlab.cupy.pool.total", "gpu=0") in found
    assert found["vidlab.cupy.pinned_pool.free_blocks", ""] >= 0
    assert cupy.cuda.runtime.getDevice() == 0
    del kept
    with cupy.cuda.Device(1):
        pool.free_all_blocks()

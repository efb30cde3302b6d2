"""The cost of following GPU memory, beside CuPy's own `LineProfileHook`.

All of it is the real CuPy on host memory. A pair is an allocation from CuPy's pool and
its release, ten Python calls deep. The peer is the hook that CuPy ships for the
same question, which line took the memory, and which notes no release at all.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

import vidlab as vl
from vidlab.analysis import memory

from .figure import Figure, median_cpu_ns, memory_mb, report

#: Python calls around an allocation: as deep as a service's frame handler is.
DEPTH = 10

#: 64 streams, 60 frames a second, 6 buffers a frame.
PAIRS_PER_SECOND = 64 * 60 * 6

SIZES = (6_220_800, 3_110_400, 1_228_800, 602_112, 49_152, 4_096)


def pairs(count: int) -> None:
    """Take and give back so many blocks of CuPy's pool, ten calls deep."""
    import cupy

    deep(DEPTH, cupy.cuda.alloc, count)


def deep(depth: int, alloc: Callable[[int], Any], count: int) -> None:
    if depth > 1:
        deep(depth - 1, alloc, count)
        return
    for _ in range(count):
        alloc(4096)


def cost(folder: Path) -> list[Figure]:
    """What each way to follow a pair adds to one that nobody follows."""
    from cupy.cuda.memory_hooks import LineProfileHook

    def hooked(count: int) -> None:
        with LineProfileHook():
            pairs(count)

    count = 5_000
    before = median_cpu_ns({"untracked": pairs, "hooked": hooked}, count)
    with vl.record(folder / "cost", engines=[vl.GpuMemory()]):
        # In turns within the recording: the machine's speed changes over time.
        during = median_cpu_ns({"tracked": pairs}, count)
    again = median_cpu_ns({"untracked": pairs, "hooked": hooked}, count)
    alone = (before["untracked"] + again["untracked"]) / 2
    peer = (before["hooked"] + again["hooked"]) / 2 - alone
    return [
        Figure(
            "a tracked malloc + free / CuPy's LineProfileHook",
            during["tracked"] - alone,
            "ns",
            peer,
            1 / 5,
        ),
        Figure(
            "a pair that is not tracked, after a recording / before it",
            again["untracked"],
            "ns",
            before["untracked"],
        ),
    ]


def stream(number: int, frames: int) -> None:
    """A stream's frames: six buffers each, of which two live for three frames more."""
    import cupy

    codec = ("h264", "hevc", "av1", "vp9")[number % 4]
    kept: list[Any] = []
    with vl.labels(stream_id=f"cam-{number}", codec=codec, gpu=0):
        for _ in range(frames):
            with vl.stage("infer"):
                buffers = [cupy.cuda.alloc(size) for size in SIZES]
            kept.append(buffers[-2:])
            del buffers, kept[:-3]


def growth_and_size(folder: Path) -> list[Figure]:
    """Record 1e6 allocations (2e6 events) on eight threads; slice what was recorded."""
    frames = 1_000_000 // len(SIZES) // 8
    with vl.record(folder / "many", engines=[vl.Frames(), vl.GpuMemory()]):
        on_threads(2_000)
        before = memory_mb("VmRSS")
        on_threads(frames)
        after = memory_mb("VmHWM")
    path = folder / "many" / "allocations.parquet"
    rows = pq.read_metadata(path).num_rows
    run = vl.open_run(folder / "many")
    events = run.scan("allocations").filter(pl.col("generation") <= 500_000).collect()
    took_ms = []
    for number in range(8):
        begin = time.perf_counter()
        memory.by_stream(events, f"cam-{number}", by="codec")
        took_ms.append((time.perf_counter() - begin) * 1e3)
    return [
        Figure("memory growth over 1e6 allocations", after - before, "MB", None, 64),
        Figure("an allocation event at rest", path.stat().st_size / rows, "bytes", None, 10),
        Figure(
            f"a slice of {events.height / 1e6:.1f}e6 events by stream",
            sorted(took_ms)[4],
            "ms",
            None,
            100,
        ),
    ]


def on_threads(frames: int) -> None:
    workers = [threading.Thread(target=stream, args=(number, frames)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def share_of_a_core(folder: Path) -> list[Figure]:
    """Take and give back 23,000 blocks a second for five seconds; return the CPU added, in %."""
    shares = {"untracked": paced()}
    with vl.record(folder / "share", engines=[vl.GpuMemory()]):
        shares["tracked"] = paced()
    added = shares["tracked"] - shares["untracked"]
    return [Figure(f"{PAIRS_PER_SECOND:,} pairs/s: share of a core added", 100 * added, "%")]


def fault_sweep() -> Figure:
    """Let each allocation of a 20-frame pipeline fail, ten a frame, and look what is left."""
    import cupy

    def pipeline() -> None:
        for _ in range(20):
            picture = cupy.empty((1080, 1920, 3), "u1")
            tensors = [cupy.empty(size, "u1") for size in (*SIZES, 512, 1024, 2048)]
            del picture, tensors

    begin = time.perf_counter()
    swept = vl.lab.faults.sweep(pipeline, range(1, 201))
    seconds = time.perf_counter() - begin
    assert len(swept.trials) == 200
    assert not swept.leaking
    return Figure("a fault sweep over 200 allocations", seconds, "s", None, 60)


def paced(seconds: int = 5, ticks: int = 100) -> float:
    begin, cpu = time.perf_counter(), time.process_time()
    for tick in range(seconds * ticks):
        pairs(PAIRS_PER_SECOND // ticks)
        time.sleep(max(0.0, begin + (tick + 1) / ticks - time.perf_counter()))
    return (time.process_time() - cpu) / (time.perf_counter() - begin)


def main() -> None:
    vl.hostcuda.install()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = [*growth_and_size(folder), *cost(folder), *share_of_a_core(folder)]
        figures.append(fault_sweep())
    report(figures)


if __name__ == "__main__":
    main()

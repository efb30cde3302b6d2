"""The bill of a recorded program adds up to the byte: real CuPy on host memory, eight threads."""

from __future__ import annotations

import ctypes
import gc
import random
import threading
import time
from pathlib import Path

import polars as pl
import pytest

import vidlab as vl
from vidlab.analysis import bill

pytestmark = pytest.mark.needs("hostcuda")

THREADS = 8
SAMPLES = 10  # so many are taken before something is planted, and after it
PLANT = 256 << 20
SIZES = (512, 10_000, 123 * 4096, 1 << 20, 3 << 20)


def allocate(number: int, over: threading.Event) -> None:
    """Take, give back, and have the pool give back, at random."""
    import cupy

    choice = random.Random(number)
    held: list[object] = []
    while not over.is_set():
        for _ in range(20):
            if held and choice.random() < 0.5:
                held.pop(choice.randrange(len(held)))
            else:
                held.append(cupy.empty(choice.choice(SIZES), "u1"))
        if choice.random() < 0.2:
            cupy.get_default_memory_pool().free_all_blocks()
        if choice.random() < 0.1:
            held.clear()


def taken_by_others() -> int:
    """Bytes that somebody has of the device and CuPy's pool has not: earlier tests."""
    import cupy

    gc.collect()  # or they would be given back meanwhile
    with cupy.cuda.Device(0) as device:
        free, total = device.mem_info
        return int(total - free - cupy.get_default_memory_pool().total_bytes())


def wait_for_samples(path: Path, since_ns: int) -> None:
    """Wait until there are some that were begun after this moment."""
    limit = time.monotonic() + 100
    later = pl.col("device") == 0, pl.col("t_ns") > since_ns
    while vl.open_run(path).scan("gpu_samples").filter(*later).collect().height < SAMPLES:
        assert time.monotonic() < limit
        time.sleep(0.2)


def record(path: Path, plants: bool) -> tuple[int, int, int]:
    """Record such threads; halfway, take memory behind CuPy's back.

    Return around when that was, and what others had taken before.
    """
    others = taken_by_others()
    over = threading.Event()
    address = ctypes.c_void_p()
    with vl.record(path, engines=[vl.GpuMemory(), vl.GpuSampler(period_s=0.01)]):
        threads = [
            threading.Thread(target=allocate, args=(number, over)) for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        try:
            wait_for_samples(path, since_ns=time.monotonic_ns())
            began = time.monotonic_ns()
            if plants:
                assert vl.hostcuda.library().cudaMalloc(ctypes.byref(address), PLANT) == 0
            planted = time.monotonic_ns()
            wait_for_samples(path, since_ns=planted)
        finally:
            over.set()
            for thread in threads:
                thread.join()
    if plants:
        assert vl.hostcuda.library().cudaFree(address) == 0
    return began, planted, others


def of_run(path: Path) -> pl.DataFrame:
    run = vl.open_run(path)
    samples = run.scan("gpu_samples").filter(pl.col("device") == 0)
    of_device = bill.bill(samples, run.scan("allocations"))
    return of_device.join(samples.select("t_ns", "duration_ns").collect(), on="t_ns")


def test_nothing_is_unexplained_without_a_plant(tmp_path):
    *_, others = record(tmp_path / "run", plants=False)
    found = of_run(tmp_path / "run")
    assert found.height >= 10
    assert found["unexplained_bytes"].unique().to_list() == [others]
    assert found["used_bytes"].max() > 1 << 20
    assert bill.alarms(found).height == 0


def test_exactly_the_plant_is_unexplained_from_the_next_sample_on(tmp_path):
    began, planted, others = record(tmp_path / "run", plants=True)
    found = of_run(tmp_path / "run")
    after = found.filter(pl.col("t_ns") > planted)
    before = found.filter(pl.col("t_ns") + pl.col("duration_ns") < began)
    assert before["unexplained_bytes"].unique().to_list() == [others]
    assert after.height >= 5
    assert after["unexplained_bytes"].unique().to_list() == [others + PLANT]
    (alarm,) = bill.alarms(found).to_dicts()
    assert alarm["device"] == 0

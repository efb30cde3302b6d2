"""The bill on a real GPU: NVML's figure against what was recorded, within the driver's grain."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

import vidlab as vl
from vidlab.analysis import bill

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("empty_pools")]

Start = Callable[..., Any]

MIB = 1 << 20
PLANT = 256 * MIB

#: The driver takes memory from the device in pieces of 2 MiB, and gives small blocks a part of
#: one: each block that it has given can take up to this much more than was asked for.
GRAIN = 2 * MIB

#: What it takes for itself meanwhile: kernels that are loaded as they are first used, and
#: stacks and queues that grow. The programs below have used all they use before they are
#: recorded, so this is a few pieces; it stays well below what `bill.alarms` speaks up at.
OWN = 24 * MIB

#: What the programs hold at once: of sizes that are no whole pieces.
SIZES = (3 * MIB + 512, 5 * MIB, 17 * MIB - 4096, 123 * 4096, 64 * MIB + 512, 10_000)


def work(seconds: float) -> None:
    """Take memory, use it, and give it back, to the driver too."""
    import cupy

    until = time.monotonic() + seconds
    while True:
        held = [cupy.zeros(size, "u1") for size in SIZES]
        cupy.cuda.get_current_stream().synchronize()
        time.sleep(0.03)
        del held[::2]
        time.sleep(0.03)
        held.clear()
        cupy.get_default_memory_pool().free_all_blocks()
        if time.monotonic() >= until:
            return


def of_device(recording: Any) -> pl.DataFrame:
    recording.stop()
    run = vl.open_run(recording.recording.path)
    found = bill.bill(run.scan("gpu_samples"), run.scan("allocations"))
    return found.filter(pl.col("device") == 0)


@pytest.fixture
def plant() -> Any:
    """Takes memory of CuPy's context from the driver itself, where nobody of ours looks."""
    driver = ctypes.CDLL("libcuda.so.1")
    taken: list[ctypes.c_uint64] = []

    def take() -> int:
        address = ctypes.c_uint64()
        assert driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(PLANT)) == 0
        taken.append(address)
        return time.monotonic_ns()

    yield take
    for address in taken:
        assert driver.cuMemFree_v2(address) == 0


def test_nothing_is_unexplained_without_a_plant(start: Start) -> None:
    work(0)
    recording = start(vl.GpuSampler(period_s=0.01))
    work(2)
    found = of_device(recording)
    assert found.height >= 20
    tolerance = OWN + GRAIN * len(SIZES)
    assert found["unexplained_bytes"].abs().max() <= tolerance
    assert found["pool_in_use_bytes"].max() >= sum(SIZES)
    assert found["context_and_modules_bytes"][-1] > 100 * MIB
    assert bill.alarms(found).height == 0
    terms = [
        *("pool_in_use_bytes", "pool_cached_bytes", "other_driver_bytes"),
        *("context_and_modules_bytes", "other_processes_bytes", "unexplained_bytes"),
    ]
    sums = found.select(pl.sum_horizontal(terms) == pl.col("used_bytes")).to_series()
    assert sums.all()


def test_the_plant_is_unexplained_from_the_next_sample_on(start: Start, plant: Any) -> None:
    work(0)
    recording = start(vl.GpuSampler(period_s=0.01))
    work(1)
    before_ns = time.monotonic_ns()
    planted_ns = plant()
    work(1)
    found = of_device(recording)
    before = found.filter(pl.col("t_ns") < before_ns - 100_000_000)["unexplained_bytes"]
    after = found.filter(pl.col("t_ns") > planted_ns)["unexplained_bytes"]
    tolerance = OWN + GRAIN * len(SIZES)
    assert before.len() >= 5
    assert after.len() >= 10
    assert before.abs().max() <= tolerance
    assert (after - PLANT).abs().max() <= tolerance + GRAIN
    (alarm,) = bill.alarms(found).to_dicts()
    assert (alarm["device"], alarm["kind"]) == (0, "step")

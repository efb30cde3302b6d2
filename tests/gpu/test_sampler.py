"""The sampler on a real GPU and its driver."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import vidlab as vl
from vidlab.capture.gpu.devices.sampler import GpuSampler

pytestmark = pytest.mark.gpu

MIB = 1 << 20


def samples(path: Path) -> pl.DataFrame:
    found = vl.open_run(path).scan("gpu_samples").filter(pl.col("device") == 0)
    return found.sort("t_ns").collect()


def test_memory_that_is_taken_is_seen_at_once(tmp_path: Path) -> None:
    import cupy

    runtime = cupy.cuda.runtime
    runtime.setDevice(0)
    runtime.free(0)  # makes the context
    with vl.record(tmp_path / "run", engines=[GpuSampler(period_s=3600)]):
        taken = runtime.malloc(512 * MIB)
    runtime.free(taken)
    first, last = samples(tmp_path / "run").to_dicts()
    assert first["total_bytes"] == last["total_bytes"] > last["used_bytes"]
    assert last["used_bytes"] >= first["used_bytes"] + 512 * MIB
    held = last["process_used_bytes"]
    if held is not None:  # a container may hide processes from the driver
        assert held >= first["process_used_bytes"] + 512 * MIB


def test_what_cuda_s_own_pool_takes_is_seen(tmp_path: Path) -> None:
    import cupy

    cupy.cuda.runtime.setDevice(0)
    with vl.record(tmp_path / "run", engines=[GpuSampler(period_s=3600)]):
        block = cupy.cuda.MemoryAsyncPool().malloc(64 * MIB)
    last = samples(tmp_path / "run")["async_reserved_bytes"][-1]
    assert last >= 64 * MIB
    del block


PROGRAM = """
import os, sys, time
import vidlab as vl
from vidlab.capture.gpu.devices.sampler import GpuSampler
with vl.record(sys.argv[1], engines=[GpuSampler(period_s=0.05)]):
    time.sleep(1)
    if (pid := os.fork()) == 0:
        import cupy                     # works only if nobody has started CUDA before the fork
        cupy.zeros(10)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_it_starts_no_cuda_and_holds_no_memory(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "run")], check=True)
    table = samples(tmp_path / "run")
    assert table.height >= 3
    assert table["process_used_bytes"].unique().to_list() in ([0], [None])
    assert table["utilization"].null_count() == 0

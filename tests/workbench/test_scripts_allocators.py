"""`vidlab record` on unmodified scripts that bring an allocator of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import vidlab as vl

pytestmark = pytest.mark.needs("hostcuda")

#: How long a program may take in all, in seconds: only one that hangs takes longer.
PATIENCE_S = 140

#: Stands in for RMM, which is a module of its own that knows nothing of vidlab.
RMM = """
import cupy

class DeviceBuffer:
    def __init__(self, size):
        self.size, self.ptr = size, cupy.cuda.runtime.malloc(size)
    def __del__(self):
        cupy.cuda.runtime.free(self.ptr)

def rmm_cupy_allocator(size):
    buffer = DeviceBuffer(size)
    memory = cupy.cuda.UnownedMemory(buffer.ptr, size, buffer, cupy.cuda.Device().id)
    return cupy.cuda.MemoryPointer(memory, 0)
"""

#: Each sort of allocator takes sizes of its own, and says what it has handed out.
SCRIPT = """
import cupy
from cupy.cuda import set_allocator        # a name of its own for it
import rmm

pool = cupy.cuda.MemoryPool()
set_allocator(pool.malloc)
kept = [cupy.empty(512 * 3, "u1") for _ in range(3)]
print(pool.used_bytes(), cupy.cuda.get_allocator() == pool.malloc)

cupy.cuda.set_allocator(rmm.rmm_cupy_allocator)
for _ in range(5):
    cupy.empty(777, "u1")
print(cupy.cuda.get_allocator() is rmm.rmm_cupy_allocator)

managed = cupy.cuda.MemoryPool(cupy.cuda.malloc_managed)
set_allocator(managed.malloc)
for _ in range(7):
    cupy.empty(512 * 5, "u1")
cupy.cuda.set_allocator(None)
for _ in range(9):
    cupy.empty(999, "u1")
kept.clear()
print(pool.used_bytes(), managed.used_bytes())
"""


def test_each_of_a_scripts_own_allocators_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "rmm.py").write_text(RMM)
    (tmp_path / "script.py").write_text(SCRIPT)
    command: list[Any] = [sys.executable, "-m", "vidlab.cli", "record", "--hostcuda", "-o", "run"]
    done = subprocess.run(
        [*command, "script.py"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "VIDLAB_HOSTCUDA"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{512 * 9} True\nTrue\n0 0\n"
    run = vl.open_run(tmp_path / "run")
    rows = run.scan("allocations").filter(pl.col("generation") > 0).collect()
    pool = rows.filter(pl.col("level") == "pool")
    taken, freed = (
        pool.filter(pl.col("op") == op)
        .group_by("size_bytes", pl.col("kind").cast(pl.String))
        .len()
        .sort("size_bytes")
        .rows()
        for op in ("alloc", "free")
    )
    assert taken == [
        (777, "device", 5),
        (999, "device", 9),
        (1536, "device", 3),
        (2560, "managed", 7),
    ]
    assert freed == taken
    # What was taken from CUDA for it: by a pool once for each place, without one each time.
    driver = rows.filter(pl.col("level") == "driver", pl.col("op") == "alloc")
    by_size = driver.group_by("size_bytes").len().sort("size_bytes").rows()
    assert by_size == [(777, 5), (999, 9), (1536, 3), (2560, 1)]
    assert driver.filter(pl.col("size_bytes").is_in([1536, 2560]))["pooled"].all()
    assert not driver.filter(pl.col("size_bytes") == 999)["pooled"].any()
    kinds = run.scan("findings").collect()["kind"].cast(pl.String).to_list()
    assert not {"allocator_replaced", "recorder_failed"} & set(kinds)

"""Allocations that are made to fail, in the real CuPy on host memory."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import pytest

import vidlab as vl
from vidlab.capture.gpu import faults
from vidlab.capture.gpu.engine import GpuMemory
from vidlab.capture.gpu.faults import fail_allocation
from vidlab.errors import InputError

pytestmark = pytest.mark.needs("hostcuda")


@pytest.fixture(params=["recording", "not recording"])
def either_way(request, tmp_path):
    """Allocations fail alike, whether or not they are recorded."""
    if request.param == "not recording":
        yield
        return
    with vl.record(tmp_path / "run", engines=[GpuMemory(holders=False)]):
        yield


@pytest.fixture(autouse=True)
def _empty_pool():
    import cupy

    gc.collect()  # what earlier tests left is not to be freed in this one
    cupy.get_default_memory_pool().free_all_blocks()


@pytest.mark.usefixtures("either_way")
def test_nothing_fails_that_is_not_meant():
    import cupy

    with fail_allocation(3) as fault:
        for _ in range(2):
            cupy.empty(123 * 8, "u1")
    assert (fault.counted, fault.failed) == (2, 0)
    assert faults.armed is None
    cupy.empty(123 * 8, "u1")


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("level", ["pool", "driver"])
def test_out_of_memory_is_what_cupy_raises(level):
    import cupy

    before = cupy.get_default_memory_pool().used_bytes()
    with fail_allocation(2, level=level) as fault:
        first = cupy.empty(512, "u1")
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match="Out of memory allocating"):
            cupy.empty(123 * 1024, "u1")
        third = cupy.empty(123 * 1024, "u1")  # only the second
    assert (fault.counted, fault.failed) == (3, 1)
    del first, third
    assert cupy.get_default_memory_pool().used_bytes() == before


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("level", ["pool", "driver"])
@pytest.mark.parametrize(
    ("error", "name"),
    [
        ("invalid value", "cudaErrorInvalidValue"),
        ("launch out of resources", "cudaErrorLaunchOutOfResources"),
    ],
)
def test_other_errors_of_cuda(level, error, name):
    import cupy

    with (
        fail_allocation(level=level, error=error),
        pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match=name),
    ):
        cupy.empty(123 * 1024, "u1")


@pytest.mark.usefixtures("either_way")
def test_only_large_ones_are_counted():
    import cupy

    with fail_allocation(larger_than=4096) as fault:
        cupy.empty(4096, "u1")
        with pytest.raises(MemoryError):
            cupy.empty(4097, "u1")
    assert fault.counted == fault.failed == 1


@pytest.mark.usefixtures("either_way")
def test_only_those_under_the_labels_fail_in_every_thread():
    import cupy

    failed = []

    def work(codec):
        with vl.labels(codec=codec):
            try:
                cupy.empty(1000, "u1")
            except MemoryError:
                failed.append(codec)

    with fail_allocation(labels={"codec": "av1"}):
        threads = [threading.Thread(target=work, args=(codec,)) for codec in ("h264", "av1")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == ["av1"]


@pytest.mark.usefixtures("either_way")
def test_the_allocator_is_what_it_was():
    import cupy

    before = cupy.cuda.get_allocator()
    with fail_allocation(1), pytest.raises(MemoryError):
        cupy.empty(1, "u1")
    assert cupy.cuda.get_allocator() == before


@pytest.mark.usefixtures("either_way")
def test_an_allocator_that_is_set_meanwhile_stays():
    import cupy

    before = cupy.cuda.get_allocator()
    pool = cupy.cuda.MemoryPool()
    try:
        with fail_allocation(nth=1000):
            cupy.cuda.set_allocator(pool.malloc)
        assert cupy.cuda.get_allocator() == pool.malloc
    finally:
        cupy.cuda.set_allocator(before)


@pytest.mark.usefixtures("either_way")
def test_one_fault_at_a_time():
    with fail_allocation(1), pytest.raises(InputError, match="is made to fail already"):
        fail_allocation(2).__enter__()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nth": 0}, "counted from 1"),
        ({"level": "context"}, "no level 'context'"),
        ({"error": "cosmic ray"}, "out of memory, invalid value, launch out of resources"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        fail_allocation(**arguments)


def test_a_failure_is_in_the_run(tmp_path: Path):
    import cupy

    with (
        vl.record(tmp_path / "run", engines=[GpuMemory(holders=False)]),
        fail_allocation(1),
        pytest.raises(MemoryError),
    ):
        cupy.empty(123 * 8, "u1")
    rows = vl.open_run(tmp_path / "run").scan("allocations").collect()
    failed = rows.filter(rows["status"] != "ok")
    assert failed.select("status", "level", "size_asked_bytes", "size_bytes").rows() == [
        ("OutOfMemoryError", "pool", 123 * 8, 0)
    ]

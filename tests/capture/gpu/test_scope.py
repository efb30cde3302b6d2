"""`gpu_scope`, in the real CuPy on host memory."""

from __future__ import annotations

import gc
import threading

import pytest

import vidlab as vl
from vidlab.capture.gpu.engine import GpuMemory
from vidlab.capture.gpu.scope import GpuScopeError, gpu_scope

pytestmark = pytest.mark.needs("hostcuda")


@pytest.fixture(autouse=True)
def _nothing_left():
    """What earlier tests left is not to be freed in this one: it would count as given back."""
    gc.collect()


@pytest.fixture
def run(tmp_path):
    """A run that is being recorded."""
    with vl.record(tmp_path / "run", engines=[GpuMemory(holders=False)]):
        yield tmp_path / "run"


@pytest.fixture(params=["recording", "not recording"])
def recording(request):
    """A scope does the same, whether or not there is a recording."""
    if request.param == "recording":
        request.getfixturevalue("run")
    return request.param == "recording"


def test_what_is_given_back_is_fine(recording):
    import cupy

    older = cupy.empty(5000, "u1")
    with gpu_scope("warm-up"):
        array = cupy.empty(123 * 8, "u1")
        del array, older


def test_what_is_kept_is_named(recording):
    import cupy

    with pytest.raises(GpuScopeError) as caught, gpu_scope("infer"):
        kept = cupy.empty(123 * 512, "u1")
    assert f"the scope 'infer' has ended, and {123 * 512:,} bytes" in str(caught.value)
    assert isinstance(caught.value, AssertionError)
    assert ("test_scope.py:" in str(caught.value)) == recording
    del kept


def test_garbage_is_not_kept(recording):
    import cupy

    with gpu_scope("cycles"):
        cycle = [cupy.empty(1000, "u1")]
        cycle.append(cycle)
        del cycle


def test_other_threads_do_not_count_where_it_is_recorded(run):
    import cupy

    kept = []
    ready = threading.Event()

    def other():
        ready.wait()
        kept.append(cupy.empty(1000, "u1"))

    thread = threading.Thread(target=other)
    thread.start()
    with gpu_scope("mine"):
        ready.set()
        thread.join()


def test_threads_started_inside_do_count(recording):
    import cupy

    kept = []
    thread = threading.Thread(target=lambda: kept.append(cupy.empty(1000, "u1")))

    def started_inside():
        with gpu_scope("mine"):
            thread.start()
            thread.join()

    with pytest.raises(GpuScopeError):
        started_inside()
    kept.clear()


@pytest.mark.parametrize("fails", [False, True])
def test_the_device_is_current_inside_only(recording, fails):
    import cupy

    before = cupy.cuda.runtime.getDevice()
    other = 1 - before
    try:
        with gpu_scope("elsewhere", device=other):
            assert cupy.cuda.runtime.getDevice() == other
            assert cupy.empty(10).device.id == other
            if fails:
                raise KeyError("mine")
    except KeyError:
        assert fails
    assert cupy.cuda.runtime.getDevice() == before


def test_an_error_of_the_block_is_not_hidden(recording):
    import cupy

    kept = []

    def failing():
        with gpu_scope("failing"):
            kept.append(cupy.empty(1000, "u1"))
            raise KeyError("mine")

    with pytest.raises(KeyError):
        failing()
    kept.clear()


def test_what_is_taken_inside_bears_the_name(run):
    import cupy

    with gpu_scope("warm-up"):
        cupy.empty(1000, "u1")
    rows = vl.open_run(run).scan("allocations").collect()
    assert "warm-up" in rows["gpu_scope"].to_list()

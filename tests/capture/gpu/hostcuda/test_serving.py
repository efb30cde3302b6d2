"""Arrays, streams, events and devices, as CuPy is served them over host memory."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest

from vidlab.capture.gpu import hostcuda

pytestmark = pytest.mark.needs("hostcuda")

Fails = Callable[[int], AbstractContextManager[None]]

INVALID_VALUE, INVALID_DEVICE, INVALID_HANDLE = 1, 101, 400
ON_DEVICE = 3


def test_arrays_hold_what_is_put_into_them() -> None:
    import cupy

    image = np.random.default_rng(1).integers(0, 255, (108, 192, 3), dtype=np.uint8)
    array = cupy.asarray(image)
    assert np.array_equal(array.get(), image)
    assert np.array_equal(cupy.asnumpy(array[3:9]), image[3:9])
    array.set(image[::-1].copy())
    assert np.array_equal(cupy.asnumpy(array), image[::-1])
    assert not cupy.zeros((5, 7)).get().any()
    other = cupy.empty_like(array)
    other[...] = array
    assert np.array_equal(other.get(), array.get())
    assert repr(array[0, 0]) == repr(cupy.asarray(image[::-1][0, 0]))


def test_a_device_names_itself_as_what_it_is(runtime: Any, fails_with: Fails) -> None:
    import cupy

    properties = runtime.getDeviceProperties(0)
    assert properties["name"].decode() == hostcuda.DEVICE_NAME == "host memory (no GPU)"
    assert properties["totalGlobalMem"] == hostcuda.books()[0].total_bytes
    assert cupy.cuda.Device(0).compute_capability == "80"
    assert cupy.cuda.is_available()
    assert runtime.deviceGetAttribute(runtime.cudaDevAttrMemoryPoolsSupported, 0) == 1
    with fails_with(INVALID_VALUE):
        runtime.deviceGetAttribute(987654, 0)
    with fails_with(INVALID_DEVICE):
        runtime.getDeviceProperties(16)


def test_show_config_works(capsys: pytest.CaptureFixture[str]) -> None:
    import cupy

    cupy.show_config()
    assert hostcuda.DEVICE_NAME in capsys.readouterr().out


def test_streams_and_events(runtime: Any, fails_with: Fails) -> None:
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    called: list[Any] = []
    with stream:
        start.record(stream)
        array = cupy.asarray(np.arange(10))
        stream.add_callback(lambda *arguments: called.append(arguments[1:]), "one")
        stream.launch_host_func(called.append, "two")
        end.record(stream)
    stream.wait_event(end)
    stream.synchronize()
    assert called == [(0, "one"), "two"]
    assert stream.done
    assert end.done
    assert cupy.cuda.get_elapsed_time(start, end) >= 0
    assert np.array_equal(array.get(stream=stream), np.arange(10))
    gone = runtime.streamCreate()
    runtime.streamDestroy(gone)
    with fails_with(INVALID_HANDLE):
        runtime.streamDestroy(gone)
    with fails_with(INVALID_HANDLE):
        runtime.streamSynchronize(gone)
    with fails_with(INVALID_HANDLE):
        runtime.memcpyAsync(array.data.ptr, array.data.ptr, 8, ON_DEVICE, gone)
    with fails_with(INVALID_HANDLE):
        cupy.cuda.get_elapsed_time(start, cupy.cuda.Event())


def test_streams_have_priorities_where_cupy_knows_them(runtime: Any) -> None:
    if not hasattr(runtime, "streamCreateWithPriority"):
        pytest.skip("this CuPy has none")
    urgent = runtime.streamCreateWithPriority(1, -3)
    assert (runtime.streamGetFlags(urgent), runtime.streamGetPriority(urgent)) == (1, -3)
    runtime.streamDestroy(urgent)


def test_a_callback_that_raises_harms_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import cupy

    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: seen.append(raised.exc_type))
    stream = cupy.cuda.Stream()
    stream.launch_host_func(lambda argument: 1 / argument, 0)
    stream.synchronize()
    assert seen == [ZeroDivisionError]


def test_devices_have_memory_of_their_own(runtime: Any, fails_with: Fails) -> None:
    import cupy

    if runtime.getDeviceCount() < 2:
        pytest.skip("one device is installed")
    before = [books.used_bytes for books in hostcuda.books()]
    with cupy.cuda.Device(1):
        there = cupy.asarray(np.arange(1000, dtype=np.uint8))
        assert there.device.id == 1
        stream = cupy.cuda.Stream()
        assert cupy.cuda.driver.streamGetCtx(stream.ptr) == cupy.cuda.driver.ctxGetCurrent()
    assert [books.used_bytes for books in hostcuda.books()] == [before[0], before[1] + 1024]
    assert cupy.cuda.driver.streamGetCtx(stream.ptr) != cupy.cuda.driver.ctxGetCurrent() != 0
    assert runtime.pointerGetAttributes(there.data.ptr).device == 1
    here = cupy.empty(1000, np.uint8)
    here.data.copy_from_device_async(there.data, 1000, cupy.cuda.Stream.null)
    runtime.memcpyPeer(here.data.ptr, 0, there.data.ptr, 1, 1000)
    assert np.array_equal(here.get(), np.arange(1000, dtype=np.uint8))
    assert runtime.deviceCanAccessPeer(0, 1) == 1
    with fails_with(INVALID_DEVICE):
        runtime.setDevice(2)
    with fails_with(INVALID_HANDLE):
        runtime.eventRecord(cupy.cuda.Event().ptr, stream.ptr)
    with cupy.cuda.Device(1):
        del there
        cupy.get_default_memory_pool().free_all_blocks()


def test_the_current_device_and_the_last_error_are_a_threads_own(runtime: Any) -> None:
    if runtime.getDeviceCount() < 2:
        pytest.skip("one device is installed")
    seen: list[int] = []

    def other() -> None:
        seen.append(runtime.getDevice())
        runtime.setDevice(1)
        seen.append(runtime.getDevice())
        hostcuda.library().cudaFree(ctypes.c_void_p(4096))
        seen.append(hostcuda.library().cudaPeekAtLastError())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [0, 1, INVALID_VALUE]
    assert runtime.getDevice() == 0
    assert hostcuda.library().cudaPeekAtLastError() == 0

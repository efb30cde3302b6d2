"""Memory of every kind: exact books, real errors, and an end to it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidlab.capture.gpu import hostcuda

pytestmark = pytest.mark.needs("hostcuda")

Used = Callable[..., int]
Fails = Callable[[int], AbstractContextManager[None]]

MIB = 1 << 20
OUT_OF_MEMORY, INVALID_VALUE = 2, 1
TO_DEVICE, TO_HOST, ON_DEVICE = 1, 2, 3


def test_books_are_exact_at_every_level(runtime: Any, used: Used) -> None:
    import cupy

    start = used()
    odd = 123 * 8
    plain, managed = runtime.malloc(odd), runtime.mallocManaged(odd + 1)
    pinned = runtime.hostAlloc(odd, 0)
    assert used() == start + odd + odd + 1
    assert hostcuda.block_size(plain) == odd
    assert hostcuda.block_size(managed) == odd + 1
    assert hostcuda.block_size(pinned) == odd
    assert hostcuda.block_size(plain + 8) is None
    total = hostcuda.books()[0].total_bytes
    assert runtime.memGetInfo() == (total - used(), total)
    runtime.free(plain)
    runtime.free(managed)
    runtime.freeHost(pinned)
    assert hostcuda.block_size(plain) is None
    assert used() == start
    # CuPy's pool rounds up to 512 bytes, and keeps what is freed.
    array = cupy.empty(1000, np.uint8)
    assert used() == start + 1024
    del array
    assert used() == start + 1024
    cupy.get_default_memory_pool().free_all_blocks()
    assert used() == start


def test_memory_taken_behind_cupys_back_is_in_the_books(used: Used) -> None:
    library = hostcuda.library()
    start = used()
    address = ctypes.c_void_p()
    assert library.cudaMalloc(ctypes.byref(address), 256 * MIB) == 0
    assert used() == start + 256 * MIB
    assert library.cudaFree(address) == 0
    assert used() == start
    assert library.cudaFree(address) == INVALID_VALUE
    assert library.cudaPeekAtLastError() == INVALID_VALUE
    assert library.cudaGetLastError() == INVALID_VALUE
    assert library.cudaGetLastError() == 0


def test_freed_memory_goes_back_to_the_system(runtime: Any) -> None:
    def resident() -> int:
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    address = runtime.malloc(64 * MIB)
    assert resident() < before + 32 * MIB  # taken from the machine only as it is used
    runtime.memset(address, 1, 64 * MIB)
    assert resident() > before + 48 * MIB
    runtime.free(address)
    assert resident() < before + 32 * MIB


def test_invalid_frees_are_errors_and_change_nothing(
    runtime: Any, used: Used, fails_with: Fails
) -> None:
    address = runtime.malloc(4096)
    before = used()
    pinned = runtime.hostAlloc(64, 0)
    for free, wrong in [
        (runtime.free, address + 512),
        (runtime.free, 0xDEAD000),
        (runtime.free, pinned),
        (runtime.freeHost, address),
        (lambda a: runtime.freeAsync(a, 0), address),
    ]:
        with fails_with(INVALID_VALUE):
            free(wrong)
    assert used() == before
    runtime.free(address)
    runtime.freeHost(pinned)
    for free, gone in [(runtime.free, address), (runtime.freeHost, pinned)]:
        with fails_with(INVALID_VALUE):
            free(gone)
    runtime.free(0)
    runtime.freeHost(0)


def test_copies_that_a_device_would_fault_on_are_errors(runtime: Any, fails_with: Fails) -> None:
    host = np.zeros(8192, np.uint8)
    there, other = runtime.malloc(4096), runtime.malloc(4096)
    here = host.ctypes.data
    runtime.memcpy(there, here, 4096, TO_DEVICE)
    for to, source, size, kind in [
        (there, here, 4097, TO_DEVICE),
        (there + 1, here, 4096, TO_DEVICE),
        (here, there, 4097, TO_HOST),
        (there, other, 5000, ON_DEVICE),
        (here, here + 4096, 16, ON_DEVICE),
        (here, there, 16, TO_DEVICE),
        (there, here, (1 << 64) - 8, TO_DEVICE),
    ]:
        with fails_with(INVALID_VALUE):
            runtime.memcpy(to, source, size, kind)
        with fails_with(INVALID_VALUE):
            runtime.memcpyAsync(to, source, size, kind, 0)
    with fails_with(INVALID_VALUE):
        runtime.memset(there, 0, 4097)
    runtime.free(other)
    with fails_with(INVALID_VALUE):
        runtime.memcpy(here, other, 16, TO_HOST)
    with fails_with(INVALID_VALUE):
        runtime.memset(other, 0, 16)
    large = runtime.hostAlloc(MIB, 0)
    runtime.freeHost(large)
    for kind in (TO_DEVICE, runtime.memcpyDefault):
        with fails_with(INVALID_VALUE):
            runtime.memcpy(there, large, 4096, kind)
    runtime.memcpy(there, here, 4096, TO_DEVICE)  # nothing sticks
    runtime.free(there)


def test_rows_are_copied_and_checked(runtime: Any, fails_with: Fails) -> None:
    picture = np.arange(48, dtype=np.uint8).reshape(6, 8)
    back = np.zeros((6, 4), np.uint8)
    there = runtime.malloc(6 * 16)
    runtime.memset(there, 0, 6 * 16)
    runtime.memcpy2D(there, 16, picture.ctypes.data, 8, 4, 6, TO_DEVICE)
    runtime.memcpy2DAsync(back.ctypes.data, 4, there, 16, 4, 6, TO_HOST, 0)
    assert np.array_equal(back, picture[:, :4])
    with fails_with(INVALID_VALUE):
        runtime.memcpy2D(there, 16, picture.ctypes.data, 8, 4, 7, TO_DEVICE)
    with fails_with(12):
        runtime.memcpy2D(there, 2, picture.ctypes.data, 8, 4, 6, TO_DEVICE)
    runtime.free(there)


def test_registered_memory_is_pinned_until_it_is_not(runtime: Any, fails_with: Fails) -> None:
    host = np.zeros(4096, np.uint8)
    address = host.ctypes.data
    assert runtime.pointerGetAttributes(address).type == runtime.memoryTypeUnregistered
    runtime.hostRegister(address, 4096, 0)
    assert runtime.pointerGetAttributes(address + 100).type == runtime.memoryTypeHost
    with fails_with(712):
        runtime.hostRegister(address + 8, 16, 0)
    with fails_with(INVALID_VALUE):
        runtime.free(address)
    runtime.hostUnregister(address)
    with fails_with(713):
        runtime.hostUnregister(address)


def test_pointers_are_known_for_what_they_are(runtime: Any, fails_with: Fails) -> None:
    device, managed, pinned = (
        runtime.malloc(64),
        runtime.mallocManaged(64),
        runtime.hostAlloc(64, 0),
    )
    found = runtime.pointerGetAttributes(device + 63)
    assert (found.type, found.device, found.devicePointer, found.hostPointer) == (
        runtime.memoryTypeDevice,
        0,
        device + 63,
        0,
    )
    assert runtime.pointerGetAttributes(managed).type == runtime.memoryTypeManaged
    assert runtime.pointerGetAttributes(pinned).type == runtime.memoryTypeHost
    runtime.memAdvise(managed, 64, runtime.cudaMemAdviseSetReadMostly, 0)
    runtime.memPrefetchAsync(managed, 64, 0, 0)
    with fails_with(INVALID_VALUE):
        runtime.memPrefetchAsync(device, 64, 0, 0)
    runtime.free(device)
    runtime.free(managed)
    runtime.freeHost(pinned)


def test_memory_runs_out_as_it_would_on_a_device(
    runtime: Any, used: Used, fails_with: Fails
) -> None:
    import cupy

    total = hostcuda.books()[0].total_bytes
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.empty(total + 1, np.uint8)
    with fails_with(OUT_OF_MEMORY):
        runtime.malloc(total - used() + 1)
    rest = runtime.malloc(total - used())
    with fails_with(OUT_OF_MEMORY):
        runtime.mallocManaged(1)
    with fails_with(OUT_OF_MEMORY):
        runtime.mallocAsync(1, 0)
    pinned = runtime.hostAlloc(MIB, 0)  # the host has its own
    runtime.freeHost(pinned)
    runtime.free(rest)
    # CuPy's own retry: what its pool keeps is given back before it gives up.
    half = total // 2 + 512
    kept = cupy.empty(half, np.uint8)
    del kept
    assert used() >= half
    assert cupy.empty(half + 512, np.uint8).nbytes == half + 512


def test_an_async_pool_keeps_memory_until_a_synchronisation(
    runtime: Any, used: Used, fails_with: Fails
) -> None:
    start, pool = used(), runtime.deviceGetDefaultMemPool(0)
    stream = runtime.streamCreate()

    def attributes() -> tuple[int, int]:
        return (
            runtime.memPoolGetAttribute(pool, runtime.cudaMemPoolAttrUsedMemCurrent),
            runtime.memPoolGetAttribute(pool, runtime.cudaMemPoolAttrReservedMemCurrent),
        )

    first, second = runtime.mallocAsync(MIB, stream), runtime.mallocAsync(3 * MIB, stream)
    assert attributes() == (4 * MIB, 4 * MIB)
    runtime.freeAsync(first, stream)
    assert attributes() == (3 * MIB, 4 * MIB)
    assert used() == start + 4 * MIB
    again = runtime.mallocAsync(2 * MIB, stream)  # 1 MiB is there, 1 MiB is taken
    assert attributes() == (5 * MIB, 5 * MIB)
    runtime.free(second)  # cudaFree serves these too
    runtime.streamSynchronize(stream)
    assert attributes() == (2 * MIB, 2 * MIB)
    assert used() == start + 2 * MIB
    with fails_with(INVALID_VALUE):
        runtime.freeAsync(second, stream)
    runtime.memPoolSetAttribute(pool, runtime.cudaMemPoolAttrReleaseThreshold, MIB)
    runtime.freeAsync(again, stream)
    runtime.streamSynchronize(stream)
    assert attributes() == (0, MIB)
    runtime.memPoolTrimTo(pool, 0)
    assert attributes() == (0, 0)
    assert runtime.memPoolGetAttribute(pool, runtime.cudaMemPoolAttrUsedMemHigh) >= 5 * MIB
    runtime.memPoolSetAttribute(pool, runtime.cudaMemPoolAttrUsedMemHigh, 0)
    assert runtime.memPoolGetAttribute(pool, runtime.cudaMemPoolAttrUsedMemHigh) == 0
    runtime.memPoolSetAttribute(pool, runtime.cudaMemPoolAttrReleaseThreshold, 0)
    runtime.streamDestroy(stream)


def test_a_pool_of_ones_own_outlives_its_destruction_while_it_is_used(
    runtime: Any, used: Used, fails_with: Fails
) -> None:
    start = used()
    pool = runtime.memPoolCreate(runtime.MemPoolProps(1, 0, 1, 0))
    address = runtime.mallocFromPoolAsync(MIB, pool, 0)
    runtime.memPoolDestroy(pool)
    with fails_with(INVALID_VALUE):
        runtime.mallocFromPoolAsync(MIB, pool, 0)
    assert used() == start + MIB
    runtime.freeAsync(address, 0)
    assert used() == start
    with fails_with(INVALID_VALUE):
        runtime.memPoolDestroy(runtime.deviceGetDefaultMemPool(0))


def test_cupys_other_allocators_work(runtime: Any) -> None:
    import cupy

    managed = cupy.cuda.MemoryPool(cupy.cuda.malloc_managed)
    for allocator in (
        cupy.cuda.MemoryAsyncPool().malloc,
        cupy.cuda.malloc_async,
        cupy.cuda.malloc_managed,
        managed.malloc,
    ):
        with cupy.cuda.using_allocator(allocator):
            array = cupy.asarray(np.arange(1000))
            assert np.array_equal(array.get(), np.arange(1000))
            del array
    managed.free_all_blocks()  # CuPy 14 keeps what a pool has when the pool itself goes
    # CuPy's async pool has the device's keep whatever was ever taken; not for the other tests.
    pool = runtime.deviceGetDefaultMemPool(0)
    assert runtime.memPoolGetAttribute(pool, runtime.cudaMemPoolAttrReleaseThreshold) > 1 << 60
    runtime.memPoolSetAttribute(pool, runtime.cudaMemPoolAttrReleaseThreshold, 0)
    pinned = cupy.cuda.alloc_pinned_memory(4096)
    assert runtime.pointerGetAttributes(pinned.ptr).type == runtime.memoryTypeHost

"""The tracker on a real GPU: every sort of memory, at both levels."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vidlab as vl
from vidlab.capture.gpu.driver import slots
from vidlab.capture.gpu.faults import fail_allocation
from vidlab.capture.gpu.scope import GpuScopeError
from vidlab.schema import BORROWED, DRIVER, POOL

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("empty_pools")]

Start = Callable[..., Any]

KIB, MIB = 1 << 10, 1 << 20

#: An odd size, to know our own blocks by; managed memory is never much.
SIZE = 123 * 8 * KIB


def _managed_pool() -> Any:
    import cupy

    return cupy.cuda.MemoryPool(cupy.cuda.malloc_managed)


def _async_pool() -> Any:
    import cupy

    cupy.disable_experimental_feature_warning = True
    return cupy.cuda.MemoryAsyncPool()


def _default_pool() -> Any:
    import cupy

    return cupy.get_default_memory_pool()


def _pinned_pool() -> Any:
    import cupy

    return cupy.get_default_pinned_memory_pool()


#: How each sort's pool is made; the kind of its memory; whether the driver's blocks are kept
#: by the pool, and how they end when it is told to give them back.
SORTS: dict[str, tuple[Callable[[], Any], str, bool, str]] = {
    "default pool": (_default_pool, "device", True, "release"),
    "managed pool": (_managed_pool, "managed", True, "release"),
    "pinned pool": (_pinned_pool, "pinned", True, "release"),
    "async pool": (_async_pool, "async", False, "refcount"),
    "unpooled": (lambda: None, "device", False, "refcount"),
}


@pytest.mark.parametrize("sort", SORTS)
def test_each_sort_of_memory_at_both_levels(start: Start, sort: str) -> None:
    import cupy

    make, kind, pooled, ends = SORTS[sort]
    pool = make()
    recording = start()
    allocate = cupy.cuda.alloc
    if kind == "pinned":
        allocate = cupy.cuda.alloc_pinned_memory
    else:
        cupy.cuda.set_allocator(None if pool is None else pool.malloc)
    pointer = allocate(SIZE)
    (block,) = recording.tracker.live.blocks(POOL)
    assert (block.address, block.device) == (pointer.ptr, 0)
    assert block.size_bytes >= SIZE
    del pointer
    assert recording.tracker.live.blocks(POOL) == []
    assert bool(recording.tracker.live.blocks(DRIVER)) == pooled
    if pool is not None:
        pool.free_all_blocks()
    assert recording.tracker.live.blocks(DRIVER) == []
    for level in ("pool", "driver"):
        taken, freed = recording.rows(level=level, kind=kind)
        assert [taken["op"], freed["op"]] == ["alloc", "free"]
        assert taken["generation"] == freed["generation"] > 0
        assert taken["size_bytes"] == freed["size_bytes"] >= SIZE
        assert taken["status"] == freed["status"] == "ok"
        assert taken["context"] == cupy.cuda.driver.ctxGetCurrent() != 0
    assert (taken["pooled"], freed["pooled"], freed["freed_by"]) == (pooled, pooled, ends)
    assert not recording.rows("findings")


def test_memory_that_is_lent(start: Start) -> None:
    import cupy

    lender = cupy.cuda.Memory(4096)
    recording = start()
    memory = cupy.cuda.UnownedMemory(lender.ptr, 1000, lender, 0)
    array = cupy.ndarray(1000, "u1", cupy.cuda.MemoryPointer(memory, 0))
    (block,) = recording.tracker.live.blocks(BORROWED)
    assert (block.address, block.size_bytes) == (lender.ptr, 1000)
    again = cupy.from_dlpack(array)
    assert again.data.ptr == lender.ptr
    del memory, array, again
    assert recording.tracker.live.blocks(BORROWED) == []


def test_eight_threads_and_a_model_agree_at_every_checkpoint(start: Start) -> None:
    import random

    import cupy

    threads, steps, checkpoints = 8, 2_000, 5
    pool = cupy.cuda.MemoryPool()
    recording = start(holders=False)
    cupy.cuda.set_allocator(pool.malloc)
    model: list[dict[int, int]] = [{} for _ in range(threads)]
    kept: list[dict[int, Any]] = [{} for _ in range(threads)]
    barrier = threading.Barrier(threads + 1)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        chance, mine, known = random.Random(number), kept[number], model[number]
        try:
            for step in range(1, steps + 1):
                if mine and (len(mine) > 100 or chance.random() < 0.48):
                    address = chance.choice(list(mine))
                    del known[address], mine[address]
                elif chance.random() < 0.002:
                    pool.free_all_blocks()
                else:
                    size = chance.randrange(1, 256 * KIB)
                    pointer = cupy.cuda.alloc(size)
                    known[pointer.ptr] = -(-size // 512) * 512
                    mine[pointer.ptr] = pointer
                    del pointer
                if step % (steps // checkpoints) == 0:
                    barrier.wait(200)
                    barrier.wait(200)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for _ in range(checkpoints):
        barrier.wait(200)
        live = {block.address: block.size_bytes for block in recording.tracker.live.blocks(POOL)}
        assert live == {address: size for known in model for address, size in known.items()}
        assert sum(live.values()) == pool.used_bytes()
        assert recording.tracker.live.used_bytes(DRIVER) == pool.total_bytes()
        barrier.wait(200)
    for worker in workers:
        worker.join()
    assert errors == []
    for mine in kept:
        mine.clear()
    pool.free_all_blocks()
    assert recording.tracker.live.blocks() == []


def test_the_limit_of_a_pool(start: Start) -> None:
    import cupy

    pool = cupy.get_default_memory_pool()
    recording = start()
    pool.set_limit(64 * MIB)
    try:
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match="limit set to"):
            cupy.empty(65 * MIB, "u1")
        cupy.empty(SIZE, "u1")
    finally:
        pool.set_limit(0)
    (failed,) = recording.rows(level="pool", status="OutOfMemoryError")
    assert (failed["address"], failed["size_asked_bytes"]) == (0, 65 * MIB)
    assert len(recording.rows(level="pool", size_asked_bytes=SIZE)) == 1


def test_the_device_has_no_more(start: Start) -> None:
    import cupy

    too_much = 1 << 46  # no device has that
    recording = start()
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.cuda.alloc(too_much)
    cupy.empty(SIZE, "u1")
    tries = recording.rows(level="driver", size_asked_bytes=too_much)
    assert {row["status"] for row in tries} == {"cudaErrorMemoryAllocation"}
    assert [row["status"] for row in recording.rows(level="pool", size_asked_bytes=too_much)] == [
        "OutOfMemoryError"
    ]
    assert recording.rows(level="driver", op="alloc", status="ok")


@pytest.mark.parametrize("level", ["pool", "driver"])
def test_an_allocation_that_is_made_to_fail(start: Start, level: Any) -> None:
    import cupy

    recording = start()
    with fail_allocation(2, level=level) as fault:
        first = cupy.empty(SIZE, "u1")
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
            cupy.empty(2 * SIZE, "u1")
        third = cupy.empty(2 * SIZE, "u1")
    assert (fault.counted, fault.failed) == (3, 1)
    del first, third
    assert recording.tracker.live.blocks(POOL) == []
    assert cupy.get_default_memory_pool().used_bytes() == 0


def test_errors_of_the_driver_are_told_apart(start: Start) -> None:
    import cupy

    runtime = cupy.cuda.runtime
    recording = start()
    address = runtime.malloc(SIZE)
    runtime.free(address)
    with pytest.raises(runtime.CUDARuntimeError):
        runtime.free(address)
    with pytest.raises(runtime.CUDARuntimeError):
        runtime.free(0xDEAD0000)
    kinds = [row["kind"] for row in recording.rows("findings")]
    assert kinds == ["double_free", "unknown_pointer"]
    runtime.deviceSynchronize()  # neither error has spoilt the context


def test_a_block_older_than_the_recording_has_its_size_also_in_a_new_thread(start: Start) -> None:
    import cupy

    runtime = cupy.cuda.runtime
    address = runtime.malloc(4 * MIB)
    recording = start()
    thread = threading.Thread(target=runtime.free, args=(address,))
    thread.start()
    thread.join()
    (freed,) = recording.rows(level="driver", op="free")
    assert (freed["generation"], freed["address"], freed["status"]) == (0, address, "ok")
    assert freed["size_bytes"] == 4 * MIB


KEPT: list[Any] = []


def test_who_holds_a_block_is_found_and_keeps_nothing_alive(start: Start) -> None:
    import cupy

    recording = start()
    KEPT.append(cupy.zeros(SIZE, "u1"))
    (holder,) = vl.holders(KEPT[0].data.ptr, seconds=60)
    assert holder.holder == f"list {__name__}.KEPT"
    KEPT.clear()
    assert recording.tracker.live.blocks(POOL) == []
    local = cupy.zeros(SIZE, "u1")
    (holder,) = vl.holders(local.data.ptr, seconds=60)
    assert holder.kind == "local"
    local = None
    assert recording.tracker.live.blocks(POOL) == []


def test_a_scope_that_keeps_something_says_where_it_was_taken(start: Start) -> None:
    import cupy

    start()
    with vl.gpu_scope("fine", device=0):
        cupy.zeros(SIZE, "u1").sum()
    with pytest.raises(GpuScopeError, match=r"test_memory\.py:"), vl.gpu_scope("kept"):
        kept = cupy.zeros(SIZE, "u1")
    del kept


def test_nothing_of_ours_is_left_in_cupy(start: Start) -> None:
    import cupy  # noqa: F401

    native = slots.extension()
    runtime = sys.modules[slots.RUNTIME]

    def ours() -> int:
        words = {address: address for address, _ in native.trampolines().values()}
        return int(native.swap(slots._folders(), words))

    before = dict(runtime.__pyx_capi__), runtime.malloc
    recording = start()
    assert ours() > 0
    assert runtime.malloc is not before[1]
    recording.stop()
    assert ours() == 0
    assert (dict(runtime.__pyx_capi__), runtime.malloc) == before


def test_a_program_with_two_streams_in_order_has_no_finding(start: Start) -> None:
    import cupy

    recording = start()
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    for _ in range(20):
        with streams[0]:
            array = cupy.arange(100_000, dtype="f4") * 2
            event = streams[0].record()
        with streams[1]:
            streams[1].wait_event(event)
            total = array.sum()
            streams[1].synchronize()  # the block goes back to the first stream's
            assert float(total) > 0
        del array
    assert not recording.rows("findings")
    assert len({row["cuda_stream"] for row in recording.rows(level="pool", op="alloc")}) == 2


def test_kernels_in_a_timed_stage_and_what_they_take(start: Start) -> None:
    import cupy

    image = cupy.zeros((1080, 1920, 3), "f4")
    recording = start(vl.Frames())
    with vl.stage("prepare", gpu=True):
        scaled = (image * 2 + 1).sum(axis=2)
        cupy.cuda.get_current_stream().synchronize()
    needed = image.nbytes + scaled.nbytes
    del scaled
    (span,) = recording.rows("spans", stage="prepare")
    # The last event happens a moment after the call that asked for it.
    assert 0 < span["gpu_duration_ns"] <= span["duration_ns"] + 5_000_000
    taken = recording.rows(level="pool", op="alloc", span=span["span"])
    assert sum(row["size_bytes"] for row in taken) >= needed


def test_a_capture_in_the_strictest_mode_goes_on(start: Start) -> None:
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    recording = start(vl.Frames(), vl.GpuSampler(period_s=0.01))
    with stream:
        cupy.empty(SIZE, "u1").fill(3)  # kernels are loaded, and a block is kept, before it
        stream.begin_capture(cupy.cuda.runtime.streamCaptureModeGlobal)
        with vl.stage("captured", gpu=True):
            array = cupy.empty(SIZE, "u1")
            array.fill(7)
        threading.Event().wait(0.1)  # the sampler reads meanwhile
        graph = stream.end_capture()
        graph.launch(stream)
        stream.synchronize()
        assert int(array.max()) == 7
    (span,) = recording.rows("spans", stage="captured")
    assert span["gpu_duration_ns"] is None
    assert not recording.rows("findings", severity="error")


def test_memory_on_another_device_than_the_label_says(start: Start) -> None:
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("it takes two devices, and there is one")
    recording = start()
    with vl.labels(gpu=1), cupy.cuda.Device(0):
        cupy.empty(SIZE, "u1")
    (finding,) = recording.rows("findings")
    assert finding["kind"] == "wrong_device"


SCRIPT = """
import cupy
kept = cupy.zeros(123 * 8192, "u1")
kept += 1
"""


def test_an_unmodified_script_is_recorded_and_ends_quietly(tmp_path: Path) -> None:
    """It holds memory as it ends, when the CUDA runtime is unloaded."""
    script, path = tmp_path / "script.py", tmp_path / "run"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "vidlab.cli", "record", "-o", path, script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    rows = vl.open_run(path).scan("allocations").collect().to_dicts()
    pool = [row for row in rows if row["level"] == "pool" and row["size_asked_bytes"] == SIZE]
    assert [row["op"] for row in pool if row["op"] == "alloc"] == ["alloc"]
    assert any(row["level"] == "driver" for row in rows)

"""The pool level: every allocator's blocks, and a CuPy that looks as if nobody recorded it."""

from __future__ import annotations

import asyncio
import gc
import io
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from vidlab.capture.gpu import faults
from vidlab.labelsets import labels
from vidlab.schema import POOL

from ..conftest import ALLOCATORS, GpuRecording, Rmm

pytestmark = [pytest.mark.needs("hostcuda"), pytest.mark.usefixtures("allocators")]

Start = Callable[..., GpuRecording]

#: An odd size, to know our own blocks by.
SIZE = 123 * 8


def test_nothing_is_recorded_of_a_program_that_takes_nothing(start: Start) -> None:
    recording = start()
    assert recording.tracker.live.blocks() == []
    assert all(row["generation"] == row["address"] == 0 for row in recording.rows())
    assert not recording.rows("findings")


@pytest.mark.parametrize("sort", ALLOCATORS)
@pytest.mark.parametrize("when", ["before", "while"])
def test_each_allocator_is_recorded(start: Start, sort: str, when: str) -> None:
    import cupy

    make, kind = ALLOCATORS[sort]
    allocator = make()
    if when == "before":
        cupy.cuda.set_allocator(allocator)
    recording = start()
    if when == "while":
        cupy.cuda.set_allocator(allocator)
    told = cupy.cuda.get_allocator()
    assert told == (allocator or cupy.cuda.memory._malloc)
    pointer = cupy.cuda.alloc(SIZE)
    (block,) = recording.tracker.live.blocks(POOL)
    assert block.address == pointer.ptr
    assert block.size_bytes == pointer.mem.size >= SIZE
    del pointer
    assert recording.tracker.live.blocks(POOL) == []
    taken, freed = recording.rows(level="pool", address=block.address)
    assert (taken["op"], freed["op"]) == ("alloc", "free")
    assert taken["kind"] == freed["kind"] == kind
    assert taken["size_asked_bytes"] == SIZE
    assert freed["size_asked_bytes"] is None
    assert taken["size_bytes"] == freed["size_bytes"] == block.size_bytes
    assert taken["generation"] == freed["generation"] == block.generation
    assert taken["freed_by"] is None
    assert freed["freed_by"] == "refcount"
    assert taken["t_ns"] + taken["duration_ns"] <= freed["t_ns"]
    assert not recording.rows(level="borrowed")
    assert cupy.cuda.get_allocator() == told


def test_the_very_allocator_is_put_back(start: Start) -> None:
    import cupy

    def mine(size: int) -> Any:
        return cupy.get_default_memory_pool().malloc(size)

    def later(size: int) -> Any:
        return cupy.get_default_memory_pool().malloc(size)

    functions = (
        *(cupy.cuda.set_allocator, cupy.cuda.get_allocator, cupy.cuda.UnownedMemory),
        *(cupy.cuda.memory.set_allocator, cupy.cuda.memory._set_thread_local_allocator),
        *(cupy.cuda.set_pinned_memory_allocator, cupy.from_dlpack),
    )
    cupy.cuda.set_allocator(mine)
    recording = start()
    assert cupy.cuda.get_allocator() is mine
    recording.stop()
    assert cupy.cuda.get_allocator() is mine
    again = start()
    cupy.cuda.set_allocator(later)
    assert cupy.cuda.memory.get_allocator() is later
    again.stop()
    assert cupy.cuda.get_allocator() is later
    assert functions == (
        *(cupy.cuda.set_allocator, cupy.cuda.get_allocator, cupy.cuda.UnownedMemory),
        *(cupy.cuda.memory.set_allocator, cupy.cuda.memory._set_thread_local_allocator),
        *(cupy.cuda.set_pinned_memory_allocator, cupy.from_dlpack),
    )
    assert type(cupy.cuda.alloc(8).mem) is cupy.cuda.memory.PooledMemory


def test_a_threads_own_allocator(start: Start) -> None:
    import cupy

    recording = start()
    with cupy.cuda.using_allocator(cupy.cuda.malloc_managed):
        assert cupy.cuda.get_allocator() is cupy.cuda.malloc_managed
        with pytest.raises(ValueError, match="using_allocator"):
            cupy.cuda.set_allocator(None)
        inside = cupy.cuda.alloc(SIZE)
    outside = cupy.cuda.alloc(SIZE)
    kinds = [row["kind"] for row in recording.rows(level="pool", size_asked_bytes=SIZE)]
    assert kinds == ["managed", "device"]
    del inside, outside


def test_a_threads_own_allocator_at_the_start_and_at_the_end(start: Start) -> None:
    import cupy

    def mine(size: int) -> Any:
        return cupy.cuda.malloc_managed(size)

    begun, ended = threading.Event(), threading.Event()
    seen: list[Any] = []

    def elsewhere() -> None:
        with cupy.cuda.using_allocator(mine):
            begun.set()
            ended.wait(30)
            cupy.cuda.alloc(SIZE)
            seen.append(cupy.cuda.get_allocator())

    before = cupy.cuda.get_allocator()
    with cupy.cuda.using_allocator(mine):
        recording = start()
        cupy.cuda.alloc(SIZE)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        begun.wait(30)
        recording.stop()
        assert cupy.cuda.get_allocator() is mine
        ended.set()
        thread.join()
    assert seen == [mine]
    assert cupy.cuda.get_allocator() == before
    assert [row["kind"] for row in recording.rows(level="pool", op="alloc", address=None)] == []
    assert len(recording.rows(level="pool", op="free", kind="managed")) == 1


def test_an_allocator_set_behind_our_back_is_found(start: Start) -> None:
    import cupy

    kept = cupy.cuda.memory.set_allocator
    pool = cupy.cuda.MemoryPool()
    recording = start()
    kept(pool.malloc)
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        pointer = cupy.cuda.alloc(SIZE)
        if recording.tracker.live.blocks(POOL):
            break
        time.sleep(0.05)
    del pointer
    assert recording.rows(level="pool", op="free", size_bytes=1024)
    assert [row["kind"] for row in recording.rows("findings")] == ["allocator_replaced"]
    assert cupy.cuda.get_allocator() == pool.malloc


def test_pinned_memory(start: Start) -> None:
    import cupy
    import numpy as np

    recording = start()
    pointer = cupy.cuda.alloc_pinned_memory(SIZE)
    assert isinstance(pointer.mem, cupy.cuda.pinned_memory.PooledPinnedMemory)
    array = np.frombuffer(pointer, np.uint8, SIZE)
    array[:] = 7
    (block,) = recording.tracker.live.blocks(POOL)
    assert (block.address, block.size_bytes) == (pointer.ptr, 1024)
    del pointer
    assert recording.tracker.live.blocks(POOL) == [block]
    assert array.sum() == 7 * SIZE
    del array
    assert recording.tracker.live.blocks(POOL) == []
    cupy.cuda.set_pinned_memory_allocator(None)
    pointer = cupy.cuda.alloc_pinned_memory(SIZE)
    del pointer
    rows = recording.rows(level="pool", kind="pinned")
    assert [row["op"] for row in rows] == ["alloc", "free"] * 2
    assert [row["size_bytes"] for row in rows] == [1024, 1024, SIZE, SIZE]
    driver = recording.rows(level="driver", kind="pinned", size_bytes=SIZE)
    assert [(row["op"], row["pooled"]) for row in driver] == [("alloc", False), ("free", False)]


def test_the_pool_is_the_pool_for_the_program(start: Start) -> None:
    import cupy

    pool = cupy.get_default_memory_pool()
    used = pool.used_bytes()
    recording = start()
    assert cupy.get_default_memory_pool() is pool
    array = cupy.empty(SIZE, "u1")
    assert pool.used_bytes() == used + 1024
    memory = array.data.mem
    assert isinstance(memory, cupy.cuda.memory.PooledMemory)
    assert memory.pool() is not None
    assert int(memory) == array.data.ptr == memory.ptr
    assert memory.device == cupy.cuda.Device(0)
    with pytest.raises(AttributeError):
        memory.owner_of_nothing  # noqa: B018
    memory.free()
    memory.free()
    assert memory.ptr == 0
    assert pool.used_bytes() == used
    del array, memory
    pool.set_limit(pool.total_bytes() + 4096)
    try:
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError) as caught:
            cupy.cuda.alloc(1 << 30)
    finally:
        pool.set_limit(0)
    assert "limit set to" in str(caught.value)
    rows = recording.rows(level="pool", size_bytes=1024)
    assert [row["op"] for row in rows] == ["alloc", "free"]
    (failed,) = recording.rows(level="pool", status="OutOfMemoryError")
    assert (failed["address"], failed["size_asked_bytes"]) == (0, 1 << 30)
    assert (failed["generation"], failed["size_bytes"]) == (0, 0)


def test_line_profile_hook_works_as_ever(start: Start) -> None:
    import cupy
    from cupy.cuda.memory_hooks import LineProfileHook

    recording = start()
    with LineProfileHook() as hook:
        cupy.cuda.alloc(SIZE)
    hook.print_report(report := io.StringIO())
    assert "test_line_profile_hook_works_as_ever" in report.getvalue()
    assert len(recording.rows(level="pool", op="free")) == 1


def test_views_share_one_block(start: Start) -> None:
    import cupy

    recording = start()
    array = cupy.empty((8, SIZE), "u1")
    view = array[3:5, ::2].T
    del array
    (block,) = recording.tracker.live.blocks(POOL)
    del view
    assert recording.tracker.live.blocks(POOL) == []
    assert len(recording.rows(generation=block.generation)) == 2


def test_zero_bytes_are_no_block(start: Start) -> None:
    import cupy

    recording = start()
    pointer = cupy.cuda.alloc(0)
    assert (pointer.ptr, pointer.mem.size) == (0, 0)
    del pointer
    assert recording.rows(size_asked_bytes=0) == []


def test_freed_by_the_collector_and_by_another_thread(start: Start) -> None:
    import cupy

    class Node:
        pass

    recording = start()
    gc.collect()
    gc.disable()
    try:
        node: Any = Node()
        node.array, node.self = cupy.empty(SIZE, "u1"), node
        del node
        assert len(recording.tracker.live.blocks(POOL)) == 1
        gc.collect()
    finally:
        gc.enable()
    assert recording.tracker.live.blocks(POOL) == []
    handed: queue.SimpleQueue[Any] = queue.SimpleQueue()
    handed.put(cupy.empty(SIZE, "u1"))
    thread = threading.Thread(target=handed.get)
    thread.start()
    thread.join()
    first, by_gc, second, by_thread = recording.rows(level="pool")
    assert by_gc["freed_by"] == "gc"
    assert by_thread["freed_by"] == "refcount"
    assert first["tid"] == by_gc["tid"] == second["tid"] != by_thread["tid"]


def test_a_finalizer_in_the_same_cycle_can_still_use_the_block(start: Start) -> None:
    import cupy

    read: list[int] = []

    class Last:
        def __del__(self) -> None:
            # With nothing recorded the memory is there until all finalizers have run.
            read.append(int(cupy.asnumpy(self.array)[0]))
            read.append(len(recording.tracker.live.blocks(POOL)))

    recording = start()
    last: Any = Last()
    last.array = cupy.zeros(SIZE, "u1")
    last.array.data.memset(9, SIZE)
    last.other = {"last": last, "array": last.array}
    del last
    gc.collect()
    assert read[0] == 9
    assert read[1] >= 1
    assert [b for b in recording.tracker.live.blocks(POOL) if b.kind == 0] == []


def test_rmms_buffers_die_when_they_would(start: Start) -> None:
    import cupy

    rmm = Rmm()
    recording = start()
    cupy.cuda.set_allocator(rmm)
    array = cupy.empty(SIZE, "u1")
    assert isinstance(array.data.mem._owner, Rmm.Buffer)
    # A cycle through the owner: the collector must see all of it.
    array.data.mem._owner.array = array
    del array
    assert rmm.log == ["malloc"]
    gc.collect()
    assert rmm.log == ["malloc", "free"]
    assert [row["freed_by"] for row in recording.rows(level="pool", op="free")] == ["gc"]


def test_an_allocator_on_top_of_another_counts_once(start: Start) -> None:
    import cupy

    inner = cupy.cuda.MemoryPool().malloc

    def outer(size: int) -> Any:
        with cupy.cuda.using_allocator(inner):
            return cupy.cuda.alloc(size)

    recording = start()
    cupy.cuda.set_allocator(outer)
    pointer = cupy.cuda.alloc(SIZE)
    assert len(recording.tracker.live.blocks(POOL)) == 1
    del pointer
    assert len(recording.rows(level="pool")) == 2


def test_an_allocator_that_hands_out_the_same_memory_again(start: Start) -> None:
    import cupy

    slab = cupy.cuda.Memory(4096)

    def arena(size: int) -> Any:
        return cupy.cuda.MemoryPointer(slab, 512)

    recording = start()
    cupy.cuda.set_allocator(arena)
    first = cupy.cuda.alloc(100)
    second = cupy.cuda.alloc(200)
    del first
    assert [block.size_bytes for block in recording.tracker.live.blocks(POOL)] == [200]
    del second
    assert recording.tracker.live.blocks(POOL) == []
    rows = recording.rows(level="pool")
    assert [row["size_bytes"] for row in rows] == [100, 200, 100, 200]


def test_blocks_outlive_the_recording(start: Start) -> None:
    import cupy

    pool = cupy.get_default_memory_pool()
    used = pool.used_bytes()
    recording = start()
    array = cupy.zeros(SIZE, "u1")
    recording.stop()
    assert pool.used_bytes() == used + 1024
    array.data.memset(3, SIZE)
    assert cupy.asnumpy(array).sum() == 3 * SIZE
    del array
    assert pool.used_bytes() == used
    assert not recording.rows(op="free", level="pool")


def test_what_is_older_than_the_recording(start: Start) -> None:
    import cupy

    pool = cupy.get_default_memory_pool()
    old = cupy.empty(SIZE, "u1")
    used, total = pool.used_bytes(), pool.total_bytes()
    recording = start()
    older = recording.rows(generation=0, device=0)
    assert [(row["level"], row["pooled"], row["size_bytes"]) for row in older] == [
        ("driver", True, total),
        ("pool", False, used),
    ]
    assert all(row["address"] == 0 and row["status"] == "ok" for row in older)
    del old


def test_labels_task_and_stack(start: Start) -> None:
    import cupy

    recording = start()

    async def take() -> Any:
        with labels(stream_id="cam-1", codec="h264", gpu=0):
            return cupy.cuda.alloc(SIZE)

    async def main() -> None:
        task = asyncio.create_task(take(), name="taker")
        await task

    asyncio.run(main())
    (row,) = recording.rows(level="pool", op="alloc", size_asked_bytes=SIZE)
    assert (row["stream_id"], row["codec"], row["gpu"]) == ("cam-1", "h264", 0)
    assert row["task"] == "taker"
    stacks = {row["stack"]: row["frames"] for row in recording.rows("stacks")}
    assert stacks[row["stack"]][0]["function"].endswith("take")
    assert stacks[row["stack"]][0]["file"] == __file__


def test_the_device_and_the_stream_are_those_of_the_moment(start: Start) -> None:
    import cupy

    recording = start()
    stream = cupy.cuda.Stream(non_blocking=True)
    with cupy.cuda.Device(1), labels(gpu=0), cupy.cuda.Stream(non_blocking=True) as other:
        for _ in range(3):
            cupy.cuda.alloc(SIZE)
    with stream, labels(gpu=0):
        pointer = cupy.cuda.alloc(SIZE)
    del pointer
    rows = recording.rows(level="pool", op="alloc", size_asked_bytes=SIZE)
    assert [row["device"] for row in rows] == [1, 1, 1, 0]
    assert [row["cuda_stream"] for row in rows] == [other.ptr] * 3 + [stream.ptr]
    found = [row for row in recording.rows("findings") if row["kind"] == "wrong_device"]
    assert len(found) == 1
    assert "device 1" in found[0]["message"]
    assert "gpu=0" in found[0]["message"]


def test_an_armed_fault_is_raised_and_recorded(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cupy

    class Armed:
        def check(self, level: int, kind: int, size: int) -> None:
            if level == POOL and size == SIZE:
                raise cupy.cuda.memory.OutOfMemoryError(size, 0)

    recording = start()
    monkeypatch.setattr(faults, "armed", Armed())
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.empty(SIZE, "u1")
    cupy.empty(SIZE + 1, "u1")
    monkeypatch.undo()
    statuses = [row["status"] for row in recording.rows(level="pool", op="alloc")]
    assert statuses == ["OutOfMemoryError", "ok"]

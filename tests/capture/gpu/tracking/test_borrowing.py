"""Borrowed memory: recorded for as long as it is lent, and counted in no bill."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from vidlab.schema import BORROWED

from ..conftest import GpuRecording

pytestmark = pytest.mark.needs("hostcuda")
Start = Callable[..., GpuRecording]


def test_unowned_memory(start: Start) -> None:
    import cupy

    native = cupy.cuda.UnownedMemory
    lender = cupy.cuda.Memory(4096)
    recording = start()
    assert isinstance(native(lender.ptr, 8, None, 0), cupy.cuda.UnownedMemory)
    memory: Any = cupy.cuda.UnownedMemory(lender.ptr, 1000, lender, 0)
    assert memory._owner is lender
    assert isinstance(memory, native)
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    array = cupy.ndarray(1000, "u1", pointer)
    (block,) = recording.tracker.live.blocks(BORROWED)
    assert (block.address, block.size_bytes) == (lender.ptr, 1000)
    del memory, pointer
    assert recording.tracker.live.blocks(BORROWED) == [block]
    del array
    assert recording.tracker.live.blocks(BORROWED) == []
    rows = recording.rows(level="borrowed")
    assert [(row["op"], row["size_bytes"]) for row in rows] == [("alloc", 1000), ("free", 1000)]
    assert cupy.cuda.UnownedMemory is native


def test_a_cycle_through_the_owner_is_collected(start: Start) -> None:
    import cupy

    class Owner:
        pass

    slab = cupy.cuda.Memory(4096)
    recording = start()
    owner: Any = Owner()
    owner.memory = cupy.cuda.UnownedMemory(slab.ptr, 512, owner, 0)
    del owner
    gc.collect()
    assert recording.tracker.live.blocks(BORROWED) == []
    assert [row["freed_by"] for row in recording.rows(level="borrowed", op="free")] == ["gc"]


def test_a_subclass_is_told_from_the_rest(start: Start) -> None:
    import cupy

    start()

    class Mine(cupy.cuda.UnownedMemory):
        pass

    mine, other = Mine(512, 1, None, 0), cupy.cuda.UnownedMemory(512, 1, None, 0)
    assert isinstance(mine, Mine)
    assert not isinstance(other, Mine)


def test_dlpack(start: Start) -> None:
    import cupy

    class Producer:
        """An array of another library."""

        def __init__(self) -> None:
            self.array = cupy.zeros(1000, "u1")

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    producer = Producer()  # older than the recording: its memory is not known
    recording = start()
    array = cupy.from_dlpack(producer)
    assert array.data.ptr == producer.array.data.ptr
    (block,) = recording.tracker.live.blocks(BORROWED)
    assert block.size_bytes == 1000
    producer.array.data.memset(5, 1000)
    assert cupy.asnumpy(array).sum() == 5000
    del array
    assert recording.tracker.live.blocks(BORROWED) == []
    assert len(recording.rows(level="borrowed")) == 2

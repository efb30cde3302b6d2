"""The live set against an oracle: threads that allocate and free in every way there is.

The oracle is a plain dict under a lock, which the test keeps itself: a block is put in
after it was taken, and taken out before it is dropped. Garbage in cycles is out of it
at once; so it is collected before the two are compared.
"""

from __future__ import annotations

import gc
import queue
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from vidlab.capture.gpu.tracker import Tracker
from vidlab.schema import POOL

from .conftest import ALLOCATORS, GpuRecording

pytestmark = [pytest.mark.needs("hostcuda"), pytest.mark.usefixtures("allocators")]

CHECKPOINTS = 10
MOST_KEPT = 200


def rounded(size: int) -> int:
    return -(-size // 512) * 512


def power_of_two(size: int) -> int:
    return 1 << (max(size, 512) - 1).bit_length()


class Oracle:
    """What is in use, by address, as far as the test itself knows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.blocks: dict[int, int] = {}

    def taken(self, address: int, size: int) -> None:
        with self._lock:
            assert address not in self.blocks, "handed out twice"
            self.blocks[address] = size

    def dropping(self, address: int) -> None:
        with self._lock:
            del self.blocks[address]


class Cycle:
    """Garbage that only the collector frees."""

    def __init__(self, pointer: Any) -> None:
        self.pointer, self.me = pointer, self


class Storm:
    """Threads that do as they please with memory, and stop for a look at each checkpoint."""

    def __init__(
        self,
        tracker: Tracker,
        allocate: Callable[[int], Any],
        size_given: Callable[[int], int],
        free_all: Callable[[], None],
        threads: int,
        steps: int,
    ) -> None:
        self.tracker = tracker
        self.oracle = Oracle()
        self.allocate, self.size_given, self.free_all = allocate, size_given, free_all
        self.steps = steps
        self.handed: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.barrier = threading.Barrier(threads + 1)
        self.done: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self.threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]

    def blow(self, used_bytes: Callable[[], int] | None) -> None:
        for thread in self.threads:
            thread.start()
        for _ in range(CHECKPOINTS):
            self.barrier.wait(280)
            gc.collect()
            live = {block.address: block.size_bytes for block in self.tracker.live.blocks(POOL)}
            try:
                assert live == self.oracle.blocks
                if used_bytes is not None:
                    assert used_bytes() == sum(live.values())
            except BaseException:
                self.barrier.abort()
                raise
            self.barrier.wait(280)
        for thread in self.threads:
            thread.join()
        assert not self.errors, self.errors

    def _run(self, number: int) -> None:
        try:
            self._steps(random.Random(number))
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            self.errors.append(error)
            self.barrier.abort()

    def _steps(self, chance: random.Random) -> None:
        oracle, kept, done = self.oracle, [], Counter[str]()
        for step in range(1, self.steps + 1):
            what = chance.random()
            if len(kept) < MOST_KEPT and (what < 0.5 or not kept):
                size = chance.randrange(1, 16_384)
                pointer = self.allocate(size)
                oracle.taken(pointer.ptr, self.size_given(size))
                kept.append(pointer)
                done["taken"] += 1
            elif what < 0.6:  # by whoever gets it
                self.handed.put(kept.pop(chance.randrange(len(kept))))
                done["handed"] += 1
            elif what < 0.7:
                try:
                    pointer = self.handed.get_nowait()
                except queue.Empty:
                    pass
                else:
                    oracle.dropping(pointer.ptr)
                    done["by another"] += 1
            elif what < 0.75:
                pointer = kept.pop(chance.randrange(len(kept)))
                oracle.dropping(pointer.ptr)
                Cycle(pointer)
                done["garbage"] += 1
            elif what < 0.7505:
                self.free_all()
                done["released"] += 1
            else:
                pointer = kept.pop(chance.randrange(len(kept)))
                oracle.dropping(pointer.ptr)
                done["dropped"] += 1
            pointer = None
            if step % (self.steps // CHECKPOINTS) == 0:
                self.barrier.wait(280)
                self.barrier.wait(280)
        for pointer in kept[::2]:
            oracle.dropping(pointer.ptr)
        del kept[::2], pointer
        self.left = kept
        with oracle._lock:
            self.done += done
            _LEFT.append(kept)


#: What the threads still had at their end.
_LEFT: list[list[Any]] = []


@pytest.fixture(autouse=True)
def _nothing_left() -> Any:
    _LEFT.clear()
    yield
    _LEFT.clear()


def blocks_at_the_end(rows: list[dict[str, Any]]) -> dict[int, int]:
    """What is in use by the recorded table: each block is taken once, and freed at most once."""
    taken: dict[int, dict[str, Any]] = {}
    freed: set[int] = set()
    for row in rows:
        generation = row["generation"]
        if row["op"] == "alloc":
            assert generation not in taken
            taken[generation] = row
        else:
            assert generation not in freed
            freed.add(generation)
    assert freed <= taken.keys()
    live = {g: row for g, row in taken.items() if g not in freed}
    addresses = {row["address"]: row["size_bytes"] for row in live.values()}
    assert len(addresses) == len(live)
    return addresses


def test_eight_threads_against_the_oracle(start: Callable[..., GpuRecording]) -> None:
    import cupy

    pool = cupy.cuda.MemoryPool()
    recording = start(holders=False)
    cupy.cuda.set_allocator(pool.malloc)
    storm = Storm(
        recording.tracker, cupy.cuda.alloc, rounded, pool.free_all_blocks, threads=8, steps=100_000
    )
    storm.blow(pool.used_bytes)
    assert min(storm.done.values()) > 100, storm.done
    total, used = pool.total_bytes(), pool.used_bytes()
    live = {block.address: block.size_bytes for block in recording.tracker.live.blocks(POOL)}
    assert live == storm.oracle.blocks
    assert sum(live.values()) == used
    recording.stop()
    at_level = {
        level: [row for row in recording.rows(level=level) if row["generation"]]
        for level in ("pool", "driver")
    }
    assert blocks_at_the_end(at_level["pool"]) == storm.oracle.blocks
    assert len(at_level["pool"]) == 2 * storm.done["taken"] - len(live)
    assert sum(blocks_at_the_end(at_level["driver"]).values()) == total
    by = Counter(row["freed_by"] for row in at_level["pool"] if row["op"] == "free")
    assert by["gc"] > 0
    assert by["refcount"] > by["gc"]
    released = [row for row in at_level["driver"] if row["freed_by"] == "release"]
    assert released
    assert all(row["pooled"] for row in released)


@pytest.mark.parametrize("sort", [*ALLOCATORS, "pinned"])
def test_every_allocator_against_the_oracle(start: Callable[..., GpuRecording], sort: str) -> None:
    import cupy

    from vidlab.capture.gpu import hostcuda

    recording = start(holders=False)
    exact = sort in ("unpooled", "rmm", "python functions")
    pool = cupy.get_default_memory_pool()
    if sort == "pinned":
        pinned = cupy.get_default_pinned_memory_pool()
        allocate, free_all = cupy.cuda.alloc_pinned_memory, pinned.free_all_blocks
    else:
        cupy.cuda.set_allocator(ALLOCATORS[sort][0]())
        allocate, free_all = cupy.cuda.alloc, pool.free_all_blocks
    before = hostcuda.books()[0].used_bytes
    given = (lambda size: size) if exact else power_of_two if sort == "pinned" else rounded
    storm = Storm(recording.tracker, allocate, given, free_all, threads=4, steps=2_000)
    storm.blow(None)
    gc.collect()
    used = hostcuda.books()[0].used_bytes
    recording.stop()
    rows = [row for row in recording.rows(level="pool") if row["generation"]]
    assert blocks_at_the_end(rows) == storm.oracle.blocks
    if sort not in ("pinned", "async pool"):  # of which the books have not the used bytes
        driver = [row for row in recording.rows(level="driver") if row["address"]]
        assert used - before == sum(
            row["size_bytes"] if row["op"] == "alloc" else -row["size_bytes"] for row in driver
        )

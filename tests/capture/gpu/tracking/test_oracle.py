"""The live set against an oracle: threads that allocate and free in every way there is.

The oracle is a plain dict, which the test keeps itself: a block is put in after it was
taken, and taken out before it is dropped, each by one operation of the dict. Garbage in
cycles is out of it at once; so it is collected before the two are compared.
"""

from __future__ import annotations

import gc
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from vidlab.capture.gpu.tracking.tracker import Tracker
from vidlab.runs.blocks import LOSE_AT
from vidlab.runs.run import open_run
from vidlab.schema import POOL

from ..conftest import ALLOCATORS, GpuRecording

pytestmark = [pytest.mark.needs("hostcuda"), pytest.mark.usefixtures("allocators")]

CHECKPOINTS = 10
MOST_KEPT = 200


def rounded(size: int) -> int:
    return -(-size // 512) * 512


def power_of_two(size: int) -> int:
    return 1 << (max(size, 512) - 1).bit_length()


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
        #: What is in use, by address, as far as the test itself knows.
        self.oracle: dict[int, int] = {}
        self.allocate, self.size_given, self.free_all = allocate, size_given, free_all
        self.steps = steps
        self.handed: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.barrier = threading.Barrier(threads + 1)
        self.done: Counter[str] = Counter()
        self.counting = threading.Lock()
        self.errors: list[BaseException] = []
        self.threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]

    def blow(self, used_bytes: Callable[[], int] | None) -> None:
        for thread in self.threads:
            thread.start()
        for _ in range(CHECKPOINTS):
            self.barrier.wait(280)
            live = self._live()
            limit = time.monotonic() + 60
            while live != self.oracle and time.monotonic() < limit:
                time.sleep(0.05)  # while another thread collects, a call does nothing
                live = self._live()
            try:
                assert live == self.oracle
                if used_bytes is not None:
                    assert used_bytes() == sum(live.values())
            except BaseException:
                self.barrier.abort()
                raise
            self.barrier.wait(280)
        for thread in self.threads:
            thread.join()
        assert not self.errors, self.errors

    def _live(self) -> dict[int, int]:
        gc.collect()
        return {block.address: block.size_bytes for block in self.tracker.live.blocks(POOL)}

    def _wait_for_writer(self) -> None:
        """Record no faster than the disk takes it: beyond a bound records are lost."""
        writer: Any = self.tracker.writer
        while len(writer._buffers.full) > LOSE_AT // 2:
            time.sleep(0.01)

    def _run(self, number: int) -> None:
        try:
            self._steps(np.random.default_rng(number))
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            self.errors.append(error)
            self.barrier.abort()

    def _steps(self, chance: np.random.Generator) -> None:
        oracle, handed, allocate, given = self.oracle, self.handed, self.allocate, self.size_given
        kept: list[Any] = []
        taken = handed_on = by_another = garbage = released = dropped = 0
        steps = self.steps // CHECKPOINTS
        for _ in range(CHECKPOINTS):
            # Drawn beforehand: the storm is about memory.
            drawn = zip(
                chance.random(steps).tolist(),
                chance.integers(1, 16_384, steps).tolist(),
                chance.random(steps).tolist(),
                strict=True,
            )
            for number, (what, size, which) in enumerate(drawn):
                if number % 256 == 0:
                    self._wait_for_writer()
                if (what < 0.5 and len(kept) < MOST_KEPT) or not kept:
                    pointer = allocate(size)
                    address = pointer.ptr
                    assert address not in oracle, "handed out twice"
                    oracle[address] = given(size)
                    kept.append(pointer)
                    taken += 1
                elif what < 0.6:  # by whoever gets it
                    handed.put(kept.pop(int(which * len(kept))))
                    handed_on += 1
                elif what < 0.7:
                    try:
                        pointer = handed.get_nowait()
                    except queue.Empty:
                        pass
                    else:
                        del oracle[pointer.ptr]
                        by_another += 1
                else:
                    pointer = kept.pop(int(which * len(kept)))
                    if what >= 0.7505:
                        del oracle[pointer.ptr]
                        dropped += 1
                    elif what < 0.75:
                        del oracle[pointer.ptr]
                        Cycle(pointer)
                        garbage += 1
                    else:
                        kept.append(pointer)
                        self.free_all()
                        released += 1
                pointer = None
            self.barrier.wait(280)
            self.barrier.wait(280)
        for pointer in kept[::2]:
            del oracle[pointer.ptr]
        del kept[::2], pointer
        with self.counting:
            self.done["taken"] += taken
            self.done["handed"] += handed_on
            self.done["by another"] += by_another
            self.done["garbage"] += garbage
            self.done["released"] += released
            self.done["dropped"] += dropped
            _LEFT.append(kept)


#: What the threads still had at their end.
_LEFT: list[list[Any]] = []


@pytest.fixture(autouse=True)
def _nothing_left() -> Any:
    _LEFT.clear()
    yield
    _LEFT.clear()


def recorded(recording: GpuRecording, level: str) -> pl.DataFrame:
    """The events of a level, of what is not older than the recording."""
    recording.stop()
    table = open_run(recording.recording.path).scan("allocations")
    return table.filter(pl.col("level") == level, pl.col("generation") > 0).collect()


def blocks_at_the_end(rows: pl.DataFrame) -> dict[int, int]:
    """What is in use by the recorded table: each block is taken once, and freed at most once."""
    taken, freed = rows.filter(pl.col("op") == "alloc"), rows.filter(pl.col("op") == "free")
    assert taken["generation"].is_unique().all()
    assert freed["generation"].is_unique().all()
    assert freed.join(taken, on="generation", how="anti").height == 0
    live = taken.join(freed, on="generation", how="anti")
    addresses = dict(live.select("address", "size_bytes").iter_rows())
    assert len(addresses) == live.height
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
    assert live == storm.oracle
    assert sum(live.values()) == used
    recording.stop()
    pool_rows, driver_rows = recorded(recording, "pool"), recorded(recording, "driver")
    assert blocks_at_the_end(pool_rows) == storm.oracle
    assert pool_rows.height == 2 * storm.done["taken"] - len(live)
    assert sum(blocks_at_the_end(driver_rows).values()) == total
    frees = pool_rows.filter(pl.col("op") == "free")["freed_by"].cast(pl.String)
    by = Counter(frees.to_list())
    assert by["gc"] > 0
    assert by["refcount"] > by["gc"]
    released = driver_rows.filter(pl.col("freed_by") == "release")
    assert released.height
    assert released["pooled"].all()


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
    assert blocks_at_the_end(recorded(recording, "pool")) == storm.oracle
    if sort not in ("pinned", "async pool"):  # of which the books have not the used bytes
        driver = [row for row in recording.rows(level="driver") if row["address"]]
        assert used - before == sum(
            row["size_bytes"] if row["op"] == "alloc" else -row["size_bytes"] for row in driver
        )

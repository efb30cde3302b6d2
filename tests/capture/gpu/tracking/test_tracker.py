"""What a record says of an allocation and of a free, and what a recording never does."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vidlab.capture.frames.engine import Frames
from vidlab.capture.frames.refs import FrameRef, frame_ref
from vidlab.capture.frames.stages import stage
from vidlab.capture.gpu.engine import GpuMemory
from vidlab.capture.gpu.tracking import tracker as tracking
from vidlab.clock import now_ns
from vidlab.labelsets import intern, labels
from vidlab.recording import Recording, record
from vidlab.runs.run import open_run
from vidlab.runs.writer import RunWriter
from vidlab.schema import POOL

from ..conftest import ALLOCATORS, GpuRecording

pytestmark = [pytest.mark.needs("hostcuda"), pytest.mark.usefixtures("allocators")]

Start = Callable[..., GpuRecording]

#: Odd sizes, to know our own blocks by: what is asked for, and what a pool gives for it.
SIZE, GIVEN = 123 * 8, 1024


def line_of(function: Callable[..., Any], offset: int) -> int:
    return function.__code__.co_firstlineno + offset


def take() -> Any:
    import cupy

    return cupy.cuda.alloc(SIZE)


TAKE = line_of(take, 3)


def pool_rows(path: Path) -> list[dict[str, Any]]:
    rows = open_run(path).scan("allocations").sort("t_ns").collect().to_dicts()
    return [row for row in rows if row["level"] == "pool" and row["generation"]]


def taken(path: Path) -> list[dict[str, Any]]:
    return [row for row in pool_rows(path) if row["op"] == "alloc"]


def findings(recording: GpuRecording, kind: str) -> list[dict[str, Any]]:
    return [row for row in recording.rows("findings") if row["kind"] == kind]


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Recording]:
    """A recording of frames and of GPU memory."""
    recording = record(tmp_path / "both", engines=[Frames(), GpuMemory(holders=False)])
    yield recording
    recording.stop()


def a_frame(number: int = 1, **values: Any) -> FrameRef:
    return frame_ref(frame=number << 40, seq=number, labels=intern(values))


# --- a record's columns ---------------------------------------------------------------


def test_every_column_of_an_alloc_and_its_free(start: Start) -> None:
    import cupy

    recording = start(holders=False)
    with cupy.cuda.Device(1):
        context = cupy.cuda.driver.ctxGetCurrent()
        other = cupy.cuda.Stream(non_blocking=True)
        stream = cupy.cuda.Stream(non_blocking=True)
        before = now_ns()
        with other, labels(stream_id="cam-1", codec="h264"):
            pointer = take()
        between = now_ns()
        address = pointer.ptr
        with stream, labels(stream_id="cam-2"):
            del pointer
        after = now_ns()
    alloc, free = recording.rows(level="pool", address=address)
    assert alloc["op"] == "alloc"
    assert free["op"] == "free"
    for row in (alloc, free):
        assert (row["level"], row["kind"], row["status"]) == ("pool", "device", "ok")
        assert (row["device"], row["context"]) == (1, context)
        assert (row["size_bytes"], row["pooled"]) == (GIVEN, False)
        assert row["generation"] == alloc["generation"] > 0
        assert row["tid"] == threading.get_native_id()
        assert row["task"] is row["span"] is row["frame"] is None
        assert row["duration_ns"] >= 0
    assert before <= alloc["t_ns"]
    assert alloc["t_ns"] + alloc["duration_ns"] <= between <= free["t_ns"]
    assert free["t_ns"] + free["duration_ns"] <= after
    assert (alloc["cuda_stream"], free["cuda_stream"]) == (other.ptr, stream.ptr)
    assert (alloc["size_asked_bytes"], free["size_asked_bytes"]) == (SIZE, None)
    assert (alloc["freed_by"], free["freed_by"]) == (None, "refcount")
    # The labels and the stack are those of the free's own place.
    assert (alloc["stream_id"], alloc["codec"]) == ("cam-1", "h264")
    assert (free["stream_id"], free["codec"]) == ("cam-2", None)
    stacks = {row["stack"]: row["frames"] for row in recording.rows("stacks")}
    caller = test_every_column_of_an_alloc_and_its_free
    assert [(call["function"], call["file"], call["line"]) for call in stacks[alloc["stack"]]][
        :2
    ] == [("take", __file__, TAKE), (caller.__qualname__, __file__, line_of(caller, 10))]
    assert (stacks[free["stack"]][0]["function"], stacks[free["stack"]][0]["line"]) == (
        caller.__qualname__,
        line_of(caller, 14),
    )


def test_the_driver_below_says_what_is_kept_by_a_pool(start: Start) -> None:
    import cupy

    pool = cupy.cuda.MemoryPool()
    recording = start(holders=False)
    with cupy.cuda.using_allocator(pool.malloc), labels(stream_id="cam-1"):
        pointer = take()
    address = pointer.ptr
    del pointer
    pool.free_all_blocks()
    alloc, free = recording.rows(level="driver", address=address)
    assert (alloc["op"], alloc["pooled"], alloc["size_bytes"]) == ("alloc", True, GIVEN)
    assert alloc["stream_id"] == "cam-1"
    assert (free["op"], free["pooled"], free["freed_by"]) == ("free", True, "release")
    # One numbering for both levels.
    (above, _) = recording.rows(level="pool", address=address)
    assert alloc["generation"] != above["generation"]


def test_the_span_the_frame_and_both_their_labels(both: Recording) -> None:
    frame = a_frame(7, codec="h264", scene="night")
    with labels(stream_id="cam-1"), stage("outer", frame), stage("inner"):
        take()
    with labels(stream_id="cam-2"):
        take()
    both.stop()
    inside, outside = taken(both.path)
    spans = open_run(both.path).scan("spans").collect().to_dicts()
    (inner,) = [span["span"] for span in spans if span["stage"] == "inner"]
    assert (inside["span"], inside["frame"]) == (inner, frame.frame)
    assert (inside["stream_id"], inside["codec"], inside["scene"]) == ("cam-1", "h264", "night")
    assert (outside["span"], outside["frame"]) == (None, None)
    assert (outside["stream_id"], outside["codec"], outside["scene"]) == ("cam-2", None, None)


def test_tasks_that_take_turns_each_have_their_own(both: Recording) -> None:
    async def work(number: int) -> None:
        frame = a_frame(number, scene=f"scene {number}")
        with labels(stream_id=f"cam-{number}"), stage(f"stage {number}", frame):
            for _ in range(3):
                await asyncio.sleep(0)
                take()

    async def main() -> None:
        tasks = [asyncio.create_task(work(n), name=f"task {n}") for n in (1, 2, 3)]
        await asyncio.gather(*tasks)
        take()

    asyncio.run(main())
    both.stop()
    rows = taken(both.path)
    stages = {
        span["span"]: span["stage"]
        for span in open_run(both.path).scan("spans").collect().to_dicts()
    }
    found = [
        (row["task"], row["frame"], row["stream_id"], row["scene"], stages.get(row["span"]))
        for row in rows
    ]
    for n in (1, 2, 3):
        whole = (f"task {n}", n << 40, f"cam-{n}", f"scene {n}", f"stage {n}")
        assert found.count(whole) == 3
    assert len(found) == 10
    assert found[-1][1:] == (None, None, None, None)
    assert found[-1][0] not in (None, "task 1", "task 2", "task 3")


def test_a_free_by_another_thread_is_that_threads(both: Recording) -> None:
    handed = [take()]
    tids = []

    def drop() -> None:
        tids.append(threading.get_native_id())
        with stage("drop", a_frame(5)):
            handed.clear()

    thread = threading.Thread(target=drop)
    thread.start()
    thread.join()
    both.stop()
    alloc, free = pool_rows(both.path)
    assert alloc["generation"] == free["generation"]
    assert alloc["tid"] == threading.get_native_id()
    assert [free["tid"]] == tids
    assert (alloc["frame"], free["frame"]) == (None, 5 << 40)


def test_garbage_is_freed_by_the_collector(start: Start) -> None:
    recording = start(holders=False)
    cycle = [take()]
    cycle.append(cycle)
    del cycle
    gc.collect()
    take()
    frees = recording.rows(level="pool", op="free")
    assert [row["freed_by"] for row in frees] == ["gc", "refcount"]


def test_what_fails_is_recorded_and_changes_nothing(start: Start) -> None:
    import cupy

    recording = start(holders=False)
    cupy.cuda.set_allocator(None)
    with labels(stream_id="cam-1"), pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
        cupy.cuda.alloc(1 << 60)

    def refuse(size: int) -> Any:
        raise KeyError(size)

    cupy.cuda.set_allocator(refuse)
    with pytest.raises(KeyError):
        take()
    assert recording.tracker.live.blocks() == []
    rows = recording.rows(level="pool")
    assert [(row["status"], row["size_asked_bytes"]) for row in rows] == [
        ("cudaErrorMemoryAllocation", 1 << 60),
        ("KeyError", SIZE),
    ]
    for row in rows:
        assert (row["op"], row["address"], row["generation"], row["size_bytes"]) == (
            "alloc",
            0,
            0,
            0,
        )
        assert row["stack"]
        assert row["duration_ns"] >= 0
    assert rows[0]["stream_id"] == "cam-1"


def test_without_stacks(start: Start) -> None:
    recording = start(holders=False, stack_depth=0)
    take()
    rows = recording.rows(level="pool")
    assert len(rows) == 2
    assert {row["stack"] for row in recording.rows()} == {None}
    assert recording.rows("stacks") == []


# --- what is bounded ------------------------------------------------------------------


def test_the_names_of_tasks_are_bounded(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    most = tracking._MOST_TASKS
    recording = start(holders=False, stack_depth=1)

    async def work() -> None:
        take()

    async def main() -> None:
        for number in range(most + 20):
            await asyncio.create_task(work(), name=f"task {number}")
        await asyncio.create_task(work(), name="task 3")

    asyncio.run(main())
    names = [row["task"] for row in recording.rows(level="pool", op="alloc")]
    assert names[:most] == [f"task {n}" for n in range(most)]
    assert names[most:] == ["(more tasks)"] * 20 + ["task 3"]


def test_the_findings_are_once_for_a_place_and_bounded(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = start(holders=False)
    monkeypatch.setattr(tracking, "_MOST_FINDINGS", 5)
    for _ in range(3):
        recording.tracker.finding("of_one_place", "the same place")
    recording.tracker.finding("of_one_place", "another place")
    recording.tracker.finding("another", "another kind")
    for number in range(20):
        recording.tracker.finding(f"kind {number}", "one of many")
    kinds = [row["kind"] for row in recording.rows("findings")]
    assert sorted(kinds) == ["another", "kind 0", "kind 1", "of_one_place", "of_one_place"]


def test_the_wrong_device_is_found_once_for_each_place(start: Start) -> None:
    import cupy

    recording = start(holders=False)
    with labels(gpu=1):
        for _ in range(3):
            take()
        take()
        with cupy.cuda.Device(1):
            take()
    with labels(gpu=0):
        take()
        with cupy.cuda.Device(1):
            take()
    take()
    found = findings(recording, "wrong_device")
    assert sorted(row["gpu"] for row in found) == [0, 1, 1]
    for row in found:
        assert row["severity"] == "warning"
        assert f"make device {row['gpu']} current" in row["message"]


# --- when something of our own fails --------------------------------------------------


class Broken:
    """A recording that can't write down a new stack, from when it is told so."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.breaks = False
        write = RunWriter.stack

        def stack(writer: RunWriter, frames: Any) -> int:
            if self.breaks:
                raise ZeroDivisionError("our own")
            return write(writer, frames)

        monkeypatch.setattr(RunWriter, "stack", stack)
        self.recording = GpuRecording(path, holders=False)

    def finding(self) -> dict[str, Any]:
        """The one finding that it has."""
        (found,) = self.recording.rows("findings")
        assert found["kind"] == "recorder_failed"
        return found


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broken]:
    made = Broken(tmp_path / "broken", monkeypatch)
    yield made
    made.recording.stop()


def test_a_failure_of_our_own_is_one_finding_and_the_program_goes_on(broken: Broken) -> None:
    import cupy

    pool = cupy.cuda.MemoryPool()
    cupy.cuda.set_allocator(pool.malloc)
    broken.breaks = True
    kept = [take() for _ in range(3)]
    array = cupy.zeros(100, "u1")
    assert not array.get().any()
    pinned = cupy.cuda.alloc_pinned_memory(SIZE)
    with cupy.cuda.using_allocator(None), pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
        cupy.cuda.alloc(1 << 60)
    foreign = cupy.cuda.UnownedMemory(kept[0].ptr, SIZE, None, 0)
    kept[1].mem.free()
    del array, pinned, foreign
    kept.clear()
    pool.free_all_blocks()
    assert (pool.used_bytes(), pool.total_bytes()) == (0, 0)
    assert broken.recording.tracker.failures > 3
    found = broken.finding()
    assert found["severity"] == "error"
    assert "ZeroDivisionError: our own" in found["message"]


@pytest.mark.parametrize("sort", ALLOCATORS)
@pytest.mark.parametrize("early", [False, True])
def test_a_free_that_cannot_be_recorded_frees(broken: Broken, sort: str, early: bool) -> None:
    import cupy

    from vidlab.capture.gpu import hostcuda

    cupy.cuda.set_allocator(ALLOCATORS[sort][0]())
    pool = getattr(cupy.cuda.get_allocator(), "__self__", None)
    pool = pool if isinstance(pool, cupy.cuda.MemoryPool) else None
    books = hostcuda.books()[0].used_bytes
    used = pool and pool.used_bytes()
    pointer = take()
    broken.breaks = True
    if early and hasattr(pointer.mem, "free"):
        pointer.mem.free()
        assert not pool or pool.used_bytes() == used
    del pointer
    assert broken.recording.tracker.live.blocks(POOL) == []
    if pool:
        assert pool.used_bytes() == used
    elif sort in ("unpooled", "python functions", "rmm"):
        assert hostcuda.books()[0].used_bytes == books
    broken.finding()


# --- the beginning and the end --------------------------------------------------------


def test_memory_goes_on_to_work_after_the_end(start: Start) -> None:
    import cupy

    pool = cupy.cuda.MemoryPool()
    cupy.cuda.set_allocator(pool.malloc)
    recording = start(holders=False)
    array, early, pinned = cupy.zeros(100, "u1"), take(), cupy.cuda.alloc_pinned_memory(SIZE)
    view = array[10:20]
    recording.stop()
    assert pool.used_bytes() == 512 + GIVEN
    assert type(cupy.cuda.alloc(1).mem) is cupy.cuda.memory.PooledMemory
    array.data.memset(7, 100)
    assert array.get().tolist() == [7] * 100
    del array
    assert view.get().tolist() == [7] * 10
    assert pool.used_bytes() == 512 + GIVEN
    early.mem.free()
    assert pool.used_bytes() == 512
    del view, pinned
    assert pool.used_bytes() == 0
    pool.free_all_blocks()
    assert pool.total_bytes() == 0
    assert [row["op"] for row in recording.rows(level="pool", kind="device")] == ["alloc"] * 2


def test_recordings_begin_and_end_while_another_thread_allocates(
    start: Start, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    import cupy

    # It would take longer than all the rest.
    monkeypatch.setattr("vidlab.recording._can_compact", lambda: False)
    pool = cupy.cuda.MemoryPool()
    cupy.cuda.set_allocator(pool.malloc)
    over, go, errors = threading.Event(), threading.Semaphore(0), []
    kept: list[Any] = []
    stopped = threading.Semaphore(0)

    def work() -> None:
        try:
            count = 0
            while not over.is_set():
                kept.append(cupy.cuda.alloc(SIZE + count % 7 * 512))
                if len(kept) > 50:
                    del kept[::3]
                count += 1
                if count % 200 == 0 and stopped.acquire(blocking=False):
                    go.release()
                    resumed.acquire()
        except BaseException as error:
            errors.append(error)
            raise

    resumed = threading.Semaphore(0)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    often = sys.getswitchinterval()
    request.addfinalizer(lambda: sys.setswitchinterval(often))
    sys.setswitchinterval(1e-4)  # they come in between each other more often, and wait less
    seen = 0
    for number in range(50):
        recording = start(holders=False, stack_depth=4)
        if number % 2:
            stopped.release()
            assert go.acquire(timeout=60)
            # The other thread stands still, and nothing that it has dropped is live.
            live = {
                block.address: block.size_bytes for block in recording.tracker.live.blocks(POOL)
            }
            held = {p.ptr: p.mem.size for p in kept}
            assert live.items() <= held.items()
            newest = kept[-1]  # taken while this recording ran, or nothing was
            assert not live or newest.ptr in live
            del newest
            assert sum(held.values()) == pool.used_bytes()
            seen += len(live)
            resumed.release()
        recording.stop()
        if errors:
            break
    over.set()
    resumed.release()
    thread.join()
    assert not errors
    assert seen > 0
    kept.clear()
    gc.collect()
    assert pool.used_bytes() == 0
    pool.free_all_blocks()
    assert pool.total_bytes() == 0

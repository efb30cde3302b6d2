"""Records written in C: the very bytes that Python writes for the same events."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidlab import labelsets
from vidlab.capture.frames import stages
from vidlab.capture.frames.engine import Frames
from vidlab.capture.frames.refs import frame_ref
from vidlab.capture.gpu import engine
from vidlab.capture.gpu.driver.slots import extension
from vidlab.capture.gpu.tracking.stacks import Stacks
from vidlab.capture.gpu.tracking.tracker import Tracker
from vidlab.errors import MissingDependencyError, VidlabError
from vidlab.recording import record
from vidlab.runs.blocks import BLOCK_BYTES
from vidlab.runs.buffers import Buffers, RecordBuffer
from vidlab.schema import TABLES

from ..conftest import GpuRecording

RECORD = TABLES["allocations"].record
assert RECORD is not None
SIZE = RECORD.size


@pytest.fixture(scope="module")
def native() -> Any:
    try:
        return extension()
    except MissingDependencyError as error:
        pytest.skip(str(error))


class Memory:
    """Where a tracker writes to: real buffers, nothing else."""

    def __init__(self, folder: Path) -> None:
        (folder / "spares").mkdir(parents=True)
        self.names = labelsets.Names(lambda number, name: None)
        self.buffers = Buffers(lambda: None, self.take_part)
        self.folder = folder
        self.buffers.begin(folder, 0)
        self.stacks: list[Any] = []
        self.findings: list[Any] = []
        self.parts = 0

    def take_part(self) -> None:
        self.parts += 1
        self.buffers.begin(self.folder, self.parts)

    def buffer(self, table: str) -> RecordBuffer:
        return self.buffers.buffer(table)

    def stack(self, frames: Sequence[tuple[str, str, int]]) -> int:
        self.stacks.append(frames)
        return len(self.stacks)

    def row(self, table: str, **columns: Any) -> None:
        raise AssertionError(table)

    def finding(self, kind: str, message: str, severity: str = "warning", **evidence: Any) -> None:
        self.findings.append((kind, message, severity, evidence))

    def records(self) -> list[tuple[int, ...]]:
        buffer = self.buffer("allocations")
        if buffer._block is None:
            return []
        return list(RECORD.struct.iter_unpack(bytes(buffer.view[: buffer.position])))


class Both:
    """Two trackers to which the same happens: one in Python, one in C."""

    def __init__(self, folder: Path, native: Any, depth: int = 32) -> None:
        self.trackers: list[Tracker] = []
        for name in ("python", "native"):
            memory = Memory(folder / name)
            tracker = Tracker(memory, Stacks(memory, depth))
            tracker.contexts = {0: 77, 1: 2**64 - 1, 2: 0}
            self.trackers.append(tracker)
        self.trackers[1].use(native)
        assert self.trackers[1].take != self.trackers[1]._take

    def memories(self) -> list[Memory]:
        found = [tracker.writer for tracker in self.trackers]
        assert all(isinstance(memory, Memory) for memory in found)
        return found  # type: ignore[return-value]

    def agree(self) -> list[tuple[int, ...]]:
        python, quick = self.memories()
        assert python.records() == quick.records()
        assert python.stacks == quick.stacks
        assert python.findings == quick.findings
        one, other = self.trackers
        assert one.live.blocks() == other.live.blocks()
        assert all(type(block) is type(one.live.blocks()[0]) for block in other.live.blocks())
        assert [tracker.failures for tracker in self.trackers] == [0, 0]
        return quick.records()

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()


@pytest.fixture
def both(tmp_path: Path, native: Any) -> Iterator[Both]:
    made = Both(tmp_path, native)
    yield made
    made.close()


def deep(depth: int, function: Callable[[], Any]) -> Any:
    return function() if depth == 0 else deep(depth - 1, function)


NATURAL = st.integers(0, 2**64 - 1)
TIME = st.integers(0, 2**62)
TAKEN = st.tuples(
    *(st.integers(0, 2), st.integers(0, 3), st.integers(0, 2), st.integers(0, 40) | NATURAL),
    *(st.integers(0, 2**63 - 1), st.integers(-(2**63), 2**63 - 1), NATURAL, TIME, TIME),
    *(st.booleans(),),
)
FREED = st.tuples(
    *(st.integers(0, 30), st.sampled_from(["ok", "OutOfMemoryError", "cudaErrorX"])),
    *(st.sampled_from([None, 0, 1, 2]), TIME, TIME, NATURAL),
)
PLACES = st.tuples(st.integers(0, 40), st.sampled_from([{}, {"stream_id": "a"}, {"gpu": 1}]))


@given(st.lists(st.tuples(TAKEN | FREED, PLACES), max_size=30), st.sampled_from([0, 1, 7, 32, 128]))
def test_the_same_records_for_the_same_events(
    native: Any, tmp_path_factory: pytest.TempPathFactory, events: Any, depth: int
) -> None:
    both = Both(tmp_path_factory.mktemp("run"), native, depth)
    blocks: list[list[Any]] = [[], []]
    with contextlib.closing(both):
        for event, (down, values) in events:
            with labelsets.labels(**values):
                for tracker, known in zip(both.trackers, blocks, strict=True):
                    deep(down, lambda: happen(tracker, known, event))  # noqa: B023
        both.agree()
        assert blocks[0] == blocks[1]


def happen(tracker: Tracker, known: list[Any], event: tuple[Any, ...]) -> None:
    if len(event) == 10:
        known.append(tracker.take(*event))
        return
    number, status, by, t0, t1, stream = event
    block = known[number] if number < len(known) else None
    if block is not None:
        tracker.retire(block.level, block.address)
    tracker.freed(block, 1, 2, 0, 4096, 512, stream, t0, t1, status, by)


def test_under_stages_and_frames(both: Both, tmp_path: Path) -> None:
    with record(tmp_path / "run", engines=[Frames()]), labelsets.labels(stream_id="cam"):
        born = labelsets.current.get()
        frame = frame_ref(12, 0, None, None, born, 0)
        with labelsets.labels(gpu=2), stages.stage("infer", frame):
            for tracker in both.trackers:
                happen(tracker, [], (0, 0, 0, 4096, 512, 512, 3, 1, 2, False))
    (written,) = both.agree()
    assert written[6] > 0  # the span
    assert written[7] == frame.frame
    (finding,) = both.memories()[1].findings
    assert finding[0] == "wrong_device"


def test_in_a_task_of_asyncio(both: Both) -> None:
    async def work() -> None:
        for tracker in both.trackers:
            happen(tracker, [], (0, 0, 0, 4096, 512, 512, 3, 1, 2, False))
            happen(tracker, [], (0, "ok", None, 1, 2, 0))

    async def main() -> None:
        await asyncio.create_task(work(), name="the worker")

    asyncio.run(main())
    number = both.memories()[1].names.number("the worker")
    assert [record[12] for record in both.agree()] == [number] * 2


def test_in_a_garbage_collection(both: Both) -> None:
    def collected(phase: str, info: object) -> None:
        if phase == "start":
            for tracker in both.trackers:
                happen(tracker, [], (0, "ok", None, 1, 2, 0))

    gc.collect()
    gc.callbacks.append(collected)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(collected)
    assert [record[-3] for record in both.agree()] == [1]


def test_through_full_buffers(both: Both) -> None:
    count = 2 * (BLOCK_BYTES // SIZE) + 10
    for tracker in both.trackers:
        for number in range(count):
            tracker.take(0, 0, 0, 4096 + number, 512, 512, 0, number, number + 1)
    assert len(both.agree()) == 10
    python, quick = ([block.used for block in m.buffers.full] for m in both.memories())
    assert python == quick == [BLOCK_BYTES // SIZE * SIZE] * 2
    for one, other in zip(*(memory.buffers.full for memory in both.memories()), strict=True):
        assert bytes(one.view) == bytes(other.view)


def test_in_a_forked_child_the_buffer_takes_part(both: Both) -> None:
    for tracker, memory in zip(both.trackers, both.memories(), strict=True):
        tracker.take(0, 0, 0, 4096, 512, 512, 0, 1, 2)
        memory.buffers.leave_to_parent()  # as after a fork
        tracker.take(0, 0, 0, 8192, 512, 512, 0, 1, 2)
        assert memory.parts == 1
        assert type(memory.buffer("allocations")) is RecordBuffer
    assert [record[2] for record in both.agree()] == [8192]


def test_other_threads_have_buffers_of_their_own(both: Both) -> None:
    found = []

    def work() -> None:
        for tracker in both.trackers:
            happen(tracker, [], (0, 0, 0, 4096, 512, 512, 3, 1, 2, False))
        found.append(both.agree())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(found[0]) == 1
    assert both.memories()[1].records() == []


def test_what_it_is_not_made_for_is_refused(both: Both, native: Any) -> None:
    quick = both.trackers[1]
    for wrong in (
        lambda: quick.take(0, 0, 0, 4096, 512, 512, 0, 1),
        lambda: quick.take(0, 0, 40_000, 4096, 512, 512, 0, 1, 2),
        lambda: quick.take(3, 0, 0, 4096, 512, 512, 0, 1, 2),
        lambda: quick.take(0, 0, 0, -1, 512, 512, 0, 1, 2),
        lambda: quick.freed((1, 2), 0, 0, 0, 0, 0, 0, 1, 2),
        lambda: native.Recorder("<q", 1),
    ):
        with pytest.raises((TypeError, OverflowError, VidlabError)):
            wrong()
    assert quick.live.blocks() == []
    assert both.memories()[1].records() == []


# --- leases --------------------------------------------------------------------------------


def lease_of(both: Both, native: Any, memory: Any) -> tuple[Any, Any, Any]:
    tracker = both.trackers[1]
    leases = native.Leases(tracker.recorder)
    block = tracker.take(0, 0, 0, 4096, 512, 512, 0, 1, 2)
    return leases, block, leases.lease(block, memory)


class Thing:
    pass


def test_the_end_of_a_lease_retires_lets_go_and_writes(both: Both, native: Any) -> None:
    tracker, thing = both.trackers[1], Thing()
    seen: list[int] = []
    weakref.finalize(thing, lambda: seen.append(len(tracker.live)))
    leases, block, token = lease_of(both, native, thing)
    assert (token.block, token.memory) == (block, thing)
    assert not gc.is_tracked(token)
    del thing
    error = ValueError("the program's")
    with contextlib.suppress(ValueError):
        try:
            raise error
        finally:
            del token
            assert sys.exc_info()[1] is error
    assert seen == [0]  # retired before it was let go of
    taken, freed = both.memories()[1].records()
    assert (freed[-1], freed[5], freed[2:4]) == (2, taken[5], (4096, 512))
    del leases


def test_a_lease_without_its_block_or_after_the_end_only_lets_go(both: Both, native: Any) -> None:
    for stopped in (False, True):
        thing = Thing()
        alive = weakref.ref(thing)
        leases, _, token = lease_of(both, native, thing)
        if stopped:
            leases.stop()
        else:
            token.block = None
        del thing, token
        assert alive() is None
    assert [record[-1] for record in both.memories()[1].records()] == [1, 1]


def test_a_lease_leaves_another_block_at_its_address_alone(both: Both, native: Any) -> None:
    tracker = both.trackers[1]
    _, _, token = lease_of(both, native, None)
    other = tracker.take(0, 0, 0, 4096, 512, 512, 0, 3, 4)
    del token
    assert tracker.live.blocks() == [other]
    assert len(both.memories()[1].records()) == 3  # both were taken, one was freed


def test_what_fails_at_the_end_of_a_lease_is_counted(both: Both, native: Any) -> None:
    tracker = both.trackers[1]

    def fails() -> int:
        raise OSError("no stream")

    tracker.current_stream = fails
    thing = Thing()
    alive = weakref.ref(thing)
    _, _, token = lease_of(both, native, thing)
    del thing, token
    assert alive() is None
    assert tracker.failures == 1
    ((kind, message, *_),) = both.memories()[1].findings
    assert kind == "recorder_failed"
    assert "no stream" in message


def test_a_recorder_goes_with_its_tracker(tmp_path: Path, native: Any) -> None:
    made = Both(tmp_path, native)
    lease_of(made, native, None)
    made.close()
    gone = [weakref.ref(tracker) for tracker in made.trackers]
    del made
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


# --- without a compiler -----------------------------------------------------------------------


@pytest.mark.needs("hostcuda")
@pytest.mark.usefixtures("allocators")
@pytest.mark.parametrize("compiler", [True, False])
def test_a_program_is_recorded_with_and_without_a_compiler(
    start: Callable[..., GpuRecording], monkeypatch: pytest.MonkeyPatch, compiler: bool
) -> None:
    import cupy

    def none() -> Any:
        raise VidlabError("no compiler")

    if not compiler:
        monkeypatch.setattr(engine, "extension", none)
    recording = start()
    assert (recording.tracker.recorder is not None) is compiler
    one = cupy.cuda.alloc(123 * 8)
    other = cupy.cuda.alloc(123 * 8)
    del one
    other.mem.free()
    cycle: list[Any] = [cupy.cuda.alloc(123 * 8)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    outliving = cupy.cuda.alloc(123 * 8)
    rows = [row for row in recording.rows(level="pool") if row["generation"]]
    del outliving, other
    found = [(row["op"], row["generation"], row["freed_by"], row["size_bytes"]) for row in rows]
    numbers = sorted({row["generation"] for row in rows})
    assert [(op, numbers.index(n), by) for op, n, by, size in found if size == 1024] == [
        ("alloc", 0, None),
        ("alloc", 1, None),
        ("free", 0, "refcount"),
        ("free", 1, "refcount"),
        ("alloc", 2, None),
        ("free", 2, "gc"),
        ("alloc", 3, None),
    ]
    assert all(row["stack"] for row in rows)

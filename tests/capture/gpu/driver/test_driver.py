"""What CuPy takes from the CUDA runtime: every call of the real CuPy, over host memory."""

from __future__ import annotations

import contextlib
import gc
import itertools
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from vidlab.capture.gpu import faults, native
from vidlab.capture.gpu.driver import level as driver
from vidlab.capture.gpu.tracking.stacks import Stacks
from vidlab.capture.gpu.tracking.tracker import IN_POOL, NOT_INSIDE, Tracker
from vidlab.capture.patching import Patches
from vidlab.errors import MissingDependencyError
from vidlab.schema import DRIVER, FREED_BY, LEVELS, MEMORY_KINDS, OPS

pytestmark = pytest.mark.needs("hostcuda")

#: A size that nothing else has.
ODD = 123 * 8


class Level:
    """A driver level that reports into memory."""

    def __init__(self, recorded: Any) -> None:
        self.recorded = recorded
        recorded.writer.stack = self._stack
        self._numbers = itertools.count(1)
        self.stacks: dict[int, Any] = {}
        self.tracker = Tracker(recorded.writer, Stacks(recorded.writer))
        self.patches = Patches()
        self.user = driver.install(self.tracker, self.patches)

    def _stack(self, frames: Any) -> int:
        number = next(self._numbers)
        self.stacks[number] = frames
        return number

    def stop(self) -> None:
        driver.uninstall(self.user)
        self.patches.restore()
        self.tracker.close()

    def events(self, **wanted: Any) -> list[dict[str, Any]]:
        rows = sorted(self._rows(), key=lambda row: row["t_ns"])
        return [row for row in rows if all(row[key] == wanted[key] for key in wanted)]

    def _rows(self) -> Iterator[dict[str, Any]]:
        choices = {"level": LEVELS, "kind": MEMORY_KINDS, "freed_by": FREED_BY}
        buffers = list(self.recorded.writer.buffers)
        for buffer in [buffer for table, buffer in buffers if table == "allocations"]:
            for view in (*buffer.full, buffer.view):
                records = np.frombuffer(bytes(view), buffer.record.dtype)
                for record in records[records["op"] != 0]:
                    row = dict(zip(record.dtype.names, record.tolist(), strict=True))
                    row["op"] = OPS[row["op"] - 1]
                    row["status"] = self.recorded.writer.texts[row["status"]]
                    for column, words in choices.items():
                        value = row[column]
                        row[column] = words[value] if value < len(words) else None
                    yield row

    def said(self) -> list[tuple[str, str]]:
        """What happened, shortly."""
        return [(row["op"], row["kind"]) for row in self.events(status="ok")]

    def findings(self) -> list[dict[str, Any]]:
        return self.recorded.rows("findings")

    def live(self) -> list[int]:
        return [block.size_bytes for block in self.tracker.live.blocks(DRIVER)]


@pytest.fixture(autouse=True)
def _allocators() -> Iterator[None]:
    """CuPy as it is at first, with nothing kept."""
    import cupy

    yield
    gc.collect()
    cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
    cupy.cuda.set_pinned_memory_allocator(cupy.get_default_pinned_memory_pool().malloc)
    cupy.get_default_memory_pool().free_all_blocks()
    cupy.get_default_pinned_memory_pool().free_all_blocks()


@pytest.fixture
def level(recorded: Any, _allocators: None) -> Iterator[Level]:
    import cupy

    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    cupy.get_default_pinned_memory_pool().free_all_blocks()
    level = Level(recorded)
    assert level.user is not None
    try:
        yield level
    finally:
        level.stop()
        assert level.tracker.failures == 0


def test_nothing_taken_is_nothing_recorded(level: Level) -> None:
    import cupy

    cupy.get_default_memory_pool().used_bytes()
    assert level.events() == []


def test_pool_takes_once_and_gives_back_when_told(level: Level) -> None:
    import cupy

    pool = cupy.cuda.MemoryPool()
    level.tracker.local.state.inside = IN_POOL
    first = pool.malloc(ODD)
    second = pool.malloc(5000)
    level.tracker.local.state.inside = NOT_INSIDE
    address = first.ptr
    del first, second
    assert level.said() == [("alloc", "device")] * 2
    assert sum(level.live()) == pool.total_bytes()
    pool.free_all_blocks()
    events = level.events()
    assert [event["op"] for event in events] == ["alloc", "alloc", "free", "free"]
    assert {event["freed_by"] for event in events[2:]} == {"release"}
    assert all(event["pooled"] and event["level"] == "driver" for event in events)
    assert events[0]["address"] == address
    assert events[0]["size_bytes"] == 1024
    assert {event["generation"] for event in events[:2]} == {1, 2}
    assert {event["generation"] for event in events[2:]} == {1, 2}
    assert level.live() == []


@pytest.mark.parametrize(
    ("allocator", "kind"),
    [
        (lambda cuda: cuda.memory._malloc, "device"),
        (lambda cuda: cuda.malloc_managed, "managed"),
        (lambda cuda: cuda.malloc_async, "async"),
        (lambda cuda: cuda.MemoryAsyncPool().malloc, "async"),
        (lambda cuda: cuda.alloc_pinned_memory, "pinned"),
    ],
    ids=["unpooled", "managed", "async", "async pool", "pinned"],
)
def test_every_kind_of_memory(level: Level, allocator: Any, kind: str) -> None:
    import cupy

    block = allocator(cupy.cuda)(ODD)
    (taken,) = level.events(op="alloc")
    assert (taken["kind"], taken["level"], taken["status"]) == (kind, "driver", "ok")
    assert taken["size_bytes"] >= ODD
    assert taken["address"] == block.ptr
    assert not taken["pooled"]
    assert len(level.live()) == 1
    del block
    cupy.get_default_pinned_memory_pool().free_all_blocks()
    (given,) = level.events(op="free")
    assert given["generation"] == taken["generation"]
    assert given["size_bytes"] == taken["size_bytes"]
    assert given["kind"] == kind
    assert given["freed_by"] == "refcount"
    assert given["t_ns"] >= taken["t_ns"] + taken["duration_ns"]
    assert level.live() == []


def test_a_programs_own_calls_of_the_runtime(level: Level) -> None:
    import cupy
    from cupy.cuda import runtime

    address = runtime.malloc(ODD)
    runtime.free(ptr=address)
    managed = runtime.mallocManaged(size=ODD)
    runtime.free(managed)
    pinned = runtime.hostAlloc(ODD, 0)
    runtime.freeHost(pinned)
    stream = cupy.cuda.Stream()
    ordered = runtime.mallocAsync(ODD, stream.ptr)
    runtime.freeAsync(ordered, stream.ptr)
    kinds = ["device", "managed", "pinned", "async"]
    assert level.said() == [(op, kind) for kind in kinds for op in ("alloc", "free")]
    assert {event["cuda_stream"] for event in level.events(kind="async")} == {stream.ptr}
    assert {event["size_bytes"] for event in level.events()} == {ODD}
    (function, file, _), *_ = level.stacks[level.events()[0]["stack"]]
    assert (function, file) == ("test_a_programs_own_calls_of_the_runtime", __file__)


def test_wrong_calls_are_cupys_to_refuse(level: Level) -> None:
    from cupy.cuda import runtime

    for arguments in ((), ("text",), (1, 2, 3), (-1,)):
        with pytest.raises((TypeError, OverflowError, ValueError)):
            runtime.malloc(*arguments)
    with pytest.raises(TypeError):
        runtime.malloc(bytes=3)
    assert level.events(status="ok") == []


def test_the_events_are_of_the_device_and_the_stream(level: Level) -> None:
    import cupy

    stream = cupy.cuda.Stream()
    with cupy.cuda.Device(1), cupy.cuda.Stream() as other:
        on_other = cupy.cuda.memory.Memory(ODD)
    with stream:
        on_stream = cupy.cuda.memory.Memory(ODD)
    del on_other, on_stream
    assert [(event["device"], event["op"]) for event in level.events()] == [
        (1, "alloc"),
        (0, "alloc"),
        (1, "free"),
        (0, "free"),
    ]
    assert [event["cuda_stream"] for event in level.events(op="alloc")] == [other.ptr, stream.ptr]


def test_failures_have_their_status_and_cupys_error_is_unchanged(level: Level) -> None:
    import cupy

    def fail() -> BaseException:
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError) as caught:
            cupy.cuda.MemoryPool().malloc(1 << 50)
        return caught.value

    recorded_error = fail()
    # CuPy asks again after it has given back what it keeps, and after a garbage collection.
    events = level.events()
    assert [event["status"] for event in events] == ["cudaErrorMemoryAllocation"] * 3
    assert {event["size_asked_bytes"] for event in events} == {1 << 50}
    assert {(event["address"], event["size_bytes"], event["generation"]) for event in events} == {
        (0, 0, 0)
    }
    assert level.live() == []
    level.stop()
    error = fail()
    assert type(error) is type(recorded_error)
    assert error.args == recorded_error.args
    assert type(error.__context__) is type(recorded_error.__context__)
    assert error.__cause__ is recorded_error.__cause__


def test_an_armed_fault_refuses_before_the_runtime_is_asked(level: Level) -> None:
    import cupy

    asked = []

    class Refuse:
        def check(self, at: int, kind: int, size: int) -> None:
            asked.append((at, kind, size))
            raise cupy.cuda.runtime.CUDARuntimeError(2)

    faults.armed = Refuse()
    try:
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorMemoryAllocation"):
            cupy.cuda.memory.Memory(ODD)
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
            cupy.cuda.runtime.hostAlloc(ODD, 0)
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
            cupy.cuda.MemoryPool().malloc(ODD)
    finally:
        faults.armed = None
    assert asked == [(1, 0, ODD), (1, 3, ODD), *[(1, 0, 1024)] * 3]
    assert [event["status"] for event in level.events()] == ["cudaErrorMemoryAllocation"] * 5
    assert cupy.cuda.memory.Memory(ODD).size == ODD


def test_faults_work_without_a_tracker() -> None:
    import cupy

    class Refuse:
        def check(self, at: int, kind: int, size: int) -> None:
            raise cupy.cuda.runtime.CUDARuntimeError(1)

    patches = Patches()
    user = driver.install(None, patches)
    faults.armed = Refuse()
    try:
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorInvalidValue"):
            cupy.cuda.memory.Memory(ODD)
    finally:
        faults.armed = None
        driver.uninstall(user)
        patches.restore()


def test_double_free_is_found(level: Level) -> None:
    import cupy
    from cupy.cuda import runtime

    address = runtime.malloc(ODD)
    runtime.free(address)
    with pytest.raises(runtime.CUDARuntimeError) as caught:
        runtime.free(address)
    assert caught.value.status == 1
    (finding,) = level.findings()
    assert finding["kind"] == "double_free"
    assert finding["address"] == address
    here = "test_double_free_is_found"
    assert finding["freed_at"].endswith(here)
    assert finding["freed_again_at"].endswith(here)
    assert finding["freed_at"] != finding["freed_again_at"]
    assert [event["status"] for event in level.events(op="free")] == ["ok", "cudaErrorInvalidValue"]
    # What is there again is not a double free.
    block = cupy.cuda.memory.Memory(ODD)
    del block
    assert len(level.findings()) == 1


def test_free_of_an_unknown_pointer_is_found(level: Level) -> None:
    from cupy.cuda import runtime

    with pytest.raises(runtime.CUDARuntimeError):
        runtime.free(0xDEAD000)
    (finding,) = level.findings()
    assert (finding["kind"], finding["address"]) == ("unknown_pointer", 0xDEAD000)
    assert finding["freed_at"].endswith("test_free_of_an_unknown_pointer_is_found")
    (event,) = level.events()
    assert (event["generation"], event["size_bytes"]) == (0, 0)


def test_blocks_older_than_the_recording_are_no_finding(recorded: Any) -> None:
    import cupy

    older = [cupy.cuda.memory.Memory(ODD), cupy.cuda.memory.ManagedMemory(2 * ODD)]
    level = Level(recorded)
    try:
        older.clear()
        assert level.findings() == []
        events = level.events()
        assert sorted(event["size_bytes"] for event in events) == [ODD, 2 * ODD]
        assert {(event["op"], event["generation"]) for event in events} == {("free", 0)}
    finally:
        level.stop()


def test_an_asynchronous_free_on_a_stream_that_is_gone(level: Level) -> None:
    import cupy

    stream = cupy.cuda.Stream()
    block = cupy.cuda.memory.MemoryAsync(ODD, stream)
    del stream  # CuPy frees on the current stream then, if the runtime refuses this one
    del block
    assert level.live() == []
    assert level.findings() == []
    assert [event["status"] for event in level.events(op="free")][-1] == "ok"


def test_a_free_that_fails_leaves_the_block_live(level: Level) -> None:
    from cupy.cuda import runtime

    address = runtime.malloc(ODD)
    with pytest.raises(runtime.CUDARuntimeError):
        runtime.freeHost(address)
    assert level.live() == [ODD]
    assert level.findings() == []
    runtime.free(address)
    assert level.live() == []
    assert [event["generation"] for event in level.events(op="free")] == [1, 1]


def test_frees_by_the_collector_and_while_an_error_is_under_way(level: Level) -> None:
    import cupy

    cupy.cuda.set_allocator(None)

    class Node:
        pass

    node = Node()
    node.itself, node.array = node, cupy.empty(ODD, "u1")  # type: ignore[attr-defined]
    del node
    gc.collect()
    (event,) = level.events(op="free")
    assert event["freed_by"] == "gc"

    with pytest.raises(ZeroDivisionError):
        (cupy.cuda.alloc(ODD), 1 // 0)
    assert len(level.events(op="free")) == 2
    assert level.live() == []


def test_an_interrupt_inside_a_handler_costs_no_memory(level: Level) -> None:
    import cupy

    free, calls = level.tracker.freed, []

    def interrupted(*args: Any, **kwargs: Any) -> None:
        free(*args, **kwargs)
        calls.append(args)
        raise KeyboardInterrupt

    used = cupy.cuda.runtime.memGetInfo()[0]
    level.tracker.freed = interrupted  # type: ignore[method-assign]
    block = cupy.cuda.memory.Memory(ODD)
    came = False
    try:
        del block
        for _ in range(1000):  # the interrupt comes as soon as Python runs again
            calls.copy()
    except KeyboardInterrupt:
        came = True
    assert came
    level.tracker.freed = free  # type: ignore[method-assign]
    assert len(calls) == 1
    assert cupy.cuda.runtime.memGetInfo()[0] == used


def test_eight_threads_at_once(level: Level) -> None:
    import cupy

    count, threads = 2_000, 8
    handed: list[Any] = []

    def work() -> None:
        kept = []
        for number in range(count):
            kept.append(cupy.cuda.memory.Memory(ODD + number % 7))
            if number % 3 == 0:
                handed.append(kept.pop())  # another thread's free
            if number % 5 == 0:
                with contextlib.suppress(IndexError):
                    handed.pop()
            if len(kept) > 20:
                del kept[:10]

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    handed.clear()
    events = level.events()
    taken = {event["generation"]: event for event in events if event["op"] == "alloc"}
    given = {event["generation"]: event for event in events if event["op"] == "free"}
    assert len(taken) == count * threads
    assert taken.keys() == given.keys()
    assert all(taken[key]["size_bytes"] == given[key]["size_bytes"] for key in taken)
    assert level.live() == []
    assert level.findings() == []


def test_it_can_end_while_other_threads_allocate(recorded: Any) -> None:
    import cupy

    stop = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                blocks = [cupy.cuda.memory.Memory(ODD) for _ in range(10)]
                blocks.append(cupy.cuda.memory.MemoryAsync(ODD, cupy.cuda.Stream.null))
                del blocks
        except BaseException as error:
            errors.append(error)

    def free_bytes() -> int:
        runtime = cupy.cuda.runtime
        runtime.memPoolTrimTo(runtime.deviceGetDefaultMemPool(0), 0)
        return int(runtime.memGetInfo()[0])

    before = free_bytes()
    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(20):
            level = Level(recorded)
            time.sleep(0.01)
            level.stop()
            assert level.tracker.failures == 0
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert level.events()
    assert errors == []
    assert free_bytes() == before


def test_two_users_leave_in_any_order(recorded: Any) -> None:
    import cupy

    before = cupy.cuda.runtime.malloc
    patches = Patches()
    level = Level(recorded)
    faults_only = driver.install(None, patches)
    level.stop()
    cupy.cuda.memory.Memory(ODD)
    assert level.events() == []
    assert cupy.cuda.runtime.malloc is not before
    driver.uninstall(faults_only)
    driver.uninstall(faults_only)
    patches.restore()
    assert cupy.cuda.runtime.malloc is before


def test_a_copy_of_the_runtime_modules_names_is_left_as_it_should_be() -> None:
    run_alone(
        """
        import cupy
        from vidlab.capture.gpu.driver import level as driver
        from vidlab.capture.patching import Patches

        malloc, patches = cupy.cuda.runtime.malloc, Patches()
        user = driver.install(None, patches)
        import cupy.cuda.runtime  # makes the copy, while recording
        import sys
        copy = sys.modules["cupy.cuda.runtime"]
        assert copy.malloc is not malloc
        copy.free(copy.malloc(1000))
        driver.uninstall(user)
        assert copy.malloc is malloc
        assert sys.modules["cupy_backends.cuda.api.runtime"].malloc is malloc
        """
    )


def test_cupy_imported_after_the_start() -> None:
    run_alone(
        """
        import itertools, sys
        from vidlab.capture.gpu.driver import level as driver
        from vidlab.capture.patching import Patches

        class Tell:
            events = []
            class local:
                class state: inside, driver_kind = 0, -1
            live = {}
            def allocated(self, *event): self.events.append(event)
            def freed(self, *event, **more): self.events.append(event)
            def retire(self, level, address): return None
            def finding(self, *a, **b): raise AssertionError(a)
            def failure(self): raise

        patches = Patches()
        assert "cupy" not in sys.modules
        user = driver.install(Tell(), patches)
        assert "cupy" not in sys.modules
        import cupy
        block = cupy.cuda.memory.Memory(984)
        cupy.cuda.runtime.free(cupy.cuda.runtime.malloc(5))
        assert [event[4] for event in Tell.events if len(event) == 10] == [984, 5], Tell.events
        driver.uninstall(user)
        patches.restore()
        count = len(Tell.events)
        del block
        assert len(Tell.events) == count
        """
    )


def test_no_compiler_is_said_once(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import cupy

    def fail(*args: Any) -> None:
        raise MissingDependencyError("no C compiler: apt install gcc")

    monkeypatch.setattr(driver, "_level", None)
    monkeypatch.setattr(native, "extension", fail)
    level = Level(recorded)
    try:
        assert level.user is None
        cupy.cuda.memory.Memory(ODD)
        (finding,) = level.findings()
        assert finding["kind"] == "driver_level_missing"
        assert "apt install gcc" in finding["message"]
        assert level.events() == []
    finally:
        level.stop()


def run_alone(script: str) -> None:
    """Run a script in a Python of its own, on host memory."""
    start = "from vidlab.capture.gpu import hostcuda; hostcuda.install()\n"
    done = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

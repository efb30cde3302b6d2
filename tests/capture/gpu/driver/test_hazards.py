"""Blocks handed to a stream while another may still use them: real streams of the real CuPy."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vidlab.capture.gpu.driver import hazards
from vidlab.capture.gpu.driver import level as driver
from vidlab.capture.gpu.tracking.stacks import Stacks
from vidlab.capture.gpu.tracking.tracker import Tracker
from vidlab.capture.patching import Patches

pytestmark = pytest.mark.needs("hostcuda")

SIZE = 4096


class Watched:
    """The hazards that were found, on streams A, B and so on."""

    def __init__(self, recorded: Any) -> None:
        import cupy

        self.cuda = cupy.cuda
        recorded.writer.stack = lambda frames: 1
        self.recorded = recorded
        self.tracker = Tracker(recorded.writer, Stacks(recorded.writer))
        self.tracker.finding = recorded.writer.finding  # type: ignore[method-assign]
        self.patches = Patches()
        # From before the recording, so that its addresses are known and stay.
        self.block, self.source = cupy.cuda.memory.Memory(SIZE), cupy.cuda.memory.Memory(SIZE)
        self.old_event = cupy.cuda.Event()
        self.user = driver.install(self.tracker, self.patches)
        self.a, self.b = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
        self.waits, self.waits_too = cupy.cuda.Stream(), cupy.cuda.Stream()
        self.null = cupy.cuda.Stream.null

    def stop(self) -> None:
        driver.uninstall(self.user)
        self.patches.restore()
        self.tracker.close()

    def hand_out(self, stream: Any, block: Any = None, offset: int = 0, size: int = SIZE) -> None:
        block = block or self.block
        hazards.handed_out(block.ptr + offset, size, None if stream is None else stream.ptr)

    def copy(self, stream: Any, offset: int = 0, size: int = 64) -> None:
        pointer = self.cuda.MemoryPointer(self.block, offset)
        pointer.copy_from_device_async(self.cuda.MemoryPointer(self.source, 0), size, stream)

    def found(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.recorded.rows("findings")
        assert {row["kind"] for row in rows} <= {"stream_hazard"}
        return rows


@pytest.fixture
def watched(recorded: Any) -> Iterator[Watched]:
    gc.collect()  # a free waits for the whole device: none of what earlier tests left
    watched = Watched(recorded)
    try:
        yield watched
    finally:
        watched.stop()
        assert watched.tracker.failures == 0


def test_one_stream_is_never_a_hazard(watched: Watched) -> None:
    for _ in range(3):
        watched.hand_out(watched.a)
        watched.copy(watched.a)
    assert watched.found() == []


def test_a_block_handed_to_another_stream(watched: Watched) -> None:
    watched.hand_out(watched.a)
    watched.hand_out(watched.b)  # the first of a second stream: what was before is not known
    assert watched.found() == []
    watched.hand_out(watched.a)
    watched.hand_out(watched.a)
    assert len(watched.found()) == 1
    watched.hand_out(watched.b)
    assert len(watched.found()) == 2
    finding = watched.found()[-1]
    assert finding["last_stream"] == watched.a.ptr
    assert finding["stream"] == watched.b.ptr
    assert (finding["address"], finding["size_bytes"]) == (watched.block.ptr, SIZE)
    assert finding["last_use"] == "handed out"


@pytest.mark.parametrize(
    ("offset", "hazard"), [(0, True), (SIZE - 64, True), (1000, True)], ids=str
)
def test_a_copy_on_another_stream_into_any_part(
    watched: Watched, offset: int, hazard: bool
) -> None:
    watched.hand_out(watched.a)
    watched.copy(watched.b, offset)
    watched.hand_out(watched.a)
    assert [row["last_use"] for row in watched.found()] == ["memcpyAsync"] * hazard
    # The hazard was said. What is handed out now is the new owner's.
    watched.hand_out(watched.a)
    assert len(watched.found()) == hazard


def test_a_copy_beside_the_block_is_none(watched: Watched) -> None:
    watched.hand_out(watched.a, size=512)
    watched.copy(watched.b, 512)
    watched.hand_out(watched.a, size=512)
    assert watched.found() == []


def test_a_part_of_a_larger_block_that_was_copied(watched: Watched) -> None:
    watched.hand_out(watched.a)
    watched.copy(watched.b, 0, SIZE)
    watched.hand_out(watched.a, offset=2048, size=512)
    assert len(watched.found()) == 1


def test_reading_and_filling_are_uses(watched: Watched) -> None:
    watched.hand_out(watched.a)
    watched.copy(watched.b)  # reads `source`
    watched.hand_out(watched.a, watched.source)
    assert [row["last_use"] for row in watched.found()] == ["memcpyAsync"]
    watched.cuda.MemoryPointer(watched.block, 0).memset_async(0, 64, watched.b)
    watched.hand_out(watched.a)
    assert [row["last_use"] for row in watched.found()][1:] == ["memsetAsync"]


def event(w: Watched) -> None:
    w.a.wait_event(w.b.record())


def event_over_a_third(w: Watched) -> None:
    w.waits.wait_event(w.b.record())
    w.a.wait_event(w.waits.record())


def old_event(w: Watched) -> None:
    w.a.wait_event(w.old_event)


def synchronize_stream(w: Watched) -> None:
    w.b.synchronize()


def synchronize_event(w: Watched) -> None:
    w.b.record().synchronize()


def query_stream(w: Watched) -> None:
    assert w.b.done


def query_event(w: Watched) -> None:
    assert w.b.record().done


def synchronize_device(w: Watched) -> None:
    w.cuda.Device().synchronize()


def free_memory(w: Watched) -> None:
    w.cuda.memory.Memory(10)


def direct_call(w: Watched) -> None:
    w.cuda.runtime.streamSynchronize(stream=w.b.ptr)


def direct_event(w: Watched) -> None:
    made = w.cuda.runtime.eventCreate()
    w.cuda.runtime.eventRecord(made, w.b.ptr)
    w.cuda.runtime.streamWaitEvent(w.a.ptr, made)


ORDERS = [
    event,
    event_over_a_third,
    old_event,
    synchronize_stream,
    synchronize_event,
    query_stream,
    query_event,
    synchronize_device,
    free_memory,
    direct_call,
    direct_event,
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.__name__)
def test_what_orders_two_streams(watched: Watched, order: Callable[[Watched], None]) -> None:
    watched.hand_out(watched.a)
    watched.copy(watched.b)
    order(watched)
    watched.hand_out(watched.a)
    assert watched.found() == []
    # The same before the work orders nothing.
    order(watched)
    watched.copy(watched.b)
    watched.hand_out(watched.a)
    assert len(watched.found()) == 1


def wrong_event(w: Watched) -> None:
    w.a.wait_event(w.a.record())


def wrong_way(w: Watched) -> None:
    w.b.wait_event(w.a.record())


def event_not_waited_for(w: Watched) -> None:
    w.b.record()


def wrong_stream(w: Watched) -> None:
    w.waits.synchronize()


def default_stream_is_not_waited_for(w: Watched) -> None:
    w.copy(w.null, 2048)
    w.hand_out(w.waits, w.source)
    w.null.synchronize()


NO_ORDERS = [
    wrong_event,
    wrong_way,
    event_not_waited_for,
    wrong_stream,
    default_stream_is_not_waited_for,
]


@pytest.mark.parametrize("order", NO_ORDERS, ids=lambda order: order.__name__)
def test_what_does_not_order_them(watched: Watched, order: Callable[[Watched], None]) -> None:
    watched.hand_out(watched.a)
    watched.copy(watched.b)
    order(watched)
    before = len(watched.found())
    watched.hand_out(watched.a, size=1024)
    assert [row["last_stream"] for row in watched.found()[before:]] == [watched.b.ptr]


def test_the_default_stream_and_those_that_wait_for_it(watched: Watched) -> None:
    watched.hand_out(watched.null)
    watched.copy(watched.waits)
    watched.hand_out(watched.null)  # waits for it
    watched.copy(watched.null)
    watched.hand_out(watched.waits)  # waits for the default stream
    watched.copy(watched.waits_too)
    watched.copy(watched.null, 2048)
    watched.hand_out(watched.waits)  # after the default stream's copy, and so after both
    assert watched.found() == []
    watched.copy(watched.waits_too)
    watched.hand_out(watched.waits)
    assert [row["last_stream"] for row in watched.found()] == [watched.waits_too.ptr]


def test_pinned_memory_and_the_host(watched: Watched) -> None:
    watched.hand_out(watched.a)
    watched.copy(watched.b)
    watched.hand_out(None)
    assert len(watched.found()) == 1
    assert "the host" in watched.found()[0]["message"]
    watched.copy(watched.b)
    watched.b.synchronize()
    watched.hand_out(None)
    assert len(watched.found()) == 1


def test_an_asynchronous_free_is_ordered_by_its_stream(watched: Watched) -> None:
    memory = watched.cuda.memory
    watched.hand_out(watched.b, watched.source)
    with watched.a:
        block = memory.MemoryAsync(SIZE, watched.a)
    address = block.ptr
    hazards.handed_out(address, SIZE, watched.a.ptr)
    del block  # on A; whoever gets it next comes after that
    hazards.handed_out(address, SIZE, watched.waits.ptr)
    assert watched.found() == []
    watched.waits.synchronize()  # the next block may be at the same address

    block = memory.MemoryAsync(SIZE, watched.a)
    address = block.ptr
    hazards.handed_out(address, SIZE, watched.a.ptr)
    watched.cuda.MemoryPointer(block, 0).memset_async(0, 10, watched.b)
    del block  # on A, which does not wait for B
    hazards.handed_out(address, SIZE, watched.a.ptr)
    assert [row["last_stream"] for row in watched.found()] == [watched.b.ptr]


def test_what_is_lost_is_no_finding(watched: Watched) -> None:
    watched.hand_out(watched.a)
    watched.hand_out(watched.b, watched.source)
    watched.copy(watched.b)
    watched.a.wait_event(watched.b.record())
    for _ in range(3000):  # more than the log holds
        watched.copy(watched.b, 2048)
    watched.hand_out(watched.a, size=1024)
    assert watched.found() == []


def test_memory_is_bounded(watched: Watched) -> None:
    streams = [watched.cuda.Stream(non_blocking=True) for _ in range(300)]
    base = watched.block.ptr
    for number in range(20_000):
        stream = streams[number % len(streams)]
        hazards.handed_out(base + 0x1000000 + number * 512, 512, stream.ptr)
        if number % 4 == 0:
            watched.copy(stream, number % 4000)
            stream.wait_event(streams[(number + 1) % len(streams)].record())
    known = hazards.active
    assert known is not None
    assert len(known._blocks) <= hazards.MOST_BLOCKS
    assert len(known._copies) == len(known._starts) <= hazards.MOST_COPIES
    assert len(known._events) <= hazards.MOST_EVENTS
    assert len(known._clocks) <= hazards.MOST_STREAMS


def test_nothing_is_kept_after_the_end(watched: Watched) -> None:
    watched.hand_out(watched.a)
    watched.copy(watched.b)
    watched.stop()
    assert hazards.active is None
    watched.hand_out(watched.a)
    assert watched.found() == []

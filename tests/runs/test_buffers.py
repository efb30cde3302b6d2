"""Blocks and buffers, without a writer: what is packed is in the file, whatever happens."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vidlab.runs import blocks as blocks_module
from vidlab.runs.blocks import BLOCK_BYTES, LOSE_AT, SPARES, WAIT_AT, Block
from vidlab.runs.buffers import Buffers, RecordBuffer
from vidlab.schema import TABLES

RECORD = TABLES["spans"].record
assert RECORD is not None
SIZE = RECORD.size
PER_BLOCK = BLOCK_BYTES // SIZE
pack_into = RECORD.struct.pack_into


def pack(buffer: RecordBuffer, value: int) -> None:
    """Record a span whose t_ns is this value, by the hot path."""
    position = buffer.position
    if position == buffer.end:
        position = buffer.roll()
    buffer.position = position + SIZE
    pack_into(buffer.view, position, value, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)


def values_in(block: Block | Path) -> list[int]:
    """The t_ns of all whole spans in a block, or in its file."""
    data = block.read_bytes() if isinstance(block, Path) else bytes(block.view)
    assert RECORD is not None
    records = np.frombuffer(data, RECORD.dtype, PER_BLOCK)
    return records[records["status"] != 0]["t_ns"].tolist()


@pytest.fixture
def buffers(tmp_path: Path) -> Iterator[Buffers]:
    (tmp_path / SPARES).mkdir()
    buffers = Buffers(wake=lambda: None, take_part=lambda: None)
    buffers.begin(tmp_path, 3)
    yield buffers
    buffers.remove_spares()


def test_without_a_record_there_is_no_buffer_file(buffers: Buffers, tmp_path: Path) -> None:
    buffer = buffers.buffer("spans")
    assert list(tmp_path.glob("*.buf")) == []
    assert buffer.position == buffer.end
    assert buffer.span >> 52 == 3
    assert buffer.span & 0xFFFFFFFF == 0


def test_a_record_is_in_the_file_at_once(buffers: Buffers, tmp_path: Path) -> None:
    buffer = buffers.buffer("spans")
    pack(buffer, 77)
    (path,) = tmp_path.glob("*.buf")
    tid = threading.get_native_id()
    thread = buffer.span >> 32 & 0xFFFFF
    assert path.name.startswith(f"0003-{thread:05d}-{tid}-spans-")
    assert path.stat().st_size == BLOCK_BYTES
    assert path.stat().st_blocks * 512 >= BLOCK_BYTES, "its space must be allocated"
    assert values_in(path) == [77]


def test_a_thread_has_one_buffer_a_table(buffers: Buffers) -> None:
    assert buffers.buffer("spans") is buffers.buffer("spans")
    assert buffers.buffer("frame_events") is not buffers.buffer("spans")


@pytest.mark.parametrize("table", [name for name, table in TABLES.items() if table.record])
def test_a_full_buffer_holds_as_many_records_as_fit(buffers: Buffers, table: str) -> None:
    record = TABLES[table].record
    assert record is not None
    buffer = buffers.buffer(table)
    buffer.roll()
    assert buffer.end % record.size == 0
    assert BLOCK_BYTES - record.size < buffer.end <= BLOCK_BYTES


def test_rolling_hands_over_what_is_full_in_order(buffers: Buffers) -> None:
    buffer = buffers.buffer("spans")
    for value in range(2 * PER_BLOCK + 5):
        pack(buffer, value)
    first, second = buffers.full
    assert values_in(first) == list(range(PER_BLOCK))
    assert values_in(second) == list(range(PER_BLOCK, 2 * PER_BLOCK))
    assert first.used == second.used == buffer.end
    assert buffer.position == 5 * SIZE


def test_a_mapping_keeps_no_file_open(buffers: Buffers) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()  # files that nobody refers to any more are not to be closed meanwhile
    before = open_files()
    for table in ("spans", "frame_events", "queue_depths", "gc_pauses"):
        buffers.buffer(table).roll()
    assert open_files() == before


def test_the_memory_goes_with_the_block(buffers: Buffers, tmp_path: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(f"{tmp_path}/0003-")

    buffer = buffers.buffer("spans")
    for value in range(8 * PER_BLOCK + 1):
        pack(buffer, value)
    assert mapped() == 9
    buffers.full.clear()
    buffers.out.clear()
    gc.collect()
    assert mapped() == 1


def test_a_thread_that_ends_hands_over_what_it_has(buffers: Buffers) -> None:
    def work() -> None:
        for value in range(3):
            pack(buffers.buffer("spans"), value)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (block,) = buffers.full
    assert values_in(block) == [0, 1, 2]
    assert block.used == 3 * SIZE
    assert block.tid != threading.get_native_id()


def test_a_thread_without_a_record_hands_over_nothing(buffers: Buffers) -> None:
    thread = threading.Thread(target=lambda: buffers.buffer("spans"))
    thread.start()
    thread.join()
    assert not buffers.full
    assert not buffers.out


def test_a_buffer_that_someone_keeps_outlives_its_thread(buffers: Buffers) -> None:
    kept: list[RecordBuffer] = []

    def work() -> None:
        kept.append(buffers.buffer("spans"))
        pack(kept[0], 1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    pack(kept[0], 2)
    assert not buffers.full
    kept.clear()
    (block,) = buffers.full
    assert values_in(block) == [1, 2]


def test_span_numbers_of_threads_differ(buffers: Buffers) -> None:
    spans = {buffers.buffer("spans").span}

    def work() -> None:
        spans.add(buffers.buffer("spans").span)

    for _ in range(5):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(spans) == 6


def test_recording_in_the_middle_of_rolling(
    buffers: Buffers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler that records while `roll` takes a block: nothing is lost or overwritten."""
    buffer = buffers.buffer("spans")
    for value in range(PER_BLOCK):
        pack(buffer, value)
    take = buffers.take
    interruptions = [-1, -2]

    def interrupted(table: str, thread: int, tid: int) -> Block | None:
        if interruptions:
            pack(buffer, interruptions.pop())
        return take(table, thread, tid)

    monkeypatch.setattr(buffers, "take", interrupted)
    pack(buffer, PER_BLOCK)
    buffer.retire()
    found = [value for block in buffers.full for value in values_in(block)]
    assert sorted(found) == [-2, -1, *range(PER_BLOCK + 1)]


def test_handlers_that_interrupt_each_other_for_ever(
    buffers: Buffers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rolls, and is interrupted as it does: there is an end to it, and it is counted."""
    buffer = buffers.buffer("spans")
    take = buffers.take
    count = 1

    def interrupted(table: str, thread: int, tid: int) -> Block | None:
        nonlocal count
        count += 1
        pack(buffer, count)
        return take(table, thread, tid)

    monkeypatch.setattr(buffers, "take", interrupted)
    pack(buffer, 1)
    buffer.retire()
    found = [value for block in buffers.full for value in values_in(block)]
    lost = sum(buffers.losses.values())
    assert 1 < count < 20
    assert 1 in found
    assert lost > 0
    assert len(found) + lost == count


def test_recording_while_a_full_block_is_handed_over(
    buffers: Buffers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the handler fills the fresh block to the brim before `roll` has returned."""
    buffer = buffers.buffer("spans")
    for value in range(PER_BLOCK):
        pack(buffer, value)
    hand_over = buffers.hand_over
    interruptions = [range(10_000, 10_000 + PER_BLOCK)]

    def interrupted(block: Block, used: int) -> None:
        hand_over(block, used)
        if interruptions:
            for value in interruptions.pop():
                pack(buffer, value)

    monkeypatch.setattr(buffers, "hand_over", interrupted)
    pack(buffer, PER_BLOCK)
    buffer.retire()
    found = sorted(value for block in buffers.full for value in values_in(block))
    assert found == [*range(PER_BLOCK + 1), *range(10_000, 10_000 + PER_BLOCK)]


def test_recording_in_signal_handlers_and_gc_callbacks(buffers: Buffers) -> None:
    buffer = buffers.buffer("spans")
    counts = {"main": 0, "signal": 0, "gc": 0}

    def on_signal(number: int, frame: object) -> None:
        counts["signal"] += 1
        pack(buffer, 1_000_000 + counts["signal"])

    def on_gc(phase: str, info: object) -> None:
        counts["gc"] += 1
        pack(buffer, 2_000_000 + counts["gc"])

    before = signal.signal(signal.SIGALRM, on_signal)
    thresholds = gc.get_threshold()
    gc.callbacks.append(on_gc)
    gc.set_threshold(5)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        while counts["main"] < 5 * PER_BLOCK or counts["signal"] < 50:
            counts["main"] += 1
            pack(buffer, counts["main"])
            [[] for _ in range(3)]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.callbacks.remove(on_gc)
        gc.set_threshold(*thresholds)
    buffer.retire()
    found = [value for block in buffers.full for value in values_in(block)]
    lost = sum(buffers.losses.values())
    assert len(set(found)) == len(found)
    assert counts["gc"] > 0
    assert len(found) >= counts["main"]
    assert len(found) + lost == sum(counts.values())


def test_without_space_records_go_to_memory_without_a_file(
    buffers: Buffers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    buffers.remove_spares()
    monkeypatch.setattr(os, "posix_fallocate", full_disk)
    buffer = buffers.buffer("spans")
    for value in range(3):
        pack(buffer, value)
    buffer.retire()
    (block,) = buffers.full
    assert values_in(block) == [0, 1, 2]
    assert not block.readable
    assert list(tmp_path.glob("*.buf")) == []
    assert buffers.error is not None


def test_a_writer_that_is_stuck_costs_records_not_memory(
    buffers: Buffers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks_module, "STUCK_NS", 1_000_000)
    buffer = buffers.buffer("spans")
    kept = (LOSE_AT + 1) * PER_BLOCK  # the buffer holds one more
    packed = kept + 2 * PER_BLOCK
    for value in range(packed):
        pack(buffer, value)
    tid = threading.get_native_id()
    assert buffers.losses == {("spans", tid): packed - kept}
    assert sum(len(values_in(block)) for block in buffers.full) == kept - PER_BLOCK

    while buffers.full:  # the writer moves again: so do the records
        buffers.full.popleft().remove()
    pack(buffer, -1)
    buffer.retire()
    held, fresh = map(values_in, buffers.full)
    assert held == list(range(kept - PER_BLOCK, kept))
    assert fresh == [-1]


def test_a_buffer_whose_records_are_lost_still_hands_over_what_it_held(buffers: Buffers) -> None:
    buffer = buffers.buffer("spans")
    for value in range(PER_BLOCK):
        pack(buffer, value)
    buffers.closed = True
    for value in range(2):
        pack(buffer, value)
    buffer.roll()  # the third is retired in the middle of it
    buffer.retire()
    (block,) = buffers.full
    assert (len(values_in(block)), block.used) == (PER_BLOCK, buffer.end)
    assert sum(buffers.losses.values()) == 3


def test_a_thread_waits_while_the_writer_moves(buffers: Buffers) -> None:
    """With a writer that takes its time, nothing is lost."""
    done = threading.Event()

    def write() -> None:
        while not done.wait(0.0005):
            if buffers.full:
                buffers.full.popleft().remove()
                buffers.written += 1

    writer = threading.Thread(target=write)
    writer.start()
    buffer = buffers.buffer("spans")
    for value in range(3 * WAIT_AT * PER_BLOCK):
        pack(buffer, value)
    done.set()
    writer.join()
    assert not buffers.losses


def test_after_the_end_records_are_lost_and_counted(buffers: Buffers) -> None:
    buffer = buffers.buffer("spans")
    pack(buffer, 1)
    buffers.closed = True
    buffers.retire_all()
    buffers.ended = True
    for value in range(5):
        pack(buffer, value)
    assert sum(buffers.losses.values()) == 5
    assert len(buffers.full) == 1


def test_buffers_are_ready_before_they_are_needed(buffers: Buffers, tmp_path: Path) -> None:
    def spares() -> int:
        return len(list((tmp_path / SPARES).iterdir()))

    assert spares() == blocks_module.LEAST_SPARES
    buffer = buffers.buffer("spans")
    for value in range(6 * PER_BLOCK):
        pack(buffer, value)
    assert spares() == 0
    buffers.refill()
    assert spares() == 6  # as many as were taken
    buffers.refill()
    buffers.remove_spares()
    assert spares() == 0

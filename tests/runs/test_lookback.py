"""Full blocks wait, and what does not count is left out of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vidlab import labelsets
from vidlab.runs import lookback
from vidlab.runs.blocks import BLOCK_BYTES, Block
from vidlab.runs.lookback import Lookback
from vidlab.runs.thinning import hashes, limit
from vidlab.schema import LATE, TABLES

SECOND = 1_000_000_000
FRAMES = np.uint64(1 << 52 | 5 << 32) + np.arange(1000, dtype=np.uint64)
TURN = FRAMES[hashes(FRAMES) < limit(0.1)]
OUT = FRAMES[hashes(FRAMES) >= limit(0.1)]


class Clock:
    def __init__(self) -> None:
        self.now_ns = 100 * SECOND

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    known = Clock()
    monkeypatch.setattr(lookback, "now_ns", known)
    return known


@pytest.fixture
def made(tmp_path: Path, clock: Clock) -> Callable[..., Lookback]:
    def make(max_bytes: int | None = None) -> Lookback:
        def warn(what: str, error: object) -> None:
            raise AssertionError((what, error))

        known = Lookback(tmp_path, lambda: 1, max_bytes, warn)
        known.seconds = 5.0
        return known

    return make


def block_of(frames: np.ndarray, clock: Clock, table: str = "spans", name: str = "") -> Block:
    """A full block with a record of each frame, born with the share 0.1."""
    record = TABLES[table].record
    assert record is not None
    block = Block.anonymous()
    block.table, block.name, block.t_full_ns = table, name or f"{table}-{id(block)}", clock.now_ns
    records = np.frombuffer(block.view, record.dtype, len(frames))
    if "frame" in records.dtype.fields:
        records["frame"] = frames
    records["labels"] = labelsets.intern({"stream_id": "cam"}, 0.1)
    records["t_ns"] = clock.now_ns
    records[record.commit] = 1
    block.used = len(frames) * record.size
    return block


def kept_in(known: Lookback, block: Block) -> list[int]:
    """The frames whose records are written of a block."""
    record = TABLES[block.table].record
    assert record is not None
    records = np.frombuffer(block.view, record.dtype, block.used // record.size)
    chosen = known.choose(block, records)
    return (records if chosen is None else records[chosen])["frame"].tolist()


def test_while_nobody_asks_for_it_nothing_waits(made, clock) -> None:
    known = made()
    known.seconds = 0.0
    full = deque([block_of(OUT, clock)])
    assert known.ripe(full, final=False) is full
    assert kept_in(known, full[0]) == OUT.tolist()


def test_a_block_waits_and_loses_what_does_not_count(made, clock) -> None:
    known = made()
    block = block_of(FRAMES, clock)
    assert not known.ripe(deque([block]), final=False)
    clock.now_ns += 5 * SECOND - 1
    assert not known.ripe(deque(), final=False)
    clock.now_ns += 1
    assert list(known.ripe(deque(), final=False)) == [block]
    assert kept_in(known, block) == TURN.tolist()
    assert known.left_out == {"spans": len(OUT), "frame_events": 0}


def test_tables_that_are_not_sampled_do_not_wait(made, clock) -> None:
    known = made()
    block = block_of(FRAMES, clock, "gc_pauses")
    assert list(known.ripe(deque([block]), final=False)) == [block]
    assert kept_in(known, block) == FRAMES.tolist()


def test_a_frame_noted_meanwhile_is_kept_whole(made, clock) -> None:
    known = made()
    blocks = [block_of(OUT[:10], clock), block_of(OUT[5:15], clock, "frame_events")]
    known.ripe(deque(blocks), final=False)
    clock.now_ns += 5 * SECOND
    assert known.note(int(OUT[7]))
    assert not known.note(int(OUT[7]))
    assert len(known.ripe(deque(), final=False)) == 2
    assert [kept_in(known, block) for block in blocks] == [[int(OUT[7])], [int(OUT[7])]]


def test_it_is_looked_for_late_frames_before_a_decision(made, clock) -> None:
    known = made()
    known.look = lambda: known.note(int(OUT[3])) or True
    block = block_of(OUT, clock)
    known.ripe(deque([block]), final=False)
    clock.now_ns += 6 * SECOND
    known.ripe(deque(), final=False)
    assert kept_in(known, block) == [int(OUT[3])]


def test_where_it_cannot_be_seen_which_are_late_all_is_written(made, clock) -> None:
    known = made()
    known.look = lambda: False
    block, kept = block_of(OUT, clock), block_of(OUT, clock, "kept_frames")
    known.ripe(deque([block, kept]), final=False)
    clock.now_ns += 6 * SECOND
    assert list(known.ripe(deque(), final=False)) == [block, kept]
    assert kept_in(known, block) == OUT.tolist()
    assert kept_in(known, kept) == OUT.tolist()


def test_at_the_end_what_cannot_be_known_yet_is_written(made, clock) -> None:
    known = made()
    blocks = [block_of(OUT, clock), block_of(OUT, clock)]
    known.ripe(deque(blocks[:1]), final=False)
    assert list(known.ripe(deque(blocks[1:]), final=True)) == blocks
    assert [kept_in(known, block) for block in blocks] == [OUT.tolist()] * 2
    assert kept_in(known, block_of(OUT, clock)) == OUT.tolist()  # which its thread held


@pytest.mark.parametrize(("max_bytes", "held"), [(None, 256), (16 << 20, 8), (1 << 20, 1)])
def test_memory_is_bounded_and_nothing_lost(made, clock, max_bytes, held) -> None:
    known = made(max_bytes)
    blocks = [block_of(OUT[:4], clock) for _ in range(held + 3)]
    ripe = known.ripe(deque(blocks), final=False)
    assert list(ripe) == blocks[:3]
    assert all(kept_in(known, block) == OUT[:4].tolist() for block in blocks[:3])
    ripe.clear()
    clock.now_ns += 5 * SECOND
    assert list(known.ripe(deque(), final=False)) == blocks[3:]
    assert kept_in(known, blocks[3]) == []


def test_frames_that_other_processes_note_are_kept(made, clock, tmp_path: Path) -> None:
    known = made()
    record = TABLES["kept_frames"].record
    assert record is not None
    notes = bytearray(BLOCK_BYTES)

    def note(place: int, frame: int) -> None:
        record.struct.pack_into(notes, place * record.size, 7, frame, 0, 0, 0, LATE + 1)
        (tmp_path / "0002-00001-77-kept_frames-000000.buf").write_bytes(notes)
        (tmp_path / "0001-00001-77-kept_frames-000000.buf").write_bytes(bytes(BLOCK_BYTES))

    def decided(block: Block) -> list[int]:
        known.ripe(deque([block]), final=False)
        clock.now_ns += 5 * SECOND
        known.ripe(deque(), final=False)
        return kept_in(known, block)

    note(0, int(OUT[0]))
    assert decided(block_of(OUT, clock)) == [int(OUT[0])]
    note(2, int(OUT[2]))  # the record before it was begun, and is not whole
    assert decided(block_of(OUT, clock)) == [int(OUT[0]), int(OUT[2])]
    note(1, int(OUT[1]))
    assert decided(block_of(OUT, clock)) == OUT[:3].tolist()


def test_what_is_older_than_the_notes_is_left_to_who_reads(made, clock, monkeypatch) -> None:
    monkeypatch.setattr(lookback, "MOST_NOTED", 10)
    known = made()

    def pass_by(frames: np.ndarray) -> None:
        for frame in frames.tolist():
            known.note(frame)
        known.ripe(deque([block_of(OUT[:1], clock)]), final=False)
        clock.now_ns += 6 * SECOND
        known.ripe(deque(), final=False).clear()

    early = block_of(OUT, clock)
    pass_by(OUT[:20])
    late = block_of(OUT, clock)
    assert kept_in(known, early) == OUT[:20].tolist()
    pass_by(OUT[20:40])
    assert kept_in(known, early) == OUT.tolist()  # the first notes are forgotten
    assert kept_in(known, late) == OUT[20:40].tolist()


def test_a_set_that_is_not_known_is_left_to_who_reads(made, clock) -> None:
    said = []
    known = made()
    known._warn = lambda what, error: said.append(what)
    block = block_of(OUT, clock)
    record = TABLES["spans"].record
    assert record is not None
    np.frombuffer(block.view, record.dtype, len(OUT))["labels"] = 1 << 30
    assert kept_in(known, block) == OUT.tolist()
    assert said == ["sample records"]


def test_a_forked_child_has_none_of_the_blocks(made, clock) -> None:
    known = made()
    known.ripe(deque([block_of(OUT, clock)]), final=False)
    known.note(int(OUT[1]))
    known.leave()
    block = block_of(OUT, clock)
    known.ripe(deque([block]), final=False)
    clock.now_ns += 9 * SECOND
    assert list(known.ripe(deque(), final=False)) == [block]
    assert kept_in(known, block) == [int(OUT[1])]  # what the parent has noted counts here too

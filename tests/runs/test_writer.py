"""The writer: what is recorded is on the disk, and what is not is counted."""

from __future__ import annotations

import gc
import json
import logging
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pytest

from vidlab import labelsets
from vidlab.clock import Anchor, now_ns
from vidlab.errors import InputError, RecordingError
from vidlab.runs import blocks
from vidlab.runs import writer as writing
from vidlab.runs.blocks import BLOCK_BYTES, SPARES, Block
from vidlab.runs.encoding import count_holes
from vidlab.runs.manifest import Manifest
from vidlab.runs.writer import LEAST_MAX_BYTES, RunWriter
from vidlab.schema import TABLES

from . import raw

RECORD = TABLES["spans"].record
assert RECORD is not None
SIZE = RECORD.size
PER_BLOCK = BLOCK_BYTES // SIZE
pack_into = RECORD.struct.pack_into


def pack(writer: RunWriter, value: int, labels: int = 0) -> None:
    """Record a span whose t_ns is this value."""
    buffer = writer.buffer("spans")
    position = buffer.position
    if position == buffer.end:
        position = buffer.roll()
    buffer.position = position + SIZE
    pack_into(buffer.view, position, value, 5, 6, 7, 8, 9, 1, labels, 2, 3, 1)


def buffers(run: Path) -> int:
    """How many mapped buffers a run has: a batch is there a moment before its buffer goes."""
    return len(list((run / "segments").glob("*.buf")))


def wait_for(what: Callable[[], object]) -> None:
    """Wait until something is so; the test's timeout ends it otherwise."""
    while not what():
        time.sleep(0.01)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[RunWriter]:
    writer = RunWriter(tmp_path)
    yield writer
    writer.close()


# --- what there is ----------------------------------------------------------------


def test_nothing_recorded_is_a_run_without_records(tmp_path: Path) -> None:
    RunWriter(tmp_path).close()
    sides = {f"0001-{side}.jsonl" for side in ("labels", "names", "stacks")}
    assert raw.names(tmp_path) == {"0001.process", *sides}
    # All sets that this process knows, from other tests too, the empty one first.
    assert raw.lines(tmp_path, "labels")[0] == {"id": 0, "values": {}, "sample_rate": 1.0}
    assert raw.losses(tmp_path) == {}


def test_a_record_is_written_whole_and_once(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    pack(writer, 4, labels=3)
    thread = writer.buffer("spans").span >> 32 & 0xFFFFF
    assert raw.records(tmp_path, "spans", "t_ns") == [4]
    writer.close()
    ((batch, name),) = raw.batches(tmp_path, "spans")
    (row,) = batch.to_pylist()
    assert list(row.values()) == [
        *(4, 5, 6, 7, 8, 9, 1, 3, 2, 3, 1),
        *(thread, threading.get_native_id()),
    ]
    assert name is not None
    assert raw.BUFFER.fullmatch(name)
    assert not list((tmp_path / "segments").glob("*.buf"))
    assert not (tmp_path / "segments" / SPARES).exists()


@pytest.mark.parametrize("table", [name for name, table in TABLES.items() if table.record])
def test_every_table_with_a_record_is_written_as_it_was_packed(tmp_path: Path, table: str) -> None:
    record = TABLES[table].record
    assert record is not None
    writer = RunWriter(tmp_path)
    buffer = writer.buffer(table)
    fields = {name: number for number, (name, _) in enumerate(record.fields, 1)}
    position = buffer.roll()
    buffer.position = position + record.size
    record.struct.pack_into(buffer.view, position, *fields.values())
    writer.close()
    ((batch, _),) = raw.batches(tmp_path, table)
    (row,) = batch.to_pylist()
    expected = {name: value for name, value in fields.items() if not name.startswith("pad")}
    assert {name: row[name] for name in expected} == expected
    assert set(row) == {*expected, "thread", "tid"}


def test_full_buffers_are_written_in_the_background(writer: RunWriter, tmp_path: Path) -> None:
    for value in range(10 * PER_BLOCK + 3):
        pack(writer, value)
    wait_for(lambda: len(list(raw.batches(tmp_path, "spans"))) == 10)
    wait_for(lambda: buffers(tmp_path) == 1)
    assert sorted(raw.records(tmp_path, "spans", "t_ns")) == list(range(10 * PER_BLOCK + 3))


def test_a_record_that_was_not_finished_is_lost_and_counted(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    pack(writer, 1)
    buffer = writer.buffer("spans")
    position = buffer.position
    buffer.position = position + SIZE
    with pytest.raises(struct.error):
        pack_into(buffer.view, position, 1, 2, 3, 4, 5, 6, -1, 0, 0, 0, 1)
    pack(writer, 2)
    writer.close()
    assert raw.records(tmp_path, "spans", "t_ns") == [1, 2]
    assert raw.losses(tmp_path) == {"spans": 1}


def test_a_full_block_waits_for_a_record_that_is_being_packed(
    writer: RunWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def counted(block: Block) -> int:
        looks.append(block)
        return count_holes(block)

    monkeypatch.setattr(writing, "count_holes", counted)
    monkeypatch.setattr(writing, "PATIENCE_NS", 60_000_000_000)  # on a machine that is busy, too
    pack(writer, 0)
    buffer = writer.buffer("spans")
    view, position = buffer.view, buffer.position
    buffer.position = position + SIZE  # reserved; the thread is interrupted here …
    for value in range(2, PER_BLOCK + 1):
        pack(writer, value)
    wait_for(lambda: len(looks) >= 2)
    assert list(raw.batches(tmp_path, "spans")) == []
    pack_into(view, position, 1, 5, 6, 7, 8, 9, 1, 0, 2, 3, 1)  # … and goes on
    wait_for(lambda: list(raw.batches(tmp_path, "spans")))
    assert raw.records(tmp_path, "spans", "t_ns") == list(range(PER_BLOCK + 1))
    writer.close()
    assert raw.losses(tmp_path) == {}


# --- rows, findings, labels, names ------------------------------------------------


def test_a_row_is_on_the_disk_within_half_a_second(writer: RunWriter, tmp_path: Path) -> None:
    before = now_ns()
    with labelsets.labels(stream_id="cam-1"):
        writer.row("streams", direction="input", url="a.mp4", nominal_rate=25.0, width=None)
        labels = labelsets.current.get()
    wait_for(lambda: raw.rows(tmp_path, "streams"))
    assert now_ns() - before < 30e9  # half a second, on a machine that does nothing else
    (row,) = raw.rows(tmp_path, "streams")
    assert before <= row["t_ns"] <= now_ns()
    assert (row["pid"], row["tid"]) == (os.getpid(), threading.get_native_id())
    assert row["labels"] == labels
    assert (row["direction"], row["url"], row["nominal_rate"]) == ("input", "a.mp4", 25.0)
    assert row["width"] is None
    assert row["pixel_format"] is None
    assert set(row) == {c.name for c in TABLES["streams"].columns} - {"stream_id", "codec", "gpu"}


def test_given_columns_are_kept(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    writer.row("ffmpeg_progress", t_ns=1, pid=2, tid=3, labels=4, ended=True, fps=None)
    writer.row("ffmpeg_progress", ended=False, fps=0.5, total_size_bytes=1 << 40)
    writer.row("ffmpeg_progress", child="größer \N{VIDEO CAMERA}")
    writer.close()
    first, second, third = raw.rows(tmp_path, "ffmpeg_progress")
    assert [first[name] for name in ("t_ns", "pid", "tid", "labels")] == [1, 2, 3, 4]
    assert [row["ended"] for row in (first, second, third)] == [True, False, None]
    assert [row["fps"] for row in (first, second, third)] == [None, 0.5, None]
    assert second["total_size_bytes"] == 1 << 40
    assert third["child"] == "größer \N{VIDEO CAMERA}"


def test_a_finding_has_its_numbers_as_json(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    writer.finding("buffer_falling", "a queue ran empty", frame=7 << 52, labels=0, level=[3, 1])
    writer.finding("odd", "odd", severity="info", path=Path("x"))
    writer.close()
    falling, odd = raw.rows(tmp_path, "findings")
    assert falling["frame"] == 7 << 52
    assert falling["severity"] == "warning"
    assert json.loads(falling["evidence"]) == {"level": [3, 1]}
    assert odd["frame"] is None
    assert json.loads(odd["evidence"]) == {"path": "x"}


def test_rows_that_do_not_fit_are_counted_and_the_others_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = RunWriter(tmp_path)
    writer.row("streams", url="a", width=640)
    writer.row("streams", url="b", width="wide")
    writer.row("streams", url=5)
    writer.row("streams", url="c", hieght=480)
    writer.close()
    assert [row["url"] for row in raw.rows(tmp_path, "streams")] == ["a", "c"]
    assert raw.losses(tmp_path) == {"streams": 2}
    assert "hieght" in caplog.text


def test_names_are_written_before_they_are_used(writer: RunWriter, tmp_path: Path) -> None:
    number = writer.names.number("decode")
    assert {"id": number, "name": "decode"} in raw.lines(tmp_path, "names")
    assert writer.names.number("decode") == number
    assert len(raw.lines(tmp_path, "names")) == 2


def test_label_sets_are_written_with_what_is_derived(tmp_path: Path) -> None:
    def region(labels: dict[str, object]) -> str | None:
        return str(labels["stream_id"])[:2] if "stream_id" in labels else None

    with labelsets.labels(stream_id="no-1", place="known before"):
        before = labelsets.current.get()
    writer = RunWriter(tmp_path, derive={"region": region})
    with labelsets.labels(stream_id="so-2", region="given"):
        given = labelsets.current.get()
    thin = labelsets.sampled(before, 0.25)
    lines = {line["id"]: line for line in raw.lines(tmp_path, "labels")}
    writer.close()
    assert lines[0]["values"] == {}
    assert lines[before]["values"] == {
        "stream_id": "no-1",
        "place": "known before",
        "region": "no",
    }
    assert lines[given]["values"]["region"] == "given"
    assert (lines[thin]["sample_rate"], lines[before]["sample_rate"]) == (0.25, 1.0)
    with labelsets.labels(stream_id="after"):
        pass
    assert len(raw.lines(tmp_path, "labels")) == len(lines)


def test_a_function_that_fails_costs_its_label_and_is_one_finding(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, derive={"region": lambda labels: labels["nowhere"]})
    with labelsets.labels(stream_id="x-1"), labelsets.labels(stream_id="x-2"):
        known = labelsets.current.get()
    writer.close()
    (line,) = (line for line in raw.lines(tmp_path, "labels") if line["id"] == known)
    assert line["values"] == {"stream_id": "x-2"}
    (finding,) = raw.rows(tmp_path, "findings")
    assert "region" in finding["message"]
    assert "KeyError" in finding["message"]


@pytest.mark.parametrize("derive", [{"stream_id": str}, {"two words": str}, {"region": "north"}])
def test_derive_that_cannot_be_is_refused(tmp_path: Path, derive: dict[str, object]) -> None:
    with pytest.raises(InputError, match="derive"):
        RunWriter(tmp_path, derive=derive)  # type: ignore[arg-type]


# --- threads ----------------------------------------------------------------------


def test_many_short_threads_leave_no_buffer_behind(
    writer: RunWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A writer that has no CPU for a while is not taken for one whose disk is stuck: else what
    # comes once all the blocks are full is let go, as it should be then.
    for name in ("WAIT_NS", "STUCK_NS"):
        monkeypatch.setattr(blocks, name, 60_000_000_000)
    for value in range(200):
        thread = threading.Thread(target=pack, args=(writer, value))
        thread.start()
        thread.join()
    wait_for(lambda: len(list(raw.batches(tmp_path, "spans"))) == 200)
    wait_for(lambda: buffers(tmp_path) == 0)
    assert sorted(raw.records(tmp_path, "spans", "t_ns")) == list(range(200))
    writer.close()
    assert raw.losses(tmp_path) == {}


def test_threads_record_side_by_side(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)

    def work(first: int) -> None:
        for value in range(first, first + 2 * PER_BLOCK + 7):
            pack(writer, value)

    threads = [threading.Thread(target=work, args=(n * 1_000_000,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    expected = [n * 1_000_000 + value for n in range(4) for value in range(2 * PER_BLOCK + 7)]
    assert sorted(raw.records(tmp_path, "spans", "t_ns")) == expected


def test_threads_that_outlive_the_recording_do_no_harm(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    go_on, packed = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            pack(writer, 1)
            packed.set()
            go_on.wait()
            for value in range(2, 100):
                pack(writer, value)
            writer.row("streams", url="late")
            writer.names.number("late")
            writer.finding("late", "late")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    packed.wait()
    writer.close()
    before = {path.name: path.read_bytes() for path in (tmp_path / "segments").iterdir()}
    go_on.set()
    thread.join()
    assert errors == []
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "segments").iterdir()}
    assert raw.records(tmp_path, "spans", "t_ns") == [1]
    lost = writer.losses()
    assert {table: lost[table]["lost"] for table in lost} == {
        "spans": 98,
        "streams": 1,
        "findings": 1,
    }


def test_signal_handlers_and_gc_callbacks_record_everything(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    counts = {"main": 0, "signal": 0, "gc": 0}

    def on_signal(number: int, frame: object) -> None:
        counts["signal"] += 1
        pack(writer, 1_000_000 + counts["signal"])
        writer.row("streams", url="signal")

    def on_gc(phase: str, info: object) -> None:
        counts["gc"] += 1
        pack(writer, 2_000_000 + counts["gc"])
        writer.row("findings", kind="gc")

    before = signal.signal(signal.SIGALRM, on_signal)
    thresholds = gc.get_threshold()
    gc.callbacks.append(on_gc)
    gc.set_threshold(3)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        while counts["main"] < 3 * PER_BLOCK or counts["signal"] < 50:
            counts["main"] += 1
            pack(writer, counts["main"])
            writer.row("streams", url="main")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.callbacks.remove(on_gc)
        gc.set_threshold(*thresholds)
    writer.close()
    found = raw.records(tmp_path, "spans", "t_ns")
    assert len(set(found)) == len(found)
    lost = raw.losses(tmp_path)
    assert len(found) + lost.get("spans", 0) == sum(counts.values())
    urls = [row["url"] for row in raw.rows(tmp_path, "streams")]
    assert len(urls) + lost.get("streams", 0) == counts["main"] + counts["signal"]


# --- bounds -----------------------------------------------------------------------


def pack_noise(writer: RunWriter, value: int) -> bool:
    """Record a span whose other fields don't compress; return whether its block was full."""
    buffer = writer.buffer("spans")
    position = buffer.position
    full = position == buffer.end
    if full:
        position = buffer.roll()
    buffer.position = position + SIZE
    noise = value * 0x9E3779B97F4A7C15 & (1 << 63) - 1
    fields = (noise, noise, ~noise & (1 << 62) - 1, noise, noise, value, 0, noise & 0xFFFF)
    pack_into(buffer.view, position, value, *fields, 0, 1)
    return full


def test_a_bounded_recording_keeps_the_newest_and_counts_the_rest(tmp_path: Path) -> None:
    limit = LEAST_MAX_BYTES
    writer = RunWriter(tmp_path, max_bytes=limit)
    count = 100 * PER_BLOCK + 11
    most = 0
    writer.row("streams", url="the first of all")
    for value in range(count):
        if pack_noise(writer, value):
            wait_for(lambda: buffers(tmp_path) == 1)
            most = max(most, raw.size(tmp_path))
    writer.close()
    kept = sorted(raw.records(tmp_path, "spans", "t_ns"))
    assert kept == list(range(count - len(kept), count))
    assert raw.losses(tmp_path, "let_go") == {"spans": count - len(kept)}
    assert limit // 2 < sum(p.stat().st_size for p in (tmp_path / "segments").iterdir()) <= limit
    assert most <= limit
    assert [row["url"] for row in raw.rows(tmp_path, "streams")] == ["the first of all"]
    assert raw.losses(tmp_path) == {}


def test_what_is_too_old_is_let_go_and_counted(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, keep_seconds=1.0)
    writer.row("streams", url="the first of all")
    for value in range(3 * PER_BLOCK):
        pack(writer, value)
    threading.Thread(target=writer.finding, args=("early", "early")).start()
    gone = {"spans": 2 * PER_BLOCK, "findings": 1}
    wait_for(lambda: raw.losses(tmp_path, "let_go") == gone)
    writer._streams._keep_ns = 3_600 * 10**9  # however long it takes, what comes now is young
    for value in range(3 * PER_BLOCK, 4 * PER_BLOCK):
        pack(writer, value)
    writer.finding("late", "late")
    writer.close()
    kept = sorted(raw.records(tmp_path, "spans", "t_ns"))
    assert kept == list(range(2 * PER_BLOCK, 4 * PER_BLOCK))
    assert raw.losses(tmp_path, "let_go") == gone
    assert [row["kind"] for row in raw.rows(tmp_path, "findings")] == ["late"]
    assert raw.rows(tmp_path, "streams")


def test_what_an_ended_process_left_is_let_go_too(tmp_path: Path) -> None:
    ended = RunWriter(tmp_path, max_bytes=LEAST_MAX_BYTES)
    for value in range(8 * PER_BLOCK):
        pack_noise(ended, value)
    ended.close()
    writer = RunWriter(tmp_path, max_bytes=LEAST_MAX_BYTES)
    count = 100 * PER_BLOCK
    for value in range(8 * PER_BLOCK, count):
        pack_noise(writer, value)
    writer.close()
    kept = sorted(raw.records(tmp_path, "spans", "t_ns"))
    assert kept == list(range(count - len(kept), count))
    assert raw.losses(tmp_path, "let_go") == {"spans": count - len(kept)}
    assert not list((tmp_path / "segments").glob("0001-spans*"))


# --- disks ------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can make a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_disk_that_fills_up_costs_what_does_not_fit(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = RunWriter(small_disk)
    count = 20 * PER_BLOCK
    for value in range(count):
        pack(writer, value)
        if value % PER_BLOCK == 0:
            writer.row("streams", url=str(value))
    writer.names.number("after the disk was full" * 400)
    writer.close()
    kept = raw.records(small_disk, "spans", "t_ns")
    lost = writer.losses()
    assert len(set(kept)) == len(kept)
    assert len(kept) + lost["spans"]["lost"] == count
    assert PER_BLOCK < len(kept) < count
    assert len(raw.rows(small_disk, "streams")) + lost.get("streams", {"lost": 0})["lost"] == 20
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "No space left" in warnings[0].getMessage()


def test_a_disk_that_has_space_again_is_used_again(small_disk: Path) -> None:
    writer = RunWriter(small_disk)
    (small_disk / "ballast").write_bytes(bytes((2 << 20) - (300 << 10)))
    for value in range(6 * PER_BLOCK):
        pack(writer, value)
    (small_disk / "ballast").unlink()
    for value in range(6 * PER_BLOCK, 7 * PER_BLOCK):
        pack(writer, value)
    writer.close()
    kept = set(raw.records(small_disk, "spans", "t_ns"))
    assert kept >= set(range(6 * PER_BLOCK, 7 * PER_BLOCK))
    assert len(kept) + writer.losses().get("spans", {"lost": 0})["lost"] == 7 * PER_BLOCK


def test_a_batch_that_is_cut_short_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no stream ends in the middle of a batch but one that was killed."""
    writer = RunWriter(tmp_path)
    write = os.write
    cuts = [100]

    def cut_once(file: int, data: bytes) -> int:
        if len(data) > BLOCK_BYTES and cuts:
            return write(file, data[: cuts.pop()])
        return write(file, data)

    monkeypatch.setattr(os, "write", cut_once)
    for value in range(3 * PER_BLOCK):
        pack(writer, value)
    writer.close()
    assert not cuts
    for path in (tmp_path / "segments").glob("*.arrows"):
        pa.ipc.open_stream(path.read_bytes()).read_all()
    assert sorted(raw.records(tmp_path, "spans", "t_ns")) == list(range(3 * PER_BLOCK))


def test_a_run_that_is_deleted_while_it_is_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    writer = RunWriter(run)
    pack(writer, 0)
    (run / "segments").rename(tmp_path / "elsewhere")
    for value in range(1, 3 * PER_BLOCK):
        pack(writer, value)
    writer.row("streams", url="x")
    writer.close()
    assert "No such file" in caplog.text
    assert writer.losses()["spans"]["lost"] > 0


@pytest.mark.parametrize("error", [5, 28, 30])
def test_a_disk_that_fails_does_not_stop_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    """EIO, ENOSPC and EROFS, from every write from some moment on."""
    writer = RunWriter(tmp_path)

    def fails(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    for name in ("write", "pwrite", "posix_fallocate", "ftruncate", "rename"):
        monkeypatch.setattr(os, name, fails)
    for value in range(5 * PER_BLOCK):
        pack(writer, value)
    writer.row("streams", url="x")
    writer.close()
    monkeypatch.undo()
    kept = raw.records(tmp_path, "spans", "t_ns")
    lost = writer.losses()
    assert len(kept) + lost["spans"]["lost"] == 5 * PER_BLOCK
    assert lost["streams"]["lost"] == 1
    assert os.strerror(error) in caplog.text


def test_a_path_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="record into a directory that can"):
        RunWriter(tmp_path / "file" / "run")


def test_a_run_that_has_ended_takes_no_more_processes(tmp_path: Path) -> None:
    Manifest("r", started=Anchor(1, 2), ended=Anchor(3, 4)).write(tmp_path)
    with pytest.raises(RecordingError, match="has ended"):
        RunWriter(tmp_path)
    assert raw.names(tmp_path) <= {SPARES}


# --- killed -----------------------------------------------------------------------

KILLED = """
import ctypes, mmap, os, struct, sys, threading, time
from pathlib import Path
from vidlab.runs.writer import RunWriter
from vidlab.schema import TABLES
record = TABLES["spans"].record
pack_into, SIZE = record.struct.pack_into, record.size
hold_gil = ctypes.PyDLL(None).usleep  # PyDLL keeps the GIL while it sleeps
writer = RunWriter(Path(sys.argv[1]))
with open(sys.argv[2], "r+b") as file:
    witness = mmap.mmap(file.fileno(), 64)
def work(worker):
    buffer, count = writer.buffer("spans"), 0
    while True:
        position = buffer.position
        if position == buffer.end:
            position = buffer.roll()
        buffer.position = position + SIZE
        count += 1
        pack_into(buffer.view, position, worker << 32 | count, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1)
        struct.pack_into("<Q", witness, 8 * worker, count)
        if count % 100 == 0:
            time.sleep(0.0002)
        if count % 1000 == 0:
            writer.row("streams", url=str(count))
        if worker == 2 and count % 3000 == 0:
            hold_gil(300_000)
for worker in range(3):
    threading.Thread(target=work, args=(worker,), daemon=True).start()
time.sleep(60)
"""


@pytest.mark.parametrize("after", [0.0, 0.05, 0.4, 0.8])
def test_no_record_is_lost_to_sigkill(tmp_path: Path, after: float) -> None:
    path = tmp_path / "witness"
    path.write_bytes(bytes(64))
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "run", path])
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 64) as witness:
        while not any(witness[:]):
            time.sleep(0.001)
        time.sleep(after)
        process.kill()
        process.wait()
        completed = struct.unpack_from("<3Q", witness)
    found = raw.records(tmp_path / "run", "spans", "t_ns")
    assert len(set(found)) == len(found)
    for worker, count in enumerate(completed):
        mine = sorted(value & 0xFFFFFFFF for value in found if value >> 32 == worker)
        # One more may have been completed, and not witnessed.
        assert mine in (list(range(1, count + 1)), list(range(1, count + 2)))


# --- forks ------------------------------------------------------------------------

FORKS = """
import os, sys, threading, time
from pathlib import Path
from vidlab.runs import processes  # as early as in the façade
from vidlab.runs.writer import RunWriter
from vidlab import labelsets
from vidlab.schema import TABLES
record = TABLES["spans"].record
pack_into, SIZE = record.struct.pack_into, record.size
writer = RunWriter(Path(sys.argv[1]))
buffer = writer.buffer("spans")
def pack(value, labels=0):
    position = buffer.position
    if position == buffer.end:
        position = buffer.roll()
    buffer.position = position + SIZE
    pack_into(buffer.view, position, value, 1, 1, 1, 1, 1, 1, labels, 1, 1, 1)
"""


def forked(tmp_path: Path, script: str) -> None:
    subprocess.run([sys.executable, "-c", FORKS + script, tmp_path], check=True, timeout=240)


def by_process(run: Path) -> dict[str, list[int]]:
    """The t_ns of all spans, by the index that their files begin with."""
    found: dict[str, list[int]] = {}
    for path in sorted((run / "segments").glob("*.process")):
        index = path.stem
        for other in (run / "segments").iterdir():
            if not other.name.startswith(index) and other.is_file():
                other.rename(run / other.name)
        found[index] = raw.records(run, "spans", "t_ns")
        for other in run.glob("0*"):
            other.rename(run / "segments" / other.name)
    return found


def test_a_child_that_records_nothing_leaves_no_trace(tmp_path: Path) -> None:
    forked(
        tmp_path,
        """
pack(1)
if os.fork() == 0:
    os._exit(0)
os.wait()
pack(2)
writer.close()
""",
    )
    assert {name[:4] for name in raw.names(tmp_path)} == {"0001"}
    assert raw.records(tmp_path, "spans", "t_ns") == [1, 2]


def test_a_forked_child_has_an_index_and_files_of_its_own(tmp_path: Path) -> None:
    forked(
        tmp_path,
        """
pack(1)
decode = writer.names.number("decode")
with labelsets.labels(stream_id="before"):
    before = labelsets.current.get()
if os.fork() == 0:
    assert buffer.span >> 52 == 2, buffer.span
    assert writer.index == 2
    assert writer.names.number("decode") == decode
    with labelsets.labels(stream_id="in the child"):
        pack(2, labelsets.current.get())
        writer.row("streams", url="child")
    raise SystemExit(0)  # atexit closes the child's part
os.wait()
assert writer.index == 1
for value in range(3, 5000):
    pack(value)
writer.close()
""",
    )
    assert by_process(tmp_path) == {"0001": [1, *range(3, 5000)], "0002": [2]}
    (row,) = raw.rows(tmp_path, "streams")
    facts = json.loads((tmp_path / "segments/0002.process").read_text())
    assert facts["pid"] == row["pid"]
    names = (tmp_path / "segments/0002-names.jsonl").read_text()
    assert names == (tmp_path / "segments/0001-names.jsonl").read_text()
    labels = (tmp_path / "segments/0002-labels.jsonl").read_text()
    assert '"before"' in labels
    assert '"in the child"' in labels
    assert '"in the child"' not in (tmp_path / "segments/0001-labels.jsonl").read_text()


def test_a_child_that_ends_at_once_loses_no_record(tmp_path: Path) -> None:
    forked(
        tmp_path,
        """
pack(1)
for value in range(2, 5):
    if os.fork() == 0:
        pack(value)
        if os.fork() == 0:
            pack(10 * value)
            os._exit(0)
        os.wait()
        os._exit(0)
    os.wait()
writer.close()
""",
    )
    assert sorted(map(tuple, by_process(tmp_path).values())) == [
        (1,), (2,), (3,), (4,), (20,), (30,), (40,)
    ]  # fmt: skip


def test_a_child_of_a_child_that_recorded_nothing(tmp_path: Path) -> None:
    forked(
        tmp_path,
        """
pack(1)
if os.fork() == 0:
    if os.fork() == 0:
        pack(2)
        raise SystemExit(0)
    raise SystemExit(os.wait()[1])
assert os.wait()[1] == 0
writer.close()
""",
    )
    assert by_process(tmp_path) == {"0001": [1], "0002": [2]}


def test_a_child_that_records_into_one_of_its_tables_only(tmp_path: Path) -> None:
    forked(
        tmp_path,
        """
pack(1)
depths = writer.buffer("queue_depths")
depths.roll()
if os.fork() == 0:
    pack(2)
    writer.close()
    os._exit(0 if depths.position == depths.end else 1)
assert os.wait()[1] == 0
writer.close()
""",
    )
    assert by_process(tmp_path) == {"0001": [1], "0002": [2]}


def test_a_fork_while_all_threads_are_busy(tmp_path: Path) -> None:
    """Locks that a thread of the parent holds must not be held in the child for ever."""
    forked(
        tmp_path,
        """
stop = False
def busy(number):
    count = 0
    while not stop:
        count += 1  # always new ones: their locks are held most of the time
        writer.names.number(f"{number}-{count % 5000}")
        with labelsets.labels(stream_id=f"{number}-{count}"):
            writer.row("streams", url="busy")
        time.sleep(0.0003)
for number in range(3):
    threading.Thread(target=busy, args=(number,)).start()
for value in range(8):
    if os.fork() == 0:
        pack(value)
        writer.names.number(f"child {value}")
        with labelsets.labels(stream_id=f"child {value}"):
            thread = threading.Thread(target=writer.row, args=("streams",))
            thread.start()
            thread.join()
        writer.close()
        os._exit(0)
    assert os.wait()[1] == 0
stop = True
writer.close()
""",
    )
    found = by_process(tmp_path)
    assert found.pop("0001") == []
    assert sorted(chain.from_iterable(found.values())) == list(range(8))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_end_their_part(tmp_path: Path, method: str) -> None:
    """They leave by `os._exit`, without the functions of atexit."""
    (tmp_path / "program.py").write_text(
        FORKS.replace("writer = ", "writer = None if __name__ != '__main__' else ").replace(
            "buffer = writer", "buffer = writer and writer"
        )
        + """
def work(value):
    global writer, buffer
    if writer is None:
        import atexit
        writer = RunWriter(Path(sys.argv[1]))
        atexit.register(writer.close)
        buffer = writer.buffer("spans")
    pack(value)
    writer.row("streams", url=str(value))

if __name__ == "__main__":
    import multiprocessing
    context = multiprocessing.get_context(sys.argv[2])
    children = [context.Process(target=work, args=(value,)) for value in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    pack(99)
    writer.close()
"""
    )
    command = [sys.executable, tmp_path / "program.py", tmp_path / "run", method]
    subprocess.run(command, check=True, timeout=240)
    found = by_process(tmp_path / "run")
    assert sorted(chain.from_iterable(found.values())) == [0, 1, 2, 99]
    urls = {row["url"] for row in raw.rows(tmp_path / "run", "streams")}
    if method != "forkserver":  # whose children this program lets go without a word
        assert urls == {"0", "1", "2"}
        assert not list((tmp_path / "run" / "segments").glob("*.buf"))


def test_a_child_that_outlives_the_recording_takes_no_part(tmp_path: Path) -> None:
    forked(
        tmp_path,
        """
from dataclasses import replace
from vidlab.clock import Anchor, anchor
from vidlab.runs.manifest import Manifest
manifest = Manifest("r", started=anchor())
manifest.write(writer.path)
reading, writing = os.pipe()
if os.fork() == 0:
    os.read(reading, 1)
    pack(2)
    pack(3)
    writer.row("streams", url="late")
    os._exit(0 if writer.index == 0 else 1)
pack(1)
writer.close()
replace(manifest, ended=anchor()).write(writer.path)
os.write(writing, b"!")
assert os.wait()[1] == 0
""",
    )
    assert by_process(tmp_path) == {"0001": [1]}


def test_a_child_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    """Else a parent that was killed would seem alive for as long as a child of it is."""
    forked(
        tmp_path,
        """
from vidlab.runs import processes
segments = writer.path / "segments"
if os.fork() == 0:
    assert processes.living(segments) == [1]
    pack(1)
    assert processes.living(segments) == [1, 2]
    os._exit(0)
assert os.wait()[1] == 0
assert processes.living(segments) == [1]
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.write(writing, b"!")
    import time
    time.sleep(60)
os.read(reading, 1)
writer.close()
import signal
try:
    assert processes.living(segments) == []
finally:
    os.kill(child, signal.SIGKILL)
    os.wait()
""",
    )


def test_pandas_is_not_imported_into_the_program(tmp_path: Path) -> None:
    forked(
        tmp_path,
        """
pack(1)
writer.row("streams", url="x")
writer.close()
assert "pandas" not in sys.modules
assert "polars" not in sys.modules
""",
    )


def test_the_writers_thread_is_not_among_the_programs(writer: RunWriter) -> None:
    assert threading.active_count() == len(threading.enumerate())
    assert all("vidlab" not in thread.name for thread in threading.enumerate())

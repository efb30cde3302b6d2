"""Declared tables, written by columns: what is appended is on the disk, the rest is counted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vidlab.runs import batches
from vidlab.runs.encoding import segment_schema
from vidlab.runs.writer import LEAST_MAX_BYTES, RunWriter
from vidlab.schema import TEXT, Column, declared, kernel_table

from . import raw

TABLE = kernel_table(
    "cuMemAlloc_v2",
    [
        Column("size_bytes", pa.int64(), "what was asked for", "bytes"),
        Column("status", pa.int32(), "0 if it worked"),
        Column("done", pa.bool_(), "it came back"),
        Column("symbol", TEXT, "the function"),
        Column("ratio", pa.float64(), ""),
    ],
    "an allocation",
)


def events(count: int, first: int = 0, **others: Any) -> dict[str, Any]:
    """Columns as a ring's reader has them; t_ns counts up from `first`."""
    t_ns = np.arange(first, first + count, dtype=np.int64)
    return {
        "t_ns": t_ns,
        "pid": np.full(count, 12, np.uint32),
        "tid": np.full(count, 13, np.uint32),
        "cpu": np.full(count, 1, np.uint16),
        "span": np.zeros(count, np.uint64),
        "frame": np.zeros(count, np.uint64),
        "labels": np.zeros(count, np.uint32),
        "size_bytes": t_ns * 123 * 8,
        "status": np.zeros(count, np.int32),
        "done": t_ns % 3 == 0,
        "symbol": np.zeros(count, np.uint32),
        "ratio": t_ns / 8,
        **others,
    }


def times(run: Path, table: str = TABLE.name) -> list[int]:
    return [t for batch, _ in raw.batches(run, table) for t in batch["t_ns"].to_pylist()]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[RunWriter]:
    writer = RunWriter(tmp_path)
    yield writer
    writer.close()


def test_a_batch_is_on_the_disk_when_append_returns(writer: RunWriter, tmp_path: Path) -> None:
    writer.append(TABLE, events(5))
    ((batch, mark),) = raw.batches(tmp_path, TABLE.name)
    assert mark is None
    assert batch["t_ns"].to_pylist() == [0, 1, 2, 3, 4]
    assert batch["size_bytes"].to_pylist() == [0, 984, 1968, 2952, 3936]
    assert batch["done"].to_pylist() == [True, False, False, True, False]
    assert batch["ratio"].to_pylist() == [0, 0.125, 0.25, 0.375, 0.5]
    assert batch["pid"].to_pylist() == [12] * 5
    assert batch.schema.equals(segment_schema(TABLE), check_metadata=True)


def test_the_stream_says_what_the_table_is(writer: RunWriter, tmp_path: Path) -> None:
    writer.append(TABLE, events(1))
    (path,) = (tmp_path / "segments").glob("*.arrows")
    assert declared(TABLE.name, pa.ipc.open_stream(path.read_bytes()).schema) == TABLE


def test_nothing_is_appended_without_rows_but_the_table_is_there(
    writer: RunWriter, tmp_path: Path
) -> None:
    writer.declare(TABLE)
    writer.append(TABLE, events(0))
    writer.append(TABLE, {})
    (path,) = (tmp_path / "segments").glob("*.arrows")
    assert path.name.startswith(f"0001-{TABLE.name}-")
    assert pa.ipc.open_stream(path.read_bytes()).read_all().num_rows == 0
    assert writer.losses() == {}


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("count", [1, 63, 1000, 5000, 200_001])
def test_all_ways_of_writing_say_the_same(tmp_path: Path, count: int, bounded: bool) -> None:
    """Small or large, put together first or taken from where it lies, compressed or not."""
    writer = RunWriter(tmp_path, max_bytes=1 << 30 if bounded else None)
    columns = events(count)
    missing = np.arange(count) % 7 == 0
    columns["status"] = pa.array(np.arange(count, dtype=np.int32), mask=missing)
    columns["size_bytes"] = pa.array(columns["size_bytes"])
    writer.append(TABLE, columns)
    writer.close()
    read = [batch for batch, _ in raw.batches(tmp_path, TABLE.name)]
    assert max(batch.nbytes for batch in read) <= 1.1 * batches.PIECE_BYTES
    table = pa.Table.from_batches(read)
    table.validate(full=True)
    for name in ("t_ns", "ratio", "done", "pid", "span"):
        assert np.array_equal(table[name].to_numpy(), columns[name]), name
    assert table["size_bytes"].combine_chunks().equals(pa.chunked_array([columns["size_bytes"]])
                                                       .combine_chunks())  # fmt: skip
    assert np.array_equal(table["status"].is_null().to_numpy(), missing)
    assert np.array_equal(table["status"].fill_null(0).to_numpy()[~missing],
                          np.arange(count)[~missing])  # fmt: skip


def test_the_arrays_may_change_afterwards(writer: RunWriter, tmp_path: Path) -> None:
    columns = events(100_000)
    writer.append(TABLE, columns)
    columns["t_ns"][:] = -1
    assert times(tmp_path) == list(range(100_000))


def test_arrays_of_records_and_of_kindred_types(writer: RunWriter, tmp_path: Path) -> None:
    records = np.zeros(10, [("t_ns", "<i8"), ("status", "<u4"), ("done", "u1"), ("ratio", "<f4")])
    records["t_ns"], records["done"], records["ratio"] = np.arange(10), 1, 0.5
    records["status"] = 0xFFFFFFFF  # -1 in a kernel's unsigned field
    writer.append(TABLE, {name: records[name][::2] for name in records.dtype.names})
    writer.append(TABLE, {"t_ns": np.arange(2), "size_bytes": np.arange(2, dtype=np.uint16)})
    first, second = (batch for batch, _ in raw.batches(tmp_path, TABLE.name))
    assert first["t_ns"].to_pylist() == [0, 2, 4, 6, 8]
    assert first["status"].to_pylist() == [-1] * 5
    assert first["done"].to_pylist() == [True] * 5
    assert first["ratio"].to_pylist() == [0.5] * 5
    assert first["size_bytes"].null_count == 5  # what is missing is null
    assert second["size_bytes"].to_pylist() == [0, 1]
    assert second["status"].null_count == 2
    assert writer.losses() == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"size_bytes": np.zeros(3)},
        {"size_bytes": np.zeros(4, np.int64)},
        {"size_bytes": np.zeros(3, np.float64)},
        {"size_bytes": np.zeros((3, 2), np.int64)},
        {"size_bytes": np.array(["a", "b", "c"])},
        {"size_bytes": pa.array(["a", "b", "c"])},
        {"size_bytes": pa.array([[1], [2], [3]])},
        {"sise_bytes": np.zeros(3, np.int64)},
    ],
)
def test_columns_that_do_not_fit_are_lost_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any]
) -> None:
    writer = RunWriter(tmp_path)
    for _ in range(2):
        writer.append(TABLE, {**events(3), **wrong})
    writer.append(TABLE, events(3))
    writer.close()
    assert times(tmp_path) == [0, 1, 2]
    assert raw.losses(tmp_path) == {TABLE.name: 2 * batches.rows_of(wrong)}
    assert len(caplog.records) == 1


def test_threads_append_side_by_side_and_beside_the_writers_own(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    other = kernel_table("other")

    def work(first: int) -> None:
        for at in range(first, first + 20_000, 500):
            writer.append(TABLE, events(500, at))
            writer.append(other, {"t_ns": np.arange(at, at + 500)})
            writer.row("findings", kind="k")

    threads = [threading.Thread(target=work, args=(n * 1_000_000,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    expected = [n * 1_000_000 + value for n in range(4) for value in range(20_000)]
    assert sorted(times(tmp_path)) == expected
    assert sorted(times(tmp_path, other.name)) == expected
    assert len(raw.rows(tmp_path, "findings")) == 160
    assert writer.losses() == {}


def test_what_comes_after_the_end_is_lost(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    writer.append(TABLE, events(2))
    writer.close()
    before = {path.name: path.read_bytes() for path in (tmp_path / "segments").iterdir()}
    writer.append(TABLE, events(3))
    writer.declare(kernel_table("late"))
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "segments").iterdir()}
    assert writer.losses()[TABLE.name]["lost"] == 3


def test_a_thread_that_appends_while_the_recording_ends(tmp_path: Path) -> None:
    """Each row is written or counted, and no file is begun after the end."""
    writer = RunWriter(tmp_path)
    begun, end = threading.Event(), threading.Event()
    count = 0

    def work() -> None:
        nonlocal count
        while not end.is_set():
            writer.append(TABLE, events(100, count))
            count += 100
            begun.set()

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    writer.close()
    files = raw.names(tmp_path)
    end.set()
    thread.join()
    kept = times(tmp_path)
    assert kept == list(range(len(kept)))
    lost = writer.losses().get(TABLE.name, {"lost": 0})["lost"]
    assert len(kept) + lost == count
    assert raw.names(tmp_path) == files


def test_a_table_that_is_declared_anew_begins_a_new_file(tmp_path: Path) -> None:
    other = kernel_table("cuMemAlloc_v2", [Column("status", pa.int64(), "")])
    writer = RunWriter(tmp_path)
    writer.append(TABLE, events(2))
    writer.declare(kernel_table("cuMemAlloc_v2"))  # nothing comes to be in this one
    writer.append(other, {"t_ns": np.array([2, 3]), "status": np.array([1 << 40, 2])})
    writer.append(TABLE, events(1, 4))
    writer.close()
    paths = sorted((tmp_path / "segments").glob("*.arrows"))
    tables = [declared(TABLE.name, pa.ipc.open_stream(path.read_bytes()).schema) for path in paths]
    assert tables == [TABLE, other, TABLE]
    assert times(tmp_path) == [0, 1, 2, 3, 4]


# --- bounds and disks -------------------------------------------------------------


def wait_for(what: Callable[[], object]) -> None:
    while not what():
        time.sleep(0.01)


def noise(count: int, first: int) -> dict[str, Any]:
    random = np.random.default_rng(first)
    return events(count, first, size_bytes=random.integers(0, 1 << 62, count),
                  ratio=random.random(count))  # fmt: skip


@pytest.mark.parametrize("at_a_time", [700, 300_000])
def test_a_bounded_recording_keeps_the_newest_events(tmp_path: Path, at_a_time: int) -> None:
    limit = LEAST_MAX_BYTES
    writer = RunWriter(tmp_path, max_bytes=limit)
    writer.declare(kernel_table("never"))
    writer.row("streams", url="the first of all")
    count, most = 0, 0
    while count < 1_500_000:
        writer.append(TABLE, noise(at_a_time, count))
        count += at_a_time
        if count % 3 == 0:
            most = max(most, raw.size(tmp_path))
    writer.close()
    kept = times(tmp_path)
    assert kept == list(range(count - len(kept), count))
    assert raw.losses(tmp_path, "let_go") == {TABLE.name: count - len(kept)}
    assert raw.losses(tmp_path) == {}
    assert limit // 2 < most <= limit
    assert [row["url"] for row in raw.rows(tmp_path, "streams")] == ["the first of all"]
    assert list((tmp_path / "segments").glob("*-kernel_never-*"))  # its head takes no space


def test_a_table_whose_events_are_all_too_old_stays_declared(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, keep_seconds=0.3)
    writer.append(TABLE, events(10))
    writer.row("findings", kind="early")
    wait_for(lambda: raw.losses(tmp_path, "let_go").get(TABLE.name))
    (path,) = (tmp_path / "segments").glob(f"*-{TABLE.name}-*")
    assert declared(TABLE.name, pa.ipc.open_stream(path.read_bytes()).schema) == TABLE
    writer._streams._keep_ns = 3_600 * 10**9  # however long it takes, what comes now is young
    writer.append(TABLE, events(5, 10))
    writer.close()
    assert times(tmp_path) == [10, 11, 12, 13, 14]
    assert raw.losses(tmp_path, "let_go")[TABLE.name] == 10


def test_a_disk_that_fails_costs_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Batches that are cut short are taken back; the table goes on in a new file."""
    writer = RunWriter(tmp_path)
    write, writev = os.write, os.writev
    full = [False]

    def cut(file: int, data: Any) -> int:
        return write(file, data[:100]) if full[0] and len(data) > 100 else write(file, data)

    def cut_parts(file: int, parts: Any) -> int:
        return writev(file, parts[:3]) if full[0] else writev(file, parts)

    monkeypatch.setattr(os, "write", cut)
    monkeypatch.setattr(os, "writev", cut_parts)
    for number in range(6):
        full[0] = number in (2, 3)
        writer.append(TABLE, events(10_000, 20_000 * number))
        writer.append(TABLE, events(10, 20_000 * number + 10_000))
    writer.close()
    for path in (tmp_path / "segments").glob("*.arrows"):
        pa.ipc.open_stream(path.read_bytes()).read_all()
    kept = times(tmp_path)
    assert sorted({value // 20_000 for value in kept}) == [0, 1, 4, 5]
    assert len(kept) == 4 * 10_010
    assert raw.losses(tmp_path) == {TABLE.name: 2 * 10_010}
    assert "No space left" in caplog.text


# --- killed and forked ------------------------------------------------------------

PROGRAM = f"""
import os, sys, threading, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from vidlab.runs.writer import RunWriter
from tests.runs.test_batches import TABLE, events
writer = RunWriter(Path(sys.argv[1]))
"""


def test_no_batch_is_lost_to_sigkill(tmp_path: Path) -> None:
    script = """
count = 0
while True:
    writer.append(TABLE, events(4000, count))
    count += 4000
    sys.stdout.write(f"{count}\\n")
    sys.stdout.flush()
"""
    command = [sys.executable, "-c", PROGRAM + script, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        written = int([line for line in said if line.endswith("\n")][-1])
    kept = times(tmp_path)
    assert kept in (list(range(written)), list(range(written + 4000)))


def test_a_forked_child_appends_to_files_of_its_own(tmp_path: Path) -> None:
    script = """
writer.append(TABLE, events(3))
if os.fork() == 0:
    if sys.argv[2] == "declares":
        writer.declare(TABLE)
    else:
        thread = threading.Thread(target=writer.append, args=(TABLE, events(2, 100)))
        thread.start()
        thread.join()
    writer.close()
    os._exit(0)
assert os.wait()[1] == 0
if os.fork() == 0:  # one that records nothing has no files
    os._exit(0)
os.wait()
writer.append(TABLE, events(3, 3))
writer.close()
"""
    for what, found in (("declares", []), ("appends", [100, 101])):
        run = tmp_path / what
        subprocess.run([sys.executable, "-c", PROGRAM + script, run, what], check=True, timeout=120)
        first, second = sorted((run / "segments").glob("*.arrows"))
        assert [path.name[:4] for path in (first, second)] == ["0001", "0002"]
        read = [pa.ipc.open_stream(path.read_bytes()).read_all() for path in (first, second)]
        assert [table["t_ns"].to_pylist() for table in read] == [[0, 1, 2, 3, 4, 5], found]
        assert len(list((run / "segments").glob("*.process"))) == 2


def test_forks_while_a_thread_appends(tmp_path: Path) -> None:
    script = """
stop = False
count = 0
def busy():
    global count
    while not stop:
        writer.append(TABLE, events(2000, count))
        count += 2000
thread = threading.Thread(target=busy)
thread.start()
for value in range(6):
    if os.fork() == 0:
        writer.append(TABLE, events(1, -1 - value))
        writer.close()
        os._exit(0)
    assert os.wait()[1] == 0
stop = True
thread.join()
writer.close()
Path(sys.argv[2]).write_text(str(count))
"""
    told = tmp_path / "count"
    run = tmp_path / "run"
    subprocess.run([sys.executable, "-c", PROGRAM + script, run, told], check=True, timeout=120)
    kept = times(run)
    assert sorted(value for value in kept if value < 0) == [-6, -5, -4, -3, -2, -1]
    assert sorted(value for value in kept if value >= 0) == list(range(int(told.read_text())))
    assert not raw.losses(run)
    assert len({json.loads(p.read_text())["pid"] for p in run.rglob("*.process")}) == 7

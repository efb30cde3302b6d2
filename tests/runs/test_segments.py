from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from vidlab.runs.recovery import recover
from vidlab.runs.run import open_run
from vidlab.runs.segments import Segments
from vidlab.runs.verification import verify
from vidlab.schema import UNKNOWN

from .builders import RunBuilder


def spans(run: RunBuilder) -> pl.DataFrame:
    return open_run(run.path).scan("spans").collect().sort("span")


def test_a_run_without_rows(empty):
    segments = Segments(empty.path)
    assert list(segments.batches("spans")) == []
    assert segments.tables == []
    assert segments.losses() == {}
    assert segments.notes == []
    assert not segments.live


def test_a_folder_without_segments(tmp_path):
    segments = Segments(tmp_path)
    assert (segments.tables, segments.notes, segments.processes) == ([], [], {})


def test_values_that_mean_unknown_become_null(empty):
    process = empty.process(1)
    labels = process.labels(stream_id="küche", codec="h264", gpu=3)
    records = process.records(
        "spans",
        2,
        t_ns=[10, 20],
        duration_ns=[1, 2],
        stage=process.name("デコード"),
        kind=[0, 2],
        status=[1, 3],
        labels=[labels, 0],
        frame=[0, process.frame(1, 5)],
        parent=[0, process.span(4, 1)],
        cpu_ns=[-(1 << 63), 7],
        runqueue_ns=[-(1 << 63), 0],
    )
    process.buffer("spans", records, thread=4, tid=44)
    times = process.records("gpu_times", 1, span=process.span(4, 2), gpu_duration_ns=1000)
    process.buffer("gpu_times", times, thread=9, tid=99)
    first, second = spans(empty).to_dicts()
    unknown = ("frame", "parent", "cpu_ns", "runqueue_ns", "gpu_duration_ns")
    assert [first[name] for name in unknown] == [None] * 5
    assert [second[name] for name in unknown] == [
        process.frame(1, 5), process.span(4, 1), 7, 0, 1024  # to the grain of CUDA's clock
    ]  # fmt: skip
    assert (first["stream_id"], first["codec"], first["gpu"]) == ("küche", "h264", 3)
    assert (second["stream_id"], second["codec"], second["gpu"]) == (None, None, None)
    assert first["stage"] == "デコード"
    assert (first["kind"], first["status"]) == ("service", "ok")
    assert (second["kind"], second["status"]) == ("reorder", "cancelled")
    assert (first["span"], second["span"]) == (process.span(4, 1), process.span(4, 2))
    assert (first["pid"], first["tid"]) == (process.pid, 44)


def test_allocations_name_stacks_tasks_and_statuses(empty):
    first, second = empty.process(1), empty.process(2)
    for process, stack in ((first, 7), (second, 1)):
        process._append("stacks", {"id": stack, "frames": [["grab", "app.py", 41]]})
    second._append("stacks", {"id": 2, "frames": [["grab", "app.py", 42], ["main", "app.py", 9]]})
    for process, stacks in ((first, [7, 0]), (second, [2, 1])):
        records = process.records(
            "allocations",
            2,
            t_ns=[1, 2],
            address=1 << 47,
            size_asked_bytes=[100, UNKNOWN],
            stack=stacks,
            context=[0, 5],
            task=[0, process.name("Task-1")],
            status=[process.name("ok"), process.name("OutOfMemoryError")],
            level=[0, 1],
            kind=[1, 3],
            freed_by=[255, 2],
            pooled=[0, 1],
            op=[1, 2],
        )
        process.buffer("allocations", records)
    run = open_run(empty.path)
    assert "stacks" in run.tables()
    for compacted in (False, True):
        if compacted:
            recover(empty.path)
            run = open_run(empty.path)
        stacks = dict(run.scan("stacks").collect().iter_rows())
        assert stacks == {
            1: [{"function": "grab", "file": "app.py", "line": 41}],
            2: [
                {"function": "grab", "file": "app.py", "line": 42},
                {"function": "main", "file": "app.py", "line": 9},
            ],
        }
        rows = run.scan("allocations").collect().sort("pid", "t_ns")
        assert rows["stack"].to_list() == [1, None, 2, 1]
        assert rows["op"].to_list() == ["alloc", "free"] * 2
        assert rows["level"].to_list() == ["pool", "driver"] * 2
        assert rows["kind"].to_list() == ["async", "pinned"] * 2
        assert rows["freed_by"].to_list() == [None, "release"] * 2
        assert rows["pooled"].to_list() == [False, True] * 2
        assert rows["task"].to_list() == [None, "Task-1"] * 2
        assert rows["status"].to_list() == ["ok", "OutOfMemoryError"] * 2
        assert rows["context"].to_list() == [None, 5] * 2
        assert rows["size_asked_bytes"].to_list() == [100, None] * 2
    assert verify(empty.path) == []


def test_a_queue_without_a_limit_has_no_capacity(small):
    rows = open_run(small.path).scan("queue_depths").collect().sort("t_ns")
    assert rows["capacity"].to_list() == [None, 8]
    assert rows["touch"].to_list() == ["put", "get"]


def test_records_are_taken_wherever_in_the_buffer_they_are(empty):
    process = empty.process(1)
    records = process.records("spans", 6, t_ns=np.arange(6), duration_ns=1)
    records["status"][[0, 3]] = 0  # reserved, never committed
    process.buffer("spans", records)
    assert spans(empty)["t_ns"].to_list() == [1, 2, 4, 5]


def test_a_buffer_that_is_in_a_batch_counts_once(empty):
    process = empty.process(1)
    records = process.records("spans", 4, t_ns=np.arange(4), duration_ns=1)
    process.arrows("spans", [(1, 7, records)])
    written = pa.ipc.open_stream(next(empty.segments.glob("*.arrows")))
    name = written.read_next_batch_with_custom_metadata().custom_metadata["buffer"].decode()
    (empty.segments / name).write_bytes(records.tobytes())
    assert spans(empty).height == 4
    process.buffer("spans", process.records("spans", 1, sequence=9))
    assert spans(empty).height == 5


def test_numbers_of_processes_are_their_own(empty):
    first, second = empty.process(1), empty.process(2)
    for process, names in ((first, ("a", "b")), (second, ("b", "a"))):
        for name in names:
            labels = process.labels(stream_id=f"of {name}")
            records = process.records("spans", 1, stage=process.name(name), labels=labels)
            records["sequence"] = len(process.names)
            process.buffer("spans", records)
    rows = spans(empty)
    assert sorted(rows["stage"].to_list()) == ["a", "a", "b", "b"]
    assert all(row["stream_id"] == f"of {row['stage']}" for row in rows.to_dicts())
    assert rows.group_by("labels").len()["len"].to_list() == [2, 2]
    assert rows["span"].n_unique() == 4


def test_two_hundred_label_sets(empty):
    process = empty.process(1)
    ids = [process.labels(stream_id=f"cam-{n:03d}", region=f"r{n % 7}") for n in range(200)]
    process.buffer("spans", process.records("spans", 200, labels=ids, t_ns=range(200)))
    rows = spans(empty)
    assert rows["stream_id"].to_list() == [f"cam-{n:03d}" for n in range(200)]
    assert rows["region"].to_list() == [f"r{n % 7}" for n in range(200)]


@pytest.mark.parametrize("table", ["spans", "findings"])
def test_a_stream_cut_at_every_byte_keeps_its_whole_batches(empty, table):
    process = empty.process(1)
    if table == "spans":
        all_records = process.records("spans", 9, t_ns=np.arange(9), duration_ns=1)
        path = process.arrows(table, [(1, 7, all_records[at : at + 3]) for at in (0, 3, 6)])
    else:
        path = process.rows(table, [{"kind": "k", "message": "m", "t_ns": n} for n in range(3)])
    content = path.read_bytes()
    ends = ends_of_batches(content)
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        whole = [rows for end, rows in ends if end <= cut]
        expected = list(range(sum(whole)))
        segments = Segments(empty.path)
        read = [t for _, batch in segments.batches(table) for t in batch["t_ns"].to_pylist()]
        assert read == expected, cut
        # Where a file ends between two batches nothing shows that more was to come.
        assert len(segments.notes) <= 1
    assert open_run(empty.path).scan(table).collect().height == sum(rows for _, rows in ends)


def ends_of_batches(stream: bytes) -> list[tuple[int, int]]:
    """Where each batch of a stream ends, and its rows."""
    source = pa.BufferReader(stream)
    reader = pa.ipc.open_stream(source)
    return [(source.tell(), batch.num_rows) for batch in reader]


def test_a_buffer_cut_at_every_byte_keeps_its_whole_records(empty):
    process = empty.process(1)
    name = process.buffer("spans", process.records("spans", 3, t_ns=[1, 2, 3]), spare=1)
    content = (empty.segments / name).read_bytes()
    size = len(content) // 4
    for cut in range(len(content) + 1):
        (empty.segments / name).write_bytes(content[:cut])
        batches = Segments(empty.path).batches("spans")
        read = [t for _, batch in batches for t in batch["t_ns"].to_pylist()]
        assert read == [1, 2, 3][: cut // size], cut


@pytest.mark.parametrize("side", ["labels", "names"])
def test_side_files_cut_at_every_byte(small, side):
    path = small.segments / f"0001-{side}.jsonl"
    content = path.read_bytes()
    height = spans(small).height
    for cut in range(0, len(content), 29):
        path.write_bytes(content[:cut])
        run = open_run(small.path)
        assert run.scan("spans").collect().height == height
    assert any("not written down" in note for note in run.notes)


def test_files_of_nonsense_are_noted_and_the_others_read(small):
    height = spans(small).height
    noise = np.random.default_rng(0).bytes(5000)
    for name in (
        "0001-spans-000900.arrows",
        "0009-00001-7-spans-000001.buf",
        "0009.process",
        "0009-labels.jsonl",
        "0009-losses.json",
        "what is this",
        "0001-martian_table-000001.arrows",
    ):
        (small.segments / name).write_bytes(noise if not name.endswith(".buf") else b"")
    run = open_run(small.path)
    assert run.scan("spans").collect().height == height
    assert run.losses == {"spans": {"lost": 3, "let_go": 0}}
    assert "martian_table" not in run.tables()
    named = ("000900", "0009.process", "0009-labels", "0009-losses", "what is this", "martian")
    for name in named:
        assert any(name in note for note in run.notes), name


def test_a_process_lives_as_long_as_it_holds_its_lock(small):
    alive = small.process(2).alive()
    run = open_run(small.path)
    assert run.live
    assert run.state == "recording"
    alive.close()
    assert not run.live
    assert run.state == "killed"


def test_a_living_process_adds_rows_labels_and_names(empty):
    process = empty.process(1)
    with process.alive():
        run = open_run(empty.path)
        assert run.scan("spans").collect().height == 0
        lazy = run.scan("spans")
        labels = process.labels(stream_id="new")
        records = process.records("spans", 2, stage=process.name("new"), labels=labels)
        process.buffer("spans", records)
        assert lazy.collect()["stream_id"].to_list() == ["new", "new"]
        # The batch that is just being written is no damage.
        path = process.arrows("spans", [(2, 8, records)])
        path.write_bytes(path.read_bytes()[:-40])
        assert lazy.collect().height == 2
        assert run.notes == []


def test_a_buffer_that_is_written_meanwhile_is_read_once(empty, monkeypatch):
    process = empty.process(1)
    records = process.records("spans", 4, t_ns=np.arange(4))
    with process.alive():
        name = process.buffer("spans", records)
        segments = Segments(empty.path)
        read_first = Segments._committed

        def then_it_is_written(self, file, table):
            batch = read_first(self, file, table)
            (self.folder / file).unlink(missing_ok=True)
            path = process.arrows("spans", [(1, 7, records)])
            mark = path.read_bytes()
            old = pa.ipc.open_stream(mark).read_next_batch_with_custom_metadata()
            with pa.ipc.new_stream(str(path), old.batch.schema) as stream:
                stream.write_batch(old.batch, custom_metadata={"buffer": name})
            return batch

        monkeypatch.setattr(Segments, "_committed", then_it_is_written)
        assert sum(batch.num_rows for _, batch in segments.batches("spans")) == 4

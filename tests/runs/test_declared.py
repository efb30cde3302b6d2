"""Tables that a recording declares, as they are read: from segments and from files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidlab.errors import RunError
from vidlab.runs import parquet, sorting
from vidlab.runs.compaction import compact
from vidlab.runs.encoding import segment_schema
from vidlab.runs.recovery import recover
from vidlab.runs.run import Run, open_run
from vidlab.runs.segments import Segments
from vidlab.runs.verification import verify
from vidlab.runs.writer import RunWriter
from vidlab.schema import TEXT, Column, Table, declared, kernel_table

from .builders import ProcessBuilder, RunBuilder, small_run
from .test_segments import ends_of_batches

TABLE = kernel_table(
    "alloc",
    [
        Column("size_bytes", pa.int64(), "what was asked for", "bytes"),
        Column("context", pa.uint64(), "a handle"),
        Column("symbol", TEXT, "the function"),
    ],
    "an allocation",
)


def stream(process: ProcessBuilder, table: Table, *batches: dict[str, Any]) -> Path:
    """Write columns as the batches of a stream; those that are not given are null."""
    schema = segment_schema(table)
    made = []
    for columns in batches:
        rows = max(map(len, columns.values()), default=0)
        arrays = [
            pa.array(columns[field.name], field.type)
            if field.name in columns
            else pa.nulls(rows, field.type)
            for field in schema
        ]
        made.append((pa.RecordBatch.from_arrays(arrays, schema=schema), None))
    if made:
        return process._stream(table.name, made)
    empty = pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)
    return process._stream(table.name, [(empty, None)])


def both(run: RunBuilder) -> list[Run]:
    """The run as its segments have it, and as it is after its recovery."""
    before = open_run(run.path)
    before.tables()
    return [before, run_recovered(run)]


def run_recovered(run: RunBuilder) -> Run:
    recover(run.path)
    assert verify(run.path) == []
    return open_run(run.path)


def rows(run: Run, table: str = TABLE.name) -> list[dict[str, Any]]:
    return run.scan(table).collect().sort("t_ns").to_dicts()


def test_values_and_nulls(empty):
    process = empty.process(1)
    labels = process.labels(stream_id="cam", region="north")
    columns = {
        "t_ns": [10, 20, 30],
        "pid": [5, 5, 5],
        "tid": [6, 6, 7],
        "cpu": [0, 1, 0],
        "span": [0, process.span(1, 2), 0],
        "frame": [0, process.frame(1, 2), 0],
        "labels": [0, labels, 0],
        "size_bytes": [0, 984, None],
        "context": [0, 7, None],
        "symbol": [0, process.name("cuMemAlloc"), None],
    }
    stream(process, TABLE, columns)
    open_before = open_run(empty.path)
    for run in (open_before, run_recovered(empty), open_before):
        assert TABLE.name in run.tables()
        first, second, third = rows(run)
        assert list(first) == [c.name for c in TABLE.columns] + ["sample_rate", "region"]
        assert (first["pid"], first["tid"], first["cpu"]) == (5, 6, 0)
        assert [row["span"] for row in (first, second, third)] == [None, process.span(1, 2), None]
        assert [row["frame"] for row in (first, second, third)] == [None, process.frame(1, 2), None]
        assert [row["size_bytes"] for row in (first, second, third)] == [0, 984, None]
        assert [row["context"] for row in (first, second, third)] == [0, 7, None]  # 0 is a value
        assert [row["symbol"] for row in (first, second, third)] == [None, "cuMemAlloc", None]
        assert [row["stream_id"] for row in (first, second, third)] == [None, "cam", None]
        assert (second["region"], second["sample_rate"]) == ("north", 1.0)
        schema = run.scan(TABLE.name).collect_schema()
        assert schema == run.scan(TABLE.name).collect().schema
        assert (schema["cpu"], schema["symbol"]) == (pl.UInt16, pl.Categorical)


def test_a_finished_file_says_what_it_is(empty):
    stream(empty.process(1), TABLE, {"t_ns": [1]})
    run = run_recovered(empty)
    schema = pq.read_schema(empty.path / f"{TABLE.name}.parquet")
    assert declared(TABLE.name, schema) == TABLE
    assert parquet.metadata(empty.path / f"{TABLE.name}.parquet")["vidlab.schema"] == "vidlab.run/1"
    assert run.manifest.tables[TABLE.name].rows == 1


def test_a_table_without_rows_is_there(empty):
    """Somebody looked, and nothing happened; that is not the same as no table."""
    stream(empty.process(1), TABLE)
    for run in both(empty):
        assert TABLE.name in run.tables()
        assert run.scan(TABLE.name).collect().height == 0
        assert "size_bytes" in run.scan(TABLE.name).collect_schema()


@pytest.mark.parametrize("finished", [False, True])
def test_a_kernel_table_that_there_is_not(small, finished):
    if finished:
        recover(small.path)
    with pytest.raises(RunError, match=r"no table 'kernel_tcp'.*KernelEvents"):
        open_run(small.path).scan("kernel_tcp")
    assert open_run(small.path).scan("kernel_metrics").collect().height == 0


def test_labels_are_those_of_the_span_s_process(empty):
    """A recording's reader also reads events of its children, which number labels themselves."""
    first, second = empty.process(1), empty.process(2)
    own = first.labels(stream_id="of the parent")
    assert second.labels(stream_id="of the child") == own == 1
    columns = {
        "t_ns": [1, 2, 3, 4],
        "span": [first.span(1, 1), second.span(1, 1), 0, 9 << 52 | 1],
        "labels": [1, 1, 1, 1],
    }
    stream(first, TABLE, columns)
    for run in both(empty):
        found = [row["stream_id"] for row in rows(run)]
        assert found == ["of the parent", "of the child", "of the parent", None]


def test_processes_whose_declarations_differ(empty):
    first, second = empty.process(1), empty.process(2)
    other = kernel_table(
        "alloc",
        [
            Column("size_bytes", pa.int32(), "", "bytes"),
            Column("context", TEXT, ""),
            Column("kind", TEXT, "of memory"),
        ],
    )
    stream(first, TABLE, {"t_ns": [1], "size_bytes": [1 << 40], "context": [(1 << 64) - 1],
                          "symbol": [first.name("f")]})  # fmt: skip
    stream(second, other, {"t_ns": [2], "size_bytes": [8], "context": [second.name("main")],
                           "kind": [second.name("pinned")]})  # fmt: skip
    for run in both(empty):
        one, two = rows(run)
        assert (one["size_bytes"], two["size_bytes"]) == (1 << 40, 8)
        assert (one["context"], two["context"]) == (str((1 << 64) - 1), "main")
        assert (one["symbol"], two["symbol"]) == ("f", None)
        assert (one["kind"], two["kind"]) == (None, "pinned")
        (note,) = (note for note in run.notes if "context" in note)
        assert note.endswith("both as uint64 and as text: it is read as text")
        assert any("size_bytes both as int64 and as int32" in note for note in run.notes)


def test_a_declaration_that_comes_while_the_run_is_read(empty):
    process = empty.process(1)
    with process.alive():
        run = open_run(empty.path)
        assert TABLE.name not in run.tables()
        narrow = kernel_table("alloc", [Column("size_bytes", pa.int16(), "", "bytes")])
        stream(process, narrow, {"t_ns": [1], "size_bytes": [8]})
        lazy = run.scan(TABLE.name)
        assert lazy.collect()["size_bytes"].to_list() == [8]
        stream(process, TABLE, {"t_ns": [2], "size_bytes": [1 << 40]})
        assert lazy.collect()["size_bytes"].to_list() == [8, None]  # of the type that was promised
        assert any("left out" in note for note in run.notes)
        assert run.scan(TABLE.name).collect()["size_bytes"].to_list() == [8, 1 << 40]


def test_a_label_named_like_a_field_does_not_hide_it(empty):
    process = empty.process(1)
    labels = process.labels(stream_id="a", size_asked="x", waker="of a label")
    table = kernel_table("alloc", [Column("waker", pa.int32(), "who woke the thread")])
    stream(process, table, {"t_ns": [1], "labels": [labels], "waker": [9]})
    process.buffer("spans", process.records("spans", 1, labels=labels))
    for run in both(empty):
        (row,) = rows(run)
        assert (row["waker"], row["label_waker"], row["size_asked"]) == (9, "of a label", "x")
        assert run.scan("spans").collect()["waker"].to_list() == ["of a label"]


def test_a_stream_that_is_cut_off(empty):
    process = empty.process(1)
    path = stream(process, TABLE, *({"t_ns": [3 * n, 3 * n + 1]} for n in range(3)))
    content = path.read_bytes()
    ends = ends_of_batches(content)
    near = {end + step for end, _ in ends for step in (-1, 0, 1)}
    for cut in sorted({*range(0, len(content), 61), *near}):
        path.write_bytes(content[:cut])
        expected = sum(count for end, count in ends if end <= cut)
        run = open_run(empty.path)
        known = TABLE.name in run.tables()
        assert known or not expected
        if known:
            assert run.scan(TABLE.name).collect().height == expected, cut
        else:
            assert any("declaration" in note for note in run.notes), cut


def test_what_is_no_declaration_is_noted_and_left_out(small):
    process = small.process(1)
    stream(process, TABLE, {"t_ns": [1]})
    path = stream(process, kernel_table("other"), {"t_ns": [1]})
    path.rename(path.with_name(path.name.replace("kernel_other", "kernel_Stranger_9")))
    stranger = segment_schema(TABLE).set(4, pa.field("span", pa.string()))
    batch = pa.RecordBatch.from_pylist([{"t_ns": 1, "span": "x"}], schema=stranger)
    process._stream(TABLE.name, [(batch, None)]).rename(
        small.segments / "0001-kernel_alloc-000902.arrows"
    )
    noise = np.random.default_rng(0).bytes(3000)
    (small.segments / "0001-kernel_noise-000900.arrows").write_bytes(noise)
    (small.segments / "0001-kernel_alloc-000901.arrows").write_bytes(noise)
    for run in both(small):
        assert [name for name in run.tables() if name.startswith("kernel")] == [TABLE.name]
        assert len(rows(run)) == 1
        for name in ("kernel_Stranger_9", "kernel_noise", "000901", "000902"):
            assert any(name in note for note in run.notes), name


def test_losses_of_a_table_that_never_had_a_file(empty):
    empty.process(1).losses(kernel_x={"lost": 5, "let_go": 0}, nonsense={"lost": 1, "let_go": 0})
    run = run_recovered(empty)
    assert run.losses == {"kernel_x": {"lost": 5, "let_go": 0}}
    assert "kernel_x" not in run.tables()


def test_verification(small):
    stream(small.process(1), TABLE, {"t_ns": [2, 1], "labels": [0, 1]})
    recover(small.path)
    path = small.path / f"{TABLE.name}.parquet"
    clean = pq.read_table(path)

    def problems() -> list[str]:
        return [problem.message for problem in verify(small.path) if problem.where == TABLE.name]

    assert problems() == []
    pq.write_table(clean.take([1, 0]), path)
    assert problems() == ["not sorted by stream and time"]
    pq.write_table(clean.drop_columns(["span"]), path)
    assert problems() == ["the column span is missing"]
    pq.write_table(clean.replace_schema_metadata({"vidlab.schema": "vidlab.run/1"}), path)
    assert problems() == ["its declaration cannot be read (it does not declare kernel_alloc)"]
    assert open_run(small.path).scan(TABLE.name).collect().height == 2
    path.unlink()
    assert problems() == ["kernel_alloc.parquet is missing: it had 2 rows"]
    with pytest.raises(RunError, match="no table"):
        open_run(small.path).scan(TABLE.name)


def test_what_is_written_is_read(tmp_path):
    """The writer and the reader, on more than one piece and one place in the order."""
    run = small_run(tmp_path / "run")
    count = 60_000
    random = np.random.default_rng(1)
    writer = RunWriter(run.path)
    decode = writer.names.number("decode")
    columns = {
        "t_ns": random.permutation(count),
        "pid": np.full(count, os.getpid(), np.uint32),
        "span": np.where(np.arange(count) % 2, np.uint64(writer.index << 52 | 5), np.uint64(0)),
        "labels": np.zeros(count, np.uint32),
        "size_bytes": random.integers(0, 1 << 40, count),
        "symbol": np.full(count, decode, np.uint32),
    }
    for start in range(0, count, 7000):
        writer.append(TABLE, {name: v[start : start + 7000] for name, v in columns.items()})
    writer.row("kernel_metrics", metric="m", kind="histogram", low=1.0, high=2.0, count=3)
    writer.row("kernel_probes", table=TABLE.name, symbol="f", hits=5, emitted=4, lost=1)
    writer.close()
    order = np.argsort(columns["t_ns"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorting, "GATHER_BYTES", 1 << 20)
        patch.setattr(sorting, "BLOCK_ROWS", 1 << 14)
        for opened in both(run):
            found = opened.scan(TABLE.name).collect().sort("t_ns")
            assert found["t_ns"].to_list() == list(range(count))
            assert np.array_equal(found["size_bytes"].to_numpy(), columns["size_bytes"][order])
            assert found["span"].null_count() == count // 2
            assert found["symbol"].unique().to_list() == ["decode"]
            (metric,) = opened.scan("kernel_metrics").collect().to_dicts()
            assert (metric["kind"], metric["low"], metric["count"]) == ("histogram", 1.0, 3)
            (probe,) = opened.scan("kernel_probes").collect().to_dicts()
            assert (probe["hits"], probe["emitted"], probe["misses"]) == (5, 4, None)


def test_a_run_is_read_on_while_it_is_compacted(tmp_path):
    run = small_run(tmp_path / "run", "complete")
    stream(run.process(3), TABLE, {"t_ns": [1, 2]})
    opened = open_run(run.path)
    lazy = opened.scan(TABLE.name)
    compact(run.path)
    assert lazy.collect()["t_ns"].to_list() == [1, 2]
    assert opened.scan(TABLE.name).collect()["t_ns"].to_list() == [1, 2]


def test_declarations_are_read_once(empty, monkeypatch):
    process = empty.process(1)
    for _ in range(3):
        stream(process, TABLE, {"t_ns": [1]})
    segments = Segments(empty.path)
    assert segments.tables == [TABLE.name]
    read = []
    monkeypatch.setattr(Segments, "_read_declaration", lambda self, file, name: read.append(file))
    assert segments.table(TABLE.name) == TABLE
    assert read == []


def test_manifests_list_declared_tables_after_the_others(empty):
    process = empty.process(1)
    for name in ("zebra", "Alpha"):
        stream(process, kernel_table(name), {"t_ns": [1]})
    process.rows("findings", [{"kind": "k"}])
    for run in both(empty):
        assert run.tables()[-3:] == ["findings", "kernel_Alpha", "kernel_zebra"]
    manifest = json.loads((empty.path / "manifest.json").read_text())
    assert list(manifest["tables"])[-2:] == ["kernel_Alpha", "kernel_zebra"]

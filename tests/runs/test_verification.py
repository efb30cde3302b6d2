from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from vidlab.errors import RunError
from vidlab.runs.recovery import recover
from vidlab.runs.verification import Problem, verify

from .builders import RunBuilder


@pytest.fixture
def clean(small: RunBuilder) -> RunBuilder:
    """A recovered run; each test damages it in one way."""
    recover(small.path)
    assert verify(small.path) == []
    return small


def replace(run: RunBuilder, table: str, change) -> None:
    path = run.path / f"{table}.parquet"
    rows = pq.read_table(path)
    changed = change(rows)
    pq.write_table(changed.replace_schema_metadata(rows.schema.metadata), path)


def column(rows: pa.Table, name: str, values: object) -> pa.Table:
    index = rows.column_names.index(name)
    return rows.set_column(index, rows.schema.field(index), pa.array(values, rows[name].type))


def found(run: RunBuilder, where: str, text: str) -> bool:
    problems = verify(run.path)
    return any(p.where == where and text in p.message for p in problems)


def test_a_run_without_rows(empty):
    recover(empty.path)
    assert verify(empty.path) == []


def test_no_run(tmp_path):
    with pytest.raises(RunError):
        verify(tmp_path)


def test_a_killed_run_is_to_be_recovered(small):
    (problem,) = verify(small.path)
    assert problem.where == "manifest.json"
    assert "vidlab recover" in problem.message
    assert str(problem) == f"manifest.json: {problem.message}"
    with small.process(1).alive():
        assert found(small, "manifest.json", "still going on")


def test_what_cannot_be_read_of_a_killed_run(small):
    (small.segments / "0001-spans-000900.arrows").write_bytes(b"nonsense" * 100)
    assert found(small, "segments", "000900")


def test_a_run_that_was_not_compacted(small):
    small.manifest["state"] = "complete"
    small.write_manifest()
    assert found(small, "segments", "vidlab compact")


def test_rows_missing(clean):
    replace(clean, "spans", lambda rows: rows.slice(1))
    assert found(clean, "spans", "1804 rows, the manifest says 1805")
    assert found(clean, "cube.parquet", "counts 1805")


def test_a_file_missing_or_cut(clean):
    path = clean.path / "frames.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert found(clean, "frames", "cannot be read")
    path.unlink()
    assert found(clean, "frames", "missing: it had 180 rows")
    (clean.path / "cube.parquet").write_bytes(b"PAR1")
    assert found(clean, "cube.parquet", "cannot be read")
    (clean.path / "cube.parquet").unlink()
    assert found(clean, "cube.parquet", "missing")


def test_columns(clean):
    replace(clean, "spans", lambda rows: rows.drop_columns(["cpu_ns"]))
    assert found(clean, "spans", "the column cpu_ns is missing")
    as_float = lambda rows: rows.set_column(  # noqa: E731
        rows.column_names.index("seq"), "seq", rows["seq"].cast(pa.float64())
    )
    replace(clean, "frames", as_float)
    assert found(clean, "frames", "the column seq is double")


def test_another_schema_version(clean):
    path = clean.path / "spans.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows.replace_schema_metadata({"vidlab.schema": "vidlab.run/0"}), path)
    assert found(clean, "spans", "vidlab.run/0")


@pytest.mark.parametrize("by", ["stream_id", "t_ns"])
def test_order(clean, by):
    def disorder(rows: pa.Table) -> pa.Table:
        if by == "t_ns":
            return column(rows, "t_ns", rows["t_ns"].to_pylist()[::-1])
        return rows.take(np.arange(len(rows))[::-1])

    replace(clean, "spans", disorder)
    assert found(clean, "spans", "not sorted")


def test_ids(clean):
    replace(clean, "spans", lambda rows: column(rows, "span", [5, 5, *range(10, 1813)]))
    assert found(clean, "spans", "1 of the numbers in span occur twice")
    replace(clean, "frames", lambda rows: column(rows, "frame", [None, *range(1, 180)]))
    assert found(clean, "frames", "1 rows without a frame")


def test_labels(clean):
    replace(clean, "labels", lambda rows: rows.slice(0, 3))
    assert found(clean, "spans", "label sets that the table labels lacks")


def test_frames_of_spans(clean):
    replace(clean, "frames", lambda rows: rows.slice(2))
    assert found(clean, "spans", "2 frames have spans but no row")


def test_frames_that_were_let_go_are_not_missed(clean):
    replace(clean, "frames", lambda rows: rows.slice(2))
    manifest = json.loads((clean.path / "manifest.json").read_text())
    manifest["tables"]["frames"]["rows"] -= 2
    manifest["tables"]["frame_events"] = {"rows": 0, "lost": 0, "let_go": 9}
    (clean.path / "manifest.json").write_text(json.dumps(manifest))
    assert verify(clean.path) == []


def test_parents(clean):
    def own_parent(rows: pa.Table) -> pa.Table:
        return rows.set_column(rows.column_names.index("parent"), "parent", rows["span"])

    replace(clean, "spans", own_parent)
    assert found(clean, "spans", "1805 spans have a parent that began after them")
    replace(clean, "spans", lambda rows: column(rows, "parent", [9 << 52] * len(rows)))
    assert found(clean, "spans", "a process that did not record")


def test_a_parent_that_was_open_at_the_end_is_not_missed(clean):
    """Its process ended, or the recording did, while it was open: no row of it is to be had."""
    kept = lambda rows: rows.filter(pc.not_equal(rows["span"], 1 << 52 | 3 << 32 | 1))  # noqa: E731
    replace(clean, "spans", kept)
    assert not any("parent" in problem.message for problem in verify(clean.path))


def test_problems_are_plain_values():
    assert Problem("a", "b") == Problem("a", "b")

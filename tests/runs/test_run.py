from __future__ import annotations

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidlab.errors import RunError, SchemaError
from vidlab.runs.compaction import compact
from vidlab.runs.recovery import recover
from vidlab.runs.run import open_run
from vidlab.runs.segments import Segments
from vidlab.schema import TABLES

from .builders import RunBuilder, small_run


def test_a_run_without_rows(empty):
    run = open_run(empty.path)
    assert run.tables() == ["labels"]
    assert (run.state, run.live, run.losses, run.notes) == ("killed", False, {}, [])
    for name, table in TABLES.items():
        rows = run.scan(name).collect()
        assert rows.columns[: len(table.columns)] == [column.name for column in table.columns]
        assert rows.height == (1 if name == "labels" else 0)
    assert run.cube().height == 0


@pytest.mark.parametrize("finished", [False, True])
def test_columns_are_the_schema_s_then_the_further_labels(small, finished):
    if finished:
        recover(small.path)
    run = open_run(small.path)
    for name, table in TABLES.items():
        rows = run.scan(name).collect()
        further = ["sample_rate", "region"] if table.event else []
        assert rows.columns == [column.name for column in table.columns] + further
        # What a plan promises is what it yields.
        assert run.scan(name).collect_schema() == rows.schema
    regions = run.scan("spans").group_by("region").len().sort("region").collect()
    assert regions.to_dicts() == [{"region": None, "len": 605}, {"region": "north", "len": 1200}]


@pytest.mark.parametrize("finished", [False, True])
def test_text_is_compared_with_text(small, finished):
    if finished:
        recover(small.path)
    spans = open_run(small.path).scan("spans")
    decode = spans.filter(pl.col("stage") == "decode", pl.col("kind") == "reorder").collect()
    assert decode.height == 180
    assert spans.filter(pl.col("stage").is_in(["mux", "nothing"])).collect().height == 180
    one = spans.filter(pl.col("stream_id") == "cam-1-002")
    assert one.select(pl.len()).collect().item() == 400
    assert one.head(3).collect().height == 3
    assert spans.filter(pl.col("region") == "north").select("span").collect().height == 1200


def test_runs_are_stacked_and_joined(tmp_path):
    runs = []
    for name in ("a", "b"):
        small_run(tmp_path / name)
        runs.append(open_run(tmp_path / name))
    recover(tmp_path / "b")
    spans = pl.concat([run.scan("spans") for run in runs])
    assert spans.select(pl.len()).collect().item() == 2 * 1805
    counts = spans.group_by("stage", "codec").len().collect()
    assert counts.filter(pl.col("stage") == "mux")["len"].sum() == 360
    joined = runs[0].scan("spans").join(runs[1].scan("spans"), on=["span", "stage", "stream_id"])
    assert joined.select(pl.len()).collect().item() == 1805
    frames = pl.concat([run.scan("frames") for run in runs]).collect()
    assert frames.group_by("fate").len().to_dicts() == [{"fate": "delivered", "len": 360}]


def test_a_filter_reaches_the_file(small):
    recover(small.path)
    plan = open_run(small.path).scan("spans").filter(pl.col("stream_id") == "x").explain()
    scan = plan[plan.index("Parquet SCAN") :]
    assert 'SELECTION: col("stream_id") == "x"' in scan
    plan = open_run(small.path).scan("spans").select("stage").explain()
    assert "PROJECT 1/" in plan
    assert "replace" not in plan  # the further labels cost nothing where they are not asked for


def test_pandas(small):
    recover(small.path)
    spans = open_run(small.path).pandas("spans")
    assert len(spans) == 1805
    assert (spans["stage"] == "mux").sum() == 180


def test_a_table_that_there_is_not(small):
    with pytest.raises(RunError, match=r"no table 'span'; this run has labels, spans.*gc_pauses"):
        open_run(small.path).scan("span")


def test_a_table_whose_file_is_missing_is_empty(small):
    recover(small.path)
    (small.path / "frames.parquet").unlink()
    (small.path / "cube.parquet").unlink()
    run = open_run(small.path)
    assert "frames" not in run.tables()
    assert run.scan("frames").collect().height == 0
    assert run.cube()["count"].sum() == 1805


def test_an_older_run_lacks_columns_and_has_others(small):
    recover(small.path)
    path = small.path / "spans.parquet"
    rows = pq.read_table(path)
    older = rows.drop_columns(["gpu_duration_ns", "status"]).append_column(
        "colour", pa.array(["red"] * len(rows))
    )
    older = older.set_column(
        older.column_names.index("stage"), "stage", older["stage"].cast(pa.string())
    )
    pq.write_table(older, path)
    spans = open_run(small.path).scan("spans").collect()
    assert spans["gpu_duration_ns"].dtype == pl.Int64
    assert spans["gpu_duration_ns"].null_count() == spans.height
    assert spans["stage"].dtype == pl.Categorical
    assert spans["colour"].unique().to_list() == ["red"]
    assert spans.columns[:10] == [column.name for column in TABLES["spans"].columns][:10]


def test_a_table_of_a_later_version_is_handed_on(small):
    recover(small.path)
    pq.write_table(pa.table({"x": [1, 2]}), small.path / "auras.parquet")
    manifest = json.loads((small.path / "manifest.json").read_text())
    manifest["tables"]["auras"] = {"rows": 2}
    (small.path / "manifest.json").write_text(json.dumps(manifest))
    run = open_run(small.path)
    assert "auras" in run.tables()
    assert run.scan("auras").collect()["x"].to_list() == [1, 2]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": "vidlab.run/1"}', "\x00\xff"])
def test_a_manifest_of_nonsense(small, text):
    (small.path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(RunError, match="manifest"):
        open_run(small.path)


def test_a_schema_from_the_future(small):
    small.manifest["schema"] = "vidlab.run/2"
    small.write_manifest()
    with pytest.raises(SchemaError, match="upgrade"):
        open_run(small.path)


def test_no_run_at_all(tmp_path):
    with pytest.raises(RunError, match="no manifest"):
        open_run(tmp_path)
    with pytest.raises(RunError, match="does not exist"):
        open_run(tmp_path / "nowhere")


def test_a_run_that_cannot_be_written_is_read(small):
    for path in (small.segments, small.path):
        path.chmod(0o555)
    try:
        assert open_run(small.path).scan("spans").collect().height == 1805
    finally:
        for path in (small.path, small.segments):
            path.chmod(0o755)


def test_labels_named_like_a_column_do_not_hide_it(empty):
    process = empty.process(1)
    labels = process.labels(stream_id="a", width="wide", sample_rate_="x")
    process.buffer("spans", process.records("spans", 1, labels=labels))
    (row,) = open_run(empty.path).scan("spans").collect().to_dicts()
    assert (row["label_width"], row["sample_rate_"], row["sample_rate"]) == ("wide", "x", 1.0)


def test_findings_that_follow_from_frames_are_there_at_any_time(empty):
    """A key frame's packet never comes out of the decoder, and takes frames with it."""
    process = empty.process(1)
    labels = process.labels(stream_id="cam")
    out = np.r_[0:10, 20:30]  # the second group of pictures is lost
    for event, seq in (("demuxed", np.arange(30)), ("sent", np.arange(30)), ("decoded", out)):
        number = ("demuxed", "sent", "decoded").index(event)
        records = process.records(
            "frame_events",
            len(seq),
            t_ns=seq * 1000 + number * 100,
            frame=process.frame(1, seq),
            pts=seq,
            dts=seq,
            seq=seq,
            labels=labels,
            flags=seq % 10 == 0,
            event=number + 1,
        )
        process.buffer("frame_events", records, thread=number)
    before = open_run(empty.path).scan("findings").collect()
    assert before["kind"].to_list() == ["gop_loss"]
    assert before["stream_id"].to_list() == ["cam"]
    recover(empty.path)
    assert open_run(empty.path).scan("findings").collect().equals(before)


@pytest.mark.parametrize(("table", "key"), [("spans", "span"), ("frames", "frame")])
def test_a_run_that_is_compacted_while_it_is_open(tmp_path, table, key):
    path = small_run(tmp_path / "run", "complete").path
    run = open_run(path)
    rows = run.scan(table)
    before = rows.collect().sort(key)
    compact(path)
    assert rows.collect().sort(key).equals(before)
    assert run.compacted
    assert (run.state, run.losses) == ("complete", {"spans": {"lost": 3, "let_go": 0}})
    assert run.scan("spans").select(pl.len()).collect().item() == 1805


@pytest.mark.parametrize(("table", "count"), [("spans", 1805), ("frames", 180)])
def test_a_run_that_is_compacted_while_it_is_read(tmp_path, monkeypatch, table, count):
    """Rows are perhaps missing then: that must not go by unseen."""
    path = small_run(tmp_path / "run", "complete").path
    rows = open_run(path).scan(table)
    read = Segments.batches

    def compacted_between(self, name):
        batches = read(self, name)
        yield next(batches)
        monkeypatch.undo()
        compact(path)
        yield from batches

    monkeypatch.setattr(Segments, "batches", compacted_between)
    with pytest.raises(RunError, match="read it again"):
        rows.collect()
    assert rows.collect().height == count


def test_a_recording_goes_on(tmp_path):
    small = RunBuilder(tmp_path / "run")
    process = small.process(1)
    with process.alive():
        run = open_run(small.path)
        assert (run.state, run.live) == ("recording", True)
        counts = []
        for n in range(3):
            process.buffer("spans", process.records("spans", 5, t_ns=n), thread=n + 1)
            counts.append(run.scan("spans").select(pl.len()).collect().item())
        assert counts == [5, 10, 15]
        assert repr(run) == "<Run run: recording, labels, spans>"

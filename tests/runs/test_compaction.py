from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vidlab.errors import RunError
from vidlab.histogram import RELATIVE_ERROR, Histogram, bucket_of
from vidlab.runs import compaction, cube, derivation, parquet, sorting
from vidlab.runs.compaction import compact
from vidlab.runs.run import Run, open_run
from vidlab.runs.verification import verify
from vidlab.schema import TABLES

from .builders import RunBuilder, pipeline, small_run


@pytest.fixture
def ended(tmp_path: Path) -> RunBuilder:
    """A run that ended by itself and is not compacted yet."""
    return small_run(tmp_path / "ended", "complete")


def contents(run: Run) -> dict[str, pl.DataFrame]:
    """All tables, in an order that does not depend on where the rows came from."""
    tables = {}
    for name in TABLES:
        rows = run.scan(name).collect()
        keys = [key for key in ("t_ns", "span", "frame", "labels", "stack") if key in rows.columns]
        tables[name] = rows.sort(keys)
    del tables["frame_events"], tables["gpu_times"]  # not kept
    return tables


def same(a: dict[str, pl.DataFrame], b: dict[str, pl.DataFrame]) -> bool:
    assert a.keys() == b.keys()
    return all(a[name].schema == b[name].schema and a[name].equals(b[name]) for name in a)


def test_a_run_without_rows(tmp_path):
    run = RunBuilder(tmp_path / "run", "complete")
    manifest = compact(run.path)
    assert {name: facts.rows for name, facts in manifest.tables.items()} == {
        "labels": 1, "spans": 0, "frames": 0
    }  # fmt: skip
    opened = open_run(run.path)
    assert opened.scan("spans").collect().height == 0
    assert opened.cube().height == 0
    assert verify(run.path) == []


def test_nothing_changes_but_the_order(ended):
    before = contents(open_run(ended.path))
    manifest = compact(ended.path)
    after = open_run(ended.path)
    assert same(before, contents(after))
    assert manifest.state == "complete"
    assert manifest.tables["spans"].lost == 3
    assert not (ended.path / "segments").exists()
    assert not (ended.path / compaction.SCRATCH).exists()
    assert verify(ended.path) == []


def test_compacting_again_changes_nothing(ended):
    compact(ended.path)
    files = {path: path.read_bytes() for path in ended.path.iterdir()}
    compact(ended.path)
    assert {path: path.read_bytes() for path in ended.path.iterdir()} == files


def test_a_table_is_sorted_by_stream_and_time(ended):
    compact(ended.path)
    rows = open_run(ended.path).scan("spans").select("stream_id", "t_ns").collect()
    plain = rows.with_columns(pl.col("stream_id").cast(pl.String))
    assert plain.equals(plain.sort("stream_id", "t_ns"))
    assert plain["stream_id"].n_unique() == 6


def test_files_say_what_they_are(ended):
    compact(ended.path)
    for path in ended.path.glob("*.parquet"):
        assert parquet.metadata(path)["vidlab.schema"] == "vidlab.run/1"
    schema = pq.read_schema(ended.path / "spans.parquet").remove_metadata()
    assert schema.equals(TABLES["spans"].arrow_schema)


def test_rows_beyond_memory_are_merged_from_pieces(ended, monkeypatch):
    before = contents(open_run(ended.path))
    monkeypatch.setattr(sorting, "GATHER_BYTES", 6000)
    monkeypatch.setattr(sorting, "PIECE_ROWS", 7)
    monkeypatch.setattr(sorting, "BLOCK_ROWS", 50)
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 128)
    compact(ended.path)
    assert same(before, contents(open_run(ended.path)))
    assert verify(ended.path) == []
    groups = pq.ParquetFile(ended.path / "spans.parquet").metadata
    assert [groups.row_group(n).num_rows for n in range(3)] == [128] * 3


def test_frames_are_derived_in_stretches(ended, monkeypatch):
    before = contents(open_run(ended.path))["frames"]
    monkeypatch.setattr(derivation, "STRETCH_ROWS", 200)
    monkeypatch.setattr(derivation, "MARGIN_FRAMES", 8)
    compact(ended.path)
    assert before.equals(open_run(ended.path).scan("frames").collect().sort("t_ns", "frame"))


def test_stretches_cover_each_frame_once(monkeypatch):
    monkeypatch.setattr(derivation, "STRETCH_ROWS", 100)
    census = derivation.FrameCensus()
    frames = [stream << 32 | seq for stream in (1, 2, 9, 2048 << 20) for seq in range(60)]
    frames += [3 << 32 | seq for seq in range(350)]
    census.add(np.array([0, *frames], np.uint64))
    stretches = list(census.stretches())
    covered = [frame for frame in frames for s in stretches if s.first <= frame <= s.last]
    assert sorted(covered) == sorted(frames)
    assert all(s.lower <= s.first <= s.last <= s.upper for s in stretches)


STEPS = ("_write_frames", "_write_side_tables", "_publish")


@pytest.mark.parametrize("step", STEPS)
def test_ended_in_the_middle(ended, monkeypatch, step):
    before = contents(open_run(ended.path))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(compaction._Compaction, step, full)
        with pytest.raises(RunError, match="No space left"):
            compact(ended.path)
    assert same(before, contents(open_run(ended.path)))
    compact(ended.path)
    assert same(before, contents(open_run(ended.path)))


@pytest.mark.parametrize("moment", ["before the manifest", "after the manifest", "while deleting"])
def test_killed_in_the_middle(ended, moment):
    before = contents(open_run(ended.path))
    script = f"""
import os, sys
from pathlib import Path
from vidlab.runs import compaction
from vidlab.runs.manifest import Manifest
moment = {moment!r}
if moment == "before the manifest":
    Manifest.write = lambda self, run: os._exit(9)
elif moment == "after the manifest":
    compaction._delete_segments = lambda *arguments: os._exit(9)
else:
    unlink, count = Path.unlink, iter(range(100))
    Path.unlink = lambda self, **how: os._exit(9) if next(count) == 4 else unlink(self, **how)
compaction.compact({str(ended.path)!r})
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert same(before, contents(open_run(ended.path)))
    compact(ended.path)
    assert same(before, contents(open_run(ended.path)))
    assert verify(ended.path) == []
    assert not (ended.path / "segments").exists()


def test_not_while_it_is_recorded_or_compacted(ended):
    with ended.process(2).alive(), pytest.raises(RunError, match="still being recorded"):
        compact(ended.path)
    with compaction._alone(ended.path), pytest.raises(RunError, match="another process"):
        compact(ended.path)
    with pytest.raises(RunError, match="recover"):
        compact(small_run(ended.path.parent / "killed").path)
    with pytest.raises(RunError, match="does not exist"):
        compact(ended.path / "nowhere")


def test_a_process_that_came_too_late_keeps_its_segments(ended):
    compact(ended.path)
    late = RunBuilder.__new__(RunBuilder)
    late.segments = ended.path / "segments"
    late.segments.mkdir()
    process = late.process(7)
    process.buffer("spans", process.records("spans", 3))
    compact(ended.path)
    assert len(list(late.segments.glob("0007-*.buf"))) == 1
    assert any("process 7" in note for note in open_run(ended.path).notes)


def exact(values: np.ndarray, share: float) -> int:
    return int(np.sort(values)[int(np.ceil(share * len(values) - 1e-9)) - 1])


def test_quantiles_from_the_cube(tmp_path):
    run = RunBuilder(tmp_path / "run", "complete")
    pipeline(run.process(1), streams=4, frames=300)
    compact(run.path)
    opened = open_run(run.path)
    counted = opened.cube()
    assert counted.schema == cube.SCHEMA
    spans = opened.scan("spans").collect()
    for (stage, codec), rows in spans.group_by("stage", "codec"):
        of_stage = counted.filter(
            pl.col("stage") == stage, pl.col("codec") == codec, pl.col("kind") != "frame"
        )
        assert of_stage["count"].sum() == rows.height
        assert of_stage["total_ns"].sum() == rows["duration_ns"].sum()
        histogram = Histogram.summed(of_stage["bucket"], of_stage["count"])
        for share in (0, 0.5, 0.9, 0.99, 1):
            expected = exact(rows["duration_ns"].to_numpy(), max(share, 1e-6))
            assert histogram.quantile(share) == pytest.approx(expected, rel=RELATIVE_ERROR * 1.001)
    frames = opened.scan("frames").collect()
    whole = counted.filter(pl.col("stage") == cube.END_TO_END)
    took = (frames["t_done_ns"] - frames["t_demux_ns"]).to_numpy()
    assert whole["count"].sum() == len(took) == 1200
    assert set(whole["kind"]) == {cube.FRAME_KIND}
    histogram = Histogram.summed(whole["bucket"], whole["count"])
    assert histogram.quantile(0.99) == pytest.approx(exact(took, 0.99), rel=0.02)


def test_a_sampled_span_counts_for_those_it_stands_for(empty):
    process = empty.process(1)
    rates = {1.0: 400, 0.25: 100, 0.01: 4}
    for thread, (rate, count) in enumerate(rates.items(), 1):
        labels = process.labels(sample_rate=rate, stream_id=f"{rate}", codec="av1")
        records = process.records(
            "spans", count, duration_ns=1000 * thread, labels=labels, stage=process.name("s")
        )
        process.buffer("spans", records, thread=thread)
    run = open_run(empty.path)
    assert dict(run.cube().group_by("stream_id").agg(pl.col("count").sum()).iter_rows()) == {
        "1.0": 400, "0.25": 400, "0.01": 400
    }  # fmt: skip
    assert run.cube()["total_ns"].sum() == pytest.approx(400 * 6000)
    rates_read = run.scan("spans").select("stream_id", "sample_rate").unique().collect()
    assert all(float(row["stream_id"]) == row["sample_rate"] for row in rates_read.to_dicts())


def test_the_cube_is_counted_anew_if_its_gamma_is_another(ended):
    compact(ended.path)
    run = open_run(ended.path)
    before = run.cube()
    path = ended.path / cube.FILE_NAME
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 1).replace_schema_metadata({"vidlab.gamma": "1.5"}), path)
    assert run.cube().drop("total_ns").equals(before.drop("total_ns"))


def test_the_bucket_expression_is_the_histogram_s():
    values = np.concatenate([np.arange(-2, 2000), np.geomspace(1, 2**62, 5000)]).astype(np.int64)
    expression = pl.DataFrame({"duration_ns": values}).select(cube.bucket("duration_ns"))
    assert expression.to_series().to_list() == bucket_of(values).tolist()
    assert pl.DataFrame({"x": [None]}, {"x": pl.Int64}).select(cube.bucket("x")).item() is None


def test_duckdb_reads_it(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    run = RunBuilder(tmp_path / "run", "complete")
    pipeline(run.process(1), streams=4, frames=50)
    compact(run.path)
    rows = duckdb.sql(
        "select stage, codec, quantile_disc(duration_ns, [0.5, 0.9, 0.99]), count(*) "
        f"from '{run.path}/spans.parquet' group by all"
    ).fetchall()
    spans = open_run(run.path).scan("spans").collect()
    assert len(rows) == spans.select("stage", "codec").unique().height
    for stage, codec, quantiles, count in rows:
        own = spans.filter(pl.col("stage") == stage, pl.col("codec") == codec)
        assert own.height == count
        took = own["duration_ns"].to_numpy()
        assert quantiles == [exact(took, share) for share in (0.5, 0.9, 0.99)]


def test_a_span_takes_at_most_16_bytes_at_rest(tmp_path):
    run = RunBuilder(tmp_path / "run", "complete")
    count = pipeline(run.process(1), streams=8, frames=2500, events=False)
    facts = compact(run.path).tables["spans"]
    assert facts.rows == count == 200_000
    filled = pq.read_table(run.path / "spans.parquet")
    # Every column is filled, but that a thread's first span is in no other.
    assert {name for name in filled.column_names if filled[name].null_count} == {"parent"}
    assert filled["parent"].null_count == 24
    assert facts.bytes / facts.rows <= 16


def test_compaction_stays_within_512_mb(tmp_path):
    """With three million spans, many times what is gathered at a time."""
    make = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.runs.builders import RunBuilder, pipeline
run = RunBuilder(Path({str(tmp_path / "run")!r}), "complete")
assert pipeline(run.process(1), streams=16, frames=18750) == 3_000_000
"""
    subprocess.run([sys.executable, "-c", make], check=True)
    # Not getrusage: its peak is handed down by the process that started this one.
    measure = f"""
import re
from pathlib import Path
from vidlab.runs.compaction import compact
facts = compact({str(tmp_path / "run")!r}).tables
assert facts["spans"].rows == 3_000_000 and facts["frames"].rows == 300_000
print(re.search("VmHWM:[^0-9]*([0-9]+) kB", Path("/proc/self/status").read_text())[1])
"""
    done = subprocess.run([sys.executable, "-c", measure], check=True, capture_output=True)
    assert int(done.stdout) * 1024 <= 512e6


def test_plain_rows_in_order_whatever_the_pieces(tmp_path, monkeypatch):
    """The merge, on rows without any order: nothing lost, nothing twice, all in order."""
    monkeypatch.setattr(sorting, "GATHER_BYTES", 2000)
    monkeypatch.setattr(sorting, "PIECE_ROWS", 8)
    monkeypatch.setattr(sorting, "BLOCK_ROWS", 32)
    random = np.random.default_rng(3)
    schema = pa.schema([("t_ns", pa.int64()), ("labels", pa.uint32())])
    ranks = np.array([2, 0, 1, 1], np.int32)
    sorter = sorting.RowSorter(schema, ranks, tmp_path / "spilled")
    times, labels = random.integers(0, 50, 3000), random.integers(0, 4, 3000).astype(np.uint32)
    for at in range(0, 3000, 70):
        part = slice(at, at + 70)
        sorter.add(pa.record_batch([times[part], labels[part]], schema=schema))
    result = pa.concat_tables(sorter.sorted())
    assert (tmp_path / "spilled").exists()
    rows = list(zip(ranks[result["labels"]], result["t_ns"].to_pylist(), strict=True))
    assert rows == sorted(zip(ranks[labels], times.tolist(), strict=True))

"""Synthetic runs are whole runs, like recorded ones, and say that they are not."""

from __future__ import annotations

import polars as pl
import pytest

from vidlab.analysis import closure, latency, losses, queues, startup, stutter, throughput
from vidlab.errors import InputError
from vidlab.lab import simulated, synthetic
from vidlab.runs.run import open_run
from vidlab.runs.verification import verify


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "run"
    return open_run(synthetic.write_run(path, frames=9_000, streams=8))


def test_it_is_a_clean_run_that_says_what_it_is(run):
    assert verify(run.path) == []
    assert run.state == "complete"
    assert run.losses == {}
    assert "synthetic" in run.notes[0]
    assert run.manifest.engines[0].parameters == {"frames": 9_000, "streams": 8, "seed": 0}
    assert {"labels", "spans", "frames", "streams", "queue_depths", "gc_pauses"} <= set(
        run.tables()
    )


def test_the_number_of_spans_is_about_what_was_asked_for(tmp_path):
    run = open_run(synthetic.write_run(tmp_path / "run", spans=50_000, streams=4))
    spans = run.scan("spans").select(pl.len()).collect().item()
    assert spans == pytest.approx(50_000, rel=0.005)


def test_the_same_seed_makes_the_same_run_and_another_one_another(tmp_path):
    def spans(name, seed):
        path = synthetic.write_run(tmp_path / name, frames=200, streams=3, seed=seed)
        return open_run(path).scan("spans").collect()

    first = spans("a", 1)
    assert first.equals(spans("b", 1))
    assert not first.equals(spans("c", 2))


def test_fates_are_as_planted(run):
    fates = losses.fates(run.scan("frames"), by="stream_id").sort("stream_id")
    for index, row in enumerate(fates.rows(named=True)):
        stream = simulated.Stream(index)
        journey = simulated.Journey(stream, 1_125, 0, seed=0)
        assert row["stream_id"] == stream.stream_id
        assert row["delivered"] == len(journey.alive)
        assert row["dropped"] == len(journey.evicted)
        assert row["corrupt"] == len(journey.corrupt)
    assert fates["frames"].sum() == 9_000
    assert fates["dropped"].sum() > 0
    assert fates["corrupt"].sum() > 0


def test_every_frame_closes_but_for_the_gaps(run):
    residual = closure.closure(run.scan("frames"), run.scan("spans"))["residual_ns"]
    assert residual.min() > 0
    assert residual.max() < 100_000


def test_spans_of_a_thread_do_not_overlap(run):
    works = run.scan("spans").filter(pl.col("parent").is_null(), pl.col("kind").is_in(["service"]))
    ends = pl.col("t_ns") + pl.col("duration_ns")
    overlap = (
        works.sort("t_ns")
        .with_columns(gap=(pl.col("t_ns") - ends.shift(1)).over("tid"))
        .filter(pl.col("gap") < 0)
        .select("stage", "gap")
        .collect()
    )
    # The last packets come out of the encoder together, when it is drained.
    assert overlap.filter(pl.col("stage") != "mux").height == 0
    assert overlap.height <= 2 * 8


def test_stalls_make_frames_late_and_the_queue_before_the_filter_is_blamed(run):
    late = latency.late(run.scan("frames"), run.scan("streams"))
    share = late["late"].mean()
    assert 0.001 < share < 0.05
    causes = closure.by_cause(late, run.scan("spans"), by=[])
    assert closure.ranking(causes).select("stage", "kind").row(0) == ("decoded", "queue")


def test_the_cube_agrees_with_the_spans(run):
    exact = latency.percentiles(run.scan("spans"))
    near = latency.from_cube(run.cube()).filter(pl.col("kind") != "frame")
    keys = ["stage", "kind", "codec", "count"]
    assert near.select(keys).equals(exact.select(keys))
    for column in ("p50_ns", "p90_ns", "p99_ns", "p99_9_ns", "max_ns"):
        assert ((near[column] - exact[column]).abs() <= exact[column] * 0.01 + 1).all()
    ends = latency.end_to_end(run.scan("frames"))
    near = latency.end_to_end_from_cube(run.cube())
    assert near.select("codec", "stream_id", "count").equals(
        ends.select("codec", "stream_id", "count")
    )


def test_all_other_analyses_work_on_it(run):
    frames, streams = run.scan("frames"), run.scan("streams")
    rates = throughput.by_stream(frames, streams)
    assert rates["ratio"].to_list() == pytest.approx([1.0] * 8, abs=0.02)
    assert throughput.over_time(frames, streams)["delivered"].sum() == rates["delivered"].sum()
    filled = queues.by_queue(run.scan("queue_depths"), run.scan("spans"))
    assert filled.height == 16
    assert (filled["waits"] == filled["gets"]).all()
    assert filled["evictions"].sum() == losses.fates(frames, by=[])["dropped"].item()
    assert stutter.by_stream(frames, streams)["jitter_ns"].min() > 0
    assert startup.first_frames(frames, streams)["delivered_ns"].null_count() == 0
    cells = latency.over_time(run.scan("spans"))
    assert cells["count"].sum() == run.scan("spans").select(pl.len()).collect().item()
    assert cells.group_by("stage", "kind").len()["len"].max() <= 5_000


def test_what_can_not_be_made(tmp_path, run):
    with pytest.raises(InputError, match="2 frames can't make 3 streams"):
        synthetic.write_run(tmp_path / "run", frames=2, streams=3)
    with pytest.raises(InputError, match="not empty"):
        synthetic.write_run(run.path)


def test_one_frame_a_stream(tmp_path):
    path = synthetic.write_run(tmp_path / "run", frames=5, streams=5)
    assert verify(path) == []
    assert open_run(path).scan("frames").collect().height == 5

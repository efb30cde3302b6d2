"""Each analysis says of a sampled run what it says of the whole one, or that it cannot know."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vidlab.analysis import (
    closure,
    cpu,
    flame,
    framecounts,
    latency,
    losses,
    pauses,
    queues,
    sampling,
    silences,
    startup,
    stutter,
    throughput,
)
from vidlab.charts import theme
from vidlab.lab import summary, synthetic
from vidlab.runs.compaction import compact
from vidlab.runs.manifest import SEGMENTS, EngineFacts, Manifest
from vidlab.runs.run import Run, open_run
from vidlab.runs.verification import verify
from vidlab.schema import CORRUPT, LATE, LOST, TABLES
from vidlab.workbench.slices import Slice
from vidlab.workbench.verdict import verdict

FRAMES, STREAMS, SHARE = 24_000, 4, 0.2
DEADLINE_MS = 150.0

#: What is said of a tenth of the frames agrees as well as this; less of a stream's tail.
NEAR, TAIL = 0.04, 0.15

Runs = tuple[Run, Run]
Read = Callable[[Run], pl.DataFrame]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A whole run, and the same recorded with adaptive sampling."""
    folder = tmp_path_factory.mktemp("sampled")
    path = synthetic.write_segments(
        folder / "whole", frames=FRAMES, streams=STREAMS, seed=2
    )  # a key frame is lost
    shutil.copytree(path, folder / "sampled")
    compact(path)
    whole = open_run(path)
    return whole, sampled(folder / "sampled", whole)


def sampled(path: Path, whole: Run) -> Run:
    """Have a recording that is not compacted yet be a sampled one."""
    labels = next((path / SEGMENTS).glob("*-labels.jsonl"))
    lines = [json.loads(line) for line in labels.read_text().splitlines()]
    labels.write_text("".join(json.dumps({**line, "sample_rate": SHARE}) + "\n" for line in lines))
    frames = latency.late(whole.scan("frames"), deadline_ms=DEADLINE_MS)
    fates = whole.scan("frames").select("frame", "labels", pl.col("fate").cast(pl.String)).collect()
    reasons = (
        (LATE, frames.filter("late")),
        (CORRUPT, fates.filter(pl.col("fate") == "corrupt")),
        (LOST, fates.filter(pl.col("fate") == "dropped")),
    )
    record = TABLES["kept_frames"].record
    assert record is not None
    with synthetic._Segment(path / SEGMENTS, "kept_frames") as file:
        for reason, chosen in reasons:
            assert chosen.height > 5
            records = np.zeros(chosen.height, record.dtype)
            records["frame"], records["labels"] = chosen["frame"], chosen["labels"]
            records["kept_for"] = reason + 1
            records["t_ns"] = synthetic.STARTED.monotonic_ns
            file.write(records, 1)
    manifest = Manifest.read(path)
    adaptive = EngineFacts("frames", {"sampling": {"adaptive": {"base": SHARE}}})
    dataclasses.replace(manifest, engines=(adaptive,)).write(path)
    compact(path)
    return open_run(path)


def both(runs: Runs, read: Read) -> tuple[pl.DataFrame, pl.DataFrame]:
    whole, part = map(read, runs)
    assert whole.height
    return whole, part


def agree(
    runs: Runs, read: Read, keys: list[str], near: dict[str, float], same: tuple[str, ...] = ()
) -> None:
    """Check that both runs give the same rows, `same` exactly and `near` within these shares."""
    whole, part = (table.sort(keys) if keys else table for table in both(runs, read))
    for name in (*keys, *same):
        assert part[name].to_list() == whole[name].to_list(), name
    for name, share in near.items():
        np.testing.assert_allclose(
            part[name].to_numpy().astype(float),
            whole[name].to_numpy().astype(float),
            rtol=share,
            atol=1_000 if name.endswith("_ns") else 0,
            err_msg=name,
        )


def late(run: Run) -> pl.DataFrame:
    return latency.late(run.scan("frames"), deadline_ms=DEADLINE_MS)


def test_the_sampled_run_is_one(runs: Runs) -> None:
    whole, part = runs
    assert verify(part.path) == []
    spans = part.scan("spans").collect()
    assert set(spans["sample_rate"]) == {SHARE, 1.0}
    recorded = part.scan("frames").collect()
    kept = part.scan("kept_frames").collect()["frame"].n_unique()
    assert recorded.filter(pl.col("sample_rate") == 1.0).height == kept
    assert recorded.height == pytest.approx(kept + SHARE * (FRAMES - kept), rel=0.05)
    assert whole.scan("frames").collect().height == FRAMES


def test_percentiles(runs: Runs) -> None:
    keys = ["stage", "kind"]
    near = {"count": NEAR, "mean_ns": NEAR, "p50_ns": NEAR, "p90_ns": NEAR, "p99_ns": TAIL}
    agree(runs, lambda run: latency.percentiles(run.scan("spans"), "stage"), keys, near)
    agree(runs, lambda run: latency.from_cube(run.cube(), "stage"), keys, near)
    quantiles = {"p25_ns": NEAR, "p75_ns": NEAR, "p99_ns": NEAR, "p99_9_ns": NEAR, "max_ns": 0}
    agree(
        runs,
        lambda run: latency.end_to_end(run.scan("frames"), "stream_id", [0.25, 0.75, 0.99, 0.999]),
        ["stream_id"],
        {"count": NEAR, "mean_ns": NEAR, **quantiles},  # late frames are all there
    )


def test_late_frames_are_counted_exactly(runs: Runs) -> None:
    agree(
        runs,
        lambda run: latency.late_summary(late(run), "stream_id"),
        ["stream_id"],
        {"delivered": NEAR, "late_share": NEAR, "p99_ns": NEAR},
        same=("late", "worst_ns"),
    )
    agree(runs, lambda run: latency.slowest(run.scan("frames")), ["frame"], {"end_to_end_ns": 0})


def test_counts_over_time_and_duration(runs: Runs) -> None:
    whole, part = both(
        runs,
        lambda run: latency.over_time(latency.as_spans(run.scan("frames")), time_bins=1, cells=16),
    )
    cells = whole.join(part, on="low_ns", how="left").filter(pl.col("count") > 1_000)
    assert cells.height > 3
    np.testing.assert_allclose(cells["count_right"], cells["count"], rtol=2 * NEAR)


def test_fates(runs: Runs) -> None:
    agree(
        runs,
        lambda run: losses.fates(run.scan("frames"), "stream_id"),
        ["stream_id"],
        {"frames": NEAR, "delivered": NEAR, "lost_share": NEAR},
        same=("dropped", "corrupt", "duplicated", "cancelled"),
    )
    agree(
        runs,
        lambda run: losses.by_stage(run.scan("frames"), "codec"),
        ["codec", "fate", "lost_at"],
        {"share": NEAR},
        same=("frames",),
    )


def test_where_the_time_went(runs: Runs) -> None:
    parts = ("service_ns", "reorder_ns", "encoder_lag_ns", "end_to_end_ns", "frames")
    agree(
        runs,
        lambda run: closure.means(closure.closure(run.scan("frames"), run.scan("spans"))),
        ["stream_id", "codec"],
        dict.fromkeys(parts, NEAR),
    )
    agree(
        runs,
        lambda run: closure.means(closure.closure(run.scan("frames"), run.scan("spans")), []),
        [],
        {"queue_ns": NEAR, "residual_ns": TAIL},
    )
    agree(
        runs,
        # Half of the frames wait to be reordered: the median is one half's, or the other's.
        lambda run: closure.by_cause(late(run), run.scan("spans"), "codec").filter(
            pl.col("kind") != "reorder"
        ),
        ["codec", "stage", "kind"],
        {"typical_ns": 2 * NEAR},
        same=("late_frames", "total_ns", "baseline"),
    )
    agree(
        runs,
        lambda run: closure.ranking(closure.by_cause(late(run), run.scan("spans"), "codec"), 3),
        ["codec", "stage", "kind"],
        {"excess_ns": NEAR, "share": NEAR},
    )


def test_rates(runs: Runs) -> None:
    agree(
        runs,
        lambda run: throughput.by_stream(run.scan("frames"), run.scan("streams")),
        ["stream_id"],
        {"delivered": NEAR, "rate": NEAR, "ratio": NEAR},
    )
    agree(
        runs,
        lambda run: throughput.over_time(run.scan("frames"), run.scan("streams"), 60.0),
        ["stream_id", "t_ns"][:1],
        {"rate": 3 * NEAR},
    )


def test_queues_were_touched_as_often_and_frames_waited_as_long(runs: Runs) -> None:
    agree(
        runs,
        lambda run: queues.by_queue(run.scan("queue_depths"), run.scan("spans"), "stream_id"),
        ["queue", "stream_id"],
        {"waits": NEAR, "wait_p50_ns": 2 * NEAR},
        same=("puts", "gets", "evictions", "mean_depth", "max_depth", "full_share"),
    )


def test_frames_that_collections_held_up(runs: Runs) -> None:
    def hit(run: Run) -> pl.DataFrame:
        pairs = pauses.frames_hit(run.scan("gc_pauses"), run.scan("frames"))
        return pauses.count_hit(pairs, "generation").filter(pl.col("frames_hit") > 500)

    agree(runs, hit, ["generation"], {"frames_hit": TAIL})
    agree(
        runs,
        lambda run: pauses.count_hit(pauses.frames_hit(run.scan("gc_pauses"), run.scan("frames"))),
        [],
        {"frames_hit": 2 * NEAR},
    )
    agree(
        runs,
        lambda run: pauses.by_generation(run.scan("gc_pauses")),
        ["generation"],
        {},
        same=("count", "total_ns"),
    )


def test_time_of_cpus_and_gpus(runs: Runs) -> None:
    def work(run: Run) -> pl.LazyFrame:  # real waits bear no CPU time
        return run.scan("spans").filter(pl.col("kind") == "service")

    agree(
        runs,
        lambda run: cpu.by_label(work(run), run.scan("profile_samples"), "stage"),
        ["stage"],
        {"cpu_ns": NEAR, "spans": NEAR},
    )

    def of_gpu(run: Run) -> pl.DataFrame:
        tree = flame.gpu_time(run.scan("spans"), ["codec"])
        return tree.filter(pl.col("depth") <= 2).select("name", "depth", "total_ns")

    agree(runs, of_gpu, ["name", "depth"], {"total_ns": 2 * NEAR})


def test_gaps_between_recorded_frames_are_no_silences(runs: Runs) -> None:
    for run in runs:
        found = silences.silences(run.scan("spans"), run.scan("gc_pauses"))
        assert found.filter(pl.col("duration_ns") > 200 * 1_000_000).height == 0


def test_frames_as_a_clock(runs: Runs) -> None:
    def totals(run: Run) -> pl.DataFrame:
        clocks = framecounts.clocks(run.scan("allocations"), run.scan("frames"))
        names = sorted(name for name in clocks if name is not None)
        return pl.DataFrame({"stream": names, "frames": [clocks[name].total for name in names]})

    agree(runs, totals, ["stream"], {"frames": NEAR})


def test_what_needs_each_frames_neighbour_says_nothing(runs: Runs) -> None:
    whole, part = runs
    assert losses.gops(whole.scan("frames")).height
    assert losses.gops(part.scan("frames")).height == 0
    assert stutter.intervals(whole.scan("frames")).height
    assert stutter.intervals(part.scan("frames")).height == 0
    by_stream = stutter.by_stream(part.scan("frames"), part.scan("streams"))
    assert by_stream["p50_ns"].null_count() == STREAMS
    assert losses.fates(part.scan("frames"))["reordered"].null_count() == STREAMS
    assert part.scan("findings").filter(pl.col("kind") == "gop_loss").collect().height == 0
    first, sampled_first = (
        startup.first_frames(run.scan("frames"), run.scan("streams")).sort("stream_id")
        for run in runs
    )
    assert first["exact"].all()
    assert not sampled_first["exact"].any()
    assert (sampled_first["delivered_ns"] >= first["delivered_ns"]).all()


def test_frames_that_were_kept_do_not_make_a_whole_stream(runs: Runs) -> None:
    _, part = runs
    kept = part.scan("frames").filter(pl.col("sample_rate") == 1.0)
    assert losses.gops(kept).height  # as far as is known of these alone
    assert losses.gops(kept, part.scan("kept_frames")).height == 0
    assert stutter.intervals(kept, part.scan("kept_frames")).height == 0
    assert stutter.freezes(kept, part.scan("kept_frames")).height == 0


def test_it_is_said_that_frames_were_sampled(runs: Runs) -> None:
    whole, part = runs
    recorded = part.scan("frames").collect().height
    told = Slice(part).sampled
    assert told.startswith(f"sampled: {recorded:,} of about ")
    estimate = int(told.split(" of about ")[1].split(" ")[0].replace(",", ""))
    assert estimate == pytest.approx(FRAMES, rel=0.02)
    gaps = Slice(part).lost("frames")
    assert gaps == 0
    assert theme.note(gaps) == [told]
    assert theme.note(Slice(part).lost("gc_pauses")) == []
    assert told in verdict(Slice(part)).warnings
    lines = summary.summary(part, [])
    assert any(told in line for line in lines)
    assert f"of {latency.late_summary(late(part), 'stream_id')['delivered'].sum():,} " in lines[0]
    assert Slice(whole).sampled == ""
    assert theme.note(Slice(whole).lost("frames", "spans")) == []


def test_what_was_recorded_and_why(runs: Runs) -> None:
    whole, part = runs
    frames, kept_frames = part.scan("frames"), part.scan("kept_frames")
    share = sampling.coverage(frames)["share"].item()
    assert SHARE < share < 2 * SHARE
    assert sampling.coverage(whole.scan("frames")).rows() == [(FRAMES, FRAMES, 1.0)]
    kept = sampling.kept(frames, kept_frames, "stream_id")
    assert set(kept["kept_for"]) == {"its turn", "late", "corrupt", "lost"}
    number_late = late(whole)["late"].sum()
    of_late = kept.filter(pl.col("kept_for") == "late")
    assert of_late["recorded"].sum() == number_late
    assert kept["recorded"].sum() == frames.collect().height
    over_time = sampling.over_time(frames, kept_frames, time_bins=10)
    sums = over_time.group_by("kept_for").agg(pl.col("recorded").sum()).sort("kept_for")
    assert sums.equals(kept.group_by("kept_for").agg(pl.col("recorded").sum()).sort("kept_for"))
    assert over_time["t_ns"].n_unique() <= 10

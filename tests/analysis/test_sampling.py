"""Why frames were recorded, and what an analysis does with rows whose spans were not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from vidlab.analysis import (
    closure,
    holdups,
    latency,
    loops,
    losses,
    memory,
    offcpu,
    profiles,
    sampling,
    silences,
    stutter,
    tables,
)
from vidlab.charts import sampling as charts

MS, S = 1_000_000, 1_000_000_000

Build = Callable[..., pl.DataFrame]


def decided(table: Build) -> pl.DataFrame:
    rows = [
        {"t_ns": 0, "rate": 0.1, "reason": "start"},
        {"t_ns": 5 * S, "rate": 1.0, "rate_before": 0.1, "reason": "errors", "error_rate": 0.2,
         "cpu": 0.5},
        {"t_ns": 9 * S, "rate": 0.1, "rate_before": 1.0, "reason": "calm", "error_rate": 0.0},
        {"t_ns": 2 * S, "rate": 0.1, "reason": "start", "pid": 2},
    ]  # fmt: skip
    return table("sampling_decisions", rows, pid=1)


def test_a_share_holds_until_the_next_decision_of_its_process(table: Build) -> None:
    found = sampling.decisions(decided(table), until_ns=20 * S)
    assert found.select("pid", "t_ns", "t_end_ns", "rate", "reason").rows() == [
        (1, 0, 5 * S, 0.1, "start"),
        (1, 5 * S, 9 * S, 1.0, "errors"),
        (1, 9 * S, 20 * S, 0.1, "calm"),
        (2, 2 * S, 20 * S, 0.1, "start"),
    ]
    assert sampling.decisions(decided(table))["t_end_ns"].max() == 9 * S
    assert sampling.decisions(table("sampling_decisions")).height == 0


def test_frames_are_recorded_by_their_turn_or_for_what_became_of_them(table: Build) -> None:
    rows = [
        {"frame": 1, "sample_rate": 0.1, "t_demux_ns": 0},
        {"frame": 2, "sample_rate": 1.0, "t_demux_ns": 10},
        {"frame": 3, "sample_rate": 1.0, "t_demux_ns": 90},  # born while all were recorded
    ]
    frames = table("frames", rows, stream_id="a", codec="av1")
    noted = [
        {"frame": 2, "t_ns": 8, "kept_for": "lost"},
        {"frame": 2, "t_ns": 7, "kept_for": "late"},
    ]
    kept = table("kept_frames", noted)
    assert sampling.kept(frames, kept).rows() == [
        ("a", "av1", "its turn", 2, 2 / 12),
        ("a", "av1", "late", 1, 1 / 12),
    ]
    assert sampling.over_time(frames, kept, time_bins=1)["recorded"].to_list() == [2, 1]
    assert sampling.coverage(frames, "stream_id").rows() == [("a", 3, 12, 0.25)]


def test_of_a_whole_run_nothing_is_said(table: Build) -> None:
    frames = table("frames", [{"frame": 1}, {"frame": 2}], sample_rate=1.0)
    assert sampling.sentence(frames) == ""
    assert sampling.sentence(frames, table("sampling_decisions")) == ""
    assert sampling.sentence(frames, decided(table)).startswith("sampled: 2 of about 2 frames")
    assert sampling.sentence(table("frames"), decided(table)) == ""
    assert sampling.coverage(table("frames"))["share"].to_list() == [None]


def test_charts_name_shares_reasons_and_units(table: Build) -> None:
    frames = table("frames", [{"frame": 1, "t_demux_ns": 0}], stream_id="a", codec="av1")
    none = table("kept_frames")
    decisions = sampling.decisions(decided(table), 20 * S)
    timeline = charts.timeline(decisions, sampling.over_time(frames, none)).to_json()
    assert '"the machine was busy' not in timeline
    for words in ("frames failed", "errors 20%", "CPU 50%", "(s)", "share of frames", "its turn"):
        assert words in timeline
    gaps = sampling.Gaps(3, "sampled: some")
    kept = charts.kept(sampling.kept(frames, none), lost=gaps).to_json()
    assert "sampled: some" in kept
    assert "3 rows lost" in kept
    empty = (decisions.head(0), sampling.over_time(table("frames"), none))
    for chart in (charts.timeline(*empty), charts.kept(sampling.kept(table("frames"), none))):
        assert "nothing recorded" in chart.to_json()


# --- streams of which not all frames are there --------------------------------------------


def test_a_stream_with_kept_frames_alone_is_not_whole(table: Build) -> None:
    rows = [
        {"frame": stream << 32 | n, "seq": n, "stream_id": name, "key": n == 0,
         "fate": "corrupt" if n < 2 else "delivered", "t_demux_ns": n * MS, "t_done_ns": n * MS}
        for stream, name in enumerate(("whole", "kept"), 1) for n in range(4)
    ]  # fmt: skip
    frames = table("frames", rows, codec="av1", sample_rate=1.0)
    kept = table("kept_frames", [{"frame": 2 << 32 | 1, "stream_id": "kept"}])
    assert losses.gops(frames)["stream_id"].to_list() == ["whole", "kept"]
    assert losses.gops(frames, kept)["stream_id"].to_list() == ["whole"]
    assert set(stutter.intervals(frames, kept)["stream_id"]) == {"whole"}
    streams = table("streams")
    known = stutter.by_stream(frames, streams, kept).select("stream_id", "mean_ns").rows()
    assert known == [("kept", None), ("whole", MS)]
    # A stream of which one frame stands for others has no neighbours for the kept ones.
    other = pl.when(frame=1 << 32 | 3).then(0.1).otherwise(1.0)
    mixed = frames.with_columns(sample_rate=other)
    assert losses.gops(mixed)["stream_id"].to_list() == ["kept"]
    assert set(stutter.intervals(mixed)["stream_id"]) == {"kept"}


def test_what_is_typical_is_the_median_of_all_that_there_were(table: Build) -> None:
    """Nine punctual frames in ten take 10 ns; the slow ones were kept, and are most rows."""
    rows, spans = [], []
    for n in range(30):
        kept = n % 3 > 0
        took = 500 if n == 5 else 60 if kept else 10
        rows.append({"frame": n + 1, "t_demux_ns": n * 1_000, "t_done_ns": n * 1_000 + took,
                     "sample_rate": 1.0 if kept else 0.1})  # fmt: skip
        spans.append({"frame": n + 1, "t_ns": n * 1_000, "duration_ns": took})
    frames = table("frames", rows, fate="delivered", stream_id="a", codec="av1")
    work = table("spans", spans, stage="decode", kind="service", stream_id="a", codec="av1")
    for sample in (closure.SAMPLE, 60):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(closure, "SAMPLE", sample)
            causes = closure.by_cause(latency.late(frames, deadline_ms=1e-4), work, "codec")
        row = causes.row(0, named=True)
        assert (row["stage"], row["late_frames"], row["total_ns"]) == ("decode", 1, 500)
        assert row["typical_ns"] == 10


def test_means_count_frames_for_all_that_they_stand_for(table: Build) -> None:
    rows = [
        {"frame": 1, "t_done_ns": 100, "sample_rate": 0.1},
        {"frame": 2, "t_done_ns": 1_200, "sample_rate": 1.0},
    ]
    frames = table("frames", rows, t_demux_ns=0, fate="delivered", stream_id="a", codec="av1")
    closed = closure.closure(frames, table("spans"))
    assert closed["sample_rate"].to_list() == [0.1, 1.0]
    found = closure.means(closed)
    assert found.select("stream_id", "codec", "frames", "end_to_end_ns", "residual_ns").rows() == [
        ("a", "av1", 11, 200.0, 200.0)
    ]
    assert closure.means(closed, [])["end_to_end_ns"].to_list() == [200.0]
    assert closure.means(closed.drop("sample_rate"))["end_to_end_ns"].to_list() == [650.0]


# --- rows that name spans -----------------------------------------------------------------


def test_rows_of_spans_that_were_not_recorded_have_no_weight(table: Build) -> None:
    rows = table("allocations", [{"span": 1}, {"span": 2}, {"span": None}, {"span": 0}])
    spans = table("spans", [{"span": 1, "stage": "s", "sample_rate": 0.1}])
    found = tables.with_rates(rows.lazy(), spans.lazy(), "span", ["stage"]).collect()
    assert found["sample_rate"].to_list() == [0.1, None, 1.0, 1.0]
    assert found["stage"].to_list() == ["s", None, None, None]
    # Where all are recorded, one that is not there was lost.
    whole = spans.with_columns(sample_rate=1.0)
    for of in (whole, whole.drop("sample_rate"), whole.head(0)):
        found = tables.with_rates(rows.lazy(), of.lazy(), "span").collect()
        assert found["sample_rate"].to_list() == [1.0] * 4


def test_allocations_of_a_stage_stand_for_those_of_others(table: Build) -> None:
    taken = {"op": "alloc", "level": "pool", "status": "ok", "size_bytes": 100, "generation": 1}
    rows = [{"frame": n, "span": n, **taken} for n in range(1, 21)]
    allocations = table("allocations", rows, stream_id="a")
    spans = table("spans", [{"span": n, "stage": "s"} for n in (3, 8)], sample_rate=0.1)
    by_stage = memory.per_frame(memory.with_stage(allocations, spans), "stage")
    assert by_stage.filter(stage="s").rows() == [("s", 20, 20, 2_000, 1.0, 100.0)]
    assert memory.per_frame(allocations)["frames"].to_list() == [20]


def test_waits_in_spans_that_were_not_recorded_are_not_outside_of_stages(table: Build) -> None:
    rows = [{"span": n, "t_ns": n * 100, "duration_ns": 10} for n in range(1, 21)]
    rows.append({"span": None, "t_ns": 9_999, "duration_ns": 7})
    waits = table("kernel_offcpu", rows, state="sleep", runqueue_ns=1, pid=1, tid=1)
    spans = table(
        "spans",
        [{"span": n, "t_ns": n * 100, "stage": "s", "duration_ns": 40} for n in (3, 8)],
        kind="service", pid=1, tid=1, sample_rate=0.1,
    )  # fmt: skip
    found = offcpu.by_stage(waits, spans, "stage")
    assert found.select("stage", "count", "total_ns", "longest_ns", "of_stage").rows() == [
        ("s", 20, 200, 10, 0.25),
        (offcpu.OUTSIDE, 1, 7, 7, None),
    ]
    assert offcpu.wakeups(waits, spans)["count"].to_list() == [1, 20]


def test_sampled_stages_block_a_loop_for_all_that_they_stand_for(table: Build) -> None:
    delays = table(
        "loop_delays", [{"t_ns": n * S, "delay_ns": 100 * MS} for n in range(10)],
        pid=1, tid=1, loop=1,
    )  # fmt: skip
    spans = table(
        "spans", [{"t_ns": 4 * S, "duration_ns": 90 * MS}],
        stage="s", kind="service", pid=1, tid=1, sample_rate=0.1,
    )  # fmt: skip
    found = loops.blockers(delays, spans, 50 * MS).select("stage", "blocked_ns").rows()
    assert found == [("s", 900 * MS), (loops.OUTSIDE, 100 * MS)]


def test_the_slow_share_of_spans_is_of_all_that_there_were(table: Build) -> None:
    rows = [
        {"span": n, "duration_ns": n, "sample_rate": 1.0 if n > 90 else 0.1} for n in range(81, 101)
    ]
    spans = table("spans", rows, stage="s", cpu_ns=1)
    slow, rest = profiles.slow_and_rest(spans, "s", 0.1)
    assert slow == [100 - n for n in range(11)]  # ten of 110 are kept, and one stands for ten
    assert len(rest) == 9


def test_a_stage_that_takes_from_a_full_queue_is_as_busy_as_it_was(table: Build) -> None:
    touches = [
        *({"t_ns": t * MS, "depth": 4, "touch": "put"} for t in range(100, 1_000, 50)),
        {"t_ns": 1_000 * MS, "depth": 0, "touch": "get"},
    ]
    depths = table("queue_depths", touches, queue="q", stream_id="a", capacity=4, pid=1)
    spans = [
        {"frame": n, "t_ns": n * 100 * MS + t_ms * MS, "duration_ns": ms * MS, "stage": stage,
         "kind": kind}
        for n in range(1, 10)
        for stage, kind, t_ms, ms in (("q", "queue", -1, 1), ("s", "service", 0, 9))
    ]  # fmt: skip
    found = holdups.holdups(depths, table("spans", spans, stream_id="a", sample_rate=0.1))
    assert found["busy_share"].to_list() == [pytest.approx(0.9, abs=0.12)]


# --- silences ---------------------------------------------------------------------------


def sparse(
    seed: int, share: float, gap: tuple[int, int] | None, kept: range
) -> list[dict[str, Any]]:
    """Eight streams, a span each 5 ms, of which a share is recorded, and all in `kept`."""
    rows = []
    turns = np.random.default_rng(seed).random(20_000) < share
    for number in range(20_000):
        t_ms = number * 5
        if gap is not None and gap[0] <= t_ms:
            t_ms += gap[1]
        turn = bool(turns[number])
        if turn or t_ms in kept:
            rows.append({
                "t_ns": t_ms * MS, "duration_ns": MS, "stream_id": f"cam-{number % 8}",
                "frame": (number % 8 + 1) << 32 | number, "sample_rate": share if turn else 1.0,
            })  # fmt: skip
    return rows


def test_sampled_gaps_are_no_silences_and_silences_are_still_seen(table: Build) -> None:
    common = {"pid": 1, "kind": "service"}
    for kept in (range(0), range(1_000, 95_000)):
        quiet = table("spans", sparse(1, 0.1, None, kept), **common)
        assert silences.silences(quiet).height == 0
    seen = table("spans", sparse(1, 0.1, (50_000, 3_000), range(0)), **common)
    (found,) = silences.silences(seen).rows(named=True)
    assert found["t_ns"] <= 50_000 * MS
    assert found["t_ns"] + found["duration_ns"] >= 53_000 * MS
    assert found["duration_ns"] < 3_600 * MS

"""A frame's time adds up; what made frames late is found where it was planted."""

from __future__ import annotations

import polars as pl
import pytest

from vidlab.analysis import closure, latency, tables
from vidlab.analysis.punctual import evenly
from vidlab.errors import InputError

PARTS = ["reorder_ns", "queue_ns", "encoder_lag_ns", "service_ns", "residual_ns"]


def one_frame(table, **columns):
    """A frame of 1,000 ns, 30 of them without a span."""
    frames = table(
        "frames",
        [{"frame": 7, "t_demux_ns": 5_000, "t_done_ns": 6_000}],
        fate="delivered", stream_id="cam", codec="hevc", **columns,
    )  # fmt: skip
    spans = table(
        "spans",
        [
            {"t_ns": 5_000, "duration_ns": 100, "stage": "demux", "kind": "service"},
            {"t_ns": 5_100, "duration_ns": 200, "stage": "decode", "kind": "service"},
            {"t_ns": 5_150, "duration_ns": 90, "stage": "inner", "kind": "service", "parent": 3},
            {"t_ns": 5_300, "duration_ns": 250, "stage": "decode", "kind": "reorder"},
            {"t_ns": 5_550, "duration_ns": 300, "stage": "decoded", "kind": "queue"},
            {"t_ns": 5_850, "duration_ns": 50, "stage": "encode", "kind": "service"},
            {"t_ns": 5_900, "duration_ns": 70, "stage": "encode", "kind": "encoder_lag"},
            {"t_ns": 6_000, "duration_ns": 400, "stage": "archive", "kind": "service"},
            {"t_ns": 5_000, "duration_ns": 999, "stage": "decode", "kind": "service", "frame": 8},
            {"t_ns": 5_000, "duration_ns": 999, "stage": "gc", "kind": "service", "frame": None},
        ],
        frame=7,
    )
    return frames, spans


def test_a_frame_without_spans_is_all_residual(table):
    frames, _ = one_frame(table)
    row = closure.closure(frames, table("spans")).row(0, named=True)
    assert [row[part] for part in PARTS] == [0, 0, 0, 0, 1_000]


def test_the_parts_are_the_top_level_spans_up_to_delivery(table):
    result = closure.closure(*one_frame(table))
    assert result.columns == [
        "frame", "stream_id", "codec", "gpu", "t_demux_ns", "t_done_ns", "end_to_end_ns", *PARTS,
    ]  # fmt: skip
    row = result.row(0, named=True)
    assert [row[part] for part in PARTS] == [250, 300, 70, 350, 30]
    assert sum(row[part] for part in PARTS) == row["end_to_end_ns"] == 1_000


def test_parents_of_zero_are_no_parents_and_lost_frames_have_no_latency(table):
    frames, spans = one_frame(table)
    spans = spans.with_columns(pl.col("parent").fill_null(0))
    assert closure.closure(frames.lazy(), spans.lazy())["residual_ns"].to_list() == [30]
    lost = one_frame(table, lost_at="decode")[0].with_columns(fate=pl.lit("dropped"))
    assert closure.closure(lost, spans).height == 0


def test_closure_of_nothing(table):
    result = closure.closure(table("frames"), table("spans"))
    assert result.height == 0
    assert result.schema == closure.closure(*one_frame(table)).schema
    with pytest.raises(InputError, match="'spans' has no column 'parent'"):
        closure.closure(table("frames"), table("spans").drop("parent"))


def pipeline(table, slow: dict[int, tuple[str, int]], frames: int = 30, **columns):
    """Frames of 30 ns each: decode 10, queue 15, uncovered 5; plus (stage, time) for some."""
    lives, spans = [], []
    for number in range(1, frames + 1):
        stage, more = slow.get(number, ("", 0))
        begin = number * 1_000
        decode = 10 + (more if stage == "decode" else 0)
        queue = 15 + (more if stage == "decoded" else 0)
        lives.append({"frame": number, "t_demux_ns": begin, "t_done_ns": begin + 30 + more})
        spans += [
            {"frame": number, "t_ns": begin, "duration_ns": decode, "stage": "decode",
             "kind": "service", "cpu_ns": decode // 2},
            {"frame": number, "t_ns": begin + decode, "duration_ns": queue, "stage": "decoded",
             "kind": "queue"},
        ]  # fmt: skip
        if stage == "blur":
            spans.append(
                {"frame": number, "t_ns": begin + 25, "duration_ns": more, "stage": "blur",
                 "kind": "service", "cpu_ns": more}
            )  # fmt: skip
    common = {"stream_id": "cam", "codec": "h264", **columns}
    return (
        table("frames", lives, fate="delivered", **common),
        table("spans", spans, **common),
    )


def causes_of(frames, spans, deadline_ns=100, by=("stream_id", "codec", "gpu")):
    return closure.by_cause(latency.late(frames, deadline_ms=deadline_ns / 1e6), spans, by)


def test_no_late_frames_no_causes(table):
    result = causes_of(*pipeline(table, {}))
    assert result.height == 0
    assert result.columns == [
        "stream_id", "codec", "gpu", "stage", "kind", "late_frames", "total_ns", "typical_ns",
        "excess_ns", "cpu_ns", "runqueue_ns", "baseline",
    ]  # fmt: skip
    assert closure.ranking(result).height == 0
    assert causes_of(table("frames"), table("spans")).schema == result.schema


def test_the_excess_of_late_frames_is_where_it_was_planted(table):
    frames, spans = pipeline(table, {5: ("decoded", 400), 6: ("decoded", 600), 9: ("blur", 200)})
    result = causes_of(frames, spans)
    chosen = ["stage", "kind", "late_frames", "total_ns", "typical_ns", "excess_ns", "cpu_ns"]
    assert result.select(chosen).rows() == [
        ("decoded", "queue", 3, 1_045, 15, 1_000, None),
        ("blur", "service", 3, 200, 0, 200, 200),
        ("decode", "service", 3, 30, 10, 0, 15),
        ("unaccounted", "residual", 3, 15, 5, 0, None),
    ]
    assert result["baseline"].unique().to_list() == ["group"]
    assert result["total_ns"].sum() == 430 + 630 + 230
    top = closure.ranking(result, n=1).row(0, named=True)
    assert (top["stage"], top["stream_id"], top["excess_per_frame_ns"]) == ("decoded", "cam", 333)
    assert (top["share"], top["share_of_group"]) == pytest.approx((1_000 / 1_200,) * 2)


def test_sampled_late_frames_count_for_all_that_they_stand_for(table):
    frames, spans = pipeline(table, {5: ("decoded", 400)}, sample_rate=0.1)
    result = causes_of(frames, spans)
    row = result.row(0, named=True)
    assert (row["late_frames"], row["total_ns"], row["excess_ns"]) == (10, 4_150, 4_000)
    assert row["typical_ns"] == 15
    assert result["total_ns"].sum() == 10 * 430


def test_a_stream_that_is_always_late_is_compared_with_the_others(table):
    good = pipeline(table, {})
    bad = pipeline(
        table, dict.fromkeys(range(1, 31), ("decode", 500)), stream_id="bad", codec="av1"
    )
    # Another stream's frames have other numbers.
    bad = [t.with_columns(pl.col("frame") + 1_000) for t in bad]
    both = [
        pl.concat([a.cast({pl.Enum: pl.String, pl.Categorical: pl.String}) for a in pair])
        for pair in zip(good, bad, strict=True)
    ]
    top = causes_of(*both).row(0, named=True)
    assert (top["stream_id"], top["stage"], top["kind"]) == ("bad", "decode", "service")
    assert (top["typical_ns"], top["excess_ns"], top["baseline"]) == (10, 15_000, "run")
    alone = causes_of(*bad).row(0, named=True)
    assert (alone["typical_ns"], alone["excess_ns"], alone["baseline"]) == (0, 15_300, "none")


def test_a_stage_that_few_frames_come_by_typically_takes_no_time(table):
    few = dict.fromkeys(range(1, 15), ("blur", 20))
    frames, spans = pipeline(table, {**few, 20: ("blur", 300)}, frames=31)
    row = causes_of(frames, spans).row(0, named=True)
    assert (row["stage"], row["typical_ns"], row["excess_ns"]) == ("blur", 0, 300)
    most = dict.fromkeys(range(1, 17), ("blur", 20))
    frames, spans = pipeline(table, {**most, 20: ("blur", 300)}, frames=31)
    row = causes_of(frames, spans).row(0, named=True)
    assert (row["stage"], row["typical_ns"], row["excess_ns"]) == ("blur", 20, 280)


@pytest.mark.parametrize(("punctual", "baseline"), [(9, "none"), (10, "group")])
def test_too_few_punctual_frames_tell_nothing(table, punctual, baseline):
    frames, spans = pipeline(table, {1: ("decode", 500)}, frames=punctual + 1)
    assert causes_of(frames, spans)["baseline"].unique().to_list() == [baseline]


@pytest.mark.parametrize("by", [[], ["codec"], ["gpu", "codec"]])
def test_causes_by_any_labels(table, by):
    result = causes_of(*pipeline(table, {5: ("decoded", 400)}, gpu=1), by=by)
    assert result.columns[: len(by) + 2] == [*by, "stage", "kind"]
    assert result.select("stage", "excess_ns").row(0) == ("decoded", 400)
    assert closure.ranking(result)["share"].to_list() == [1.0]


def test_what_is_typical_is_told_by_a_sample_across_all_the_time(table):
    """The last third of the punctual frames has queue waits of 40 ns instead of 15."""
    count = 3 * closure.SAMPLE
    slow = dict.fromkeys(range(count // 3 * 2, count), ("decoded", 25))
    slow[count] = ("decode", 500)
    result = causes_of(*pipeline(table, slow, frames=count))
    typical = dict(result.select("stage", "typical_ns").rows())
    assert typical == {"decode": 10, "decoded": 15, "unaccounted": 5}
    late = latency.late(pipeline(table, slow, frames=count)[0], deadline_ms=100 / 1e6)
    punctual = tables.weighted(late.lazy().filter(~pl.col("late")))
    used = evenly(punctual, ["stream_id"]).collect()
    assert used.height == closure.SAMPLE
    assert used["t_demux_ns"].min() < 5_000
    assert used["t_demux_ns"].max() > (count - 5) * 1_000

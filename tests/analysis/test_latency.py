"""Percentiles, late frames, the slowest and the heatmap, on tables of a few rows."""

from __future__ import annotations

import polars as pl
import pytest

from vidlab import histogram
from vidlab.analysis import latency, tables
from vidlab.errors import InputError

from_row = pl.DataFrame.row


def spans_of(table, **columns):
    """Two codecs; decode has its work and, under the same name, the reorder wait."""
    return table(
        "spans",
        [
            {"stage": "decode", "kind": "service", "duration_ns": 3_000, "codec": "h264"},
            {"stage": "decode", "kind": "service", "duration_ns": 1_000, "codec": "h264"},
            {"stage": "decode", "kind": "reorder", "duration_ns": 50_000, "codec": "h264"},
            {"stage": "decode", "kind": "service", "duration_ns": 2_000, "codec": "h264"},
            {"stage": "encode", "kind": "service", "duration_ns": 7_000, "codec": "av1", "gpu": 1},
        ],
        **columns,
    )


def test_percentiles_of_a_stage_do_not_mix_its_work_and_its_waits(table):
    result = latency.percentiles(spans_of(table), quantiles=[0.5, 0.999])
    assert result.columns == [
        "stage", "kind", "codec", "count", "mean_ns", "p50_ns", "p99_9_ns", "max_ns",
    ]  # fmt: skip
    assert result.rows() == [
        ("decode", "reorder", "h264", 1, 50_000, 50_000, 50_000, 50_000),
        ("decode", "service", "h264", 3, 2_000, 2_000, 3_000, 3_000),
        ("encode", "service", "av1", 1, 7_000, 7_000, 7_000, 7_000),
    ]
    assert result.schema["stage"] == pl.String
    lazy = latency.percentiles(spans_of(table).lazy(), quantiles=[0.5, 0.999])
    assert lazy.equals(result)


def test_percentiles_by_any_labels(table):
    spans = spans_of(table, region="north", sample_rate=0.5)
    assert latency.percentiles(spans, by=["gpu", "region"], quantiles=[]).rows() == [
        (None, "north", 8, 14_000, 50_000),
        (1, "north", 2, 7_000, 7_000),
    ]
    assert latency.percentiles(spans, by="codec").columns[0] == "codec"
    assert latency.percentiles(spans, by=()).select("count", "p50_ns").row(0) == (10, 3_000)


def test_percentiles_of_nothing(table):
    result = latency.percentiles(table("spans"))
    assert result.height == 0
    assert result.schema["stage"] == pl.String
    assert result.schema["p99_ns"] == pl.Int64


def test_a_missing_column_is_named_with_what_to_do():
    with pytest.raises(InputError, match=r"'spans' has no column 'region'.*run\.scan\('spans'\)"):
        latency.percentiles(
            pl.DataFrame({"stage": ["a"], "kind": ["service"], "duration_ns": [1]}),
            by=["stage", "region"],
        )
    with pytest.raises(InputError, match="must be a polars"):
        latency.percentiles([1, 2])


def test_columns_of_other_integer_types_and_without_a_type_are_read():
    spans = pl.DataFrame(
        {"stage": ["a"], "kind": ["service"], "codec": [None], "duration_ns": [5]},
        schema_overrides={"duration_ns": pl.UInt16},
    )
    result = latency.percentiles(spans)
    assert result.row(0)[:4] == ("a", "service", None, 1)
    assert result.schema["codec"] == pl.String


def cube_of(spans: pl.DataFrame, kind: str | None = None) -> pl.DataFrame:
    """The cube as the run format defines it, by other means than the run's own code."""
    return (
        spans.with_columns(
            bucket=pl.Series(histogram.bucket_of(spans["duration_ns"])),
            kind=pl.lit(kind) if kind else pl.col("kind").cast(pl.String),
        )
        .group_by("stage", "kind", "codec", "gpu", "stream_id", "bucket")
        .agg(count=pl.len().cast(pl.Float64), total_ns=pl.col("duration_ns").sum().cast(pl.Float64))
    )


def test_the_cube_answers_as_the_spans_do(table):
    spans = spans_of(table)
    exact = latency.percentiles(spans)
    near = latency.from_cube(cube_of(spans))
    keys = ["stage", "kind", "codec", "count", "mean_ns"]
    assert near.select(keys).equals(exact.select(keys))
    assert near.schema == exact.schema
    for column in ("p50_ns", "p99_ns", "max_ns"):
        ratio = (near[column] / exact[column] - 1).abs().max()
        assert 0 < ratio < histogram.RELATIVE_ERROR + 1e-3


def test_whole_frames_in_the_cube_are_not_mixed_with_their_spans(table):
    frames = frames_of(table)
    whole = cube_of(tables.plain(latency.as_spans(frames).collect()))
    cube = pl.concat([cube_of(tables.plain(spans_of(table))), whole])
    assert latency.from_cube(cube, by="codec").select("codec", "count").rows() == [
        ("av1", 1),
        ("h264", 4),
    ]
    rows = latency.from_cube(cube, by="stage").filter(kind="frame")
    assert rows.select("stage", "count").rows() == [("end to end", 3)]
    by_stream = latency.end_to_end_from_cube(cube, by="stream_id")
    assert by_stream.select("stream_id", "count").rows() == [("a", 2), ("b", 1)]
    exact = latency.end_to_end(frames, by="stream_id")
    assert by_stream["p50_ns"].to_list() == pytest.approx(exact["p50_ns"].to_list(), rel=0.01)
    with pytest.raises(InputError, match="knows nothing of 'region'"):
        latency.from_cube(cube, by="region")


MS = 1_000_000


def frames_of(table, **columns):
    """Stream a at 25/s has frames of 100 and 130 ms, b of unknown rate one of 500 ms."""
    return table(
        "frames",
        [
            {"frame": 1, "stream_id": "a", "t_demux_ns": 0, "t_done_ns": 100 * MS},
            {"frame": 2, "stream_id": "a", "t_demux_ns": 40 * MS, "t_done_ns": 170 * MS,
             "fate": "duplicated"},
            {"frame": 3, "stream_id": "a", "t_demux_ns": 80 * MS, "t_done_ns": 999 * MS,
             "fate": "dropped"},
            {"frame": 4, "stream_id": "b", "t_demux_ns": 0, "t_done_ns": 500 * MS},
        ],
        fate="delivered", codec="vp9", **columns,
    )  # fmt: skip


def streams_of(table):
    return table(
        "streams",
        [
            {"t_ns": 5, "stream_id": "a", "nominal_rate": 25.0, "direction": "input"},
            {"t_ns": 1, "stream_id": "a", "nominal_rate": 1.0, "direction": "input"},
            {"t_ns": 9, "stream_id": "a", "nominal_rate": 2.0, "direction": "output"},
            {"t_ns": 5, "stream_id": "b", "nominal_rate": None, "direction": "input"},
        ],
    )


def test_end_to_end_is_from_demux_to_sink_of_delivered_frames(table):
    assert latency.end_to_end(frames_of(table), quantiles=[0.5]).rows() == [
        ("vp9", "a", 2, 115 * MS, 100 * MS, 130 * MS),
        ("vp9", "b", 1, 500 * MS, 500 * MS, 500 * MS),
    ]


def test_late_is_beyond_three_nominal_intervals_as_the_stream_was_last_opened(table):
    result = latency.late(frames_of(table), streams_of(table))
    assert result.select("frame", "end_to_end_ns", "deadline_ns", "late").rows() == [
        (1, 100 * MS, 120 * MS, False),
        (2, 130 * MS, 120 * MS, True),
        (4, 500 * MS, None, None),
    ]
    assert result.schema["stream_id"] == pl.String


def test_late_by_a_deadline_of_the_user(table):
    result = latency.late(frames_of(table), deadline_ms=100)
    assert result["late"].to_list() == [False, True, True]  # at the deadline is in time
    with pytest.raises(InputError, match="pass deadline_ms"):
        latency.late(frames_of(table))
    with pytest.raises(InputError, match="milliseconds and positive"):
        latency.late(frames_of(table), deadline_ms=0)


def test_late_summary_counts_what_sampled_frames_stand_for(table):
    late = latency.late(frames_of(table, sample_rate=0.5), streams_of(table))
    result = latency.late_summary(late)
    assert result.columns == [
        "stream_id", "codec",
        "delivered", "late", "late_share", "deadline_ns", "p99_ns", "worst_ns",
    ]  # fmt: skip
    assert result.rows() == [
        ("a", "vp9", 4, 2, 0.5, 120 * MS, 130 * MS, 130 * MS),
        ("b", "vp9", 2, 0, None, None, 500 * MS, 500 * MS),
    ]
    empty = latency.late_summary(latency.late(table("frames"), table("streams")))
    assert empty.height == 0
    assert empty.schema == result.schema


def test_slowest_frames_first(table):
    result = latency.slowest(frames_of(table), n=2)
    assert result.select("frame", "end_to_end_ns").rows() == [(4, 500 * MS), (2, 130 * MS)]


def test_the_heatmap_counts_every_span_in_its_cell(table):
    spans = table(
        "spans",
        [
            {"t_ns": 1_000, "duration_ns": 1_000},
            {"t_ns": 1_001, "duration_ns": 1_050},
            {"t_ns": 1_099, "duration_ns": 999},
            {"t_ns": 1_199, "duration_ns": 0},
            {"t_ns": 2_000, "duration_ns": 1_000_000, "stage": "encode"},
        ],
        stage="decode",
        kind="service",
        sample_rate=0.25,
    )
    result = latency.over_time(spans, "decode", time_bins=2)
    # 24 bins a decade: 10^(72/24) = 1,000 to 10^(73/24) = 1,101
    assert result.rows() == [
        ("decode", "service", 1_000, 1_100, 909, 1_000, 4),
        ("decode", "service", 1_000, 1_100, 1_000, 1_101, 8),
        ("decode", "service", 1_100, 1_200, 10, 11, 4),
    ]
    assert latency.over_time(spans)["stage"].unique().sort().to_list() == ["decode", "encode"]
    assert latency.over_time(table("spans")).schema == result.schema


def test_the_heatmap_keeps_to_its_number_of_cells_whatever_the_range(table):
    rows = [
        {"t_ns": i, "duration_ns": 10 ** (i % 18), "stage": "wide" if i % 2 else "narrow"}
        for i in range(400)
    ]
    rows += [{"t_ns": i, "duration_ns": 1_000 + i, "stage": "one"} for i in range(400)]
    result = latency.over_time(table("spans", rows, kind="service"), time_bins=20, cells=100)
    assert result.group_by("stage").agg(pl.col("count").sum()).sort("stage").rows() == [
        ("narrow", 200), ("one", 400), ("wide", 200),
    ]  # fmt: skip
    assert result["t_ns"].n_unique() == 20
    assert (
        result.group_by("stage").agg(pl.struct("low_ns", "high_ns").n_unique())["low_ns"].max() <= 5
    )
    assert (result["low_ns"] < result["high_ns"]).all()
    one = latency.over_time(table("spans", rows, kind="service"), time_bins=20, cells=20)
    assert one.group_by("stage", "t_ns").len()["len"].max() == 1
    assert one["count"].sum() == 800
    with pytest.raises(InputError, match="give more cells"):
        latency.over_time(table("spans"), time_bins=200, cells=100)

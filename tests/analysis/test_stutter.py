"""Jitter and freezes: steady delivery first, then WebRTC's rule at its very edge."""

from __future__ import annotations

from itertools import accumulate

import pytest

from vidlab.analysis import stutter

MS = 1_000_000


def delivered(table, intervals_ms, **columns):
    """Frames that come out at these intervals (in ms) after a first one at 7 ms."""
    moments = accumulate(intervals_ms, initial=7)
    rows = [{"frame": n, "t_done_ns": round(t * MS)} for n, t in enumerate(moments, 1)]
    common = {"fate": "delivered", "stream_id": "cam", "codec": "vp9", "t_demux_ns": 0}
    return table("frames", rows, **{**common, **columns})


def streams(table, rate=25.0):
    return table(
        "streams", [{"t_ns": 0, "stream_id": "cam", "nominal_rate": rate, "direction": "input"}]
    )


def test_steady_delivery_has_neither_jitter_nor_freezes(table):
    frames = delivered(table, [40] * 50)
    row = stutter.by_stream(frames, streams(table)).row(0, named=True)
    assert row == {
        "stream_id": "cam", "codec": "vp9", "delivered": 51, "nominal_ns": 40 * MS,
        "mean_ns": 40 * MS, "jitter_ns": 0, "p50_ns": 40 * MS, "p99_ns": 40 * MS,
        "max_ns": 40 * MS, "freezes": 0, "frozen_ns": 0, "frozen_share": 0.0,
    }  # fmt: skip
    assert stutter.freezes(frames).height == 0


# After 29 intervals of 40 ms, x is a freeze if x >= (29 * 40 + x) / 30 + 150: x >= 5660 / 29.
@pytest.mark.parametrize(("interval", "is_freeze"), [(195.1, False), (195.3, True)])
def test_a_freeze_is_150_ms_beyond_the_mean_of_30_intervals(table, interval, is_freeze):
    frames = delivered(table, [1_000] * 5 + [40] * 29 + [interval])
    assert stutter.intervals(frames)["freeze"].to_list()[-1] is is_freeze


# With 4 intervals of 200 ms before, x >= 3 * (800 + x) / 5 means x >= 1,200.
@pytest.mark.parametrize(("interval", "is_freeze"), [(1_199, False), (1_200, True)])
def test_a_freeze_of_a_slow_stream_is_three_times_the_mean(table, interval, is_freeze):
    frames = delivered(table, [200] * 4 + [interval])
    assert stutter.intervals(frames)["freeze"].to_list()[-1] is is_freeze


def test_the_first_four_intervals_are_no_freezes(table):
    assert not stutter.intervals(delivered(table, [10, 10, 10, 5_000]))["freeze"].any()
    assert stutter.intervals(delivered(table, [10, 10, 10, 10, 5_000]))["freeze"].to_list()[-1]


def test_freezes_add_up(table):
    frames = delivered(table, [40] * 10 + [500] + [40] * 10 + [700])
    result = stutter.freezes(frames)
    assert result.columns == ["stream_id", "codec", "t_ns", "duration_ns", "frame"]
    assert result.rows() == [
        ("cam", "vp9", 407 * MS, 500 * MS, 12),
        ("cam", "vp9", 1_307 * MS, 700 * MS, 23),
    ]
    row = stutter.by_stream(frames, streams(table, rate=0)).row(0, named=True)
    assert (row["freezes"], row["frozen_ns"], row["max_ns"]) == (2, 1_200 * MS, 700 * MS)
    assert row["frozen_share"] == 1_200 / 2_000
    assert row["nominal_ns"] is None


def test_jitter_is_the_standard_deviation(table):
    row = stutter.by_stream(delivered(table, [30, 50]), streams(table)).row(0, named=True)
    assert (row["mean_ns"], row["jitter_ns"], row["p50_ns"]) == (40 * MS, 10 * MS, 30 * MS)


def test_streams_are_told_apart_and_lost_frames_left_out(table):
    frames = table(
        "frames",
        [
            {"frame": 1, "t_done_ns": 100, "stream_id": "a"},
            {"frame": 2, "t_done_ns": 105, "stream_id": "b"},
            {"frame": 3, "t_done_ns": 150, "stream_id": "a", "fate": "dropped"},
            {"frame": 4, "t_done_ns": 200, "stream_id": "a", "fate": "duplicated"},
            {"frame": 5, "t_done_ns": 165, "stream_id": "b"},
        ],
        fate="delivered", codec="av1", t_demux_ns=0,
    )  # fmt: skip
    rows = stutter.intervals(frames).select("stream_id", "frame", "interval_ns").rows()
    assert rows == [("a", 1, None), ("a", 4, 100), ("b", 2, None), ("b", 5, 60)]


def test_of_a_sampled_stream_only_the_number_of_frames_is_known(table):
    frames = delivered(table, [40] * 9, sample_rate=0.01)
    assert stutter.intervals(frames).height == 0
    row = stutter.by_stream(frames, streams(table)).row(0, named=True)
    assert (row["delivered"], row["nominal_ns"]) == (1_000, 40 * MS)
    assert row["jitter_ns"] is row["freezes"] is None


def test_nothing_in_nothing_out(table):
    result = stutter.by_stream(table("frames"), table("streams"))
    assert result.height == stutter.freezes(table("frames")).height == 0
    assert result.schema == stutter.by_stream(delivered(table, [40]), streams(table)).schema

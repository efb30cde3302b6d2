"""Throughput against the nominal rate, and the time to the first frame."""

from __future__ import annotations

import pytest

from vidlab.analysis import startup, throughput
from vidlab.errors import InputError

S = 1_000_000_000


def frames_at(table, seconds, **columns):
    """Frames that are delivered at these seconds, each read half a second earlier."""
    rows = [
        {"frame": n, "t_demux_ns": round((t - 0.5) * S), "t_decoded_ns": round((t - 0.2) * S),
         "t_done_ns": round(t * S)}
        for n, t in enumerate(seconds, 1)
    ]  # fmt: skip
    common = {"fate": "delivered", "stream_id": "cam", "codec": "vp9"}
    return table("frames", rows, **{**common, **columns})


def streams_of(table, *rows):
    rows = rows or ({"stream_id": "cam", "nominal_rate": 4.0},)
    return table("streams", rows, direction="input", t_ns=1 * S, codec="vp9")


def test_a_stream_that_keeps_its_rate(table):
    frames = frames_at(table, [10 + n / 4 for n in range(41)])
    assert throughput.by_stream(frames, streams_of(table)).row(0) == (
        "cam", "vp9", 41, 10.0, 4.0, 4.0, 1.0,
    )  # fmt: skip


def test_rates_of_sampled_frames_of_one_frame_and_of_none(table):
    sampled = throughput.by_stream(
        frames_at(table, [0, 1, 2, 3, 4], sample_rate=0.25), streams_of(table)
    ).row(0, named=True)
    assert (sampled["delivered"], sampled["rate"]) == (20, 4.0)
    one = throughput.by_stream(frames_at(table, [3]), table("streams")).row(0, named=True)
    assert (one["delivered"], one["seconds"], one["rate"], one["ratio"]) == (1, 0.0, None, None)
    none = throughput.by_stream(frames_at(table, [3], fate="dropped"), streams_of(table))
    assert none.height == 0


def test_the_rate_over_time_falls_to_zero_where_nothing_comes(table):
    # Life from 0 to 4 s: four windows of a second.
    frames = frames_at(table, [0.5, 0.6, 0.7, 3.1, 4.0])
    result = throughput.over_time(frames, streams_of(table))
    assert result.columns == [
        "stream_id", "codec", "t_ns", "t_end_ns", "delivered", "rate", "nominal_rate", "ratio",
    ]  # fmt: skip
    assert result["delivered"].to_list() == [3, 0, 0, 2]
    assert result["rate"].to_list() == pytest.approx([3.0, 0.0, 0.0, 2.0])
    assert result["ratio"].to_list() == pytest.approx([0.75, 0.0, 0.0, 0.5])
    assert result["t_end_ns"].to_list()[:-1] == result["t_ns"].to_list()[1:]
    assert throughput.over_time(frames, streams_of(table), window_s=60)["delivered"].to_list() == [
        5
    ]
    with pytest.raises(InputError, match="in seconds and positive"):
        throughput.over_time(frames, streams_of(table), window_s=0)


def test_first_frames_from_the_opening_of_their_stream(table):
    frames = frames_at(table, [3, 2, 4])
    result = startup.first_frames(frames, streams_of(table), started_ns=S // 4)
    assert result.columns == [
        "stream_id", "codec", "t_open_ns", "opened_ns", "demuxed_ns", "decoded_ns", "delivered_ns",
        "exact",
    ]  # fmt: skip
    assert result.row(0) == ("cam", "vp9", S, S * 3 // 4, S // 2, S * 4 // 5, S, True)


def test_of_a_sampled_stream_the_first_frame_may_have_been_another(table):
    for share, exact in ((1.0, True), (0.1, False)):
        frames = frames_at(table, [3], sample_rate=share)
        result = startup.first_frames(frames, streams_of(table))
        assert result.select("delivered_ns", "exact").rows() == [(2 * S, exact)]


def test_streams_that_delivered_nothing_come_first_and_outputs_are_no_streams(table):
    streams = table(
        "streams",
        [
            {"stream_id": "cam", "t_ns": 1 * S, "direction": "input"},
            {"stream_id": "cam", "t_ns": 0, "direction": "output"},
            {"stream_id": "cam", "t_ns": 5 * S, "direction": "input"},  # opened again
            {"stream_id": "dead", "t_ns": 2 * S, "direction": "input"},
        ],
        codec="vp9",
    )
    lost = frames_at(table, [2, 3], lost_at="decode")
    result = startup.first_frames(lost, streams)
    chosen = ["stream_id", "opened_ns", "demuxed_ns", "delivered_ns"]
    assert result.select(chosen).rows() == [
        ("dead", None, None, None),
        ("cam", None, S // 2, S),
    ]
    never = startup.first_frames(frames_at(table, [2], fate="corrupt"), streams)
    assert never.filter(stream_id="cam").select("decoded_ns", "delivered_ns").row(0) == (
        S * 4 // 5,
        None,
    )
    unopened = startup.first_frames(frames_at(table, [2]), table("streams"))
    assert unopened.select("stream_id", "codec", "delivered_ns").rows() == [("cam", "vp9", None)]


def test_nothing_in_nothing_out(table):
    frames, streams = table("frames"), table("streams")
    some = frames_at(table, [1, 2])
    for analysis in (throughput.by_stream, throughput.over_time, startup.first_frames):
        empty = analysis(frames, streams)
        assert empty.height == 0
        assert empty.schema == analysis(some, streams_of(table)).schema

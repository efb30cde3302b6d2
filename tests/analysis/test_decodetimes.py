"""FFmpeg's share of decode spans: small tables with known answers."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest

from vidlab.analysis import decodetimes
from vidlab.errors import InputError

Build = Callable[..., pl.DataFrame]


def spans_of(table: Build) -> pl.DataFrame:
    return table(
        "spans",
        [
            {"span": 1, "duration_ns": 100, "stream_id": "a", "codec": "h264"},
            {"span": 2, "duration_ns": 60, "stream_id": "a", "codec": "h264"},
            {"span": 3, "duration_ns": 500, "stream_id": "b", "codec": "av1"},
            {"span": 4, "duration_ns": 900, "stream_id": "b", "codec": "av1"},  # no call in it
            {"span": 5, "duration_ns": 900, "stream_id": "a", "stage": "demux"},
            {"span": 6, "duration_ns": 900, "stream_id": "a", "kind": "reorder"},
        ],
        t_ns=0,
        pid=1,
        tid=1,
        kind="service",
        stage="decode",
        labels=1,
    )


def calls_of(table: Build) -> pl.DataFrame:
    return table(
        "kernel_libav",
        [
            {"t_ns": 10, "span": 1, "op": "send_packet", "duration_ns": 30},
            {"t_ns": 50, "span": 1, "op": "receive_frame", "duration_ns": 20},
            {"t_ns": 52, "span": 1, "op": "receive_frame", "duration_ns": 10},  # by the one above
            {"t_ns": 110, "span": 2, "op": "receive_frame", "duration_ns": 10},
            {"t_ns": 0, "span": 3, "op": "send_packet", "duration_ns": 400, "tid": 2},
            {"t_ns": 0, "span": 4, "op": "demux", "duration_ns": 400, "tid": 3},
            {"t_ns": 0, "span": 5, "op": "receive_frame", "duration_ns": 400, "tid": 4},
            {"t_ns": 0, "op": "receive_frame", "duration_ns": 400, "tid": 5},
        ],
        pid=1,
        tid=1,
        labels=0,
    )


def test_by_stream(table: Build) -> None:
    found = decodetimes.by_stream(calls_of(table), spans_of(table))
    assert found.columns == [
        *("stream_id", "codec", "spans", "calls", "span_ns", "ffmpeg_ns", "around_ns"),
        "ffmpeg_share",
    ]
    assert found.rows() == [
        ("b", "av1", 1, 1, 500, 400, 100, 0.8),
        ("a", "h264", 2, 3, 160, 60, 100, 0.375),
    ]


def test_by_other_labels(table: Build) -> None:
    found = decodetimes.by_stream(calls_of(table), spans_of(table), by="codec")
    assert found.select("codec", "spans").rows() == [("av1", 1), ("h264", 2)]


def test_nothing_in_nothing_out(table: Build) -> None:
    assert decodetimes.by_stream(table("kernel_libav"), table("spans")).is_empty()
    assert decodetimes.by_stream(calls_of(table), table("spans")).is_empty()


def test_a_missing_column_is_named(table: Build) -> None:
    with pytest.raises(InputError, match="'kernel_libav' has no column 'op'"):
        decodetimes.by_stream(calls_of(table).drop("op"), spans_of(table))
    with pytest.raises(InputError, match="'spans' has no column 'region'"):
        decodetimes.by_stream(calls_of(table), spans_of(table), by="region")

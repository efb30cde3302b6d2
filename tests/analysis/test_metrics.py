"""Percentiles of what the kernel counted: within the bound that is stated, and counters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidlab.analysis import metrics
from vidlab.capture.ebpf.program.counting import bounds, bucket_of
from vidlab.errors import InputError

Build = Callable[..., pl.DataFrame]
Row = dict[str, Any]

DECODE = {"metric": "decode_us", "kind": "histogram", "unit": "µs"}
DROPPED = {"metric": "dropped_total", "kind": "counter", "low": None, "high": None}


def counted(values: list[int], **more: Any) -> list[Row]:
    """The rows that a histogram has of these values."""
    rows = []
    for bucket, count in Counter(map(bucket_of, values)).items():
        low, high = bounds(bucket)
        rows.append({"low": float(low), "high": float(high), "count": count, **DECODE, **more})
    return rows


def known(table: Build, rows: list[Row]) -> pl.DataFrame:
    return table("kernel_metrics", rows, t_ns=0, pid=1, tid=1, labels=0)


def test_percentiles_by_stream(table: Build) -> None:
    rows = [
        *counted(list(range(1, 11)), stream_id="a", codec="h264"),
        *counted([5, 5, 5], stream_id="a", codec="h264", t_ns=9),  # a reading later
        *counted([1_000], stream_id="b", codec="av1"),
        {**DROPPED, "count": 4, "stream_id": "a", "codec": "h264"},
    ]
    found = metrics.percentiles(known(table, rows))
    assert found.columns == ["metric", "unit", "stream_id", "codec", "count", "p50", "p90", "p99",
                             "max"]  # fmt: skip
    assert found.rows() == [
        ("decode_us", "µs", "a", "h264", 13, 5.0, 9.0, 10.0, 10.0),
        ("decode_us", "µs", "b", "av1", 1, 991.5, 991.5, 991.5, 991.5),
    ]
    assert metrics.percentiles(known(table, rows), by=(), quantiles=1.0).rows() == [
        ("decode_us", "µs", 14, 991.5, 991.5)
    ]


def test_where_values_lie(table: Build) -> None:
    rows = [
        *counted([100, 100, 3], stream_id="a"),
        *counted([3], stream_id="a"),
        *counted([7], stream_id="b"),
        *counted([7], metric="other", stream_id="b"),
    ]
    found = metrics.distribution(known(table, rows), "decode_us", by="stream_id")
    assert found.columns == ["metric", "unit", "stream_id", "low", "high", "count", "share"]
    assert found.drop("metric", "unit").rows() == [
        ("a", 3.0, 4.0, 2, 0.5),
        ("a", 96.0, 104.0, 2, 0.5),
        ("b", 7.0, 8.0, 1, 1.0),
    ]
    assert metrics.distribution(known(table, rows), "no_such_metric").is_empty()


def test_counters_are_added_up(table: Build) -> None:
    rows = [
        {**DROPPED, "count": 3, "stream_id": "a"},
        {**DROPPED, "count": 4, "stream_id": "a", "t_ns": 9},
        {**DROPPED, "count": 9, "stream_id": "b"},
        {**DROPPED, "count": 0, "stream_id": "c"},
        *counted([1], stream_id="a"),
    ]
    assert metrics.counters(known(table, rows)).rows() == [
        ("dropped_total", "b", None, 9),
        ("dropped_total", "a", None, 7),
    ]


def test_nothing_in_nothing_out(table: Build) -> None:
    none = table("kernel_metrics")
    assert metrics.percentiles(none).is_empty()
    assert metrics.distribution(none, "decode_us").is_empty()
    assert metrics.counters(none).is_empty()


def test_what_is_wrong_is_named(table: Build) -> None:
    with pytest.raises(InputError, match="'kernel_metrics' has no column 'low'"):
        metrics.percentiles(table("kernel_metrics").drop("low"))
    with pytest.raises(InputError, match="between 0 and 1"):
        metrics.percentiles(table("kernel_metrics"), quantiles=[50])


values = st.one_of(st.integers(0, 40), st.integers(0, 1 << 50))


@given(st.lists(values, min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_within_the_bound(of: list[int], share: float) -> None:
    types = {"low": pl.Float64, "high": pl.Float64, "count": pl.Int64, "metric": pl.String,
             "kind": pl.String, "unit": pl.String}  # fmt: skip
    table = pl.DataFrame(counted(of), schema=types)
    [(_, _, count, found, most)] = metrics.percentiles(table, by=(), quantiles=[share]).rows()
    exact = sorted(of)[max(math.ceil(share * len(of) * (1 - 1e-12)), 1) - 1]
    assert count == len(of)
    for value, about in ((exact, found), (max(of), most)):
        assert abs(about - value) <= metrics.RELATIVE_ERROR * value
        assert about == value or value >= 16

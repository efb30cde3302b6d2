"""What threads waited for: small tables with known answers, and sums that must hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidlab.analysis import offcpu
from vidlab.errors import InputError

Build = Callable[..., pl.DataFrame]

MS = 1_000_000


def spans_of(table: Build) -> pl.DataFrame:
    return table(
        "spans",
        [
            {"span": 1, "stage": "decode", "stream_id": "a", "duration_ns": 30 * MS},
            {"span": 2, "stage": "annotate", "stream_id": "b", "duration_ns": 10 * MS},
            {"span": 3, "stage": "annotate", "stream_id": "a", "duration_ns": 30 * MS},
            {"span": 4, "stage": "decode", "kind": "queue", "duration_ns": 900 * MS},
        ],
        kind="service",
        t_ns=0,
        pid=1,
        tid=1,
        labels=1,
    )


def waits_of(table: Build) -> pl.DataFrame:
    rows = [
        {"span": 1, "state": "sleeping", "duration_ns": 4 * MS, "runqueue_ns": 1 * MS},
        {"span": 1, "state": "preempted", "duration_ns": 2 * MS, "runqueue_ns": 2 * MS},
        {"span": 2, "state": "sleeping", "duration_ns": 8 * MS, "runqueue_ns": 0},
        {"span": 3, "state": "sleeping", "duration_ns": 12 * MS, "runqueue_ns": None},
        {"state": "disk", "duration_ns": 100 * MS, "runqueue_ns": 5 * MS, "tid": 5},
    ]
    return table("kernel_offcpu", rows, pid=1, t_ns=10_000 * MS, labels=0)


def test_by_stage_and_state(table: Build) -> None:
    found = offcpu.by_stage(waits_of(table), spans_of(table))
    columns = ["stage", "state", "count", "total_ns", "runqueue_ns", "longest_ns", "of_stage"]
    assert found.columns == columns
    assert found.rows() == [
        (offcpu.OUTSIDE, "disk", 1, 100 * MS, 5 * MS, 100 * MS, None),
        ("annotate", "sleeping", 2, 20 * MS, 0, 12 * MS, 0.5),
        ("decode", "sleeping", 1, 4 * MS, 1 * MS, 4 * MS, pytest.approx(4 / 30)),
        ("decode", "preempted", 1, 2 * MS, 2 * MS, 2 * MS, pytest.approx(2 / 30)),
    ]


def test_by_labels(table: Build) -> None:
    found = offcpu.by_stage(waits_of(table), spans_of(table), by="stream_id")
    assert found.select("stream_id", "total_ns").rows() == [
        (None, 100 * MS),
        ("a", 18 * MS),
        ("b", 8 * MS),
    ]
    assert "of_stage" not in found.columns


def test_wakeups_leave_out_what_is_not_known(table: Build) -> None:
    found = offcpu.wakeups(waits_of(table), spans_of(table))
    assert found.select("stage", "count", "max_ns").rows() == [
        (offcpu.OUTSIDE, 1, 5 * MS),
        ("annotate", 1, 0),
        ("decode", 2, 2 * MS),
    ]


def test_over_time_tells_states_apart(table: Build) -> None:
    rows = [
        {"t_ns": 0, "duration_ns": 100, "state": "sleeping"},
        {"t_ns": 0, "duration_ns": 50, "state": "sleeping"},
        {"t_ns": 50, "duration_ns": 25, "state": None},
    ]
    found = offcpu.over_time(table("kernel_offcpu", rows), time_bins=2)
    assert found.rows() == [
        (0, 50, "sleeping", 2.0),
        (0, 50, "unknown", 0.0),
        (50, 100, "sleeping", 1.0),
        (50, 100, "unknown", 0.5),
    ]


def test_nothing_in_nothing_out(table: Build) -> None:
    waits, spans = table("kernel_offcpu"), table("spans")
    for found in (offcpu.by_stage(waits, spans), offcpu.wakeups(waits, spans)):
        assert found.is_empty()
    assert offcpu.over_time(waits).is_empty()
    assert offcpu.over_time(waits).columns == ["t_ns", "t_end_ns", "state", "threads"]


@pytest.mark.parametrize("column", ["runqueue_ns", "state", "duration_ns"])
def test_a_missing_column_is_named(table: Build, column: str) -> None:
    with pytest.raises(InputError, match=f"'kernel_offcpu' has no column '{column}'"):
        offcpu.by_stage(waits_of(table).drop(column), spans_of(table))


moments = st.integers(0, 10**13)
lengths = st.integers(0, 10**11)
states = st.sampled_from(["sleeping", "preempted", None])


@given(st.lists(st.tuples(moments, lengths, states), min_size=1, max_size=40), st.integers(1, 50))
def test_over_time_adds_up_to_the_total(rows: list[tuple[Any, ...]], bins: int) -> None:
    waits = pl.DataFrame(
        rows,
        schema={"t_ns": pl.Int64, "duration_ns": pl.Int64, "state": pl.String},
        orient="row",
    )
    found = offcpu.over_time(waits, time_bins=bins)
    assert found.height == bins * waits["state"].n_unique()
    width = (pl.col("t_end_ns") - pl.col("t_ns")).cast(pl.Float64)
    spent = found.group_by("state").agg((pl.col("threads") * width).sum().alias("total"))
    known = waits.group_by(pl.col("state").fill_null("unknown")).agg(pl.col("duration_ns").sum())
    for state, total, expected in spent.join(known, on="state").iter_rows():
        # Moments are whole nanoseconds, and a bin's width is off by one at most.
        assert total == pytest.approx(expected, rel=1e-6, abs=2 * len(rows) * bins), state
    assert found["threads"].min() >= -1e-6  # type: ignore[operator]

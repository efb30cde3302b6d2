"""The CPU that spans took by themselves: by hand, and sums that must hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidlab.analysis import clocks
from vidlab.errors import InputError

Build = Callable[..., pl.DataFrame]


def span(number: int, t_ns: int, end: int, cpu: int | None, **more: Any) -> dict[str, Any]:
    known = {"span": number, "t_ns": t_ns, "duration_ns": end - t_ns, "cpu_ns": cpu}
    return {"pid": 1, "tid": 1, "kind": "service", **known, **more}


def own_of(spans: pl.DataFrame) -> dict[int, float]:
    return dict(clocks.own_cpu(spans).select("span", "own_cpu_ns").iter_rows())


def around_of(spans: pl.DataFrame) -> dict[int, int | None]:
    return dict(clocks.nested(spans).select("span", "around").iter_rows())


def test_what_lies_inside_is_not_its_own(table: Build) -> None:
    rows = [
        span(1, 0, 100, 90),
        span(2, 10, 60, 40),
        span(3, 20, 30, 10),
        span(4, 35, 45, 5),
        span(5, 70, 100, 8),
        span(6, 100, 110, 7),
        span(7, 0, 100, 50, tid=2),
        span(8, 10, 20, 3, pid=2),
    ]
    spans = table("spans", rows[::-1])
    assert around_of(spans) == {1: None, 2: 1, 3: 2, 4: 2, 5: 1, 6: None, 7: None, 8: None}
    assert own_of(spans) == {1: 42, 2: 25, 3: 10, 4: 5, 5: 8, 6: 7, 7: 50, 8: 3}


def test_nesting_is_by_thread_and_time_not_by_the_frames_parent(table: Build) -> None:
    # A stage of no frame around one of a frame: the inner one is at the frame's top level.
    rows = [span(1, 0, 100, 90, frame=None, parent=None), span(2, 10, 60, 40, frame=7, parent=None)]
    assert own_of(table("spans", rows)) == {1: 50, 2: 40}


def test_spans_without_clocks_are_passed_over(table: Build) -> None:
    rows = [span(1, 0, 100, 90), span(2, 10, 60, None), span(3, 20, 30, 10)]
    assert around_of(table("spans", rows)) == {1: None, 3: 1}
    assert own_of(table("spans", rows)) == {1: 80, 3: 10}


def test_sampled_spans_count_for_all_that_they_stand_for(table: Build) -> None:
    # Of ten spans that took 10 each inside the outer one, one is recorded.
    rows = [span(1, 0, 1000, 130, sample_rate=1.0), span(2, 10, 60, 10, sample_rate=0.1)]
    assert own_of(table("spans", rows)) == {1: pytest.approx(30), 2: pytest.approx(100)}


def test_spans_that_do_not_nest_are_inside_of_none(table: Build) -> None:
    assert around_of(table("spans", [span(1, 0, 50, 9), span(2, 20, 80, 9)])) == {1: None, 2: None}


def test_nothing_in_nothing_out_and_a_missing_column_is_named(table: Build) -> None:
    assert clocks.own_cpu(table("spans")).is_empty()
    assert "own_cpu_ns" in clocks.own_cpu(table("spans")).columns
    with pytest.raises(InputError, match="'spans' has no column 'cpu_ns'"):
        clocks.own_cpu(table("spans").drop("cpu_ns"))


@st.composite
def threads_of_spans(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Spans of two threads that nest, each with the CPU of what lies inside and some more."""
    rows: list[dict[str, Any]] = []

    def fill(tid: int, begin: int, end: int, depth: int) -> int:
        cpu = 0
        while begin < end and depth < 4 and draw(st.booleans()):
            begin += draw(st.integers(0, 5))
            stop = begin + draw(st.integers(0, max(0, end - begin)))
            if stop > end:
                break
            used = draw(st.integers(0, 9)) + fill(tid, begin, stop, depth + 1)
            read = draw(st.integers(0, 4)) > 0
            number = len(rows) + 1
            rows.append(span(number, begin, stop, used if read else None, tid=tid))
            cpu += used
            begin = stop
        return cpu

    for tid in (1, 2):
        fill(tid, 0, draw(st.integers(1, 60)), 0)
    return rows


@settings(max_examples=40, deadline=None)
@given(threads_of_spans())
def test_what_spans_took_by_themselves_is_what_the_outermost_took(rows: list[Any]) -> None:
    spans = pl.DataFrame(rows, schema_overrides={"cpu_ns": pl.Int64}) if rows else None
    if spans is None:
        return
    found = clocks.own_cpu(spans)
    outermost = found.filter(pl.col("around").is_null())
    assert found["own_cpu_ns"].sum() == pytest.approx(outermost["cpu_ns"].sum())
    assert found.height == spans["cpu_ns"].count()
    inner = found.join(found, left_on="around", right_on="span", suffix="_outer")
    assert (inner["t_ns"] >= inner["t_ns_outer"]).all()
    assert (inner["t_end_ns"] <= inner["t_end_ns_outer"]).all()

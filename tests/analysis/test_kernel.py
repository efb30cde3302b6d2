"""Under which span an event happened: against an oracle that tries every span, and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidlab.analysis import kernel
from vidlab.errors import InputError

Build = Callable[..., pl.DataFrame]
Rows = list[dict[str, Any]]

SPAN = {"kind": "service", "pid": 1, "tid": 1, "stage": "decode", "labels": 3, "gpu": 0}
EVENT = {"pid": 1, "tid": 1, "labels": 0, "duration_ns": 1}


def taken(found: pl.LazyFrame, *columns: str) -> list[tuple[Any, ...]]:
    return found.select(columns).collect().rows()


def test_the_word_of_the_thread_names_the_span(table: Build) -> None:
    spans = table(
        "spans",
        [
            {"span": 7, "t_ns": 0, "duration_ns": 10, "frame": 70, "stream_id": "a"},
            {"span": 8, "t_ns": 0, "duration_ns": 10, "frame": 80, "stream_id": "b", "tid": 9},
        ],
        **SPAN,
        codec="h264",
    )
    events = table(
        "kernel_libav",
        [
            {"t_ns": 900, "span": 8, "op": "demux"},  # whatever the time and the thread
            {"t_ns": 3, "span": 7, "frame": 71, "labels": 5, "stream_id": "own"},
            {"t_ns": 4, "span": 99},  # a span that was lost
        ],
        **EVENT,
    )
    found = kernel.identified(events, spans)
    assert taken(found, "span", "by", "stage", "frame", "labels", "stream_id", "codec") == [
        (8, "word", "decode", 80, 3, "b", "h264"),
        (7, "word", "decode", 71, 5, "own", "h264"),  # what it says itself it keeps
        (99, "word", None, None, 0, None, None),
    ]
    assert found.collect_schema().names()[: events.width] == events.columns


def test_by_time_it_is_the_innermost_span_that_is_open(table: Build) -> None:
    inner = [{"span": 10 + n, "t_ns": 10 * n, "duration_ns": 5, "stage": "part"} for n in range(9)]
    spans = table("spans", [{"span": 1, "t_ns": 0, "duration_ns": 500}, *inner], **SPAN)
    moments = {-1: None, 0: 10, 4: 10, 5: 1, 87: 1, 300: 1, 499: 1, 500: None, 84: 18}
    events = table("kernel_libav", [{"t_ns": t} for t in moments], **EVENT)
    found = kernel.identified(events, spans)
    assert taken(found, "t_ns", "span") == list(moments.items())
    assert {by for (by,) in taken(found, "by")} == {"time", None}


def test_other_threads_and_processes_and_waits_do_not_count(table: Build) -> None:
    spans = table(
        "spans",
        [
            {"span": 1, "tid": 2},
            {"span": 2, "pid": 2},
            {"span": 3, "kind": "queue"},
        ],
        **{**SPAN, "t_ns": 0, "duration_ns": 100},
    )
    events = table("kernel_libav", [{"t_ns": 5}], **EVENT)
    assert taken(kernel.identified(events, spans), "span", "by", "stage") == [(None, None, None)]


def test_nothing_in_nothing_out(table: Build) -> None:
    spans, events = table("spans"), table("kernel_libav")
    assert kernel.identified(events, spans).collect().is_empty()
    some = table("kernel_libav", [{"t_ns": 5}], **EVENT)
    assert taken(kernel.identified(some, spans), "by") == [(None,)]
    assert kernel.outermost(events.lazy(), ["op"]).collect().is_empty()


def test_what_is_no_table_of_events_is_refused(table: Build) -> None:
    with pytest.raises(InputError, match=r"run\.scan\('kernel_…'\)"):
        kernel.identified("kernel_libav", table("spans"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no column 'span'"):
        kernel.identified(table("kernel_libav").drop("span"), table("spans"))
    with pytest.raises(InputError, match="'spans' has no column 'stage'"):
        kernel.identified(table("kernel_libav"), table("spans").drop("stage"))


# --- against oracles ------------------------------------------------------------------

threads = st.tuples(st.integers(1, 2), st.integers(1, 2))
intervals = st.lists(st.tuples(threads, st.integers(0, 30), st.integers(0, 12)), max_size=20)


def innermost(spans: Rows, event: dict[str, Any]) -> int | None:
    """Of the spans that are open the one that began last, and of those the shortest."""
    is_open = [
        span
        for span in spans
        if (span["pid"], span["tid"]) == (event["pid"], event["tid"])
        and span["t_ns"] <= event["t_ns"] < span["t_ns"] + span["duration_ns"]
    ]
    last = max(is_open, key=lambda s: (s["t_ns"], -s["duration_ns"], s["span"]), default=None)
    return None if last is None else last["span"]


@settings(deadline=None)
@given(intervals, st.lists(st.tuples(threads, st.integers(-3, 45)), max_size=20))
def test_it_is_the_span_that_trying_all_finds(known: Any, asked: Any) -> None:
    spans = [
        {"pid": pid, "tid": tid, "t_ns": t, "duration_ns": d, "span": number}
        for number, ((pid, tid), t, d) in enumerate(known, 1)
    ]
    events = [{"pid": pid, "tid": tid, "t_ns": t} for (pid, tid), t in asked]
    found = kernel.identified(
        filled(events, ["pid", "tid", "t_ns"]), filled(spans, ["pid", "tid", "t_ns"])
    )
    assert taken(found, "span") == [(innermost(spans, event),) for event in events]


def filled(rows: Rows, needed: list[str]) -> pl.DataFrame:
    """A table with all columns that matter."""
    types = dict.fromkeys(needed, pl.Int64) | {
        "duration_ns": pl.Int64,
        "span": pl.UInt64,
        "frame": pl.UInt64,
        "labels": pl.UInt32,
        "stage": pl.String,
        "kind": pl.String,
        "stream_id": pl.String,
        "codec": pl.String,
        "gpu": pl.Int16,
    }
    return pl.DataFrame([{"kind": "service", **row} for row in rows], schema=types).with_columns(
        pl.col("pid", "tid").cast(pl.Int32)
    )


@settings(deadline=None)
@given(intervals, st.lists(st.integers(1, 2), min_size=20, max_size=20))
def test_calls_within_another_are_left_out(known: Any, addresses: list[int]) -> None:
    calls = [
        {"pid": pid, "tid": tid, "t_ns": t, "duration_ns": d, "address": address, "number": n}
        for n, (((pid, tid), t, d), address) in enumerate(zip(known, addresses, strict=False))
    ]

    def within(inner: dict[str, Any], outer: dict[str, Any]) -> bool:
        alike = all(inner[name] == outer[name] for name in ("pid", "tid", "address"))
        begin, end = inner["t_ns"], inner["t_ns"] + inner["duration_ns"]
        return alike and outer["t_ns"] <= begin and end <= outer["t_ns"] + outer["duration_ns"]

    types = dict.fromkeys(("pid", "tid", "t_ns", "duration_ns", "address", "number"), pl.Int64)
    found = kernel.outermost(pl.LazyFrame(calls, schema=types), ["address"]).collect()
    kept = {(call["pid"], call["tid"], call["t_ns"], call["t_end_ns"], call["address"])
            for call in found.to_dicts()}  # fmt: skip
    assert len(kept) == found.height  # of calls at the very same time one
    expected = {
        (call["pid"], call["tid"], call["t_ns"], call["t_ns"] + call["duration_ns"],
         call["address"])
        for call in calls
        if all(
            not within(call, other) or within(other, call) for other in calls
        )
    }  # fmt: skip
    assert kept == expected
    assert found["t_ns"].is_sorted()

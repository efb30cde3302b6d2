"""Samples share out what clocks know: by hand, and sums that must hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidlab.analysis import calibration, cpu
from vidlab.analysis.threadnames import UNNAMED
from vidlab.errors import InputError

Build = Callable[..., pl.DataFrame]

MS = 1_000_000

CPU = {"type": "cpu", "unit": "nanoseconds", "pid": 1, "samples": 1, "thread": "MainThread"}


def spans_of(table: Build) -> pl.DataFrame:
    rows = [
        {"span": 1, "t_ns": 0, "cpu_ns": 90, "stream_id": "a", "stage": "decode"},
        {
            "span": 2,
            "t_ns": 10,
            "cpu_ns": 40,
            "stream_id": "b",
            "stage": "filter",
            "duration_ns": 9,
        },
        {"span": 3, "t_ns": 200, "cpu_ns": 8, "stream_id": "c", "stage": "filter", "tid": 2},
        {"span": 4, "t_ns": 300, "cpu_ns": None, "stream_id": "c", "stage": "filter", "tid": 2},
        {"span": 5, "t_ns": 300, "cpu_ns": None, "stream_id": "c", "stage": "q", "kind": "queue"},
    ]
    return table("spans", rows, pid=1, tid=1, kind="service", duration_ns=100)


def samples_of(table: Build) -> pl.DataFrame:
    rows = [
        {"span": 1, "value": 200, "samples": 20, "stack": 1},
        {"span": 1, "value": 100, "samples": 10, "stack": 2},
        {"span": 2, "value": 10, "stack": 1},
        {"value": 60, "samples": 6, "stack": 3, "stream_id": "z"},
        {"value": 40, "samples": 4, "stack": 4},
        {"value": 30, "samples": 3, "stack": 4, "thread": "other"},
        {"value": 1 << 20, "type": "alloc_space", "unit": "bytes", "stack": 4},
    ]
    return table("profile_samples", rows, **CPU)


def waits_of(table: Build) -> pl.DataFrame:
    rows = [
        {"tid": 1, "cpu_ns": 100, "t_ns": 0},
        {"tid": 1, "cpu_ns": 100, "t_ns": 1000},
        {"tid": 7, "cpu_ns": 33, "t_ns": 0},
    ]
    return table("thread_waits", rows, pid=1)


def names_of(table: Build) -> pl.DataFrame:
    rows = [
        {"tid": 7, "name": "x264", "t_ns": 0, "op": "began", "python": False},
        {"tid": 2, "name": "Thread-1", "t_ns": 0, "op": "began"},
        {"tid": 2, "name": "worker", "t_ns": 5, "op": "renamed"},
        {"tid": 2, "name": "python", "t_ns": 8, "op": "renamed", "python": False},
        {"tid": 2, "name": None, "t_ns": 9, "op": "ended"},
    ]
    return table("threads", rows, pid=1, python=True)


def test_each_label_has_its_exact_cpu_and_samples_divide_it(table: Build) -> None:
    found = calibration.shared_out(samples_of(table), spans_of(table), "stream_id", waits_of(table))
    assert found.rows() == [
        # The main thread took 200, its stages 90: samples outside share the other 110.
        ("z", False, 3, 6, 60, pytest.approx(66), "clocks"),
        (None, False, 4, 4, 40, pytest.approx(44), "clocks"),
        ("b", True, 1, 1, 10, 40, "clocks"),
        # The decoder's span took 90, but 40 of it in the one of another stream inside it.
        ("a", True, 1, 20, 200, pytest.approx(100 / 3), "clocks"),
        (None, False, None, 0, 0, 33, "clocks"),
        (None, False, 4, 3, 30, 30, "samples"),
        ("a", True, 2, 10, 100, pytest.approx(50 / 3), "clocks"),
        ("c", True, None, 0, 0, 8, "clocks"),
    ]


def test_stages_and_threads(table: Build) -> None:
    found = calibration.shared_out(
        samples_of(table), spans_of(table), ["stage", "thread"], waits_of(table), names_of(table)
    )
    used = found.group_by("stage", "thread").agg(pl.col("cpu_ns").sum())
    assert {row[:2]: round(row[2]) for row in used.iter_rows()} == {
        ("decode", "MainThread"): 50,
        ("filter", "MainThread"): 40,
        ("filter", "worker"): 8,
        ("(outside stages)", "MainThread"): 110,
        ("(outside stages)", "other"): 30,
        ("(outside stages)", "x264"): 33,
    }


def test_a_thread_without_a_name_has_that_of_its_samples(table: Build) -> None:
    samples = table(
        "profile_samples", [{"span": 3, "value": 9, "stack": 1}], **CPU | {"thread": "w"}
    )
    found = calibration.shared_out(samples, spans_of(table), "thread", waits_of(table))
    used = found.group_by("thread").agg(pl.col("cpu_ns").sum())
    assert dict(used.iter_rows()) == {"MainThread": 200, "w": 8, UNNAMED: 33}


def test_the_recordings_own_threads_are_counted_once(table: Build) -> None:
    own = calibration.OWN_THREADS
    rows = [{"value": 500, "stack": 1, "thread": thread} for thread in (own, None)]
    samples = table("profile_samples", rows, **CPU)
    alone = calibration.shared_out(samples, None, "thread")
    assert set(alone.select("thread", "cpu_ns").rows()) == {(own, 500), (None, 500)}
    waits = table("thread_waits", [{"tid": 5, "cpu_ns": 400, "t_ns": 0}], pid=1)
    known = calibration.shared_out(samples, None, "thread", waits)
    assert known.select("thread", "cpu_ns").rows() == [(UNNAMED, 400)]


def test_labels_entered_inside_a_stage_divide_it(table: Build) -> None:
    spans = table("spans", [{"span": 1, "t_ns": 0, "cpu_ns": 90, "stream_id": "a", "region": None}],
                  pid=1, tid=1, duration_ns=100)  # fmt: skip
    rows = [
        {"span": 1, "value": 20, "stack": 1, "region": "north"},
        {"span": 1, "value": 10, "stack": 1, "region": "south", "stream_id": "other"},
    ]
    found = calibration.shared_out(
        table("profile_samples", rows, **CPU), spans, ["stream_id", "region"]
    )
    # The stream is the frame's, whatever is current inside.
    assert found.select("stream_id", "region", "cpu_ns").rows() == [
        ("a", "north", pytest.approx(60)),
        ("a", "south", pytest.approx(30)),
    ]


def test_without_clocks_samples_are_taken_as_they_are(table: Build) -> None:
    samples = samples_of(table)
    for spans in (None, table("spans")):
        found = calibration.shared_out(samples, spans, ["stream_id", "gpu"])
        assert set(found["basis"]) == {calibration.SAMPLED}
        assert found["cpu_ns"].sum() == found["sampled_ns"].sum() == 440


def test_frames_that_others_stand_for_are_not_counted_twice(table: Build) -> None:
    spans = table("spans", [{"span": 1, "t_ns": 0, "cpu_ns": 10, "stream_id": "a", "stage": "s",
                             "sample_rate": 0.1}], pid=1, tid=1, duration_ns=20)  # fmt: skip
    rows = [
        {"span": 1, "value": 10, "stack": 1, "stream_id": "a", "sample_rate": 0.1},
        {"span": 8, "value": 70, "stack": 2, "stream_id": "a", "sample_rate": 0.1},
        {"span": 9, "value": 5, "stack": 2, "stream_id": "a", "sample_rate": 1.0},
    ]
    samples = table("profile_samples", rows, **CPU)
    by_stream = calibration.shared_out(samples, spans, "stream_id")
    assert by_stream.select("stack", "samples", "cpu_ns").rows() == [
        (2, 2, pytest.approx(100 * 75 / 85)),  # all samples of the stream divide its CPU
        (1, 1, pytest.approx(100 * 10 / 85)),
    ]
    by_stage = calibration.shared_out(samples, spans, "stage")
    assert by_stage.select("stage", "samples", "cpu_ns", "basis").rows() == [
        ("s", 1, pytest.approx(100), "clocks")
    ]
    # Where all spans are recorded, one that is not there was lost, or had not ended.
    one = pl.lit(1.0).alias("sample_rate")
    found = calibration.shared_out(samples.with_columns(one), spans.with_columns(one), "stage")
    assert found.select("stage", "samples", "cpu_ns", "basis").rows() == [
        (None, 2, 75, "samples"),
        ("s", 1, pytest.approx(10), "clocks"),
    ]


def test_by_label_puts_clocks_beside_samples(table: Build) -> None:
    found = cpu.by_label(spans_of(table), samples_of(table), "stream_id", waits_of(table))
    assert found.drop("unread_ns").rows() == [
        (None, 107, 0, 30, 70, 7, pytest.approx(40 / 77), 0, 0),
        ("z", 66, 0, 0, 60, 6, pytest.approx(60 / 66), 0, 0),
        ("a", 50, 50, 0, 300, 30, pytest.approx(6), 1, 0),
        ("b", 40, 40, 0, 10, 1, pytest.approx(0.25), 1, 0),
        ("c", 8, 8, 0, 0, 0, None, 2, 1),
    ]
    assert found["unread_ns"].to_list() == [0, 0, 0, 0, 100]
    by_thread = cpu.by_label(
        spans_of(table), samples_of(table), "thread", waits_of(table), names_of(table)
    )
    assert dict(by_thread.select("thread", "cpu_ns").iter_rows()) == {
        "MainThread": 200, "x264": 33, "other": 30, "worker": 8,
    }  # fmt: skip
    assert dict(by_thread.select("thread", "unread").iter_rows())["worker"] == 1


def test_by_nothing_is_one_row(table: Build) -> None:
    found = cpu.by_label(spans_of(table), samples_of(table), [], waits_of(table))
    assert found.height == 1
    assert found["cpu_ns"].item() == 90 + 8 + 110 + 30 + 33


def test_nothing_in_nothing_out(table: Build) -> None:
    spans, samples = table("spans"), table("profile_samples")
    waits, threads = table("thread_waits"), table("threads")
    for by in (["stream_id", "gpu"], ["thread", "stage"]):
        assert calibration.shared_out(samples, spans, by, waits, threads).is_empty()
        assert cpu.by_label(spans, samples, by, waits, threads).is_empty()


def test_a_missing_column_is_named(table: Build) -> None:
    with pytest.raises(InputError, match="'profile_samples' has no column 'region'"):
        calibration.shared_out(samples_of(table), None, "region")
    with pytest.raises(InputError, match="'thread_waits' has no column 'cpu_ns'"):
        calibration.shared_out(
            samples_of(table), None, "gpu", waits_of(table).drop("cpu_ns"))  # fmt: skip


numbers = st.integers(1, 10**9)
cells = st.tuples(st.sampled_from("abc"), numbers)
seen = st.tuples(st.integers(0, 6), st.sampled_from(["x", "y", None]), st.integers(1, 3), numbers)


@settings(max_examples=40, deadline=None)
@given(st.lists(cells, max_size=5), st.lists(seen, max_size=30), numbers)
def test_all_cpu_that_clocks_know_is_shared_out_and_no_more(
    spans: list[tuple[str, int]], samples: list[tuple[Any, ...]], outside: int
) -> None:
    known = pl.DataFrame(
        [(n + 1, n, 1, c, 1, 1, s, "service") for n, (s, c) in enumerate(spans)],
        schema=["span", "t_ns", "duration_ns", "cpu_ns", "pid", "tid", "stream_id", "kind"],
        schema_overrides={"span": pl.UInt64, "stream_id": pl.String, "kind": pl.String},
        orient="row",
    )
    taken = pl.DataFrame(
        [(n, s, k, v, 1, "MainThread", "cpu", "nanoseconds", 1) for n, s, k, v in samples
         if n <= len(spans)],
        schema=["span", "stream_id", "stack", "value", "pid", "thread", "type", "unit", "samples"],
        schema_overrides={"stream_id": pl.String, "thread": pl.String, "type": pl.String,
                          "unit": pl.String, "stack": pl.UInt32, "span": pl.UInt64,
                          "value": pl.Int64, "samples": pl.Int64},
        orient="row",
    )  # fmt: skip
    staged = sum(c for _, c in spans)
    waits = pl.DataFrame({"pid": [1], "tid": [1], "cpu_ns": [staged + outside]})
    found = calibration.shared_out(taken, known, "stream_id", waits)
    assert found["cpu_ns"].sum() == pytest.approx(staged + outside)
    assert (found["cpu_ns"] >= 0).all()
    assert found["sampled_ns"].sum() == taken["value"].sum()
    of_label: dict[str | None, int] = {}
    for label, used in spans:
        of_label[label] = of_label.get(label, 0) + used
    in_stages = found.filter("staged").group_by("stream_id").agg(pl.col("cpu_ns").sum())
    assert dict(in_stages.iter_rows()) == {k: pytest.approx(v) for k, v in of_label.items()}

"""Whatever is in the tables: lives are taken apart without a rest and without an overlap."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidlab.analysis import blame, latency

TIMES = st.integers(0, 60)
FRAMES = st.integers(1, 3)
PIDS = st.sampled_from([1, 1, 1, 2])
TIDS = st.integers(1, 2)


def rows(**columns: st.SearchStrategy[Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    common = {"t_ns": TIMES, "duration_ns": st.integers(0, 30), "pid": PIDS, "tid": TIDS}
    return st.lists(st.fixed_dictionaries({**common, **columns}), max_size=12)


SPANS = rows(
    frame=FRAMES,
    span=st.integers(1, 9),
    parent=st.sampled_from([None, None, 1, 2, 3]),
    stage=st.sampled_from(["decode", "filter", "before filter"]),
    kind=st.sampled_from(["service", "service", "queue", "reorder", "encoder_lag"]),
    cpu_ns=st.one_of(st.none(), st.integers(0, 40)),
    runqueue_ns=st.one_of(st.none(), st.integers(0, 40)),
)
PAUSES = rows()
CALLS = rows(frame=FRAMES, level=st.sampled_from(["driver", "pool"]), op=st.just("alloc"))
WAITS = rows(
    state=st.sampled_from(["sleeping", "disk", "preempted"]),
    runqueue_ns=st.one_of(st.none(), st.integers(0, 40)),
)
PROBES = st.lists(
    st.fixed_dictionaries(
        {
            "t_ns": TIMES,
            "asked_ns": st.integers(1, 20),
            "gil_ns": st.integers(0, 20),
            "runqueue_ns": st.integers(0, 20),
        }
    ).map(lambda row: {**row, "late_ns": row["gil_ns"] + row["runqueue_ns"]}),
    max_size=5,
)
LIVES = st.lists(st.tuples(TIMES, st.integers(0, 60)), min_size=1, max_size=3)


@pytest.mark.parametrize("table", ["Categorical"], indirect=True)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lives=LIVES, spans=SPANS, pauses=PAUSES, calls=CALLS, waits=WAITS, probes=PROBES)
def test_lives_are_taken_apart_without_rest_or_overlap(
    make_run, lives, spans, pauses, calls, waits, probes
):
    frames = [
        {"frame": number, "t_demux_ns": begin, "t_done_ns": begin + lasted, "fate": "delivered",
         "stream_id": "cam"}
        for number, (begin, lasted) in enumerate(lives, 1)
    ]  # fmt: skip
    run = make_run(frames=frames, spans=spans, gc_pauses=pauses, allocations=calls,
                   kernel_offcpu=waits, wakeups=probes)  # fmt: skip
    late = latency.late(run.scan("frames"), deadline_ms=1e-6)
    blamed = blame.per_frame(run, late)
    for row in frames:
        parts = blame.waterfall(run, row["frame"])
        begins = parts["t_ns"]
        ends = begins + parts["duration_ns"]
        # In order, without an overlap, without a hole, from the begin to the end.
        assert (parts["duration_ns"] > 0).all()
        assert begins.to_list()[1:] == ends.to_list()[:-1]
        if parts.height:
            assert (begins[0], ends[-1]) == (row["t_demux_ns"], row["t_done_ns"])
        else:
            assert row["t_demux_ns"] == row["t_done_ns"]
        own = blamed.filter(pl.col("frame") == row["frame"])
        assert own["blamed_ns"].sum() <= row["t_done_ns"] - row["t_demux_ns"]
        if row["t_done_ns"] - row["t_demux_ns"] <= 1:
            continue  # not late
        by = ["cause", "stage"]
        summed = parts.group_by(by).agg(pl.col("duration_ns").sum()).sort(by)
        assert own.select(*by, "total_ns").sort(by).rows() == summed.rows()
        assert own["rank"].to_list() == list(range(1, own.height + 1))
        assert own["blamed_ns"].is_sorted(descending=True)


def test_tables_with_text_of_any_type_are_read(make_run):
    run = make_run(
        frames=[{"frame": 7, "t_demux_ns": 0, "t_done_ns": 100, "fate": "delivered",
                 "stream_id": "cam", "codec": "av1"},
                {"frame": 8, "t_demux_ns": 0, "t_done_ns": 100, "fate": "corrupt",
                 "stream_id": "cam", "codec": "av1", "lost_at": "decode"}],
        spans=[{"t_ns": 0, "duration_ns": 90, "frame": 7, "stage": "x", "kind": "service",
                "span": 1}],
        allocations=[{"t_ns": 10, "duration_ns": 20, "level": "driver", "op": "alloc"}],
        kernel_offcpu=[{"t_ns": 50, "duration_ns": 20, "state": "disk", "runqueue_ns": 0}],
        findings=[{"t_ns": 5, "frame": 7, "kind": "odd"}],
    )  # fmt: skip
    assert blame.waterfall(run, 7)["cause"].to_list() == [
        "work", "allocator", "work", "io", "work", "unexplained",
    ]  # fmt: skip
    late = latency.late(run.scan("frames"), deadline_ms=1e-6)
    blamed = blame.per_frame(run, late)
    assert blamed.filter(pl.col("rank") == 1)["cause"].to_list() == ["work", "corrupt_input"]
    assert blame.ranked(blamed)["stream_id"].to_list() == ["cam"] * 5
    assert blame.evidence(run, 7)["findings"]["kind"].to_list() == ["odd"]

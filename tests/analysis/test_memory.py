"""Bytes in use: by hand, against a book-keeper that walks through the events, and sums."""

from __future__ import annotations

import random

import polars as pl
import pytest

from vidlab.analysis import memory
from vidlab.errors import InputError
from vidlab.lab.simulated_memory import Leak, simulated_allocations

COMMON = {
    "pid": 1, "tid": 7, "duration_ns": 10, "status": "ok", "level": "pool", "kind": "device",
    "device": 0, "pooled": False, "labels": 0,
}  # fmt: skip


def alloc(t_ns, generation, size, **more):
    row = {"op": "alloc", "t_ns": t_ns, "generation": generation, "size_bytes": size}
    return {**row, "size_asked_bytes": size, "address": generation << 20, **more}


def free(t_ns, generation, size, **more):
    row = {"op": "free", "t_ns": t_ns, "generation": generation, "size_bytes": size}
    return {**row, "address": generation << 20, "freed_by": "refcount", **more}


A, B = {"stream_id": "a", "stack": 1, "frame": 5}, {"stream_id": "b", "stack": 2, "frame": 6}
EVENTS = [
    alloc(0, 1, 100, **A),
    alloc(20, 2, 1_000, **B),
    free(50, 1, 100, stream_id="b", stack=9, frame=99),  # another thread's labels
    alloc(60, 3, 30, **A),
    alloc(70, 0, 0, status="OutOfMemoryError", address=0, **A),
    alloc(95, 4, 7, level="driver", pooled=True, **A),
]


def test_what_is_freed_counts_for_those_who_took_it(table):
    changes = memory.effective(table("allocations", EVENTS, **COMMON), level="pool")
    assert changes.select("t_ns", "change_bytes", "stream_id", "stack", "frame").rows() == [
        (10, 100, "a", 1, 5),
        (30, 1_000, "b", 2, 6),
        (50, -100, "a", 1, 5),
        (70, 30, "a", 1, 5),
    ]


def test_effective_times_put_an_alloc_at_its_end_and_before_a_free_at_once(table):
    rows = [alloc(0, 1, 5, duration_ns=100), alloc(10, 2, 6), free(20, 2, 6), free(100, 1, 5)]
    changes = memory.effective(table("allocations", rows, **COMMON), ["generation"])
    assert changes.select("t_ns", "change_bytes").rows() == [
        (20, 6), (20, -6), (100, 5), (100, -5),
    ]  # fmt: skip


def test_blocks_older_than_the_recording_have_no_labels_and_frees_of_unknown_ones_are_left_out(
    table,
):
    rows = [
        alloc(0, 0, 500, duration_ns=0, address=0, stream_id="a"),
        free(10, 0, 200, stream_id="a", stack=4),
        free(20, 77, 999, stream_id="a"),  # its allocation was let go
    ]
    changes = memory.effective(table("allocations", rows, **COMMON))
    assert changes.select("t_ns", "change_bytes", "stream_id", "stack").rows() == [
        (0, 500, None, None),
        (10, -200, None, None),
    ]
    assert memory.at(table("allocations", rows, **COMMON), 15, "stream_id").rows() == [
        (None, 300, 0)
    ]


def test_processes_number_their_blocks_each_for_itself(table):
    rows = [
        alloc(0, 1, 10, stream_id="a"),
        alloc(1, 1, 20, pid=2, stream_id="b"),
        free(50, 1, 20, pid=2),
    ]
    allocations = table("allocations", rows, **COMMON)
    assert memory.at(allocations, 60, "stream_id").rows() == [("a", 10, 1)]


def test_in_use_over_time(table):
    result = memory.in_use(table("allocations", EVENTS, **COMMON), "stream_id", time_bins=3)
    # From 10 to 70 in three bins of 21.
    assert result.columns == [
        "stream_id", "t_ns", "t_end_ns", "in_use_bytes", "peak_bytes", "blocks",
    ]  # fmt: skip
    assert result.rows() == [
        ("a", 10, 31, 100, 100, 1),
        ("a", 31, 52, 0, 100, 0),
        ("a", 52, 73, 30, 30, 1),
        ("b", 10, 31, 1_000, 1_000, 1),
        ("b", 31, 52, 1_000, 1_000, 1),
        ("b", 52, 73, 1_000, 1_000, 1),
    ]


def test_a_group_has_no_bins_before_its_first_block(table):
    rows = [alloc(0, 1, 5, **A), alloc(90, 2, 6, **B)]
    result = memory.in_use(table("allocations", rows, **COMMON), "stream_id", time_bins=2)
    assert result.select("stream_id", "in_use_bytes").rows() == [("a", 5), ("a", 5), ("b", 6)]


def test_peaks_name_the_frame_that_topped_them_up(table):
    allocations = table("allocations", EVENTS, **COMMON)
    assert memory.peak(allocations).rows() == [(1_100, 30, 6, 2)]
    assert memory.peak(allocations, "stream_id").rows() == [
        ("b", 1_000, 30, 6, 2),
        ("a", 100, 10, 5, 1),
    ]
    assert memory.peak(allocations, level="driver")["peak_bytes"].to_list() == [7]


def test_one_stream(table):
    allocations = table("allocations", EVENTS, **COMMON)
    one = memory.by_stream(allocations, "a", time_bins=2)
    assert one["in_use_bytes"].to_list() == [100, 30]
    assert memory.by_stream(allocations, "c").is_empty()
    unlabelled = memory.at(allocations, 99, where={"stream_id": None})
    assert unlabelled.rows() == [(0, 0)]
    assert memory.at(allocations, 99, where={"stream_id": "a", "kind": "device"}).rows() == [
        (30, 1)
    ]


def test_a_driver_call_within_a_pools_is_a_miss(table):
    rows = [
        alloc(0, 1, 1_000, level="driver", pooled=True),
        *(alloc(n, n + 1, 100) for n in range(1, 5)),
        alloc(9, 7, 50, level="driver"),  # taken past the pool
        alloc(9, 8, 64, kind="async"),
        alloc(9, 9, 64, kind="async", level="driver", pooled=True),
        alloc(0, 0, 4_000, address=0),  # what was there before asked nobody now
    ]
    result = memory.hit_rate(table("allocations", rows, **COMMON))
    assert result.rows() == [
        (0, "async", 1, 1, 0.0, 64, 64),
        (0, "device", 4, 1, 0.75, 400, 1_000),
    ]
    assert memory.hit_rate(table("allocations", rows, **COMMON), ()).row(0)[:3] == (5, 2, 0.6)
    timed = memory.hit_rate(table("allocations", rows, **COMMON), "kind", time_bins=2)
    assert timed.select("kind", "t_ns", "t_end_ns", "asked", "missed").rows() == [
        ("async", 5, 10, 1, 1),
        ("device", 0, 5, 4, 1),
    ]


def test_bytes_a_frame_by_stage(table):
    rows = [
        alloc(0, 1, 100, span=11, **A),
        alloc(1, 2, 300, span=11, **A),
        alloc(2, 3, 200, span=12, **{**A, "frame": 8}),
        alloc(3, 4, 999, stream_id="a"),  # for no frame
    ]
    allocations = table("allocations", rows, **COMMON)
    spans = table("spans", [{"span": 11, "stage": "infer"}, {"span": 12, "stage": "resize"}])
    assert memory.per_frame(allocations).rows() == [("a", 2, 3, 600, 1.5, 300.0)]
    staged = memory.per_frame(memory.with_stage(allocations, spans), ["stage"])
    assert staged.rows() == [
        ("infer", 1, 2, 400, 2.0, 400.0),
        ("resize", 1, 1, 200, 1.0, 200.0),
    ]


def test_without_events_the_tables_are_empty(table):
    nothing = table("allocations")
    assert memory.effective(nothing).is_empty()
    assert memory.blocks(nothing).is_empty()
    for result in (memory.in_use(nothing, "stream_id"), memory.peak(nothing, "stream_id")):
        assert result.is_empty()
        assert result.schema["stream_id"] == pl.String
    assert memory.in_use(nothing).columns[0] == "t_ns"
    assert memory.at(nothing, 0).rows() == [(0, 0)]
    assert memory.hit_rate(nothing).is_empty()
    assert memory.per_frame(nothing).is_empty()


def test_bad_arguments(table):
    with pytest.raises(InputError, match="one bin at least"):
        memory.in_use(table("allocations"), time_bins=0)
    with pytest.raises(InputError, match="no column 'colour'"):
        memory.in_use(table("allocations"), "colour")


def some_events(seed):
    """Random blocks of two processes, some freed, some failing, under few labels."""
    chance = random.Random(seed)
    rows = []
    for pid in (1, 2):
        for generation in range(1, chance.randint(2, 30)):
            begin, took = chance.randint(0, 500), chance.randint(0, 40)
            labels = {"stream_id": chance.choice(["a", "b", None]), "device": chance.randint(0, 1)}
            size = chance.randint(1, 9)
            rows.append(alloc(begin, generation, size, pid=pid, duration_ns=took, **labels))
            if chance.random() < 0.7:
                end = begin + took + chance.randint(0, 300)
                elsewhere = {"stream_id": chance.choice(["a", "b", None]), "pid": pid}
                rows.append(free(end, generation, size, **{**labels, **elsewhere}))
    rows.append(alloc(9, 0, 0, status="OutOfMemoryError", address=0))
    chance.shuffle(rows)
    return rows


def in_use_by_hand(rows, t_ns, key):
    """Walk through every block's life."""
    taken = {(r["pid"], r["generation"]): r for r in rows if r["op"] == "alloc" and "pid" in r}
    ends = {(r["pid"], r["generation"]): r["t_ns"] for r in rows if r["op"] == "free"}
    total = {}
    for block, row in taken.items():
        begins = row["t_ns"] + row["duration_ns"]
        if begins <= t_ns < ends.get(block, 10**9):
            total[row[key]] = total.get(row[key], 0) + row["size_bytes"]
    return total


@pytest.mark.parametrize("seed", range(10))
def test_in_use_equals_a_walk_through_all_blocks(table, seed):
    rows = some_events(seed)
    allocations = table("allocations", rows, **COMMON)
    for key in ("stream_id", "device"):
        for t_ns in (0, 100, 250, 499, 900):
            found = memory.at(allocations, t_ns, key)
            assert dict(found.select(key, "in_use_bytes").iter_rows()) == in_use_by_hand(
                rows, t_ns, key
            )
        series = memory.in_use(allocations, key, time_bins=7)
        for label, begin, end, in_use, peak, _ in series.iter_rows():
            moments = [in_use_by_hand(rows, t, key).get(label, 0) for t in range(begin - 1, end)]
            assert in_use == moments[-1]
            # A block may come and go within the same nanosecond: the peak sees it.
            assert peak >= max(moments)
        tops = memory.peak(allocations, key)
        for label, most, *_ in tops.iter_rows():
            assert most == max(series.filter(pl.col(key).eq_missing(label))["peak_bytes"])


def test_parts_add_up_and_a_leak_stays(table):
    simulated = simulated_allocations(1_000, leaks=[Leak(site=1, stream=0, every=50)])
    allocations = simulated.allocations
    whole = memory.in_use(allocations, time_bins=50)
    for by in ("stream_id", ["device", "kind"], "stack"):
        parts = memory.in_use(allocations, by, time_bins=50)
        sums = parts.group_by("t_ns").agg(pl.col("in_use_bytes", "blocks").sum()).sort("t_ns")
        assert sums["in_use_bytes"].to_list() == whole["in_use_bytes"].to_list()
        assert sums["blocks"].to_list() == whole["blocks"].to_list()
    end = allocations["t_ns"].max() + 1
    left = memory.at(allocations, end, ["stream_id", "stack"])
    assert left.rows() == [("cam-00", 2, 5 * 6_220_800, 5)]
    lives = memory.blocks(allocations, level="pool").filter(pl.col("free_ns").is_null())
    assert lives["stack"].to_list() == [2] * 5

"""Depths weighted by time, waits, and levels for a chart."""

from __future__ import annotations

import pytest

from vidlab.analysis import queues


def touches(table, rows, **columns):
    """Rows of (t_ns, touch, depth)."""
    common = {"pid": 1, "queue": "mailbox", "capacity": 4, "stream_id": "cam", **columns}
    return table(
        "queue_depths", [{"t_ns": t, "touch": k, "depth": d} for t, k, d in rows], **common
    )


FILLING = [(0, "put", 1), (10, "put", 4), (30, "get", 3), (100, "evict", 2), (100, "get", 0)]


def test_an_idle_queue(table):
    row = queues.by_queue(touches(table, [(0, "put", 1), (1, "get", 0), (1_001, "put", 1)]))
    assert row["mean_depth"].to_list() == [pytest.approx(1 / 1_001)]
    assert row["full_share"].to_list() == [0.0]


def test_depths_are_weighted_by_how_long_they_lasted(table):
    result = queues.by_queue(touches(table, FILLING))
    assert result.columns == [
        "queue", "stream_id", "capacity", "mean_depth", "max_depth", "full_share", "puts", "gets",
        "evictions",
    ]  # fmt: skip
    mean = (1 * 10 + 4 * 20 + 3 * 70) / 100
    assert result.row(0) == ("mailbox", "cam", 4, pytest.approx(mean), 4, 0.2, 2, 2, 1)


def test_a_queue_touched_once_or_without_a_capacity(table):
    row = queues.by_queue(touches(table, [(5, "put", 4)])).row(0, named=True)
    assert (row["mean_depth"], row["full_share"]) == (4.0, 1.0)
    for unlimited in (None, 0, -1):
        row = queues.by_queue(touches(table, FILLING, capacity=unlimited)).row(0, named=True)
        assert row["capacity"] is row["full_share"] is None
        assert row["max_depth"] == 4


def test_queues_of_one_name_in_two_streams_and_processes(table):
    """The depth that one process left lasts until that process touches its queue again."""
    rows = [
        {"t_ns": 0, "pid": 1, "depth": 2, "stream_id": "a"},
        {"t_ns": 5, "pid": 2, "depth": 0, "stream_id": "a"},
        {"t_ns": 5, "pid": 1, "depth": 9, "stream_id": "b"},
        {"t_ns": 10, "pid": 1, "depth": 2, "stream_id": "a"},
        {"t_ns": 15, "pid": 2, "depth": 0, "stream_id": "a"},
    ]
    depths = table("queue_depths", rows, queue="q", touch="put", capacity=9)
    result = queues.by_queue(depths)
    assert result.select("stream_id", "mean_depth", "full_share").rows() == [
        ("b", 9.0, 1.0),
        ("a", 1.0, 0.0),
    ]
    assert queues.by_queue(depths, by=()).height == 1


def test_touches_without_a_stream_count_only_where_no_others_are(table):
    rows = [
        {"queue": "shared", "t_ns": 0, "stream_id": None, "depth": 1},
        {"queue": "mailbox", "t_ns": 0, "stream_id": "a", "depth": 1},
        {"queue": "mailbox", "t_ns": 9, "stream_id": None, "depth": 7},
    ]
    result = queues.by_queue(table("queue_depths", rows, touch="put", capacity=2, pid=1))
    assert sorted(result.select("queue", "stream_id", "max_depth").rows()) == [
        ("mailbox", "a", 1),
        ("shared", None, 1),
    ]


def waiting(table, **columns):
    rows = [{"stage": "mailbox", "kind": "queue", "duration_ns": n} for n in (30, 10, 20)]
    rows += [{"stage": "mailbox", "kind": "service", "duration_ns": 999}]
    return table("spans", rows, **{"stream_id": "cam", **columns})


def test_waits_are_the_queue_spans(table):
    assert queues.waits(waiting(table)).rows() == [("mailbox", "cam", 3, 20, 30, 30)]
    result = queues.by_queue(touches(table, FILLING), waiting(table))
    assert result.columns[-4:] == ["waits", "wait_p50_ns", "wait_p99_ns", "wait_max_ns"]
    assert result.row(0)[-4:] == (3, 20, 30, 30)
    other = queues.by_queue(touches(table, FILLING), waiting(table, stream_id="other"))
    assert other.row(0)[-4:] == (0, None, None, None)


def test_levels_of_bins_without_a_touch_are_what_the_last_one_left(table):
    result = queues.levels(touches(table, FILLING), time_bins=5)
    assert result.columns == [
        "queue", "stream_id", "t_ns", "t_end_ns",
        "min_depth", "max_depth", "last_depth", "capacity",
    ]  # fmt: skip
    assert result.select("t_ns", "t_end_ns", "min_depth", "max_depth", "last_depth").rows() == [
        (0, 21, 1, 4, 4),
        (21, 42, 3, 3, 3),
        (42, 63, 3, 3, 3),
        (63, 84, 3, 3, 3),
        (84, 105, 0, 2, 0),
    ]


def test_nothing_in_nothing_out(table):
    depths = table("queue_depths")
    full = queues.by_queue(touches(table, FILLING), waiting(table))
    assert queues.by_queue(depths, table("spans")).schema == full.schema
    assert queues.levels(depths).schema == queues.levels(touches(table, FILLING)).schema

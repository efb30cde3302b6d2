"""How late event loops ran, and what blocked them: small tables with known answers."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from vidlab.analysis import loops

Build = Callable[..., pl.DataFrame]

MS = 1_000_000


def delays_of(table: Build, *rows: tuple[int, int]) -> pl.DataFrame:
    known = [{"t_ns": t * MS, "delay_ns": d * MS} for t, d in rows]
    return table("loop_delays", known, pid=1, tid=9, loop=3, period_ns=100 * MS)


def test_by_loop(table: Build) -> None:
    delays = delays_of(table, *((n, 1) for n in range(98)), (98, 40), (99, 90))
    [found] = loops.by_loop(delays).rows(named=True)
    assert (found["loop"], found["count"], found["period_ns"]) == (3, 100, 100 * MS)
    assert (found["p50_ns"], found["p99_ns"], found["max_ns"]) == (MS, 40 * MS, 90 * MS)


def test_over_time_keeps_the_longest(table: Build) -> None:
    found = loops.over_time(delays_of(table, (0, 1), (1, 7), (2, 3), (3, 2)), time_bins=2)
    assert (found["delay_ns"] / MS).to_list() == [7, 3]
    assert found["count"].to_list() == [2, 2]


def test_the_stage_that_was_under_way_in_the_loops_thread_is_named(table: Build) -> None:
    delays = delays_of(table, (0, 1), (100, 60), (300, 80))
    spans = table(
        "spans",
        [
            {"t_ns": 90 * MS, "duration_ns": 60 * MS, "stage": "annotate", "tid": 9},
            {"t_ns": 90 * MS, "duration_ns": 60 * MS, "stage": "inner", "tid": 9, "parent": 5},
            {"t_ns": 90 * MS, "duration_ns": 600 * MS, "stage": "elsewhere", "tid": 8},
            {"t_ns": 310 * MS, "duration_ns": 30 * MS, "stage": "resize", "tid": 9},
            {"t_ns": 300 * MS, "duration_ns": 80 * MS, "stage": "a queue", "tid": 9,
             "kind": "queue"},
        ],
        pid=1,
        kind="service",
        frame=1,
    )  # fmt: skip
    found = loops.blockers(delays, spans, 50 * MS)
    assert found.select("stage", "delays", pl.col("blocked_ns") // MS).rows() == [
        (loops.OUTSIDE, 2, 10 + 50),
        ("annotate", 1, 50),
        ("resize", 1, 30),
    ]


def test_nothing_in_nothing_out(table: Build) -> None:
    empty = table("loop_delays")
    assert loops.by_loop(empty).is_empty()
    assert loops.over_time(empty).is_empty()
    assert loops.blockers(empty, table("spans"), MS).is_empty()


def test_vidlabs_own_looks_are_not_the_loops_doing(table: Build) -> None:
    delays = delays_of(table, (0, 50), (100, 5))
    read = [{"t_ns": 10 * MS, "metric": "vidlab.runtime.census.duration", "value": 0.03}]
    metrics = table("runtime_metrics", read, pid=1, kind="gauge")
    found = loops.without_looks(delays, metrics)
    assert found["delay_ns"].to_list() == [20 * MS, 5 * MS]

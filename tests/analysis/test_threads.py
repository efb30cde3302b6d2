"""Threads and tasks by name: small tables with known answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from vidlab.analysis import threads

Build = Callable[..., pl.DataFrame]

S = 1_000_000_000


def test_by_thread_joins_names_with_waits(table: Build) -> None:
    known = table(
        "threads",
        [
            {"tid": 1, "name": "MainThread", "python": True, "daemon": False, "t_ns": 0},
            {"tid": 2, "name": "Thread-1", "python": True, "daemon": True, "t_ns": 1},
            {"tid": 2, "name": "reader", "python": True, "daemon": True, "t_ns": 2,
             "op": "renamed"},
            {"tid": 2, "name": "reader", "python": True, "daemon": True, "t_ns": 9, "op": "ended"},
        ],
        op="began",
        pid=1,
    )  # fmt: skip
    window = {"duration_ns": S, "runqueue_ns": 0, "slices": 1, "readings": 1}
    window |= {"p50_delay_ns": 0, "worst_delay_ns": 0}
    rows = [{"tid": 2, "cpu_ns": S // 2, **window}, {"tid": 77, "cpu_ns": S // 4, **window}]
    found = threads.by_thread(known, table("thread_waits", rows, pid=1, t_ns=5))
    assert found.select("name", "python", "daemon", "t_end_ns", "cpu_share").rows() == [
        ("reader", True, True, 9, 0.5),
        ("thread 77", None, None, None, 0.25),
        ("MainThread", True, False, None, None),
    ]


def look(t: int, task: int, **columns: Any) -> dict[str, Any]:
    known = {"age_ns": t * S, "steps": 0, "name": f"Task-{task}", "coroutine": "worker"}
    return {"t_ns": t * S, "task": task, "waits_at": "wait (x.py:3)", **known, **columns}


def looks_of(table: Build) -> pl.DataFrame:
    rows = [
        *(look(t, 0, coroutine="main", waits_at="main (app.py:1)") for t in range(21)),
        *(look(t, 2, steps=t) for t in range(21)),
        *(look(t, 3) for t in range(21)),
        *(look(t, 4) for t in range(15)),  # ended
        *(look(t, 5, age_ns=(t - 5) * S) for t in range(5, 21)),
        *(look(t, 6, age_ns=(t - 18) * S) for t in range(18, 21)),
    ]
    return table("tasks", rows, pid=1, loop=2)


def test_tasks_are_seen_from_their_first_look_to_their_last(table: Build) -> None:
    found = threads.tasks(looks_of(table)).sort("task")
    assert found["task"].to_list() == [0, 2, 3, 4, 5, 6]
    assert found["main"].to_list() == [True, False, False, False, False, False]
    assert found["there"].to_list() == [True, True, True, False, True, True]
    assert found.filter(task=5).select("t_ns", "t_end_ns", "age_ns", "steps", "looks").rows() == [
        (5 * S, 20 * S, 15 * S, 0, 16)
    ]
    assert found["steps"].to_list() == [0, 20, 0, 0, 0, 0]


def test_a_task_may_be_cancelled_at_the_very_end(table: Build) -> None:
    rows = [look(t, task) for task, last in ((1, 9), (2, 8), (3, 7)) for t in range(last + 1)]
    found = threads.tasks(table("tasks", rows, pid=1, loop=2)).sort("task")
    assert found["there"].to_list() == [True, True, False]


def test_a_loop_without_a_main_task_has_none_that_may_be_stuck(table: Build) -> None:
    rows = [look(t, task) for task in (1, 2) for t in range(12)]
    found = threads.stuck(table("tasks", rows, pid=1, loop=2), S)
    assert found["count"].to_list() == [2]


def test_a_frameworks_own_tasks_are_not_stuck(table: Build) -> None:
    places = ("lib/python3/dist-packages/server/loop.py", "lib/site-packages/x.py", "app.py")
    rows = [look(t, task, waits_at=f"poll (/usr/{place}:9)")
            for task, place in enumerate(places, 1) for t in range(12)]  # fmt: skip
    found = threads.stuck(table("tasks", rows, pid=1, loop=2), S)
    assert found.select("names", "count").rows() == [(["Task-3"], 1)]


def test_stuck_are_those_that_never_moved_for_long_and_are_still_there(table: Build) -> None:
    found = threads.stuck(looks_of(table), 10 * S)
    assert found.select("coroutine", "waits_at", "count", "age_ns").rows() == [
        ("worker", "wait (x.py:3)", 2, 20 * S)
    ]
    assert sorted(found["names"].to_list()[0]) == ["Task-3", "Task-5"]
    assert threads.stuck(looks_of(table), 21 * S).is_empty()


def test_nothing_in_nothing_out(table: Build) -> None:
    assert threads.by_thread(table("threads"), table("thread_waits")).is_empty()
    assert threads.stuck(table("tasks"), S).is_empty()

"""How late Python ran again, and who had the CPU meanwhile: tables with known answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from vidlab.analysis import wakeups

Build = Callable[..., pl.DataFrame]

MS, S = 1_000_000, 1_000_000_000


def probe(t_ms: float, late_ms: float, runqueue_ms: float = 0, **more: Any) -> dict[str, Any]:
    late, runqueue = round(late_ms * MS), round(runqueue_ms * MS)
    return {
        "t_ns": round(t_ms * MS),
        "asked_ns": 5 * MS,
        "late_ns": late,
        "runqueue_ns": runqueue,
        "gil_ns": late - runqueue,
        "pid": 1,
        **more,
    }


def test_by_process_tells_a_wait_for_a_cpu_from_one_for_the_gil(table: Build) -> None:
    rows = [probe(n * 10, 1, 0.25) for n in range(98)] + [probe(980, 30, 20), probe(990, 9, 0)]
    [found] = wakeups.by_process(table("wakeups", rows)).rows(named=True)
    assert found["count"] == 100
    assert (found["late_p50_ns"], found["late_p99_ns"], found["late_max_ns"]) == (
        1 * MS, 9 * MS, 30 * MS)  # fmt: skip
    assert (found["runqueue_p99_ns"], found["runqueue_max_ns"]) == (MS // 4, 20 * MS)
    assert (found["gil_p50_ns"], found["gil_max_ns"]) == (3 * MS // 4, 10 * MS)


def test_the_collector_is_no_thread_that_holds_the_gil(table: Build) -> None:
    rows = [probe(0, 40, 5), probe(100, 40)]
    # Due at 0 ms and running at 40: of the collection 20 ms fall into that.
    collection = {"t_ns": 20 * MS, "duration_ns": 300 * MS, "pid": 2}
    pauses = table("gc_pauses", [collection | {"pid": 1, "duration_ns": 50 * MS}, collection])
    found = wakeups.identified(table("wakeups", rows), pauses)
    assert (found["gc_ns"] / MS).to_list() == [20, 0]
    assert (found["gil_ns"] / MS).to_list() == [15, 40]
    [summed] = wakeups.by_process(table("wakeups", rows), pauses).rows(named=True)
    assert summed["gil_max_ns"] == 40 * MS


def test_over_time_takes_the_latest_apart(table: Build) -> None:
    rows = [probe(n, late, 1) for n, late in enumerate([2, 9, 3, 1])]
    found = wakeups.over_time(table("wakeups", rows), time_bins=2)
    assert (found["late_ns"] / MS).to_list() == [9, 3]
    parts = found.select(pl.sum_horizontal("runqueue_ns", "gc_ns", "gil_ns")).to_series()
    assert parts.to_list() == found["late_ns"].to_list()
    assert found["count"].to_list() == [2, 2]


def test_what_is_not_known_counts_for_nothing(table: Build) -> None:
    row = probe(0, 3) | {"gil_ns": -5, "runqueue_ns": None}
    found = wakeups.by_process(table("wakeups", [row, probe(10, 3)]))
    assert found.select("gil_max_ns", "late_p50_ns").row(0) == (3 * MS, 3 * MS)


NAMES = [
    {"tid": 1, "name": "MainThread", "python": True},
    {"tid": 2, "name": "burner", "python": True},
    {"tid": 3, "name": "av:h264", "python": False},
    {"tid": 4, "name": "vidlab-probe", "python": True},
]


def test_who_had_the_cpu_while_python_waited(table: Build) -> None:
    """The burner has it in the seconds with waits, the main thread in those without."""
    threads = table("threads", NAMES, pid=1, t_ns=0, op="began")
    probes = [probe(n * 100, 8 if n // 10 % 2 else 0) for n in range(60)]
    rows = [
        {"tid": tid, "t_ns": second * S, "cpu_ns": round(cpu * S), "duration_ns": S}
        for second in range(6)
        for tid, cpu in (
            (1, 0.1 if second % 2 else 0.9),
            (2, 0.8 if second % 2 else 0.0),
            (3, 1.0),
            (4, 0.1),
        )
    ]
    waits = table("thread_waits", rows, pid=1)
    found = wakeups.holders(table("wakeups", probes), waits, threads)
    assert found["name"].to_list() == ["burner", "MainThread", "vidlab-probe"]
    assert found["share"].to_list() == pytest.approx([0.8, 0.1, 0.1])
    assert found["cpu_share"].to_list() == pytest.approx([0.4, 0.5, 0.1])


def test_nothing_in_nothing_out(table: Build) -> None:
    empty = table("wakeups")
    assert wakeups.by_process(empty).is_empty()
    assert wakeups.over_time(empty).is_empty()
    assert wakeups.holders(empty, table("thread_waits"), table("threads")).is_empty()
    waits = table("thread_waits", [{"t_ns": 0, "duration_ns": S, "cpu_ns": S}], pid=1, tid=1)
    assert wakeups.holders(empty, waits, table("threads"))["share"].to_list() == [None]


def test_what_vidlabs_own_looks_took_is_nobodys_wait(table: Build) -> None:
    rows = [probe(10, 30), probe(200, 30)]
    began = rows[0]["t_ns"]
    read = [
        {"t_ns": began - 5 * MS, "metric": wakeups.LOOKS[0], "value": 0.020},
        {"t_ns": began + 20 * MS, "metric": wakeups.LOOKS[1], "value": 0.004},
        {"t_ns": began, "metric": "vidlab.runtime.cpu.time", "value": 9.0},
    ]
    metrics = table("runtime_metrics", read, pid=1, kind="gauge")
    before = wakeups.identified(table("wakeups", rows)).sort("t_ns")
    found = wakeups.identified(table("wakeups", rows), None, metrics).sort("t_ns")
    taken = (before["gil_ns"] - found["gil_ns"]).to_list()
    assert taken == [min(before["gil_ns"][0], 19 * MS), 0]
    assert (before["late_ns"] - found["late_ns"]).to_list() == taken


def test_the_samplers_looks_are_no_part_of_its_share(table: Build) -> None:
    seconds = 1_000 * MS
    window = {"duration_ns": seconds, "runqueue_ns": 0, "slices": 1, "readings": 1, "t_ns": 0,
              "p50_delay_ns": 0, "worst_delay_ns": 0}  # fmt: skip
    waits = table("thread_waits", [window | {"tid": 2, "cpu_ns": 300 * MS},
                                   window | {"tid": 9, "cpu_ns": 400 * MS}], pid=1)  # fmt: skip
    known = table("threads", [
        {"tid": 2, "name": "sorter", "python": True}, {"tid": 9, "name": "vidlab-sampler",
         "python": False}], pid=1, t_ns=0, op="began", daemon=False)  # fmt: skip
    read = [{"t_ns": 100 * MS, "metric": wakeups.LOOKS[0], "value": 0.3}]
    metrics = table("runtime_metrics", read, pid=1, kind="gauge")
    probes = table("wakeups", [probe(500, 60)])
    found = wakeups.holders(probes, waits, known, None, metrics)
    assert found.select("name", "cpu_share").rows() == [("sorter", 0.3), ("vidlab-sampler", 0.1)]

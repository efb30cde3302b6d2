"""Verdicts on the runtime: each classic is found by name, and its healthy twin is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import polars as pl
import pytest

from vidlab import schema
from vidlab.analysis import health
from vidlab.analysis.health import Thresholds
from vidlab.errors import InputError
from vidlab.runs.run import Run

Rows = list[dict[str, Any]]

MS, S, MIB = 1_000_000, 1_000_000_000, 1 << 20

NAMES: Rows = [
    {"tid": 1, "name": "MainThread", "python": True},
    {"tid": 2, "name": "burner", "python": True},
    {"tid": 9, "name": "vidlab-sampler", "python": False},
]


class Tables:
    """Stands in for a run that has these tables."""

    def __init__(self, **tables: Rows) -> None:
        self.tables = tables

    def scan(self, name: str) -> pl.LazyFrame:
        empty = pl.from_arrow(schema.TABLES[name].arrow_schema.empty_table())
        assert isinstance(empty, pl.DataFrame)
        rows = [{"pid": 1, "tid": 1, "labels": 0, **row} for row in self.tables.get(name, [])]
        texts = {key: type for key, type in empty.schema.items() if type == pl.Categorical}
        types: dict[str, Any] = {**empty.schema, **dict.fromkeys(texts, pl.String)}
        return pl.DataFrame(rows, schema=types).with_columns(
            pl.col(key).cast(type) for key, type in texts.items()
        ).lazy()  # fmt: skip


def verdicts_of(limits: Thresholds | None = None, /, **tables: Rows) -> Rows:
    found = health.verdicts(cast(Run, Tables(**tables)), limits)
    assert list(found.columns) == list(health.COLUMNS)
    return found.rows(named=True)


def probes(gil_ms: Callable[[int], float], runqueue_ms: float = 0.0) -> Rows:
    rows = []
    for n in range(200):
        gil, runqueue = round(gil_ms(n) * MS), round(runqueue_ms * MS)
        rows.append({"t_ns": n * 50 * MS, "asked_ns": 5 * MS, "late_ns": gil + runqueue,
                     "runqueue_ns": runqueue, "gil_ns": gil})  # fmt: skip
    return rows


def windows(worst_ms: float = 1, tid: int = 2, cpu: float = 0.9) -> Rows:
    return [
        {"t_ns": n * S, "tid": tid, "duration_ns": S, "cpu_ns": round(cpu * S),
         "runqueue_ns": 50 * MS, "slices": 20, "readings": 4, "p50_delay_ns": MS,
         "worst_delay_ns": round(worst_ms * MS)}
        for n in range(10)
    ]  # fmt: skip


def pauses(*lengths_ms: float, generation: int = 2) -> Rows:
    return [
        {"t_ns": n * S, "duration_ns": round(length * MS), "generation": generation,
         "collected": 0, "uncollectable": 0}
        for n, length in enumerate(lengths_ms)
    ]  # fmt: skip


def delays(*lengths_ms: float) -> Rows:
    return [
        {"t_ns": n * 100 * MS, "delay_ns": round(length * MS), "loop": 1, "period_ns": 100 * MS}
        for n, length in enumerate(lengths_ms)
    ]


def depths(values: range, capacity: int | None) -> Rows:
    return [
        {"t_ns": n * 50 * MS, "queue": "frames", "depth": depth, "capacity": capacity,
         "touch": "put"}
        for n, depth in enumerate(values)
    ]  # fmt: skip


def held(holder: str, items: list[int], size: int = 100) -> Rows:
    return [
        {"t_ns": n * S, "holder": holder, "name": "app.THINGS", "type": "dict", "items": count,
         "size_bytes": count * size}
        for n, count in enumerate(items)
    ]  # fmt: skip


def tasks(steps: Callable[[int], int]) -> Rows:
    return [
        {"t_ns": t * S, "age_ns": t * S, "task": task, "loop": 1, "name": f"Task-{task}",
         "coroutine": coroutine, "waits_at": f"{coroutine} (app.py:9)", "steps": moved}
        for t in range(15)
        for task, coroutine, moved in ((0, "main", 0), (2, "wait_for_it", steps(t)))
    ]  # fmt: skip


def malloc(share: float, free: float) -> Rows:
    return [
        {"t_ns": n * S, "metric": metric, "value": value, "kind": "gauge"}
        for n in range(6)
        for metric, value in (
            ("vidlab.malloc.fragmentation", share),
            ("vidlab.malloc.free", free),
        )
    ]


THREADS = [{"t_ns": 0, "op": "began", **name} for name in NAMES]

#: Of each kind: what is sick, the subject by name, a word of the message, and what is not.
CLASSICS: dict[str, tuple[dict[str, Rows], str, str, dict[str, Rows]]] = {
    "gil_hog of Python": (
        {"wakeups": probes(lambda n: 5), "thread_waits": [*windows(), *windows(tid=1, cpu=0.1)],
         "threads": THREADS},
        "burner", "90%",
        {"wakeups": probes(lambda n: 0.1 + (n == 7) * 90), "thread_waits": windows(),
         "threads": THREADS},
    ),
    "gil_hog in a native call": (
        {"wakeups": probes(lambda n: 60 * (n % 20 == 0)), "thread_waits": windows(),
         "threads": THREADS},
        "burner", "release the GIL",
        {"wakeups": probes(lambda n: 6 * (n % 20 == 0)), "thread_waits": windows(),
         "threads": THREADS},
    ),
    "scheduling_delay of a thread": (
        {"thread_waits": [*windows(worst_ms=12), *windows(worst_ms=11, tid=1)],
         "threads": THREADS, "wakeups": probes(lambda n: 0, runqueue_ms=11)},
        "burner", "So did 1 other thread",
        {"thread_waits": [*windows(worst_ms=10), *windows(worst_ms=50, tid=9)],
         "threads": THREADS},
    ),
    "scheduling_delay of all": (
        {"wakeups": probes(lambda n: 0, runqueue_ms=11)},
        "process 1", "too little CPU",
        {"wakeups": probes(lambda n: 0, runqueue_ms=10)},
    ),
    "gc_pauses_growing": (
        {"gc_pauses": pauses(1, 52, 103, 154, generation=1)},
        "generation 1", "from 1.0 ms to 154 ms",
        {"gc_pauses": pauses(1, 52, 103, 104, 155, 206, generation=1)},
    ),
    "slow_generation_2": (
        {"gc_pauses": pauses(26, 30, 31), "objects": held("global", [400_000] * 2),
         "frames": [{"frame": 5, "t_demux_ns": 10 * MS, "t_done_ns": 20 * MS}]},
        "process 1", "app.THINGS (400,000 items)",
        {"gc_pauses": [*pauses(5, 400, 6), *pauses(90, 90, generation=0)]},
    ),
    "loop_blocked": (
        {"loop_delays": delays(*[1] * 90, *[80] * 9),
         "spans": [{"t_ns": 9 * S, "duration_ns": S, "stage": "annotate", "kind": "service",
                    "frame": 1, "parent": None}]},
        "annotate", "80 ms",
        {"loop_delays": delays(*[1] * 50, 900, *[40] * 40)},
    ),
    "unbounded_queue": (
        {"queue_depths": depths(range(100), None)},
        "frames", "maxsize",
        {"queue_depths": depths(range(100), 200)},
    ),
    "unbounded_queue found by its holder": (
        {"objects": held("queue", [0, 20, 40, 60, 80])},
        "app.THINGS", "from 0 to 80",
        {"objects": held("queue", [0, 8, 0, 9, 0])},
    ),
    "cache_growth": (
        {"objects": held("cache", [0, 100, 200, 300, 400])},
        "app.THINGS", "the cache app.THINGS",
        {"objects": held("cache", [0, 300, 400, 400, 400])},
    ),
    "cache_growth in bytes": (
        {"objects": held("global", [1, 2, 3, 4, 5], size=2 * MIB)},
        "app.THINGS", "2 MiB to 10 MiB",
        {"objects": held("global", [100, 100, 100, 100], size=2 * MIB)},
    ),
    "context_variable_growth": (
        {"objects": held("context_variable", [1, 4, 7, 10, 13], size=MIB)},
        "app.THINGS", "1 MiB to 13 MiB",
        {"objects": held("context_variable", [3, 4, 3, 5, 3], size=MIB)},
    ),
    "context_variable_growth of one that keeps much": (
        {"objects": held("context_variable", [1, 1], size=40 * MIB)},
        "app.THINGS", "keeps 40 MiB",
        {"objects": held("context_variable", [1, 1], size=30 * MIB)},
    ),
    "task_never_ends": (
        {"tasks": tasks(lambda t: 0)},
        "wait_for_it", "app.py:9",
        {"tasks": tasks(lambda t: t)},
    ),
    "heap_fragmented": (
        {"runtime_metrics": malloc(0.36, 64 * MIB)},
        "malloc of process 1", "64 MiB",
        {"runtime_metrics": malloc(0.35, 64 * MIB)},
    ),
}  # fmt: skip

every_classic = pytest.mark.parametrize("classic", CLASSICS)


@every_classic
def test_it_is_found_by_name(classic: str) -> None:
    sick, subject, word, _ = CLASSICS[classic]
    [found] = verdicts_of(**sick)
    assert found["kind"] == classic.split()[0]
    assert found["subject"] == subject
    assert word in found["message"]
    assert found["value"] >= found["threshold"] > 0
    assert found["severity"] in ("warning", "error")
    assert isinstance(json.loads(found["evidence"]), dict)


@every_classic
def test_its_healthy_twin_is_not(classic: str) -> None:
    assert verdicts_of(**CLASSICS[classic][3]) == []


@pytest.mark.parametrize(
    ("classic", "limit"),
    [
        ("gil_hog of Python", {"gil_median_ms": 5.0}),
        ("gil_hog in a native call", {"gil_p99_ms": 60.0}),
        ("scheduling_delay of a thread", {"delay_p99_ms": 12.0}),
        ("scheduling_delay of all", {"delay_p99_ms": 11.0}),
        ("gc_pauses_growing", {"pause_growth_ms": 51.0}),
        ("gc_pauses_growing", {"pauses_in_a_row": 4}),
        ("slow_generation_2", {"generation_2_ms": 30.5}),
        ("loop_blocked", {"loop_delay_ms": 80.0}),
        ("unbounded_queue", {"queue_growth": 101}),
        ("unbounded_queue found by its holder", {"queue_growth": 81}),
        ("cache_growth", {"item_growth": 401}),
        ("cache_growth in bytes", {"byte_growth": 8 * MIB + 1}),
        ("context_variable_growth", {"byte_growth": 12 * MIB + 1}),
        ("context_variable_growth of one that keeps much", {"context_bytes": 40 * MIB + 1}),
        ("task_never_ends", {"task_age_seconds": 14.5}),
        ("heap_fragmented", {"fragmentation": 0.36}),
        ("heap_fragmented", {"fragmentation_bytes": 64 * MIB + 1}),
    ],
)
def test_a_threshold_of_the_users_decides(classic: str, limit: dict[str, Any]) -> None:
    assert verdicts_of(Thresholds(**limit), **CLASSICS[classic][0]) == []


def test_nothing_recorded_nothing_said() -> None:
    assert verdicts_of() == []


def test_the_worst_comes_first_and_is_an_error() -> None:
    found = verdicts_of(
        loop_delays=delays(*[1] * 90, *[500] * 9), queue_depths=depths(range(40), None)
    )
    assert [(one["kind"], one["severity"]) for one in found] == [
        ("loop_blocked", "error"),
        ("unbounded_queue", "warning"),
    ]


def test_the_collectors_pauses_are_not_blamed_on_a_thread() -> None:
    """All probes are late, and the collector ran each time."""
    sick = probes(lambda n: 40)
    ran = [row | {"duration_ns": 40 * MS, "generation": 2,
                  "collected": 0, "uncollectable": 0} for row in sick]  # fmt: skip
    found = verdicts_of(wakeups=sick, gc_pauses=ran, thread_waits=windows(), threads=THREADS)
    assert [one["kind"] for one in found] == ["slow_generation_2"]


def test_a_cache_that_has_a_limit_may_fill_up() -> None:
    rows = held("cache", [0, 100, 200, 300, 400])
    limited = [row | {"type": "functools.lru_cache(maxsize=512)"} for row in rows]
    assert verdicts_of(objects=limited) == []


def test_a_queue_is_told_of_once() -> None:
    """Its touches give its name; the census saw it as well, without one."""
    seen = held("queue", [0, 20, 40, 60, 80])
    mine = [row | {"name": "queue.Queue 1", "type": "queue.Queue"} for row in seen]
    depths_ = [row | {"t_ns": row["t_ns"]} for row in depths(range(100), None)]
    found = verdicts_of(queue_depths=depths_, objects=mine)
    assert [one["subject"] for one in found] == ["frames"]
    other = [row | {"items": row["items"] + 300} for row in mine]
    found = verdicts_of(queue_depths=depths_, objects=other)
    assert sorted(one["subject"] for one in found) == ["frames", "queue.Queue 1"]


def test_what_a_census_took_is_no_gil_hog_and_blocks_no_loop() -> None:
    sick = probes(lambda n: 60 * (n % 20 == 0))
    took = [{"t_ns": row["t_ns"], "metric": "vidlab.runtime.census.duration", "value": 0.06,
             "kind": "gauge"} for row in sick if row["gil_ns"]]  # fmt: skip
    late = delays(*[1] * 90, *[80] * 9)
    took += [{"t_ns": row["t_ns"], "metric": "vidlab.runtime.census.duration", "value": 0.08,
              "kind": "gauge"} for row in late if row["delay_ns"] == 80 * MS]  # fmt: skip
    tables = {"wakeups": sick, "thread_waits": windows(), "threads": THREADS, "loop_delays": late}
    kinds = {one["kind"] for one in verdicts_of(**tables)}
    assert kinds == {"gil_hog", "loop_blocked"}
    assert verdicts_of(**tables, runtime_metrics=took) == []


def test_little_free_memory_is_not_worth_a_word() -> None:
    assert verdicts_of(runtime_metrics=malloc(0.9, MIB)) == []


def test_what_vidlab_itself_holds_the_gil_for_is_nobodys_fault() -> None:
    sick, *_ = CLASSICS["gil_hog in a native call"]
    ours = [*windows(), *windows(tid=9, cpu=0.95)]
    assert verdicts_of(**(sick | {"thread_waits": ours})) == []


def test_where_cpus_are_scarce_nobody_is_a_hog_and_no_loop_is_blocked() -> None:
    scarce = probes(lambda n: 30 * (n % 20 == 0), runqueue_ms=100)
    found = verdicts_of(wakeups=scarce, threads=THREADS, loop_delays=delays(*[100] * 50))
    assert [one["kind"] for one in found] == ["scheduling_delay"]


def test_a_thread_that_hardly_runs_is_no_hog_where_cpus_are_scarce() -> None:
    """It is without a CPU while it holds the GIL; one that runs may be a hog all the same."""
    late = probes(lambda n: 25 * (n % 20 == 0), runqueue_ms=9)
    idle = verdicts_of(wakeups=late, threads=THREADS, thread_waits=windows(cpu=0.02))
    busy = verdicts_of(wakeups=late, threads=THREADS, thread_waits=windows(cpu=0.5))
    assert [one["kind"] for one in idle] == []
    assert [(one["kind"], one["subject"]) for one in busy] == [("gil_hog", "burner")]


def test_of_a_thread_that_ran_a_few_times_no_hundredth_is_known() -> None:
    few = [row | {"slices": 9, "worst_delay_ns": 80 * MS} for row in windows()]
    assert verdicts_of(thread_waits=few, threads=THREADS) == []


def test_it_is_said_in_which_thread_full_collections_ran() -> None:
    ran = pauses(26, 30, 31, 29)
    ran = [row | {"tid": 2 if n else 1} for n, row in enumerate(ran)]
    [found] = verdicts_of(gc_pauses=ran, threads=THREADS)
    assert "3 of them ran in the thread burner" in found["message"]


def test_a_single_value_beyond_a_percentiles_threshold_proves_nothing() -> None:
    once = windows()[:1]
    late = [row | {"worst_delay_ns": 80 * MS} for row in once]
    assert verdicts_of(thread_waits=late, threads=THREADS) == []
    assert verdicts_of(loop_delays=delays(1, 1, 900)) == []
    assert verdicts_of(wakeups=probes(lambda n: 90 * (n == 3))[:20]) == []


@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "10", None])
def test_a_threshold_that_cannot_be_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="the threshold delay_p99_ms is a number above zero"):
        Thresholds(delay_p99_ms=value)

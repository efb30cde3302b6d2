"""The charts of runtime health draw what their analyses return: labelled, bounded, honest."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from tests.charts.drawing import svg_of, title_of
from vidlab.charts import accumulation as accumulation_charts
from vidlab.charts import health as health_charts
from vidlab.charts import scheduling as scheduling_charts
from vidlab.charts import tasks as task_charts
from vidlab.charts import trends as trend_charts

MS, S = 1_000_000, 1_000_000_000
LONG = "a name that goes on and on " * 8

Tables = tuple[pl.DataFrame, ...]


def verdicts(count: int, name: str = "thread {}") -> Tables:
    rows = [
        {
            "kind": "gil_hog",
            "severity": "error" if n % 2 else "warning",
            "subject": name.format(n),
            "message": "what was seen, and what to do",
            "value": 2.5 + n,
            "threshold": 2.0,
            "unit": "ms",
        }
        for n in range(count)
    ]
    return (pl.DataFrame(rows),)


def by_thread(count: int, name: str = "thread {}") -> Tables:
    rows = [
        {
            "pid": 1,
            "tid": n,
            "name": name.format(n),
            "cpu_ns": n * MS,
            "runqueue_ns": MS,
            "cpu_share": 0.3,
            "runqueue_share": 0.1,
            "p50_delay_ns": MS,
            "p99_delay_ns": None if n % 2 else 9 * MS,
            "worst_delay_ns": 9 * MS,
        }
        for n in range(count)
    ]
    return (pl.DataFrame(rows, schema_overrides={"p99_delay_ns": pl.Int64}),)


def thread_times(count: int, name: str = "thread {}") -> Tables:
    rows = [
        {
            "pid": 1,
            "tid": n,
            "name": name.format(n),
            "t_ns": second * S,
            "t_end_ns": (second + 1) * S,
            "cpu_share": 0.3,
            "runqueue_share": 0.001 * n,
            "worst_delay_ns": None if second == 1 else MS,
        }
        for n in range(count)
        for second in range(3)
    ]
    return (pl.DataFrame(rows),)


def trends(count: int, name: str = "metric.{}") -> Tables:
    known = ["process.memory.usage", "process.cpu.time", "vidlab.malloc.fragmentation"]
    rows = [
        {
            "pid": 1,
            "metric": known[n] if n < len(known) and "goes on" not in name else name.format(n),
            "attribute": f"mode={mode}" if n == 1 else None,
            "kind": "counter" if n == 1 else "gauge",
            "t_ns": second * S,
            "value": float(second + n),
        }
        for n in range(count)
        for mode in (("user", "system") if n == 1 else ("",))
        for second in range(4)
    ]
    return (pl.DataFrame(rows, schema_overrides={"attribute": pl.String}),)


def tasks(count: int, name: str = "worker {}") -> Tables:
    rows = [
        {
            "pid": 1,
            "loop": 1,
            "task": n,
            "name": f"Task-{n}",
            "coroutine": name.format(n),
            "waits_at": "wait (x.py:1)",
            "t_ns": n * MS,
            "t_end_ns": n * MS + (S if n % 2 else 0),
            "age_ns": S,
            "steps": n % 3,
            "looks": 5,
            "main": n == 0,
            "there": True,
        }
        for n in range(count)
    ]
    return (pl.DataFrame(rows),)


def holders(count: int, name: str = "app.CACHE_{}") -> Tables:
    keys = [{"pid": 1, "holder": "cache", "name": name.format(n)} for n in range(count)]
    looks = [
        {**key, "t_ns": second * S, "items": second, "size_bytes": (n + 1) * second << 20}
        for n, key in enumerate(keys)
        for second in range(4)
    ]
    held = [{**key, "items_grow": n == 0, "bytes_grow": False} for n, key in enumerate(keys)]
    return pl.DataFrame(looks), pl.DataFrame(held)


def whole(count: int, name: str = "thread {}") -> Tables:
    """Latency, collections, wake-ups, threads and loops; `count` of each."""
    moments = [{"t_ns": n * S, "t_end_ns": (n + 1) * S, "pid": 1} for n in range(count)]
    cells = [
        {"t_ns": row["t_ns"], "t_end_ns": row["t_end_ns"], "stage": "end to end", "kind": "frame",
         "low_ns": 10 * MS, "high_ns": 12 * MS, "count": 3}
        for row in moments
    ]  # fmt: skip
    pauses = [
        {"t_ns": n * S, "duration_ns": 3 * MS, "generation": n % 3, "collected": 5}
        for n in range(count)
    ]
    late = [
        row | {"late_ns": 9 * MS, "runqueue_ns": MS, "gc_ns": 2 * MS, "gil_ns": 6 * MS, "count": 5}
        for row in moments
    ]
    delays = [row | {"loop": 1, "delay_ns": 4 * MS, "count": 9} for row in moments]
    return (pl.DataFrame(cells), pl.DataFrame(pauses), pl.DataFrame(late),
            *thread_times(count, name), pl.DataFrame(delays))  # fmt: skip


#: Each chart, and what draws it of so many rows with such names.
CHARTS: dict[str, tuple[Callable[..., Any], Callable[..., Tables]]] = {
    "accumulation.over_time": (accumulation_charts.over_time, holders),
    "health.timeline": (health_charts.timeline, whole),
    "health.verdicts": (health_charts.verdicts, verdicts),
    "scheduling.by_thread": (scheduling_charts.by_thread, by_thread),
    "scheduling.over_time": (scheduling_charts.over_time, thread_times),
    "tasks.lives": (task_charts.lives, tasks),
    "trends.over_time": (trend_charts.over_time, trends),
}

#: The units that the axes, legends or panels of a chart have.
UNITS = {
    "accumulation.over_time": ("(MiB)", "(s)"),
    "health.timeline": ("(ms, log scale)", "late (ms)", "(s)"),
    "health.verdicts": ("times the threshold",),
    "scheduling.by_thread": ("share of its windows",),
    "scheduling.over_time": ("(s)", "waited for a CPU"),
    "tasks.lives": ("(s)",),
    "trends.over_time": ("(MiB)", "(s per second)", "(share)", "(s)"),
}

every_chart = pytest.mark.parametrize("name", CHARTS)


def drawn(name: str, *of: Any, **options: Any) -> Any:
    draw, table = CHARTS[name]
    return draw(*table(*of), **options)


def empty(name: str, **options: Any) -> Any:
    draw, table = CHARTS[name]
    return draw(*(part.clear() for part in table(1)), **options)


@every_chart
@pytest.mark.parametrize("count", [1, 40])
def test_it_draws_marks(name: str, count: int) -> None:
    svg = svg_of(drawn(name, count))
    assert 'class="mark-' in svg
    for nonsense in ("nothing recorded", "NaN", "undefined", "null", "Infinity"):
        assert nonsense not in svg, nonsense


@every_chart
def test_its_title_says_what_is_seen_and_its_axes_have_units(name: str) -> None:
    chart = drawn(name, 3)
    assert len(title_of(chart)[0]) > 12
    spec = json.dumps(chart.to_dict(), ensure_ascii=False)
    for unit in UNITS[name]:
        assert unit in spec


@every_chart
def test_an_empty_table_says_so(name: str) -> None:
    said = "nothing is beyond its threshold" if name == "health.verdicts" else "nothing recorded"
    assert said in svg_of(empty(name))


@every_chart
def test_lost_rows_are_noted_on_it(name: str) -> None:
    for chart in (drawn(name, 3, lost=12_345), empty(name, lost=12_345)):
        assert "⚠ 12,345 rows lost while recording" in title_of(chart)[1][0]
    assert "lost while recording" not in json.dumps(drawn(name, 3).to_dict())


@every_chart
def test_of_many_it_draws_some_and_counts_the_rest(name: str) -> None:
    if name == "health.timeline":
        return  # its rows are moments
    chart = drawn(name, 100)
    assert any("left out" in line for line in title_of(chart)[1])
    assert not any("left out" in line for line in title_of(drawn(name, 3))[1])


@every_chart
def test_long_names_leave_room_for_the_chart(name: str) -> None:
    svg = svg_of(drawn(name, 2, LONG))
    assert float(svg.split('width="')[1].split('"')[0]) < 1_200


def test_the_timeline_leaves_out_what_was_not_recorded_and_keeps_one_axis() -> None:
    cells, pauses, late, threads, delays = whole(5)
    chart = health_charts.timeline(cells, pauses.clear(), late, threads.clear(), delays)
    panels = chart.to_dict()["vconcat"]
    assert len(panels) == 3
    domains = {json.dumps(panel["encoding"]["x"]["scale"]["domain"]) for panel in panels}
    assert domains == {"[0.0, 5.0]"}
    assert [panel["encoding"]["x"]["axis"]["title"] for panel in panels[:-1]] == [None, None]


def test_what_a_late_wakeup_waited_for_is_stacked() -> None:
    svg = svg_of(drawn("health.timeline", 2))
    for part, colour in health_charts.WAITS.items():
        assert part in svg
        assert colour.lower() in svg.lower()
    assert "late (ms)" in svg


def test_threads_of_one_name_are_told_apart() -> None:
    svg = svg_of(drawn("scheduling.by_thread", 3, "worker"))
    for tid in range(3):
        assert f"worker ({tid})" in svg


def test_a_task_that_never_moved_stands_out() -> None:
    svg = svg_of(drawn("tasks.lives", 4))
    for said in ("it never moved", "it moved", "its loop's main task"):
        assert said in svg

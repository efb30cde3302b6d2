"""The charts of GPU memory draw what their analyses return: labelled, bounded, honest."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from tests.charts.drawing import svg_of
from vidlab.analysis import (
    bill,
    flame,
    fragmentation,
    growthcurves,
    latency,
    leaks,
    livesets,
    memory,
)
from vidlab.charts import bill as bill_charts
from vidlab.charts import boxes, names, sizes, theme, timeline
from vidlab.charts import flame as flame_charts
from vidlab.charts import fragmentation as fragmentation_charts
from vidlab.charts import leaks as leaks_charts
from vidlab.charts import livesets as livesets_charts
from vidlab.charts import memory as memory_charts
from vidlab.lab.simulated_memory import Cache, Leak, SimulatedMemory, simulated_allocations

PLANT = 256 << 20

Rows = Callable[[str], pl.DataFrame]


@pytest.fixture(scope="module")
def tables() -> SimulatedMemory:
    return simulated_allocations(
        frames=1_600,
        streams=4,
        seed=3,
        leaks=[Leak(site=2, stream=1, every=10)],
        caches=[Cache(site=1, stream=0)],
        real_gpu=True,
        plant_bytes=PLANT,
    )


def diff(tables: SimulatedMemory) -> pl.DataFrame:
    first, last = tables.allocations["t_ns"].min(), tables.allocations["t_ns"].max()
    return livesets.diff(
        tables.allocations,
        first,
        last,
        tables.stacks,
        tables.frames,
        seconds=3,  # type: ignore[arg-type]
    )


def draw_timeline(in_use: pl.DataFrame, *, lost: int = 0) -> Any:
    """A timeline of the run that `in_use` is of, or of an empty one."""
    tables = simulated_allocations(frames=400, streams=2, seed=3)
    frames = latency.as_spans(tables.frames).collect()
    calls = tables.allocations.filter(pl.col("level") == "driver")
    if not in_use.height:
        frames, calls = frames.clear(), calls.clear()
    return timeline.allocations(frames, in_use, calls, lost=lost)


def timed_spans() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "gpu": pl.Series([0, 0, 0], dtype=pl.Int16),
            "stream_id": ["cam-1", "cam-1", "cam-2"],
            "codec": ["h264", "h264", "av1"],
            "span": pl.Series([1, 2, 3], dtype=pl.UInt64),
            "parent": pl.Series([None, 1, None], dtype=pl.UInt64),
            "stage": ["infer", "resize", "infer"],
            "gpu_duration_ns": [9_000_000, 2_000_000, 4_000_000],
        }
    )


#: Each chart, and the table that it draws.
CHARTS: dict[str, tuple[Callable[..., Any], Callable[[SimulatedMemory], pl.DataFrame]]] = {
    "bill.stack": (
        bill_charts.stack,
        lambda tables: bill.bill(tables.gpu_samples, tables.allocations),
    ),
    "flame.allocated": (
        lambda tree, **options: flame_charts.flame(tree, measure="allocated", **options),
        lambda tables: flame.memory(tables.allocations, tables.stacks, "allocated"),
    ),
    "flame.gpu_time": (flame_charts.flame, lambda _: flame.gpu_time(timed_spans())),
    "flame.over_time": (
        flame_charts.flame,
        lambda tables: flame.memory_over_time(tables.allocations, tables.stacks),
    ),
    "fragmentation.over_time": (
        fragmentation_charts.over_time,
        lambda tables: fragmentation.over_time(tables.allocations),
    ),
    "leaks.growth": (
        leaks_charts.growth,
        lambda tables: growthcurves.by_site(tables.allocations, tables.frames, tables.stacks),
    ),
    "leaks.verdicts": (
        leaks_charts.verdicts,
        lambda tables: leaks.verdicts(
            tables.allocations, tables.frames, tables.stacks, tables.holders
        ),
    ),
    "livesets.diff": (livesets_charts.diff, diff),
    "memory.hit_rate": (
        memory_charts.hit_rate,
        lambda tables: memory.hit_rate(tables.allocations),
    ),
    "memory.hit_rate_over_time": (
        memory_charts.hit_rate,
        lambda tables: memory.hit_rate(tables.allocations, time_bins=40),
    ),
    "memory.in_use": (
        memory_charts.in_use,
        lambda tables: memory.in_use(tables.allocations, ["stream_id", "codec"]),
    ),
    "memory.in_use_of_all": (
        memory_charts.in_use,
        lambda tables: memory.in_use(tables.allocations),
    ),
    "timeline.allocations": (
        draw_timeline,
        lambda tables: memory.in_use(tables.allocations, "codec"),
    ),
}

every_chart = pytest.mark.parametrize("name", CHARTS)


@pytest.fixture(scope="module")
def table(tables: SimulatedMemory) -> Rows:
    """The table that a chart draws; each is computed once."""
    return functools.cache(lambda name: CHARTS[name][1](tables))


def titles_of(spec: Any) -> list[str]:
    """All titles of a specification, of charts, axes and legends, with their subtitles."""
    found: list[str] = []
    if isinstance(spec, dict):
        title = spec.get("title")
        if isinstance(title, dict):
            found += [title["text"], *title.get("subtitle", [])]
        elif isinstance(title, str):
            found.append(title)
        for key, value in spec.items():
            found += [] if key in ("data", "datasets") else titles_of(value)
    elif isinstance(spec, list):
        found += [title for value in spec for title in titles_of(value)]
    return found


def words_of(chart: Any) -> str:
    return " ".join(titles_of(chart.to_dict()))


def marks_in(spec: dict[str, Any]) -> int:
    """How many rows of data a specification carries, a rectangle of each step counted."""

    def count(values: Any) -> int:
        if isinstance(values, str):
            return values.count("\n") - 1
        return sum(len(row["step"]) if isinstance(row.get("step"), list) else 1 for row in values)

    return sum(count(values) for values in spec.get("datasets", {}).values())


@every_chart
def test_it_draws_marks_for_what_the_analysis_found(name: str, table: Rows) -> None:
    draw, rows = CHARTS[name][0], table(name)
    assert rows.height
    svg = svg_of(draw(rows))
    assert "nothing recorded" not in svg
    assert 'class="mark-' in svg
    assert "NaN" not in svg
    assert "undefined" not in svg


@every_chart
def test_its_title_says_what_is_seen_and_its_axes_have_units(name: str, table: Rows) -> None:
    draw = CHARTS[name][0]
    chart = draw(table(name))
    assert len(titles_of(chart.to_dict())[0]) > 12
    words = words_of(chart) + json.dumps(chart.to_dict()["datasets"])
    assert any(unit in words for unit in ("MiB", "GiB", "served", "share", "ms"))


@every_chart
def test_an_empty_table_says_so(name: str, table: Rows) -> None:
    draw = CHARTS[name][0]
    assert "nothing recorded" in svg_of(draw(table(name).clear()))


@every_chart
def test_lost_rows_are_noted_on_it(name: str, table: Rows) -> None:
    draw, rows = CHARTS[name][0], table(name)
    for some in (rows, rows.clear()):
        assert "12,345 rows lost while recording" in words_of(draw(some, lost=12_345))
    assert "lost while recording" not in words_of(draw(rows))


@every_chart
def test_it_stays_within_the_budget_of_marks(name: str, table: Rows) -> None:
    draw = CHARTS[name][0]
    assert 0 < marks_in(draw(table(name)).to_dict()) <= 6_000


@every_chart
def test_it_bears_nulls(name: str, table: Rows) -> None:
    draw, rows = CHARTS[name][0], table(name)
    some = [c for c in ("stream_id", "codec", "site", "holder", "low", "high") if c in rows.columns]
    svg = svg_of(draw(rows.with_columns(pl.lit(None, rows[c].dtype).alias(c) for c in some)))
    assert 'class="mark-' in svg
    assert "NaN" not in svg


def test_sizes_are_counted_in_powers_of_1024() -> None:
    assert [sizes.say(size) for size in (0, 512, 1024, 1536, 5 << 20, -(3 << 30), 1.5 * 2**40)] == [
        "0 B", "512 B", "1 KiB", "1.5 KiB", "5 MiB", "-3 GiB", "1.5 TiB",
    ]  # fmt: skip
    assert sizes.unit(None, 1023) == ("B", 1)
    assert sizes.unit(1 << 20, 7) == ("MiB", 1 << 20)
    counted = sizes.counted_in(pl.DataFrame({"free_bytes": [1 << 19]}), sizes.unit(1 << 20))
    assert counted.row(0, named=True) == {"free": 0.5}


def test_sites_lose_their_folders_and_not_their_names() -> None:
    found = pl.DataFrame(
        {
            "site": ["f /home/me/app/x.py:7", "C.g (lib/site-packages/y.py:12)", None, "a" * 90],
            "gpu": [0, None, 1, 2],
        }
    )
    assert found.select(names.site()).to_series().to_list() == [
        "f x.py:7", "C.g (y.py:12)", "unknown site", "a" * 47 + "…",
    ]  # fmt: skip
    assert found.select(names.site_and(["gpu"])).to_series().head(2).to_list() == [
        "f x.py:7 · GPU 0", "C.g (y.py:12)",
    ]  # fmt: skip


def test_unexplained_memory_raises_an_alarm_where_it_appears(tables: SimulatedMemory) -> None:
    found = bill.bill(tables.gpu_samples, tables.allocations)
    svg = svg_of(bill_charts.stack(found, alarms=bill.alarms(found)))
    assert svg.count("+256 MiB unexplained") >= 1
    assert theme.MEMORY["unexplained"] in svg
    assert theme.ALARM in svg
    quiet = svg_of(bill_charts.stack(found))
    assert "+256 MiB" not in quiet
    assert theme.ALARM not in quiet


def test_the_bill_of_host_memory_says_so(tables: SimulatedMemory) -> None:
    host = simulated_allocations(frames=400, streams=2, seed=3)
    words = words_of(bill_charts.stack(bill.bill(host.gpu_samples, host.allocations)))
    assert words.count("host memory (no GPU)") >= 2
    assert "NVML" not in words
    real = words_of(bill_charts.stack(bill.bill(tables.gpu_samples, tables.allocations)))
    assert "NVML" in real
    assert "host memory" not in real


def test_a_codec_has_its_colour_in_stacks_of_memory(tables: SimulatedMemory) -> None:
    svg = svg_of(memory_charts.in_use(memory.in_use(tables.allocations, "codec")))
    for codec in ("h264", "hevc"):
        assert theme.codec_colour(codec) in svg


def test_the_peak_is_marked_and_says_how_much(tables: SimulatedMemory) -> None:
    peak = memory.peak(tables.allocations)
    stacked = memory.in_use(tables.allocations, "codec")
    wanted = f"peak {sizes.say(peak['peak_bytes'][0])} at "
    assert wanted in svg_of(memory_charts.in_use(stacked, peak=peak))
    assert "peak" not in svg_of(memory_charts.in_use(stacked)).replace("peak:", "")


def test_small_groups_are_added_up_as_the_rest(tables: SimulatedMemory) -> None:
    found = memory.in_use(tables.allocations, "stream_id")
    many = pl.concat(
        found.with_columns(pl.format("{}-{}", "stream_id", pl.lit(copy)).alias("stream_id"))
        for copy in range(5)
    )
    chart = memory_charts.in_use(many)
    assert "9 groups that use less are added up as the rest" in words_of(chart)
    rows = pl.read_csv(next(iter(chart.to_dict()["datasets"].values())).encode())
    end = rows.filter(pl.col("t_end_s") == rows["t_end_s"].max())["in_use"].sum()
    last = many.filter(pl.col("t_ns") == many["t_ns"].max())["in_use_bytes"].sum()
    unit = sizes.unit(many.group_by("t_ns").agg(pl.col("in_use_bytes").sum())["in_use_bytes"].max())
    assert end == pytest.approx(last / unit.size_bytes, rel=1e-3)


def test_the_leak_comes_first_with_its_holder(tables: SimulatedMemory) -> None:
    found = leaks.verdicts(tables.allocations, tables.frames, tables.stacks, tables.holders)
    svg = svg_of(leaks_charts.verdicts(found))
    assert re.search(r"leaking: \S+ MiB held by list app\.kept", svg)
    assert theme.VERDICTS["leaking"] in svg
    assert "steady, or grow less surely, are left out" in svg


def test_a_flame_graph_places_children_within_their_parent(tables: SimulatedMemory) -> None:
    tree = flame.memory_over_time(tables.allocations, tables.stacks, steps=5)
    spec = flame_charts.flame(tree).to_dict()
    [boxes] = [rows for rows in spec["datasets"].values() if "first" in rows[0]]
    root = boxes[0]
    assert (root["first"], root["last"]) == (0, len(boxes) - 1)
    edges = {
        (box["first"], step): (x0, x1)
        for box in boxes
        for step, x0, x1 in zip(box["step"], box["x0"], box["x1"], strict=True)
    }
    for box in boxes[1:]:
        [parent] = [
            other
            for other in boxes
            if other["depth"] == box["depth"] - 1 and other["first"] < box["first"] <= other["last"]
        ]
        for step in box["step"]:
            x0, x1 = edges[box["first"], step]
            left, right = edges[parent["first"], step]
            assert left - 1e-3 <= x0 < x1 <= right + 1e-3
    unit = sizes.unit(tree["total_bytes"].max())
    for step, x1 in zip(root["step"], root["x1"], strict=True):
        total = tree.filter(pl.col("step") == step, pl.col("depth") == 0)["total_bytes"].item()
        assert x1 == pytest.approx(total / unit.size_bytes, abs=1e-3)


def test_a_huge_flame_graph_is_cut_and_says_so() -> None:
    width = 4_000
    tree = pl.DataFrame(
        {
            "id": range(width + 1),
            "parent": [None, *[0] * width],
            "name": ["all", *[f"leaf {number}" for number in range(width)]],
            "layer": "stack",
            "depth": pl.Series([0, *[1] * width], dtype=pl.Int32),
            "total_bytes": [width * width, *range(width, 0, -1)],
        }
    )
    steps = pl.concat(
        tree.with_columns(pl.lit(step).alias("step"), pl.lit(step * 10**9, pl.Int64).alias("t_ns"))
        for step in range(4)
    )
    chart = flame_charts.flame(steps)
    assert marks_in(chart.to_dict()) <= boxes.MAX_MARKS + 4
    assert "2,751 smaller or deeper branches are left out" in words_of(chart)

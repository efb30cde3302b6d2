"""The charts of profiles draw what their analyses return: labelled, bounded, honest."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from tests.charts.drawing import svg_of, title_of
from vidlab.analysis import profiles
from vidlab.charts import boxes
from vidlab.charts import cpu as cpu_charts
from vidlab.charts import profiles as profile_charts

MS = 1_000_000
LONG = "a name that goes on and on " * 8


def used(count: int, name: str = "cam-{}") -> pl.DataFrame:
    rows = [
        (name.format(n), "h264", 9 * (n + 1) * MS, 5 * MS, MS, 12 * MS, 40 * n, 1.5 if n else None,
         7, n % 2, MS)
        for n in range(count)
    ]  # fmt: skip
    names = ["stream_id", "codec", "cpu_ns", "in_stages_ns", "unchecked_ns", "sampled_ns"]
    names += ["samples", "coverage", "spans", "unread", "unread_ns"]
    return pl.DataFrame(rows, schema=names, schema_overrides={"coverage": pl.Float64}, orient="row")


def profile(count: int, name: str = "cam-{}", value: str = "cpu_ns") -> pl.DataFrame:
    rows = [
        (name.format(n % 3), "h264", ["main", name.format(n), f"f{n}"], 30 + n, (n + 1) * MS)
        for n in range(count)
    ]
    types: dict[str, Any] = {"stream_id": pl.String, "codec": pl.String}
    types["calls"] = pl.List(pl.String)
    types |= {"samples": pl.Int64, value: pl.Int64}
    return pl.DataFrame(rows, schema=types, orient="row")


def tree(count: int, name: str = "cam-{}") -> pl.DataFrame:
    sampled = profile(count, name).with_columns(sampled_ns=2 * pl.col("cpu_ns"))
    return profiles.flame(sampled, ["stream_id", "codec"], prune=0)


def compared(count: int, name: str = "cam-{}") -> pl.DataFrame:
    before = profile(count, name)
    return profiles.difference(before, before.reverse().head(max(1, count - 1)), prune=0)


CHARTS: dict[str, tuple[Callable[..., Any], Callable[..., pl.DataFrame]]] = {
    "cpu.by_label": (cpu_charts.by_label, used),
    "profiles.flame": (profile_charts.flame, tree),
    "profiles.difference": (profile_charts.difference, compared),
}

UNITS = {
    "cpu.by_label": ("CPU time (ms)", "what samples say"),
    "profiles.flame": ('"ms"', "samples alone say, ms"),
    "profiles.difference": ('"ms"', "before, ms"),
}

every_chart = pytest.mark.parametrize("name", CHARTS)


def drawn(name: str, *of: Any, **options: Any) -> Any:
    draw, table = CHARTS[name]
    return draw(table(*of), **options)


def empty(name: str, **options: Any) -> Any:
    draw, table = CHARTS[name]
    return draw(table(1).clear(), **options)


@every_chart
@pytest.mark.parametrize("count", [1, 60])
def test_it_draws_marks(name: str, count: int) -> None:
    svg = svg_of(drawn(name, count))
    assert 'class="mark-rect' in svg
    for nonsense in ("nothing recorded", "NaN", "undefined", "null", "Infinity"):
        assert nonsense not in svg, nonsense


@every_chart
def test_its_title_says_what_is_seen_and_its_values_have_units(name: str) -> None:
    chart = drawn(name, 3)
    assert len(title_of(chart)[0]) > 12
    spec = json.dumps(chart.to_dict(), ensure_ascii=False)
    for unit in UNITS[name]:
        assert unit in spec, unit


@every_chart
def test_an_empty_table_says_so(name: str) -> None:
    assert "nothing recorded" in svg_of(empty(name))


@every_chart
def test_lost_rows_are_noted_on_it(name: str) -> None:
    for chart in (drawn(name, 3, lost=12_345), empty(name, lost=12_345)):
        assert "⚠ 12,345 rows lost while recording" in title_of(chart)[1][0]
    assert "lost while recording" not in json.dumps(drawn(name, 3).to_dict())


@every_chart
def test_of_many_it_draws_some_and_counts_the_rest(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "MAX_MARKS", 50)
    assert any("left out" in line for line in title_of(drawn(name, 60))[1])
    assert not any("left out" in line for line in title_of(drawn(name, 3))[1])


@every_chart
def test_long_names_leave_room_for_the_chart(name: str) -> None:
    width = float(svg_of(drawn(name, 2, LONG)).split('width="')[1].split('"')[0])
    assert width < 1_200


def test_too_few_samples_are_said_instead_of_drawn() -> None:
    few = profile(1).with_columns(samples=pl.lit(profiles.ENOUGH - 1))
    svg = svg_of(profile_charts.flame(profiles.flame(few)))
    assert "29 samples: too few for a flame graph, which needs 30" in svg
    assert 'class="mark-rect' not in svg
    enough = profile(1)
    for before, after, name in ((few, enough, "one"), (enough, few, "two")):
        found = profiles.difference(before, after)
        svg = svg_of(profile_charts.difference(found, before="one", after="two"))
        assert f"{name}: 29 samples: too few" in svg
        assert 'class="mark-rect' not in svg


def test_a_flame_graph_says_how_many_samples_and_what_they_alone_would_make_of_it() -> None:
    _, lines = title_of(drawn("profiles.flame", 3, note="and 5 ms more"))
    assert lines[0].startswith("93 samples; alone they make it 200% of this; how much is exact")
    assert "and 5 ms more" in lines


@pytest.mark.parametrize(("value", "unit"), [("size_bytes", "MiB"), ("objects", "objects")])
def test_memory_has_units_of_its_own_and_may_lack_samples(value: str, unit: str) -> None:
    memory = profile(3, value=value).drop("samples")
    chart = profile_charts.flame(profiles.flame(memory), title="What is there")
    assert f'"{unit}"' in json.dumps(chart.to_dict())
    assert title_of(chart)[0] == "What is there"
    both = profiles.difference(memory, memory)
    assert unit in svg_of(profile_charts.difference(both))


def test_what_is_new_and_what_is_gone_differ_in_colour() -> None:
    before = profile(2).filter(pl.col("calls").list.last() == "f0")
    after = profile(2).filter(pl.col("calls").list.last() == "f1")
    found = profiles.difference(before, after, frames=(10, 10))
    svg = svg_of(profile_charts.difference(found, per_frame=True))
    assert "rgb(33, 102, 172)" in svg  # gone
    assert "rgb(194, 81, 10)" in svg  # new
    spec = profile_charts.difference(found, per_frame=True).to_dict()
    assert "µs a frame" in json.dumps(spec, ensure_ascii=False)


def test_what_has_no_label_says_so() -> None:
    nobody = used(1).with_columns(pl.lit(None, pl.String).alias(n) for n in ("stream_id", "codec"))
    assert "(no stream or codec)" in svg_of(cpu_charts.by_label(nobody))
    assert "0 samples, nothing to compare" in svg_of(cpu_charts.by_label(used(1)))
    assert "1 short spans" not in svg_of(cpu_charts.by_label(used(1)))
    assert any("short spans" in line for line in title_of(cpu_charts.by_label(used(2)))[1])


def test_cpu_of_all_is_one_bar() -> None:
    assert "CPU of all" in svg_of(cpu_charts.by_label(used(1).drop("stream_id", "codec")))

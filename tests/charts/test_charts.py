"""Every chart draws what its analysis returns: labelled, bounded, honest about losses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from tests.charts.drawing import svg_of
from vidlab.analysis import (
    closure,
    latency,
    losses,
    pauses,
    queues,
    silences,
    startup,
    stutter,
    throughput,
)
from vidlab.charts import closure as closure_charts
from vidlab.charts import cube as cube_charts
from vidlab.charts import latency as latency_charts
from vidlab.charts import losses as losses_charts
from vidlab.charts import pauses as pauses_charts
from vidlab.charts import queues as queues_charts
from vidlab.charts import startup as startup_charts
from vidlab.charts import stutter as stutter_charts
from vidlab.charts import theme
from vidlab.charts import throughput as throughput_charts
from vidlab.runs.run import Run

SHARES = [percent / 100 for percent in range(101)]


def late_frames(run: Run) -> pl.DataFrame:
    return latency.late(run.scan("frames"), deadline_ms=60)


def causes(run: Run) -> pl.DataFrame:
    return closure.by_cause(late_frames(run), run.scan("spans"))


def closed(run: Run) -> pl.DataFrame:
    return closure.closure(run.scan("frames"), run.scan("spans"))


def freezes(run: Run) -> pl.DataFrame:
    found = stutter.intervals(run.scan("frames")).top_k(5, by="interval_ns")
    return found.select("stream_id", "codec", "frame", t_ns="t_done_ns", duration_ns="interval_ns")


def episodes(_: Run) -> pl.DataFrame:
    second = 1_000_000_000
    quiet = pl.DataFrame(
        {
            "pid": 1,
            "t_ns": [second, 3 * second, 6 * second],
            "duration_ns": second,
            "gc_ns": [second, 0, 0],
            "runqueue_ns": [0, second, 0],
        }
    )
    found = silences.episodes(quiet)
    assert set(found["cause"]) == set(pauses_charts._SILENCES)
    return found


#: Each chart, and the table that it draws.
CHARTS: dict[str, tuple[Callable[..., Any], Callable[[Run], pl.DataFrame]]] = {
    "closure.by_cause": (closure_charts.by_cause, causes),
    "closure.by_stream": (
        closure_charts.by_stream,
        lambda run: closure.means(closed(run)),
    ),
    "closure.frames": (closure_charts.frames, lambda run: closed(run).head(60)),
    "closure.ranking": (closure_charts.ranking, lambda run: closure.ranking(causes(run))),
    "cube.percentiles": (cube_charts.percentiles, lambda run: run.cube()),
    "latency.distribution": (
        latency_charts.distribution,
        lambda run: latency.end_to_end(run.scan("frames"), "codec", SHARES),
    ),
    "latency.heatmap": (
        latency_charts.heatmap,
        lambda run: latency.over_time(latency.as_spans(run.scan("frames"))),
    ),
    "latency.late": (latency_charts.late, lambda run: latency.late_summary(late_frames(run))),
    "latency.percentiles": (
        latency_charts.percentiles,
        lambda run: latency.percentiles(run.scan("spans")),
    ),
    "latency.slowest": (latency_charts.slowest, lambda run: latency.slowest(run.scan("frames"))),
    "losses.by_stage": (losses_charts.by_stage, lambda run: losses.by_stage(run.scan("frames"))),
    "losses.fates": (losses_charts.fates, lambda run: losses.fates(run.scan("frames"))),
    "pauses.silences": (pauses_charts.silences, episodes),
    "pauses.timeline": (
        lambda cells, **options: pauses_charts.timeline(
            cells.select(
                "t_ns",
                duration_ns=pl.col("high_ns"),
                generation=pl.lit(2, pl.UInt8),
                collected=pl.lit(7),
            ),
            cells,
            **options,
        ),
        lambda run: latency.over_time(latency.as_spans(run.scan("frames"))),
    ),
    "queues.by_queue": (
        queues_charts.by_queue,
        lambda run: queues.by_queue(run.scan("queue_depths"), run.scan("spans")),
    ),
    "queues.levels": (queues_charts.levels, lambda run: queues.levels(run.scan("queue_depths"))),
    "startup.first_frames": (
        startup_charts.first_frames,
        lambda run: startup.first_frames(run.scan("frames"), run.scan("streams")),
    ),
    "stutter.by_stream": (
        stutter_charts.by_stream,
        lambda run: stutter.by_stream(run.scan("frames"), run.scan("streams")),
    ),
    "stutter.freezes": (stutter_charts.freezes, freezes),
    "throughput.by_stream": (
        throughput_charts.by_stream,
        lambda run: throughput.by_stream(run.scan("frames"), run.scan("streams")),
    ),
    "throughput.over_time": (
        throughput_charts.over_time,
        lambda run: throughput.over_time(run.scan("frames"), run.scan("streams")),
    ),
}

every_chart = pytest.mark.parametrize("name", CHARTS)


def spec_of(chart: Any) -> dict[str, Any]:
    spec: dict[str, Any] = chart.to_dict()  # checked against Vega-Lite's schema
    return spec


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


def rows_in(spec: dict[str, Any]) -> int:
    """How many rows of data a specification carries."""

    def count(values: Any) -> int:
        return values.count("\n") - 1 if isinstance(values, str) else len(values)

    return sum(count(values) for values in spec.get("datasets", {}).values())


@every_chart
def test_it_draws_marks_for_what_the_analysis_found(name: str, run: Run) -> None:
    draw, analyse = CHARTS[name]
    table = analyse(run)
    assert table.height
    svg = svg_of(draw(table))
    assert "nothing recorded" not in svg
    assert 'class="mark-' in svg
    assert "NaN" not in svg
    assert "undefined" not in svg


@every_chart
def test_its_title_says_what_is_seen_and_its_axes_have_units(name: str, run: Run) -> None:
    draw, analyse = CHARTS[name]
    spec = spec_of(draw(analyse(run)))
    titles = titles_of(spec)
    assert len(titles[0]) > 12
    words = " ".join(titles)
    assert any(unit in words for unit in ("ms", "(s)", "share", "frames", "full", "depth"))


@every_chart
def test_an_empty_table_says_so(name: str, run: Run) -> None:
    draw, analyse = CHARTS[name]
    chart = draw(analyse(run).clear())
    assert "nothing recorded" in svg_of(chart)


@every_chart
def test_lost_rows_are_noted_on_it(name: str, run: Run) -> None:
    draw, analyse = CHARTS[name]
    table = analyse(run)
    for rows in (table, table.clear()):
        assert "12,345 rows lost while recording" in " ".join(
            titles_of(spec_of(draw(rows, lost=12_345)))
        )
    assert "lost while recording" not in json.dumps(spec_of(draw(table)))


@every_chart
def test_it_stays_within_the_budget_of_rows(name: str, run: Run) -> None:
    draw, analyse = CHARTS[name]
    assert rows_in(spec_of(draw(analyse(run)))) <= 30_000


def test_many_streams_are_cut_and_counted() -> None:
    table = pl.DataFrame(
        {
            "stream_id": [f"cam-{number}" for number in range(100)],
            "codec": "av1",
            "delivered": 10,
            "seconds": 1.0,
            "rate": 20.0,
            "nominal_rate": 25.0,
            "ratio": [number / 100 for number in range(100)],
        }
    )
    svg = svg_of(throughput_charts.by_stream(table))
    assert "cam-0<" in svg
    assert "cam-99<" not in svg
    late = pl.DataFrame(
        {
            "stream_id": [f"cam-{number}" for number in range(100)],
            "codec": "av1",
            "delivered": 10,
            "late": 1,
            "late_share": 0.1,
            "deadline_ns": 1,
            "p99_ns": 1,
            "worst_ns": 1,
        }
    )
    assert "60 streams are left out" in " ".join(titles_of(spec_of(latency_charts.late(late))))


def test_pauses_and_latency_share_one_time_axis(run: Run) -> None:
    cells = latency.over_time(latency.as_spans(run.scan("frames")))
    gc_pauses = run.scan("gc_pauses").collect()
    spec = spec_of(pauses_charts.timeline(gc_pauses, cells))
    assert spec["resolve"]["scale"]["x"] == "shared"
    assert pauses.by_generation(gc_pauses)["count"].sum() == rows_in(spec) - cells.height


def test_a_deadline_is_marked(run: Run) -> None:
    table = latency.end_to_end(run.scan("frames"), "codec", SHARES)
    assert theme.ALARM in svg_of(latency_charts.distribution(table, deadline_ms=50.0))
    assert theme.ALARM not in svg_of(latency_charts.distribution(table))

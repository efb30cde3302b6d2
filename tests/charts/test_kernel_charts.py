"""The charts of kernel events draw what their analyses return: labelled, bounded, honest."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from tests.charts.drawing import svg_of, title_of
from vidlab.charts import connections as connection_charts
from vidlab.charts import decodetimes as decode_charts
from vidlab.charts import memory_graph as graph_charts
from vidlab.charts import metrics as metric_charts
from vidlab.charts import offcpu as offcpu_charts
from vidlab.charts import pointers as pointer_charts

MS = 1_000_000
LONG = "a name that goes on and on " * 8


def stages(count: int, name: str = "stage {}") -> pl.DataFrame:
    states = ["sleeping", "preempted", "disk", "traced", None]
    rows = [
        (name.format(n), state, 5, (n + 1) * MS, MS // 2, MS, 0.5)
        for n in range(count)
        for state in states
    ]
    names = ["stage", "state", "count", "total_ns", "runqueue_ns", "longest_ns", "of_stage"]
    return pl.DataFrame(rows, schema=names, orient="row")


def threads(count: int, _: str = "") -> pl.DataFrame:
    rows = [
        (n * MS, (n + 1) * MS, state, 0.5 + n % 3)
        for n in range(count)
        for state in ("preempted", "sleeping")
    ]
    return pl.DataFrame(rows, schema=["t_ns", "t_end_ns", "state", "threads"], orient="row")


def decoding(count: int, name: str = "cam-{}") -> pl.DataFrame:
    rows = [
        (name.format(n), "h264", 10, 30, (n + 2) * MS, (n + 1) * MS, MS, 0.5) for n in range(count)
    ]
    names = ["stream_id", "codec", "spans", "calls", "span_ns", "ffmpeg_ns", "around_ns", "share"]
    return pl.DataFrame(rows, schema=names, orient="row")


def pointers(count: int, name: str = "function_{}") -> pl.DataFrame:
    who = ["both", "driver only", "cupy only"]
    rows = [
        (who[n % 3], None if n % 3 == 2 else name.format(n), 4, (n + 1) << 20, 1, 1 << 10)
        for n in range(count)
    ]
    names = ["seen_by", "symbol", "allocations", "size_bytes", "still_there", "still_there_bytes"]
    types = {"symbol": pl.String}
    return pl.DataFrame(rows, schema=names, schema_overrides=types, orient="row")


def blocks(count: int, name: str = "device") -> tuple[pl.DataFrame, pl.DataFrame]:
    nodes = [(n, 1, 4096 * n, 1 << 20, name, n, None) for n in range(count)]
    names = ["number", "pid", "address", "size_bytes", "kind", "t_ns", "t_freed_ns"]
    ways = [("host memory", str(n), n + 1, (count - n) << 20, n) for n in range(count)]
    ways += [(str(n), "unknown device memory", 1, 1 << 10, n) for n in range(count)]
    return (
        pl.DataFrame(nodes, schema=names, schema_overrides={"t_freed_ns": pl.Int64}, orient="row"),
        pl.DataFrame(
            ways,
            schema=["source", "destination", "copies", "size_bytes", "t_last_ns"],
            orient="row",
        ),
    )


def tcp(count: int, name: str = "cam-{}") -> pl.DataFrame:
    rows = [
        {
            "socket": n,
            "owner_pid": 1,
            "stream_id": name.format(n) if n % 2 else None,
            "local_address": "127.0.0.1",
            "local_port": 4_000 + n,
            "remote_address": "2001:db8::7" if n % 3 else None,
            "remote_port": 554,
            "t_ns": n * MS,
            "t_established_ns": n * MS + 9,
            "handshake_ns": 9,
            "t_closed_ns": None if n % 4 == 3 else (n + 50) * MS,
            "retransmits": n % 2,
            "bytes_sent": 10,
            "bytes_received": 1 << 20,
            "srtt_us": 30 if n % 5 else None,
            "srtt_max_us": 90,
        }
        for n in range(count)
    ]
    return pl.DataFrame(rows, schema_overrides={"stream_id": pl.String, "t_closed_ns": pl.Int64})


def buckets(count: int, name: str = "cam-{}") -> tuple[pl.DataFrame, pl.DataFrame]:
    of = [("decode_us", "µs", name.format(n), "h264") for n in range(count)]
    rows = [
        (*key, float(low), float(low + width), 5, 0.25)
        for key in of
        for low, width in ((0, 1), (5, 1), (1024, 128), (1 << 20, 1 << 17))
    ]
    names = ["metric", "unit", "stream_id", "codec"]
    found = pl.DataFrame(rows, schema=[*names, "low", "high", "count", "share"], orient="row")
    marks = [(*key, 20, 5.0, 1087.5, 1_114_111.5) for key in of]
    schema = [*names, "count", "p50", "p99", "max"]
    return found, pl.DataFrame(marks, schema=schema, orient="row")


#: Each chart, and what draws it of so many rows with such names.
CHARTS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "connections.over_time": (connection_charts.over_time, tcp),
    "decodetimes.by_stream": (decode_charts.by_stream, decoding),
    "memory_graph.copies": (graph_charts.copies, blocks),
    "metrics.distribution": (metric_charts.distribution, buckets),
    "offcpu.by_stage": (offcpu_charts.by_stage, stages),
    "offcpu.over_time": (offcpu_charts.over_time, threads),
    "pointers.summary": (pointer_charts.summary, pointers),
}

#: The units that the axes, legends or marks of a chart have.
UNITS = {
    "connections.over_time": ("(s)", "µs"),
    "decodetimes.by_stream": ("(ms)",),
    "memory_graph.copies": ("MiB",),
    "metrics.distribution": ("µs (log scale)", "share of its row"),
    "offcpu.by_stage": ("(ms)",),
    "offcpu.over_time": ("(s)", "threads (mean)"),
    "pointers.summary": ("MiB",),
}

every_chart = pytest.mark.parametrize("name", CHARTS)


def drawn(name: str, *of: Any, **options: Any) -> Any:
    draw, table = CHARTS[name]
    tables = table(*of)
    return draw(*(tables if isinstance(tables, tuple) else (tables,)), **options)


def empty(name: str, **options: Any) -> Any:
    draw, table = CHARTS[name]
    tables = table(1)
    parts = tables if isinstance(tables, tuple) else (tables,)
    return draw(*(part.clear() for part in parts), **options)


def rows_in(chart: Any) -> int:
    values = chart.to_dict().get("datasets", {}).values()
    return sum(rows.count("\n") - 1 if isinstance(rows, str) else len(rows) for rows in values)


@every_chart
@pytest.mark.parametrize("count", [1, 3, 100])
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
    assert "nothing recorded" in svg_of(empty(name))


@every_chart
def test_lost_rows_are_noted_on_it(name: str) -> None:
    for chart in (drawn(name, 3, lost=12_345), empty(name, lost=12_345)):
        assert "⚠ 12,345 rows lost while recording" in title_of(chart)[1][0]
    assert "lost while recording" not in json.dumps(drawn(name, 3).to_dict())


@every_chart
def test_of_many_it_draws_some_and_counts_the_rest(name: str) -> None:
    if name == "offcpu.over_time":
        return  # its rows are moments
    chart = drawn(name, 100)
    assert rows_in(chart) <= 300
    assert any("left out" in line for line in title_of(chart)[1])
    assert not any("left out" in line for line in title_of(drawn(name, 3))[1])


@every_chart
def test_long_names_leave_room_for_the_chart(name: str) -> None:
    svg = svg_of(drawn(name, 2, LONG))
    width = float(svg.split('width="')[1].split('"')[0])
    assert width < 1_200


def test_preempted_threads_stand_out() -> None:
    svg = svg_of(drawn("offcpu.by_stage", 1))
    assert offcpu_charts.STATES["preempted"].lower() in svg.lower()
    assert "traced" in svg  # a state that the chart has no colour of its own for


def test_what_was_in_no_stream_says_so() -> None:
    nobody = pl.lit(None, pl.String)
    assert "no stream" in svg_of(decode_charts.by_stream(
        decoding(1).with_columns(stream_id=nobody, codec=nobody)))  # fmt: skip
    found, marks = (part.with_columns(stream_id=nobody, codec=nobody) for part in buckets(1))
    assert "no stream" in svg_of(metric_charts.distribution(found, marks))
    assert "no stream" in svg_of(connection_charts.over_time(tcp(1)))


def test_connections_that_are_open_go_on_to_the_end() -> None:
    still_open = tcp(4).filter(pl.col("t_closed_ns").is_null())
    chart = connection_charts.over_time(still_open, start_ns=0, end_ns=2_000 * MS)
    assert ",2.0\n" in next(iter(chart.to_dict()["datasets"].values()))

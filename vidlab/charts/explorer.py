"""The explorer's charts: what is drawn of each view, for named data that comes later.

A specification is compiled once in the browser. After that only the rows of its data sets
and the values of its parameters change: `t_from` and `t_to`, the seconds that are looked at;
`codecs` and `colours`, those of the run; `labels` and `label_colours`, those of memory;
`causes`, those of a waterfall; `deadline_ms` and `quantile`; `stage` and `frame`, which are
chosen. What the page does with a chart is in `usermeta`:

=========  =================================================================================
rows       the column whose values take a row each, and pixels of a row, for charts that grow
brush      which part of the explorer's state a brush sets, by column
pick       which part of the state a click on a mark sets, by column
=========  =================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from . import explorer_details as details
from . import explorer_parts as parts
from . import theme
from .theme import AnyChart

#: What the interpreter and the kernel did to threads, each in its colour.
RUNTIME = {"gc": "#BB5566", "run queue": "#DDAA33", "GIL": "#004488", "event loop": "#44AA99"}

#: For what has no colour of its own, in the order in which it comes.
_SERIES = list(theme.series_scale("abcdefgh").range)

_BYTES = (
    "abs(datum.value) >= 1073741824 ? format(datum.value / 1073741824, ',.3~r') + ' GiB' : "
    "abs(datum.value) >= 1048576 ? format(datum.value / 1048576, ',.3~r') + ' MiB' : "
    "abs(datum.value) >= 1024 ? format(datum.value / 1024, ',.3~r') + ' KiB' : "
    "datum.value + ' B'"
)


def specifications() -> dict[str, dict[str, Any]]:
    """Return each view's Vega-Lite specification, as JSON goes to the page, by its name."""
    views = {
        "overview": overview(),
        "latency": latency(),
        "memory": memory(),
        "kernel": kernel(),
        "runtime": runtime(),
        "stages": details.stages(),
        "tail": details.tail(),
        "streams": details.streams(),
        "profile": details.profile(),
        **{name: details.flame(name) for name in ("flame", "beyond_flame", "beyond_memory")},
        "waterfall": details.waterfall(),
    }
    return {name: chart.to_dict(context={"pre_transform": False}) for name, chart in views.items()}


def looks(dark: bool) -> dict[str, Any]:
    """Return the Vega-Lite configuration for a light page, or for a dark one."""
    config: dict[str, Any] = {**theme.config()["config"]}
    ink, quiet, grid = ("#e6e8ec", "#a4abb8", "#3a404b") if dark else (
        theme.INK, theme.QUIET, theme.GRID
    )  # fmt: skip
    ramp = ["#1b2a3f", "#2b5c8a", "#4f9bc9", "#a6dcee", "#f4fbff"] if dark else [
        "#e3eef6", "#a8cfe3", "#5fa3cc", "#256aa5", "#0a2f5c"
    ]  # fmt: skip
    for name in ("axis", "legend", "header"):
        config[name] = {**config[name], "labelColor": ink}
    config["axisY"] = {**config["axisY"], "minExtent": 44}
    config["axis"] |= {"titleColor": quiet, "gridColor": grid, "labelFontSize": 11}
    config["axis"] |= {"titleFontSize": 11, "domainColor": quiet, "tickColor": quiet}
    config["legend"] |= {"titleColor": quiet, "labelFontSize": 11, "symbolSize": 70}
    return {
        **config,
        "background": "transparent",
        "text": {**config["text"], "color": ink},
        "range": {"heatmap": ramp, "ramp": ramp},
        "style": {"ink": {"color": ink, "stroke": ink, "fill": ink}, "quiet": {"fill": quiet}},
    }


def overview() -> AnyChart:
    """Return the chart of frames, and of late ones, over the whole run; a brush chooses time."""
    base = alt.Chart(alt.NamedData("overview"))
    x = alt.X(
        "t_s:Q",
        bin="binned",
        scale=parts.between("span_from", "span_to"),
        axis=alt.Axis(
            title=None, grid=False, format="~s", labelExpr="datum.label + ' s'", tickCount=8
        ),
    )
    y = alt.Axis(title=None, labels=False, grid=False)
    tooltip = [*parts.when(), parts.whole("frames", "frames"), parts.whole("late", "late")]
    brush = alt.selection_interval(
        name="brush", encodings=["x"], zoom=False, mark=alt.BrushConfig(fillOpacity=0.2)
    )
    chart = alt.layer(
        base.mark_bar(color="#7FA3C4", binSpacing=0)
        .encode(x=x, x2="t_end_s", y=alt.Y("frames:Q", axis=y), tooltip=tooltip)
        .add_params(brush),
        base.mark_bar(color="#CC3311", binSpacing=0).encode(
            x=x, x2="t_end_s", y="late:Q", tooltip=tooltip
        ),
    )
    return parts.view(chart, 46, brush={"t_s": "time_s"})


def latency() -> AnyChart:
    """Return the heat map of latency over time, with the worst frames as points to click."""
    cells, frames = alt.Chart(alt.NamedData("latency")), alt.Chart(alt.NamedData("worst"))
    y_scale = alt.Scale(type="log", nice=False)
    brush = alt.selection_interval(name="brush", zoom=False, translate=False)
    heat = (
        cells.mark_rect()
        .encode(
            x=parts.focus(),
            x2="t_end_s",
            y=alt.Y("low_ms:Q", scale=y_scale, axis=parts.log_axis("latency (ms, log)")),
            y2="high_ms",
            color=alt.Color("frames:Q", scale=alt.Scale(type="log"), legend=None),
            tooltip=[
                *parts.when(),
                alt.Tooltip("low_ms:Q", title="from, ms", format=",.4~r"),
                alt.Tooltip("high_ms:Q", title="to, ms", format=",.4~r"),
                parts.whole("frames", "frames"),
            ],
        )
        .add_params(brush)
    )
    points = frames.mark_point(filled=True, cursor="pointer", strokeWidth=1).encode(
        x=parts.focus(),
        y=alt.Y("latency_ms:Q", scale=y_scale),
        color=parts.codec(legend=None),
        stroke=alt.condition("datum.frame == frame", alt.value("#E8213B"), alt.value("white")),
        size=alt.condition("datum.frame == frame", alt.value(150), alt.value(50)),
        shape=alt.condition("datum.late", alt.value("triangle-up"), alt.value("circle")),
        tooltip=[
            alt.Tooltip("frame:N", title="frame (click: its waterfall)"),
            alt.Tooltip("latency_ms:Q", title="latency, ms", format=",.4~r"),
            alt.Tooltip("stream_id:N", title="stream"),
            "codec:N",
            alt.Tooltip("late:N", title="late"),
        ],
    )
    chart = alt.layer(heat, parts.deadline("y"), points).resolve_scale(color="independent")
    return parts.view(
        chart,
        170,
        params=[alt.param(name="frame", value=""), alt.param(name="deadline_ms", value=0)],
        brush={"t_s": "time_s", "low_ms": "latency_ms"},
        pick={"frame": "frame"},
    )


def memory() -> AnyChart:
    """Return the chart of GPU memory in use over time, stacked by codec, or by stream."""
    chart = _stacked(
        "memory",
        alt.Y(
            "in_use_bytes:Q",
            stack="zero",
            axis=alt.Axis(title="GPU memory in use", labelExpr=_BYTES, tickCount=4),
        ),
        parts.named("label", "labels", "label_colours"),
        [
            alt.Tooltip("label:N", title="of"),
            alt.Tooltip("in_use_bytes:Q", title="bytes", format=","),
        ],
    )
    labels = [alt.param(name=name, value=[""]) for name in ("labels", "label_colours")]
    return parts.view(chart, 120, labels, brush={"t_s": "time_s"})


def kernel() -> AnyChart:
    """Return the chart of what threads did according to the kernel, over time, by state."""
    chart = _stacked(
        "kernel",
        alt.Y("threads:Q", stack="zero", axis=alt.Axis(title="threads, on average", tickCount=4)),
        alt.Color("state:N", title=None, scale=alt.Scale(range=_SERIES)),
        [alt.Tooltip("state:N", title="state"), alt.Tooltip("threads:Q", format=",.3~r")],
    )
    return parts.view(chart, 120, brush={"t_s": "time_s"})


def runtime() -> AnyChart:
    """Return the chart of how long the interpreter held frames up, over time, by how."""
    chart = _stacked(
        "runtime",
        alt.Y("ms:Q", stack="zero", axis=alt.Axis(title="held up (ms)", tickCount=4)),
        alt.Color(
            "what:N",
            title=None,
            scale=alt.Scale(domain=list(RUNTIME), range=list(RUNTIME.values())),
        ),
        [alt.Tooltip("what:N", title="by"), alt.Tooltip("ms:Q", title="ms", format=",.4~r")],
    )
    return parts.view(chart, 120, brush={"t_s": "time_s"})


def _stacked(data: str, y: alt.Y, colour: Any, tooltip: Sequence[alt.Tooltip]) -> alt.Chart:
    """Return bars over the time that is looked at, stacked by colour, with a brush."""
    colour["legend"] = alt.Legend(orient="top", direction="horizontal", offset=2, padding=0)
    brush = alt.selection_interval(name="brush", encodings=["x"], zoom=False, translate=False)
    chart: alt.Chart = (
        alt.Chart(alt.NamedData(data))
        .mark_bar(binSpacing=0)
        .encode(
            x=parts.focus(bin="binned"),
            x2="t_end_s",
            y=y,
            color=colour,
            tooltip=[*parts.when(), *tooltip],
        )
        .add_params(brush)
    )
    return chart

"""The explorer's charts of what is chosen: stages, streams, functions, and one frame."""

from __future__ import annotations

import altair as alt

from . import explorer_parts as parts
from . import theme
from .theme import AnyChart
from .waterfall import marks

#: Pixels of a row's mark.
_ROW = 18


def stages() -> AnyChart:
    """Return each stage's median (tick) and chosen quantile (dot); a click chooses a stage."""
    base = (
        alt.Chart(alt.NamedData("stages"))
        .transform_calculate(
            low="max(datum.median_ms, 0.0001)",
            high="max(datum.quantile_ms, 0.0001)",
        )
        .encode(
            y=alt.Y("row:N", sort=None, title=None, axis=alt.Axis(grid=True, labelLimit=170)),
            color=alt.Color(
                "kind:N",
                legend=None,
                scale=alt.Scale(domain=list(theme.KINDS), range=list(theme.KINDS.values())),
            ),
            opacity=alt.condition(
                "stage == '' || datum.row == stage", alt.value(1), alt.value(0.3)
            ),
            tooltip=[
                alt.Tooltip("row:N", title="stage (click: only this)"),
                alt.Tooltip("median_ms:Q", title="median, ms", format=",.4~r"),
                alt.Tooltip("quantile_ms:Q", title="quantile, ms", format=",.4~r"),
                parts.whole("count", "counted"),
            ],
        )
    )
    x = alt.X(
        "high:Q", scale=alt.Scale(type="log", nice=False), axis=parts.log_axis("duration (ms, log)")
    )
    chart = alt.layer(
        base.mark_rule(strokeWidth=3, opacity=0.45, cursor="pointer").encode(x=x, x2="low:Q"),
        base.mark_tick(thickness=3, size=11, cursor="pointer").encode(x="low:Q"),
        base.mark_circle(size=75, cursor="pointer").encode(x=x),
    )
    return parts.view(
        chart,
        200,
        params=[alt.param(name="stage", value="")],
        rows={"column": "row", "height": _ROW},
        pick={"row": "stage"},
    )


def tail() -> AnyChart:
    """Return which share of frames took longer than so many ms, a line a codec, log over log."""
    base = alt.Chart(alt.NamedData("tail"))
    y = alt.Y(
        "longer:Q",
        scale=alt.Scale(type="log", nice=False),
        axis=parts.log_axis("frames that take longer", "~%"),
    )
    lines = base.mark_line(strokeWidth=2, interpolate="step-after").encode(
        x=alt.X(
            "value_ms:Q", scale=alt.Scale(type="log", nice=False), axis=parts.log_axis("ms (log)")
        ),
        y=y,
        color=parts.codec(),
        tooltip=[
            "codec:N",
            alt.Tooltip("value_ms:Q", title="ms", format=",.4~r"),
            alt.Tooltip("longer:Q", title="take longer", format=".3~%"),
        ],
    )
    chart = alt.layer(lines, parts.deadline("x"))
    return parts.view(chart, 160, params=[alt.param(name="deadline_ms", value=0)])


def streams() -> AnyChart:
    """Return the share of late frames of each stream, coloured by codec; a click chooses one."""
    base = alt.Chart(alt.NamedData("streams")).encode(
        y=alt.Y("stream_id:N", sort=None, title=None, axis=alt.Axis(labelLimit=170)),
        tooltip=[
            alt.Tooltip("stream_id:N", title="stream (click: only this)"),
            "codec:N",
            parts.whole("frames", "frames"),
            parts.whole("late", "late"),
            alt.Tooltip("late_share:Q", title="late", format=".3~%"),
            alt.Tooltip("quantile_ms:Q", title="quantile, ms", format=",.4~r"),
        ],
    )
    x = alt.X("late_share:Q", axis=alt.Axis(title="late frames", format="~%", tickCount=5))
    chart = alt.layer(
        base.mark_bar(cursor="pointer").encode(x=x, color=parts.codec()),
        base.mark_text(align="left", dx=4, fontSize=10, style="quiet")
        .transform_calculate(says="format(datum.quantile_ms, ',.3~r') + ' ms'")
        .encode(x=x, text="says:N"),
    )
    return parts.view(
        chart, 200, rows={"column": "stream_id", "height": _ROW}, pick={"stream_id": "stream_id"}
    )


def profile() -> AnyChart:
    """Return the functions that took the CPU: their own share, and with what they called."""
    base = alt.Chart(alt.NamedData("profile")).encode(
        y=alt.Y("function:N", sort=None, title=None, axis=alt.Axis(labelLimit=230)),
        tooltip=[
            "function:N",
            "file:N",
            alt.Tooltip("self_share:Q", title="itself", format=".2~%"),
            alt.Tooltip("total_share:Q", title="with what it called", format=".2~%"),
            parts.whole("samples", "samples"),
        ],
    )
    axis = alt.Axis(title="share of CPU: itself (dark), with what it called", format="~%")
    chart = alt.layer(
        base.mark_bar(color="#7FB8D8", opacity=0.55).encode(x=alt.X("total_share:Q", axis=axis)),
        base.mark_bar(color="#2F78B5", height={"band": 0.5}).encode(x="self_share:Q"),
    )
    return parts.view(chart, 200, rows={"column": "function", "height": _ROW})


def flame(data: str) -> AnyChart:
    """Return a flame graph: the whole at the top, what is called below its caller."""
    base = alt.Chart(alt.NamedData(data)).transform_calculate(
        bottom="datum.depth + 1", share="datum.x1 - datum.x0"
    )
    x = alt.X("x0:Q", scale=alt.Scale(domain=[0, 1], nice=False), axis=None)
    y = alt.Y("depth:Q", scale=alt.Scale(reverse=True, nice=False), axis=None)
    chart = alt.layer(
        base.mark_rect(stroke="white", strokeWidth=0.5).encode(
            x=x,
            x2="x1",
            y=y,
            y2="bottom",
            color=alt.Color(
                "layer:N", legend=None, scale=alt.Scale(range=["#E9A36B", "#8FB8D8", "#B9BDC4"])
            ),
            tooltip=["name:N", "layer:N", alt.Tooltip("share:Q", title="share", format=".2~%")],
        ),
        base.transform_filter("datum.share > 0.06")
        .mark_text(align="left", dx=3, dy=8, fontSize=10, color="#1f2430", limit=200)
        .encode(x=x, y=y, text="name:N"),
    )
    return parts.view(chart, 200, rows={"column": "depth", "height": 16})


def waterfall() -> AnyChart:
    """Return one frame's way: its time from left to right, its stages from top to bottom."""
    color = theme.cause_colour(theme.CAUSES, title=None)
    below = {"orient": "bottom", "columns": 2, "values": alt.ExprRef("causes")}
    for name, value in below.items():
        color["legend"][name] = value
    chart = marks(
        alt.NamedData("waterfall"),
        stage="row",
        y=alt.Y("row:N", sort=None, title=None, axis=alt.Axis(grid=True, labelLimit=170)),
        color=color,
    )
    return parts.view(
        chart,
        200,
        params=[alt.param(name="causes", value=list(theme.CAUSES))],
        rows={"column": "row", "height": _ROW},
    )

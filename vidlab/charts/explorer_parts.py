"""What several of the explorer's charts are made of: axes, scales, tooltips, a chart's frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from . import theme
from .theme import AnyChart

#: Names that have a colour of their own in a chart; where there are more, they share the last.
MAX_NAMES = 16


def view(chart: Any, height: int, params: Sequence[Any] = (), **meta: Any) -> AnyChart:
    """Return the chart as large as its place, with the parameters that all have."""
    shared = [
        *(alt.param(name=name, value=0) for name in ("t_from", "span_from")),
        *(alt.param(name=name, value=1) for name in ("t_to", "span_to")),
        alt.param(name="codecs", value=[theme.NO_CODEC]),
        alt.param(name="colours", value=[theme.codec_colour(None)]),
    ]
    sized = chart.properties(
        width=480,
        height=height,
        # To lay out anew with each change takes twice the time: only where labels of rows change.
        autosize=alt.AutoSizeParams(type="fit", contains="padding", resize="rows" in meta),
        padding=4,
    )
    result: AnyChart = sized.add_params(*shared, *params).properties(usermeta=meta)
    return result


def between(low: str, high: str) -> alt.Scale:
    """Return the scale from one parameter's value to another's."""
    return alt.Scale(
        domainMin=alt.ExprRef(low), domainMax=alt.ExprRef(high), nice=False, zero=False, clamp=True
    )


def focus(**more: Any) -> alt.X:
    """Return the axis of the seconds that are looked at."""
    return alt.X(
        "t_s:Q",
        **more,
        scale=between("t_from", "t_to"),
        axis=alt.Axis(title=None, grid=False, labelExpr="datum.label + ' s'", tickCount=8),
    )


def codec(legend: Any = alt.Undefined) -> alt.Color:
    """Return the codecs' colours: a codec has the same in every chart and every run."""
    return named("codec", "codecs", "colours", legend)


def named(field: str, names: str, colours: str, legend: Any = alt.Undefined) -> alt.Color:
    """Return the colours that one parameter has for the names that another has."""
    if legend is alt.Undefined:
        legend = alt.Legend(orient="top", direction="horizontal", offset=2, padding=0)
    shown = [
        alt.ExprRef(f"{colours}[min({number}, length({colours}) - 1)]")
        for number in range(MAX_NAMES)
    ]
    scale = alt.Scale(domain=alt.ExprRef(names), range=shown)
    return alt.Color(f"{field}:N", title=None, scale=scale, legend=legend)


def log_axis(title: str, format: str = ",~g") -> alt.Axis:
    """Return the axis of a logarithmic scale, with a few ticks."""
    return alt.Axis(title=title, format=format, tickCount=4, labelOverlap=True, grid=False)


def deadline(axis: str) -> alt.Chart:
    """Return the line of the deadline; none where there is no single one."""
    channel = alt.X("at:Q") if axis == "x" else alt.Y("at:Q")
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=[{"one": 1}]))
        .transform_calculate(at="deadline_ms > 0 ? deadline_ms : null")
        .mark_rule(strokeDash=[5, 3], strokeWidth=1.3, style="ink")
        .encode(channel)
    )
    return chart


def when() -> list[alt.Tooltip]:
    """Return what is said of a bin: from when to when."""
    return [
        alt.Tooltip("t_s:Q", title="from, s", format=",.2~f"),
        alt.Tooltip("t_end_s:Q", title="to, s", format=",.2~f"),
    ]


def whole(field: str, title: str) -> alt.Tooltip:
    """Return what is said of a count."""
    return alt.Tooltip(f"{field}:Q", title=title, format=",.0f")

"""Runtime metrics over time: what `analysis.trends` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from ..schema import metrics
from . import theme
from .theme import AnyChart

#: Metrics, and lines of each, that a chart shows at most.
MAX_PANELS, MAX_LINES = 24, 8

#: Fewer readings than this are marked by points.
_FEW = 80

#: What a metric's unit is on a chart: its symbol, and how many of the unit one of it is.
_UNITS = {"By": ("MiB", 1 << 20), "1": ("share", 1), "s": ("s", 1)}


def over_time(df: pl.DataFrame, *, start_ns: int | None = None, lost: int = 0) -> AnyChart:
    """Draw metrics over time, a panel each; counters as what they grow a second.

    Parameters
    ----------
    df : DataFrame
        What `analysis.trends.over_time` returned.
    start_ns : int
        The moment from which time is counted; by default the first in the table.
    lost : int
        Rows of `runtime_metrics` lost while recording.
    """
    title = "Runtime metrics over time"
    if not df.height:
        return theme.nothing(title, lost)
    start = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
    names = df["metric"].unique().sort().to_list()
    known = df.filter(pl.col("metric").is_in(names[:MAX_PANELS])).with_columns(_line(df))
    panels = [
        _panel(part, metric, start, last=place == min(len(names), MAX_PANELS) - 1)
        for place, ((metric,), part) in enumerate(known.sort("metric", "t_ns").group_by(
            "metric", maintain_order=True))
    ]  # fmt: skip
    chart = alt.vconcat(*panels, spacing=10).resolve_scale(x="shared", color="independent")
    more = len(names) - MAX_PANELS
    return theme.titled(chart, title, f"{more} more metrics are left out" if more > 0 else "", lost)


def unit_of(metric: str, kind: str) -> tuple[str, float]:
    """Return the unit of a metric on a chart, and how many of the metric's own it is.

    >>> unit_of("process.memory.usage", "updowncounter"), unit_of("process.cpu.time", "counter")
    (('MiB', 1048576), ('s per second', 1))
    """
    try:
        own = metrics.by_name(metric).unit
    except KeyError:  # of a later version, or the program's own
        own = ""
    name, size = _UNITS.get(own, (own.strip("{}").replace("_", " "), 1))
    return f"{name or 'value'} per second" if kind == "counter" else name or "value", size


def _panel(part: pl.DataFrame, metric: str, start_ns: int, last: bool) -> alt.Chart:
    """Return one metric's panel."""
    unit, size = unit_of(metric, part["kind"].item(0))
    order = theme.natural(part["line"])
    shown = theme.seconds(
        part.filter(pl.col("line").is_in(order[:MAX_LINES])).select(
            "t_ns", "line", (pl.col("value") / size).round_sig_figs(5)
        ),
        start_ns,
    )
    points = alt.OverlayMarkDef(size=12) if shown.height < _FEW else False
    chart: alt.Chart = (
        alt.Chart(
            theme.data(shown),
            title=alt.TitleParams(
                f"{metric} ({unit})", fontSize=12, fontWeight=500, offset=4, limit=theme.WIDTH
            ),
        )
        .mark_line(strokeWidth=1.6, point=points)
        .encode(
            x=alt.X(
                "t_s:Q",
                scale=alt.Scale(nice=False, zero=False),
                axis=theme.time_axis() if last else alt.Axis(title=None, grid=False, labels=False),
            ),
            y=alt.Y("value:Q", title=None, axis=alt.Axis(tickCount=3), scale=alt.Scale(zero=True)),
            color=alt.Color(
                "line:N",
                title=None,
                scale=theme.series_scale(order[:MAX_LINES]),
                legend=alt.Legend() if len(order) > 1 else None,
            ),
            tooltip=[
                alt.Tooltip("line:N", title="of"),
                alt.Tooltip("t_s:Q", title="at, s", format=",.3~f"),
                alt.Tooltip("value:Q", title=unit, format=",.4~r"),
            ],
        )
        .properties(width=theme.WIDTH, height=48)
    )  # fmt: skip
    return chart


def _line(df: pl.DataFrame) -> pl.Expr:
    """Return the name of a line: the attribute, and of several processes which one."""
    process = pl.format("process {}", "pid")
    several = df["pid"].n_unique() > 1
    own = pl.col("attribute").str.replace("=", " ")
    if several:
        return pl.concat_str(process, own, separator=" · ", ignore_nulls=True).alias("line")
    return own.fill_null("the process").alias("line")

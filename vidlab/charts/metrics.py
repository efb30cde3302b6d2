"""What the kernel counted in histograms: what `analysis.metrics` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import theme
from .decodetimes import row_name
from .theme import AnyChart

MAX_ROWS = 40

#: Where values below one are drawn, as an axis by powers has no zero.
_LEAST = 0.5


def distribution(df: pl.DataFrame, percentiles: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw where the values of a histogram lie, a row each group, with its p50 and p99.

    Parameters
    ----------
    df : DataFrame
        What `analysis.metrics.distribution` returned.
    percentiles : DataFrame
        What `analysis.metrics.percentiles` returned by the same labels, with the quantiles
        0.5 and 0.99.
    lost : int
        Rows of `kernel_metrics` lost while recording.
    """
    title = "What was counted in the kernel, by value"
    if not df.height:
        return theme.nothing(title, lost)
    metric, unit = df.select("metric", "unit").row(0)
    keys = df.columns[df.columns.index("unit") + 1 : df.columns.index("low")]
    named = df.with_columns(row_name(keys))
    order = named["name"].unique(maintain_order=True).to_list()
    drawn = named.filter(pl.col("name").is_in(order[:MAX_ROWS])).select(
        "name",
        "low",
        "high",
        "count",
        pl.col("share").round_sig_figs(4),
        pl.col("low").clip(_LEAST).alias("from"),
    )
    marks = (
        percentiles.filter(pl.col("metric") == metric)
        .with_columns(row_name(keys))
        .filter(pl.col("name").is_in(order[:MAX_ROWS]))
        .select("name", "count", pl.col("p50", "p99").clip(_LEAST))
    )
    limits = (float(drawn["from"].min()), float(drawn["high"].max()))  # type: ignore[arg-type]
    scale = alt.Scale(type="log", domain=list(limits), nice=False)
    y = alt.Y("name:N", sort=order[:MAX_ROWS], title=None)
    cells = (
        alt.Chart(theme.data(drawn))
        .mark_rect()
        .encode(
            x=alt.X(
                "from:Q",
                scale=scale,
                axis=theme.log_axis(f"{unit or 'value'} (log scale)", limits),
            ),
            x2="high:Q",
            y=y,
            color=alt.Color(
                "share:Q",
                title="share of its row",
                scale=alt.Scale(scheme="blues"),
                legend=alt.Legend(format="~%", gradientLength=140, tickCount=3),
            ),
            tooltip=[
                alt.Tooltip("name:N", title="of"),
                alt.Tooltip("low:Q", title=f"from, {unit}", format=",.4~r"),
                alt.Tooltip("high:Q", title=f"to below, {unit}", format=",.4~r"),
                alt.Tooltip("count:Q", format=","),
                alt.Tooltip("share:Q", format=".3~%"),
            ],
        )
    )
    base = alt.Chart(theme.data(marks)).encode(y=y)
    ticks = [
        base.mark_tick(thickness=3, size=16, color=colour).encode(
            x=alt.X(f"{name}:Q", scale=scale),
            tooltip=[
                alt.Tooltip("name:N", title="of"),
                alt.Tooltip(f"{name}:Q", title=f"{name}, {unit}", format=",.4~r"),
                alt.Tooltip("count:Q", title="counted", format=","),
            ],
        )
        for name, colour in (("p50", theme.INK), ("p99", theme.ALARM))
    ]
    chart = alt.layer(cells, *ticks).properties(width=theme.WIDTH - 60, height=alt.Step(theme.ROW))
    more = len(order) - MAX_ROWS
    return theme.titled(
        chart,
        f"{metric}: {title[0].lower()}{title[1:]}",
        [
            "black: p50, red: p99; within 1/16 of the value, the width of its bucket",
            f"{more} rows that were counted less are left out" if more > 0 else "",
        ],
        lost,
    )

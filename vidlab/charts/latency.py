"""How long stages and frames took: what `analysis.latency` found."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import polars as pl

from . import theme
from .theme import AnyChart

#: Stages and streams that a chart shows at most; the rest is counted in its subtitle.
MAX_ROWS = 40


def _quantiles(df: pl.DataFrame) -> dict[str, float]:
    """Return the table's quantile columns, in ascending order: {"p99_9_ns": 0.999}."""
    found = {
        name: float(name[1:-3].replace("_", ".")) / 100
        for name in df.columns
        if name[0] == "p" and name.endswith("_ns") and name[1:-3].replace("_", "").isdigit()
    }
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _shown(column: str) -> str:
    return column.removesuffix("_ns").replace("_", ".")


def percentiles(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw each stage's percentiles, one line a codec from the lowest to the highest quantile.

    Parameters
    ----------
    df : DataFrame
        What `analysis.latency.percentiles` or `from_cube` returned, by stage and codec.
    lost : int
        Rows of `spans` lost while recording.
    """
    title = "Percentiles by stage and codec"
    if not df.height:
        return theme.nothing(title, lost)
    low, *_, high = _quantiles(df)
    named = df.with_columns(theme.stage_row().alias("row"))
    order = (
        named.group_by("row").agg(pl.col(high).max()).sort(high, descending=True)["row"].to_list()
    )
    rows = theme.in_ms(named.filter(pl.col("row").is_in(order[:MAX_ROWS])))
    low_ms, high_ms = low.replace("_ns", "_ms"), high.replace("_ns", "_ms")
    positive = rows.filter(pl.col(high_ms) > 0)
    limits = (
        [
            max(float(positive[low_ms].min() or 0), 1e-4) / 1.3,  # type: ignore[arg-type]
            float(positive[high_ms].max()) * 1.3,  # type: ignore[arg-type]
        ]
        if positive.height
        else [1e-4, 1.0]
    )
    base = alt.Chart(theme.data(rows.with_columns(pl.col(low_ms, high_ms).clip(limits[0])))).encode(
        y=alt.Y("row:N", sort=order[:MAX_ROWS], title=None),
        yOffset=alt.YOffset("codec:N", scale=alt.Scale(paddingOuter=0.3)),
        color=alt.Color("codec:N", title="codec", scale=theme.codec_scale(rows["codec"])),
        tooltip=[
            alt.Tooltip("row:N", title="stage"),
            "codec:N",
            alt.Tooltip("count:Q", title="counted", format=",.0f"),
            *(
                alt.Tooltip(f"{name[:-3]}_ms:Q", title=f"{_shown(name)}, ms", format=",.4~r")
                for name in (*_quantiles(df), "max_ns")
            ),
        ],
    )
    x = alt.X(
        f"{high_ms}:Q",
        scale=alt.Scale(type="log", domain=limits, nice=False),
        axis=theme.log_axis("duration (ms, log scale)", limits),
    )
    chart = alt.layer(
        base.mark_rule(strokeWidth=2.5, opacity=0.4).encode(x=x, x2=f"{low_ms}:Q"),
        base.mark_tick(thickness=2.5, size=8).encode(x=f"{low_ms}:Q"),
        base.mark_circle(size=55, opacity=1).encode(x=x),
    ).properties(width=theme.WIDTH, height=alt.Step(10))
    left_out = len(order) - MAX_ROWS
    return theme.titled(
        chart,
        title,
        [
            f"from {_shown(low)} (tick) to {_shown(high)} (dot); the slowest stage first",
            f"{left_out} quicker stages are left out" if left_out > 0 else "",
        ],
        lost,
    )


def distribution(df: pl.DataFrame, *, deadline_ms: float | None = None, lost: int = 0) -> AnyChart:
    """Draw the cumulative distribution of the end-to-end latency, one line a codec.

    Parameters
    ----------
    df : DataFrame
        What `analysis.latency.end_to_end` returned, by codec, with many quantiles.
    deadline_ms : float
        Marked as a line.
    lost : int
        Rows of `frames` lost while recording.
    """
    title = "End-to-end latency: share of frames that were done by then"
    if not df.height:
        return theme.nothing(title, lost)
    names = {name.replace("_ns", "_ms"): share for name, share in _quantiles(df).items()}
    rows = (
        theme.in_ms(df)
        .unpivot(list(names), index="codec", variable_name="quantile", value_name="latency_ms")
        .with_columns(pl.col("quantile").replace_strict(names, return_dtype=pl.Float64))
    )
    line = (
        alt.Chart(theme.data(rows))
        .mark_line(interpolate="step-before", strokeWidth=2)
        .encode(
            x=alt.X("latency_ms:Q", title="latency (ms)", scale=alt.Scale(zero=True)),
            y=alt.Y("quantile:Q", title="share of frames", axis=alt.Axis(format="~%")),
            color=alt.Color("codec:N", title="codec", scale=theme.codec_scale(rows["codec"])),
            tooltip=[
                "codec:N",
                alt.Tooltip("quantile:Q", title="share", format=".4~%"),
                alt.Tooltip("latency_ms:Q", title="ms", format=",.4~r"),
            ],
        )
    )
    layers: list[alt.Chart] = [line]
    if deadline_ms is not None:
        layers.append(
            alt.Chart(alt.InlineData(values=[{}]))
            .mark_rule(color=theme.ALARM, strokeWidth=1.5)
            .encode(x=alt.datum(deadline_ms))
        )
    chart = alt.layer(*layers).properties(width=theme.WIDTH, height=theme.HEIGHT)
    return theme.titled(chart, title, "red: the deadline" if deadline_ms else "", lost)


def cells(df: pl.DataFrame, start_ns: int) -> alt.Chart:
    """Return the heatmap of `analysis.latency.over_time` without title and facets."""
    rows = theme.in_ms(theme.seconds(df, start_ns))
    low, high = rows["low_ms"].min(), rows["high_ms"].max()
    limits = [float(low), float(high)]  # type: ignore[arg-type]
    chart: alt.Chart = (
        alt.Chart(theme.data(rows.drop("stage", "kind")))
        .mark_rect()
        .encode(
            x=alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False, zero=False)),
            x2="t_end_s:Q",
            y=alt.Y(
                "low_ms:Q",
                scale=alt.Scale(type="log", domain=limits, nice=False),
                axis=theme.log_axis("duration (ms, log scale)", limits),
            ),
            y2="high_ms:Q",
            color=alt.Color(
                "count:Q",
                title="how many",
                scale=alt.Scale(type="log", scheme="viridis", reverse=True),
                legend=alt.Legend(format=",~g", gradientLength=140, tickCount=3),
            ),
            tooltip=[
                alt.Tooltip("t_s:Q", title="from, s", format=",.3~f"),
                alt.Tooltip("low_ms:Q", title="at least, ms", format=",.3~r"),
                alt.Tooltip("high_ms:Q", title="less than, ms", format=",.3~r"),
                alt.Tooltip("count:Q", title="how many", format=","),
            ],
        )
        .properties(width=theme.WIDTH, height=theme.HEIGHT)
    )
    return chart


def heatmap(df: pl.DataFrame, *, start_ns: int | None = None, lost: int = 0) -> AnyChart:
    """Draw how long things took over time, one panel a stage and kind.

    Parameters
    ----------
    df : DataFrame
        What `analysis.latency.over_time` returned.
    start_ns : int
        The moment from which time is counted; by default the first in the table.
    lost : int
        Rows lost while recording.
    """
    title = "Latency over time"
    if not df.height:
        return theme.nothing(title, lost)
    start = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
    named = df.with_columns(theme.stage_row().alias("row"))
    panels: list[Any] = [
        theme.titled(
            cells(part.drop("row"), start),
            f"{title}: {name}",
            "dark where many are; each column is a moment",
            lost,
        )
        for (name,), part in named.group_by("row", maintain_order=True)
    ]
    return panels[0] if len(panels) == 1 else alt.vconcat(*panels)


def late(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw how many frames of each stream were late.

    Parameters
    ----------
    df : DataFrame
        What `analysis.latency.late_summary` returned, by stream_id and codec.
    lost : int
        Rows of `frames` lost while recording.
    """
    title = "Share of frames that were late"
    if not df.height:
        return theme.nothing(title, lost)
    rows = theme.in_ms(df.head(MAX_ROWS)).with_columns(
        pl.col("late_share").fill_null(0).round_sig_figs(4).alias("shown"),
        pl.when(pl.col("late_share").is_null())
        .then(pl.lit("no deadline known"))
        .otherwise(
            pl.format(
                "{} of {}, over {} ms",
                pl.col("late"),
                pl.col("delivered"),
                theme.digits(pl.col("deadline_ms")),
            )
        )
        .alias("text"),
    )
    base = alt.Chart(theme.data(rows)).encode(
        y=alt.Y("stream_id:N", sort=rows["stream_id"].to_list(), title=None),
        x=alt.X(
            "shown:Q",
            title="late frames",
            # The axis is longer than the bars, for the text beside them.
            axis=alt.Axis(format="~%", tickCount=6, labelExpr="datum.value > 1 ? '' : datum.label"),
            scale=theme.roomy(rows["shown"], 0.3),
        ),
    )
    bars = base.mark_bar().encode(
        color=alt.Color("codec:N", title="codec", scale=theme.codec_scale(rows["codec"])),
        tooltip=[
            alt.Tooltip("stream_id:N", title="stream"),
            "codec:N",
            alt.Tooltip("late:Q", format=","),
            alt.Tooltip("delivered:Q", format=","),
            alt.Tooltip("late_share:Q", title="share", format=".3~%"),
            alt.Tooltip("p99_ms:Q", title="p99, ms", format=",.4~r"),
            alt.Tooltip("worst_ms:Q", title="worst, ms", format=",.4~r"),
        ],
    )
    text = base.mark_text(align="left", dx=6, color=theme.QUIET).encode(text="text:N")
    chart = alt.layer(bars, text).properties(width=theme.WIDTH, height=alt.Step(theme.ROW))
    more = df.height - MAX_ROWS
    return theme.titled(chart, title, f"{more} streams are left out" if more > 0 else "", lost)


def slowest(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw the slowest frames.

    Parameters
    ----------
    df : DataFrame
        What `analysis.latency.slowest` returned.
    lost : int
        Rows of `frames` lost while recording.
    """
    title = "The slowest frames"
    if not df.height:
        return theme.nothing(title, lost)
    rows = theme.in_ms(
        df.head(MAX_ROWS).select(
            pl.format("{} #{}", pl.col("stream_id").fill_null("?"), "seq").alias("name"),
            pl.col("frame").cast(pl.String),
            "codec",
            "fate",
            "end_to_end_ns",
        )
    )
    chart = (
        alt.Chart(theme.data(rows))
        .mark_bar()
        .encode(
            x=alt.X("end_to_end_ms:Q", title="end-to-end latency (ms)"),
            # By id: numbers of frames may repeat, of two inputs with the same name.
            y=alt.Y(
                "frame:N",
                sort=rows["frame"].to_list(),
                title=None,
                axis=alt.Axis(labelExpr=_renamed(rows)),
            ),
            color=alt.Color("codec:N", title="codec", scale=theme.codec_scale(rows["codec"])),
            tooltip=[
                alt.Tooltip("name:N", title="stream and packet"),
                "frame:N",
                "codec:N",
                "fate:N",
                alt.Tooltip("end_to_end_ms:Q", title="ms", format=",.4~r"),
            ],
        )
        .properties(width=theme.WIDTH, height=alt.Step(18))
    )
    return theme.titled(chart, title, "stream and number of its packet", lost)


def _renamed(rows: pl.DataFrame) -> str:
    """Return the Vega expression that shows a frame's name for its id."""
    names = dict(zip(rows["frame"].to_list(), rows["name"].to_list(), strict=True))
    return f"({json.dumps(names)})[datum.value]"

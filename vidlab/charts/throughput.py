"""Frames a second against the nominal rate: what `analysis.throughput` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import theme
from .theme import AnyChart

#: Streams that a chart shows at most: the furthest behind.
MAX_ROWS = 40


def by_stream(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw each stream's rate against its nominal one.

    Parameters
    ----------
    df : DataFrame
        What `analysis.throughput.by_stream` returned.
    lost : int
        Rows of `frames` lost while recording.
    """
    title = "Frames delivered a second, against the nominal rate"
    if not df.height:
        return theme.nothing(title, lost)
    rows = (
        df.sort("ratio", nulls_last=True)
        .head(MAX_ROWS)
        .with_columns(
            pl.col("rate", "ratio", "nominal_rate").round_sig_figs(5),
            pl.concat_str(
                (pl.col("ratio") * 100).round(1).cast(pl.String) + " %",
                pl.format("{} frames", "delivered"),
                separator=" · ",
                ignore_nulls=True,
            ).alias("text"),
        )
    )
    y = alt.Y("stream_id:N", sort=rows["stream_id"].to_list(), title=None)
    base = alt.Chart(theme.data(rows)).encode(y=y)
    chart = alt.layer(
        base.mark_bar().encode(
            x=alt.X("rate:Q", title="frames a second"),
            color=alt.Color(
                "codec:N",
                title="codec",
                scale=theme.codec_scale(rows["codec"]),
                legend=alt.Legend(offset=150),
            ),
            tooltip=[
                alt.Tooltip("stream_id:N", title="stream"),
                "codec:N",
                alt.Tooltip("rate:Q", title="frames a second", format=",.4~r"),
                alt.Tooltip("nominal_rate:Q", title="nominal", format=",.4~r"),
                alt.Tooltip("ratio:Q", format=".1~%"),
                alt.Tooltip("delivered:Q", format=","),
            ],
        ),
        base.mark_tick(color=theme.INK, thickness=2.5, size=18).encode(x="nominal_rate:Q"),
        base.mark_text(align="left", color=theme.QUIET).encode(
            x=alt.value(theme.WIDTH - 150), text="text:N"
        ),
    ).properties(width=theme.WIDTH - 160, height=alt.Step(theme.ROW))
    return theme.titled(chart, title, "black: the nominal rate; the furthest behind first", lost)


def over_time(df: pl.DataFrame, *, start_ns: int | None = None, lost: int = 0) -> AnyChart:
    """Draw each stream's rate over time, as a share of its nominal one.

    Parameters
    ----------
    df : DataFrame
        What `analysis.throughput.over_time` returned.
    start_ns : int
        The moment from which time is counted; by default the first in the table.
    lost : int
        Rows of `frames` lost while recording.
    """
    title = "Rate over time, against the nominal one"
    known = df.filter(pl.col("ratio").is_not_null())
    if not known.height:
        return theme.nothing(title, lost)
    start = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
    worst = known.group_by("stream_id").agg(pl.col("ratio").min()).sort("ratio", "stream_id")
    streams = theme.natural(worst["stream_id"].head(MAX_ROWS))
    rows = theme.seconds(known.filter(pl.col("stream_id").is_in(streams)), start).with_columns(
        pl.col("rate", "ratio", "nominal_rate").round_sig_figs(4)
    )
    chart = (
        alt.Chart(theme.data(rows))
        .mark_rect()
        .encode(
            x=alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False)),
            x2="t_end_s:Q",
            y=alt.Y("stream_id:N", sort=streams, title=None, scale=alt.Scale(paddingInner=0.15)),
            color=alt.Color(
                "ratio:Q",
                title="of nominal",
                scale=alt.Scale(scheme="redyellowblue", domain=[0, 1, 2], clamp=True),
                legend=alt.Legend(format="~%", gradientLength=110, values=[0, 0.5, 1, 1.5, 2]),
            ),
            tooltip=[
                alt.Tooltip("stream_id:N", title="stream"),
                alt.Tooltip("t_s:Q", title="from, s", format=",.3~f"),
                alt.Tooltip("rate:Q", title="frames a second", format=",.3~r"),
                alt.Tooltip("nominal_rate:Q", title="nominal", format=",.4~r"),
                alt.Tooltip("ratio:Q", format=".1~%"),
            ],
        )
        .properties(width=theme.WIDTH - 60, height=alt.Step(20))
    )
    more = worst.height - MAX_ROWS
    return theme.titled(
        chart,
        title,
        [
            "red: too few frames came out; blue: more than nominal",
            f"{more} streams that kept it better are left out" if more > 0 else "",
        ],
        lost,
    )

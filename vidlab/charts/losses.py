"""Which frames were lost, and where: what `analysis.losses` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import theme
from .theme import AnyChart

#: Streams, or places, that a chart shows at most.
MAX_ROWS = 40


def fates(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw the share of each stream's frames that was not simply delivered, by fate.

    Parameters
    ----------
    df : DataFrame
        What `analysis.losses.fates` returned, by stream_id and codec.
    lost : int
        Rows of `frames` lost while recording.
    """
    title = "Frames that were not delivered, or more than once"
    other = [fate for fate in theme.FATES if fate != "delivered"]
    odd = df.with_columns(pl.sum_horizontal(other).alias("odd")).sort(
        pl.col("odd") / pl.col("frames"), descending=True
    )
    shown = odd.filter(pl.col("odd") > 0).head(MAX_ROWS)
    if not shown.height:
        return theme.nothing(title, lost, "none" if df.height else "nothing recorded")
    named = shown.with_columns(
        pl.format(
            "{} ({})", pl.col("stream_id").fill_null("?"), pl.col("codec").fill_null("?")
        ).alias("name"),
        pl.format("{} of {}", "odd", "frames").alias("text"),
        (pl.col("odd") / pl.col("frames")).round_sig_figs(5).alias("end"),
    )
    order = {fate: number for number, fate in enumerate(other)}
    rows = (
        named.unpivot(other, index=["name", "frames"], variable_name="fate")
        .filter(pl.col("value") > 0)
        .with_columns(
            (pl.col("value") / pl.col("frames")).round_sig_figs(5).alias("share"),
            pl.col("fate").replace_strict(order).alias("order"),
        )
    )
    y = alt.Y("name:N", sort=named["name"].to_list(), title=None)
    chart = alt.layer(
        alt.Chart(theme.data(rows))
        .mark_bar()
        .encode(
            x=alt.X(
                "share:Q",
                title="share of the stream's frames",
                axis=alt.Axis(format="~%"),
                scale=theme.roomy(named["end"], 0.15),
            ),
            y=y,
            color=alt.Color(
                "fate:N", title="fate", scale=theme.scale_of(theme.FATES, rows["fate"])
            ),
            order="order:Q",
            tooltip=[
                alt.Tooltip("name:N", title="stream"),
                "fate:N",
                alt.Tooltip("value:Q", title="frames", format=","),
                alt.Tooltip("share:Q", format=".3~%"),
            ],
        ),
        alt.Chart(theme.data(named.select("name", "text", "end")))
        .mark_text(align="left", dx=6, color=theme.QUIET)
        .encode(x="end:Q", y=y, text="text:N"),
    ).properties(width=theme.WIDTH - 60, height=alt.Step(theme.ROW))
    more = odd.filter(pl.col("odd") > 0).height - MAX_ROWS
    return theme.titled(chart, title, f"{more} streams are left out" if more > 0 else "", lost)


def by_stage(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw where frames were lost, or delivered more than once.

    Parameters
    ----------
    df : DataFrame
        What `analysis.losses.by_stage` returned, by stream_id and codec.
    lost : int
        Rows of `frames` lost while recording.
    """
    title = "Where frames were lost or duplicated"
    if not df.height:
        return theme.nothing(title, lost)
    rows = df.head(MAX_ROWS).with_columns(
        pl.concat_str(
            pl.col("stream_id").fill_null("?"),
            pl.col("fate")
            + pl.when(pl.col("lost_at").is_null())
            .then(pl.lit(""))
            .otherwise(" at " + pl.col("lost_at").fill_null("")),
            separator=": ",
        ).alias("name"),
        pl.format("{} ({}%)", "frames", theme.digits(pl.col("share") * 100)).alias("text"),
    )
    base = alt.Chart(theme.data(rows)).encode(
        x=alt.X(
            "frames:Q",
            title="frames",
            axis=alt.Axis(tickMinStep=1),
            scale=theme.roomy(rows["frames"], 0.2),
        ),
        y=alt.Y("name:N", sort=rows["name"].to_list(), title=None),
    )
    chart = alt.layer(
        base.mark_bar().encode(
            color=alt.Color(
                "fate:N", title="fate", scale=theme.scale_of(theme.FATES, rows["fate"])
            ),
            tooltip=[
                alt.Tooltip("stream_id:N", title="stream"),
                "codec:N",
                "fate:N",
                alt.Tooltip("lost_at:N", title="lost at"),
                alt.Tooltip("frames:Q", format=","),
            ],
        ),
        base.mark_text(align="left", dx=6, color=theme.QUIET).encode(text="text:N"),
    ).properties(width=theme.WIDTH - 100, height=alt.Step(theme.ROW))
    return theme.titled(chart, title, lost=lost)

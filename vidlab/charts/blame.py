"""What made frames late, over all late frames: what `analysis.blame.ranked` returned."""

from __future__ import annotations

import altair as alt
import polars as pl

from ..analysis.causewords import CAUSE_WORDS
from . import names, theme
from .theme import AnyChart

#: Streams, and causes, that a chart shows at most: those with most time; the rest is counted.
MAX_STREAMS, MAX_CAUSES = 40, 20

#: The order in which causes are stacked.
_ORDER = {name: number for number, name in enumerate(theme.CAUSES)}

_LABELS = ("stream_id", "codec", "gpu")
_TIME = "beyond the usual, all late frames together (s)"


def by_stream(ranked: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw what made the late frames of each stream late: stacked bars, a colour a cause.

    Parameters
    ----------
    ranked : DataFrame
        What `analysis.blame.ranked` returned, by labels such as stream_id and codec.
    lost : int
        Rows lost while recording.
    """
    title = "What made frames late, by stream"
    if not ranked.height:
        return theme.nothing(title, lost, "no frame was late")
    labels = [name for name in _LABELS if name in ranked.columns]
    bars = (
        ranked.group_by(labels or [pl.lit(0).alias("all")], maintain_order=True)
        .agg(pl.col("seconds").sum().alias("of_bar"))
        .sort("of_bar", descending=True, maintain_order=True)
        .with_columns(pl.int_range(pl.len()).alias("row"), _called(labels))
    )
    drawn = bars.head(MAX_STREAMS).select(*labels, "row", names.shortened(pl.col("name"), 40))
    shown = (
        (
            ranked.join(drawn, on=labels, nulls_equal=True)
            if labels
            else ranked.join(drawn, how="cross")
        )
        .group_by("row", "name", pl.col("cause").cast(pl.String))
        .agg(pl.col("seconds", "first").sum())
        .with_columns(
            pl.col("cause").replace_strict(_ORDER, default=len(_ORDER)).alias("order"),
            pl.col("cause").replace(CAUSE_WORDS).alias("said"),
            pl.col("seconds").round_sig_figs(5),
        )
        .sort("row", "order")
    )
    axis = alt.Axis(labelExpr=names.of_rows(drawn["name"]))
    chart = (
        alt.Chart(theme.data(shown))
        .mark_bar(stroke="white", strokeWidth=0.6)
        .encode(
            x=alt.X("seconds:Q", title=_TIME),
            y=alt.Y("row:O", title=None, axis=axis),
            color=theme.cause_colour(shown["cause"], title="to blame"),
            order=alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("name:N", title="stream"),
                alt.Tooltip("said:N", title="to blame"),
                alt.Tooltip("seconds:Q", title="seconds", format=",.4~r"),
                alt.Tooltip("first:Q", title="frames whose first cause it is", format=","),
            ],
        )
        .properties(width=theme.WIDTH - 60, height=alt.Step(theme.ROW))
    )
    more = bars.height - MAX_STREAMS
    return theme.titled(chart, title, f"{more:,} streams are left out" if more > 0 else "", lost)


def ranking(ranked: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw the causes that made frames late, the worst first: a bar a cause and place.

    Parameters
    ----------
    ranked : DataFrame
        What `analysis.blame.ranked` returned.
    lost : int
        Rows lost while recording.
    """
    title = "What made frames late, the worst first"
    if not ranked.height:
        return theme.nothing(title, lost, "no frame was late")
    labels = [name for name in _LABELS if name in ranked.columns]
    place = [pl.col("stage").cast(pl.String)] if "stage" in ranked.columns else []
    said = pl.col("cause").cast(pl.String).replace(CAUSE_WORDS)
    rows = ranked.head(MAX_CAUSES).with_columns(_called(labels)).select(
        pl.int_range(pl.len()).alias("row"),
        names.shortened(
            pl.concat_str([pl.concat_str(["name", *place], separator=": "), said],
                          separator=" · ", ignore_nulls=True), 60,
        ).alias("name"),
        pl.col("cause").cast(pl.String),
        pl.col("seconds").round_sig_figs(5),
        pl.format(
            "{} · {} ms a frame, {} frames",
            pl.when(pl.col("share") < 0.01)
            .then(pl.lit("< 1%"))
            .otherwise(pl.format("{}%", (pl.col("share") * 100).round(0).cast(pl.Int64))),
            theme.digits(pl.col("seconds") * 1e3 / pl.col("frames").clip(1)),
            "frames",
        ).alias("text"),
    )  # fmt: skip
    base = alt.Chart(theme.data(rows)).encode(
        x=alt.X("seconds:Q", title=_TIME, scale=theme.roomy(rows["seconds"], 0.42)),
        y=alt.Y("row:O", title=None, axis=alt.Axis(labelExpr=names.of_rows(rows["name"]),
                                                   labelLimit=400)),
    )  # fmt: skip
    chart = alt.layer(
        base.mark_bar().encode(
            color=theme.cause_colour(rows["cause"], legend=None),
            tooltip=[
                alt.Tooltip("name:N", title="cause"),
                alt.Tooltip("seconds:Q", title="seconds", format=",.4~r"),
                alt.Tooltip("text:N", title="share"),
            ],
        ),
        base.mark_text(align="left", dx=6, color=theme.QUIET).encode(text="text:N"),
    ).properties(width=theme.WIDTH - 220, height=alt.Step(theme.ROW))
    more = ranked.height - MAX_CAUSES
    lines = ["share of the time that late frames took too long"]
    return theme.titled(
        chart, title, lines + [f"{more:,} smaller ones are left out"] * (more > 0), lost
    )


def _called(labels: list[str]) -> pl.Expr:
    """What the frames of these labels are called; all frames, without labels."""
    if not labels:
        return pl.lit("all frames").alias("name")
    known = pl.concat_str(names.of(labels), separator=" · ", ignore_nulls=True)
    return pl.when(known == "").then(pl.lit("no stream")).otherwise(known).alias("name")

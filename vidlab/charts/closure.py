"""Where frames' time went: what `analysis.closure` found."""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from . import theme
from .theme import AnyChart

#: Frames, streams or causes that a chart shows at most.
MAX_ROWS = 40

_PARTS = {f"{kind}_ns": kind for kind in theme.KINDS}
_WORDS = {
    "service": "work",
    "queue": "waiting in queues",
    "reorder": "waiting to be reordered",
    "encoder_lag": "held by the encoder",
    "residual": "not covered by any span",
}


def _kind_colour(kinds: pl.Series) -> alt.Color:
    return alt.Color(
        "kind:N",
        title="spent on",
        scale=theme.scale_of(theme.KINDS, kinds),
        legend=alt.Legend(labelExpr=f"({json.dumps(_WORDS)})[datum.value]"),
    )


def _stacked(rows: pl.DataFrame, names: pl.Series, x_title: str) -> alt.Chart:
    """Return stacked bars of the columns of `_PARTS`, one bar a row, named in `name`."""
    order = {kind: number for number, kind in enumerate(theme.KINDS)}
    parts = (
        rows.with_columns(names.alias("name"), pl.int_range(pl.len()).alias("row"))
        .unpivot([c for c in _PARTS if c in rows.columns], index=["row", "name"])
        .with_columns(
            pl.col("variable").replace_strict(_PARTS).alias("kind"),
            (pl.col("value") / 1e6).round_sig_figs(5).alias("ms"),
        )
        .with_columns(pl.col("kind").replace_strict(order).alias("order"))
        .filter(pl.col("value") != 0)
        .select("row", "name", "kind", "order", "ms")
    )
    labels = dict(enumerate(names.to_list()))
    chart: alt.Chart = (
        alt.Chart(theme.data(parts))
        .mark_bar()
        .encode(
            x=alt.X("ms:Q", title=x_title),
            y=alt.Y(
                "row:O",
                title=None,
                axis=alt.Axis(labelExpr=f"({json.dumps(labels)})[datum.value]"),
            ),
            color=_kind_colour(parts["kind"]),
            order=alt.Order("order:Q"),
            tooltip=["name:N", "kind:N", alt.Tooltip("ms:Q", title="ms", format=",.4~r")],
        )
        .properties(width=theme.WIDTH - 60, height=alt.Step(theme.ROW))
    )
    return chart


def by_stream(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw where a frame's time goes on average, one bar a stream.

    Parameters
    ----------
    df : DataFrame
        What `analysis.closure.means` returned, by stream_id and codec.
    lost : int
        Rows of `spans` and `frames` lost while recording.
    """
    title = "Where a frame's time goes, by stream"
    if not df.height:
        return theme.nothing(title, lost)
    rows = df.head(MAX_ROWS)
    names = rows.select(pl.format("{} ({})", *_filled("stream_id", "codec"))).to_series()
    chart = _stacked(rows, names, "mean end-to-end latency (ms)")
    more = df.height - MAX_ROWS
    return theme.titled(chart, title, f"{more} streams are left out" if more > 0 else "", lost)


def frames(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw where each of these frames' time went, one bar a frame, in the table's order.

    Parameters
    ----------
    df : DataFrame
        Rows of what `analysis.closure.closure` returned; the first forty are drawn.
    lost : int
        Rows of `spans` and `frames` lost while recording.
    """
    title = "Where the slowest frames' time went"
    if not df.height:
        return theme.nothing(title, lost)
    rows = df.head(MAX_ROWS)
    # The lower half of a frame's number is its packet's number in the stream.
    number = pl.col("frame") % (1 << 32)
    names = rows.select(pl.format("{} #{}", *_filled("stream_id"), number)).to_series()
    chart = _stacked(rows, names, "end-to-end latency (ms)")
    return theme.titled(chart, title, "stream and number of the frame's packet", lost)


def by_cause(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw what late frames spent more time on than punctual ones, one bar a stream.

    Parameters
    ----------
    df : DataFrame
        What `analysis.closure.by_cause` returned, by stream_id and codec at least.
    lost : int
        Rows of `spans` and `frames` lost while recording.
    """
    title = "What made late frames late: time beyond that of punctual frames"
    rows = df.filter(pl.col("excess_ns") > 0)
    if not rows.height:
        return theme.nothing(title, lost)
    per_frame = pl.col("excess_ns") / pl.col("late_frames") / 1e6
    named = rows.select(
        pl.format("{} ({})", *_filled("stream_id", "codec")).alias("name"),
        theme.stage_row().alias("stage"),
        pl.col("kind").cast(pl.String),
        "late_frames",
        per_frame.round_sig_figs(5).alias("ms"),
    )
    order = (
        named.group_by("name").agg(pl.col("ms").sum()).sort("ms", descending=True)["name"].to_list()
    )
    shown = named.filter(pl.col("name").is_in(order[:MAX_ROWS]))
    chart = (
        alt.Chart(theme.data(shown))
        .mark_bar(stroke="white", strokeWidth=0.6)
        .encode(
            x=alt.X("ms:Q", title="beyond the typical, per late frame (ms)"),
            y=alt.Y("name:N", sort=order, title=None),
            color=_kind_colour(shown["kind"]),
            order=alt.Order("ms:Q", sort="descending"),
            tooltip=[
                alt.Tooltip("name:N", title="stream"),
                "stage:N",
                alt.Tooltip("late_frames:Q", title="late frames", format=","),
                alt.Tooltip("ms:Q", title="beyond the typical, ms", format=",.4~r"),
            ],
        )
        .properties(width=theme.WIDTH - 60, height=alt.Step(theme.ROW))
    )
    more = len(order) - MAX_ROWS
    return theme.titled(chart, title, f"{more} streams are left out" if more > 0 else "", lost)


def ranking(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw the causes of late frames, the worst first.

    Parameters
    ----------
    df : DataFrame
        What `analysis.closure.ranking` returned.
    lost : int
        Rows of `spans` and `frames` lost while recording.
    """
    title = "The greatest causes of late frames"
    if not df.height:
        return theme.nothing(title, lost)
    who = [name for name in ("stream_id", "codec") if name in df.columns]
    named = df.head(MAX_ROWS).select(
        pl.concat_str(
            [pl.concat_str(_filled(*who), separator=", "), theme.stage_row()], separator=": "
        ).alias("name"),
        pl.col("kind").cast(pl.String),
        (pl.col("excess_ns") / 1e9).round_sig_figs(5).alias("s"),
        "late_frames",
        pl.format(
            "{} · {} ms a frame, {} frames",
            pl.when(pl.col("share") < 0.01)
            .then(pl.lit("< 1%"))
            .otherwise(pl.format("{}%", (pl.col("share") * 100).round(0).cast(pl.Int64))),
            theme.digits(pl.col("excess_per_frame_ns") / 1e6),
            "late_frames",
        ).alias("text"),
    )
    base = alt.Chart(theme.data(named)).encode(
        x=alt.X(
            "s:Q",
            title="beyond the typical, all late frames together (s)",
            scale=theme.roomy(named["s"], 0.38),
        ),
        y=alt.Y("name:N", sort=named["name"].to_list(), title=None),
    )
    chart = alt.layer(
        base.mark_bar().encode(
            color=_kind_colour(named["kind"]),
            tooltip=[
                alt.Tooltip("name:N", title="cause"),
                alt.Tooltip("s:Q", title="seconds", format=",.4~r"),
                alt.Tooltip("text:N", title="share"),
            ],
        ),
        base.mark_text(align="left", dx=6, color=theme.QUIET).encode(text="text:N"),
    ).properties(width=theme.WIDTH - 100, height=alt.Step(theme.ROW))
    return theme.titled(chart, title, "share of the time that late frames took too long", lost)


def _filled(*names: str) -> list[pl.Expr]:
    return [pl.col(name).cast(pl.String).fill_null("?") for name in names]

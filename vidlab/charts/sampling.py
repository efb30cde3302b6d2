"""Which share of frames was recorded, when and why: what `analysis.sampling` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import theme
from .theme import AnyChart

#: Streams that a chart shows at most: those with most frames kept for what became of them.
MAX_ROWS = 40

#: Why a share holds, and how it is said.
_REASONS = {
    "start": ("#004488", "as it began"),
    "cpu": ("#DDAA33", "the machine was busy"),
    "errors": ("#CC3311", "frames failed"),
    "calm": ("#7FB8D8", "neither any more"),
}

#: Why a frame was recorded, from the rule to the exceptions; `analysis.sampling.BY_TURN` first.
_KEPT = {
    "its turn": "#B9BDC4",
    "late": "#DDAA33",
    "failed": "#CC3311",
    "corrupt": "#882255",
    "lost": "#004488",
}


def timeline(
    decisions: pl.DataFrame,
    recorded: pl.DataFrame,
    *,
    start_ns: int | None = None,
    lost: int = 0,
) -> AnyChart:
    """Draw the share of frames that was recorded over time, and what was recorded.

    Parameters
    ----------
    decisions : DataFrame
        What `analysis.sampling.decisions` returned.
    recorded : DataFrame
        What `analysis.sampling.over_time` returned.
    start_ns : int
        The moment from which time is counted; by default the first in the tables.
    lost : int
        Rows of `frames` lost while recording.
    """
    title = "Which share of frames was recorded, and which frames"
    if not decisions.height and not recorded.height:
        return theme.nothing(title, lost)
    moments = [*decisions["t_ns"].to_list(), *recorded["t_ns"].to_list()]
    start = min(moments) if start_ns is None else start_ns
    parts: list[alt.Chart | alt.LayerChart | alt.FacetChart] = []
    if decisions.height:
        parts.append(_shares(theme.seconds(decisions, start)))
    if recorded.height:
        parts.append(_recorded(theme.seconds(recorded, start)))
    told = "top: the share and why it changed, by process; below: frames by why they were kept"
    chart = alt.vconcat(*parts).resolve_scale(x="shared", color="independent")
    return theme.titled(chart, title, told if len(parts) > 1 else "", lost)


def kept(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw the share of each stream's frames that was recorded, by why.

    Parameters
    ----------
    df : DataFrame
        What `analysis.sampling.kept` returned, by stream_id and codec.
    lost : int
        Rows of `frames` lost while recording.
    """
    title = "Which frames of each stream were recorded, and why"
    if not df.height:
        return theme.nothing(title, lost)
    named = df.with_columns(
        pl.format(
            "{} ({})", pl.col("stream_id").fill_null("?"), pl.col("codec").fill_null("?")
        ).alias("name")
    )
    odd = pl.col("share").filter(pl.col("kept_for") != next(iter(_KEPT))).sum()
    order = (
        named.group_by("name")
        .agg(odd.alias("odd"), pl.col("share").sum())
        .sort("odd", "share", "name", descending=[True, True, False])["name"]
        .to_list()
    )
    ranks = {reason: number for number, reason in enumerate(_KEPT)}
    rows = named.filter(pl.col("name").is_in(order[:MAX_ROWS])).select(
        "name",
        "kept_for",
        "recorded",
        pl.col("share").round_sig_figs(5),
        pl.col("kept_for").replace_strict(ranks, default=len(ranks)).alias("order"),
    )
    chart = (
        alt.Chart(theme.data(rows))
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title="share of the stream's frames", axis=alt.Axis(format="~%")),
            y=alt.Y("name:N", sort=order[:MAX_ROWS], title=None),
            color=_colour(rows["kept_for"]),
            order="order:Q",
            tooltip=[
                alt.Tooltip("name:N", title="stream"),
                alt.Tooltip("kept_for:N", title="recorded for"),
                alt.Tooltip("recorded:Q", title="frames", format=","),
                alt.Tooltip("share:Q", title="of all", format=".3~%"),
            ],
        )
        .properties(width=theme.WIDTH - 60, height=alt.Step(theme.ROW))
    )
    more = len(order) - MAX_ROWS
    return theme.titled(chart, title, f"{more} streams are left out" if more > 0 else "", lost)


def _shares(decisions: pl.DataFrame) -> alt.LayerChart | alt.FacetChart:
    """The share over time, a line a process, and a mark where it changed."""
    rows = decisions.select(
        pl.col("pid").cast(pl.String),
        "t_s",
        "t_end_s",
        "rate",
        "reason",
        pl.concat_str(
            pl.format("CPU {}%", (pl.col("cpu") * 100).round(0).cast(pl.Int64)),
            pl.format("errors {}%", (pl.col("error_rate") * 100).round(0).cast(pl.Int64)),
            separator=", ",
            ignore_nulls=True,
        ).alias("read"),
    )
    # A step ends where the next one begins, and the last one with the recording.
    last = rows.group_by("pid").agg(pl.col("t_end_s", "rate").last())
    ends = pl.concat(
        [rows.select("pid", "t_s", "rate"), last.select("pid", t_s="t_end_s", rate="rate")]
    )
    least = max(float(rows["rate"].min()), 1e-6)  # type: ignore[arg-type]
    limits = [least / 1.6, 1.6]
    ticks = [tick for tick in (1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if tick >= least]
    y = alt.Y(
        "rate:Q",
        scale=alt.Scale(type="log", domain=limits, nice=False),
        axis=alt.Axis(title="share of frames (log scale)", format="~%", values=ticks),
    )
    x = alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False, zero=False))
    line = (
        alt.Chart(theme.data(ends))
        .mark_line(interpolate="step-after", color=theme.QUIET, strokeWidth=2)
        .encode(x=x, y=y, detail="pid:N")
    )
    present = [reason for reason in _REASONS if reason in set(rows["reason"])]
    labels = "{" + ", ".join(f"'{r}': '{_REASONS[r][1]}'" for r in present) + "}"
    base = alt.Chart(theme.data(rows)).encode(x=x, y=y)
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        color=alt.Color(
            "reason:N",
            title="the share changed for",
            scale=alt.Scale(domain=present, range=[_REASONS[r][0] for r in present]),
            legend=alt.Legend(labelExpr=f"({labels})[datum.value]"),
        ),
        shape=alt.Shape("reason:N", scale=alt.Scale(domain=present), legend=None),
        tooltip=[
            alt.Tooltip("pid:N", title="process"),
            alt.Tooltip("t_s:Q", title="at, s", format=",.1~f"),
            alt.Tooltip("rate:Q", title="share", format="~%"),
            "reason:N",
            alt.Tooltip("read:N", title="read then"),
        ],
    )
    words = (
        alt.Chart(theme.data(rows.filter(pl.col("read") != "")))
        .mark_text(align="left", dx=7, dy=-9, color=theme.QUIET)
        .encode(x=x, y=y, text="read:N")
    )
    return alt.layer(line, points, words).properties(width=theme.WIDTH, height=150)


def _recorded(rows: pl.DataFrame) -> alt.Chart:
    """The frames recorded in each part of time, by why."""
    ranks = {reason: number for number, reason in enumerate(_KEPT)}
    ordered = rows.with_columns(
        pl.col("kept_for").replace_strict(ranks, default=len(ranks)).alias("order")
    ).sort("t_s", "order")
    stacked = ordered.with_columns(
        pl.col("recorded").cum_sum().over("t_s", order_by="order").alias("high")
    ).with_columns((pl.col("high") - pl.col("recorded")).alias("low"))
    chart: alt.Chart = (
        alt.Chart(theme.data(stacked))
        .mark_rect()
        .encode(
            x=alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False, zero=False)),
            x2="t_end_s:Q",
            y=alt.Y("low:Q", title="frames recorded", scale=alt.Scale(zero=True)),
            y2="high:Q",
            color=_colour(rows["kept_for"]),
            tooltip=[
                alt.Tooltip("t_s:Q", title="from, s", format=",.2~f"),
                alt.Tooltip("kept_for:N", title="recorded for"),
                alt.Tooltip("recorded:Q", title="frames", format=","),
            ],
        )
        .properties(width=theme.WIDTH, height=130)
    )
    return chart


def _colour(reasons: pl.Series) -> alt.Color:
    return alt.Color("kept_for:N", title="recorded for", scale=theme.scale_of(_KEPT, reasons))

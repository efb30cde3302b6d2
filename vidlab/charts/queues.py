"""How full queues were, and how long frames waited: what `analysis.queues` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import theme
from .theme import AnyChart

#: Queues that a chart shows at most: the fullest.
MAX_ROWS, MAX_PANELS = 40, 8


def _names(df: pl.DataFrame) -> pl.Expr:
    """Return the name of a queue on a chart: the stream's, if it has one, and its own."""
    stream = pl.col("stream_id") if "stream_id" in df.columns else pl.lit(None, pl.String)
    return pl.concat_str(stream, pl.col("queue"), separator=": ", ignore_nulls=True)


def by_queue(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw the share of time for which each queue was full.

    Parameters
    ----------
    df : DataFrame
        What `analysis.queues.by_queue` returned.
    lost : int
        Rows of `queue_depths` lost while recording.
    """
    title = "Share of time for which a queue was full"
    if not df.height:
        return theme.nothing(title, lost)
    waits = "wait_p99_ns" in df.columns
    rows = df.head(MAX_ROWS).with_columns(_names(df).alias("name"))
    rows = theme.in_ms(rows).with_columns(
        pl.concat_str(
            pl.format(
                "{} of {}",
                pl.col("mean_depth").round(1),
                pl.col("capacity").cast(pl.String).fill_null("∞"),
            ),
            *([pl.format("p99 wait {} ms", theme.digits(pl.col("wait_p99_ms")))] if waits else []),
            pl.when(pl.col("evictions") > 0).then(pl.format("{} evicted", "evictions")),
            separator=" · ",
            ignore_nulls=True,
        ).alias("text")
    )
    tooltip = [
        alt.Tooltip("name:N", title="queue"),
        alt.Tooltip("full_share:Q", title="full", format=".1~%"),
        alt.Tooltip("mean_depth:Q", title="mean depth", format=".3~r"),
        alt.Tooltip("max_depth:Q", title="greatest depth"),
        alt.Tooltip("capacity:Q"),
        alt.Tooltip("evictions:Q"),
    ]
    if waits:
        tooltip.append(alt.Tooltip("wait_p99_ms:Q", title="p99 wait, ms", format=",.4~r"))
    base = alt.Chart(theme.data(rows)).encode(
        x=alt.X(
            "full_share:Q",
            title="full",
            axis=alt.Axis(format="~%"),
            scale=alt.Scale(domain=[0, 1]),
        ),
        y=alt.Y("name:N", sort=rows["name"].to_list(), title=None),
    )
    chart = alt.layer(
        base.mark_bar(color=theme.KINDS["queue"]).encode(tooltip=tooltip),
        base.mark_text(align="left", color=theme.QUIET).encode(
            x=alt.value(theme.WIDTH - 290), text="text:N"
        ),
    ).properties(width=theme.WIDTH - 300, height=alt.Step(theme.ROW))
    more = df.height - MAX_ROWS
    return theme.titled(
        chart,
        title,
        [
            "beside it: mean depth of capacity, and the longest that 99 % of frames waited",
            f"{more} queues that were less full are left out" if more > 0 else "",
        ],
        lost,
    )


def levels(df: pl.DataFrame, *, start_ns: int | None = None, lost: int = 0) -> AnyChart:
    """Draw each queue's depth over time, a panel a queue, the fullest first.

    Parameters
    ----------
    df : DataFrame
        What `analysis.queues.levels` returned.
    start_ns : int
        The moment from which time is counted; by default the first in the table.
    lost : int
        Rows of `queue_depths` lost while recording.
    """
    title = "Queue depth over time"
    if not df.height:
        return theme.nothing(title, lost)
    start = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
    named = df.with_columns(_names(df).alias("name"))
    order = (
        named.group_by("name")
        .agg(pl.col("max_depth").mean())
        .sort("max_depth", "name", descending=[True, False])["name"]
        .to_list()
    )
    rows = theme.seconds(named.filter(pl.col("name").is_in(order[:MAX_PANELS])), start)
    # An axis has no extent of nothing: where there is no capacity its line is there, unseen.
    rows = rows.with_columns(limit=pl.col("capacity").fill_null(pl.col("max_depth")))
    base = alt.Chart().encode(x=alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False)))
    panel = alt.layer(
        base.mark_area(interpolate="step-after", color=theme.KINDS["queue"]).encode(
            y=alt.Y("max_depth:Q", title=None, axis=alt.Axis(tickCount=2, tickMinStep=1)),
            tooltip=[
                alt.Tooltip("name:N", title="queue"),
                alt.Tooltip("t_s:Q", title="from, s", format=",.3~f"),
                alt.Tooltip("min_depth:Q", title="least depth"),
                alt.Tooltip("max_depth:Q", title="greatest depth"),
                alt.Tooltip("capacity:Q"),
            ],
        ),
        base.mark_line(color=theme.ALARM, strokeDash=[4, 3], strokeWidth=1).encode(
            y="limit:Q",
            opacity=alt.condition("isValid(datum.capacity)", alt.value(1), alt.value(0)),
        ),
        data=theme.data(rows.drop("queue", strict=False)),
    ).properties(width=theme.WIDTH - 40, height=46)
    chart = panel.facet(
        row=alt.Row(
            "name:N",
            sort=order[:MAX_PANELS],
            title=None,
            header=alt.Header(labelAngle=0, labelAlign="left", labelLimit=220),
        ),
        spacing=8,
    ).resolve_scale(y="independent")
    more = len(order) - MAX_PANELS
    return theme.titled(
        chart,
        title,
        [
            "the greatest depth of each moment; dashed: capacity",
            f"{more} queues that were less full are left out" if more > 0 else "",
        ],
        lost,
    )

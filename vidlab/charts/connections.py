"""TCP connections over time: what `analysis.connections` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import theme
from .theme import AnyChart

MAX_ROWS = 40


def over_time(
    df: pl.DataFrame, *, start_ns: int | None = None, end_ns: int | None = None, lost: int = 0
) -> AnyChart:
    """Draw each connection from its opening to its end, with its round trip beside it.

    Parameters
    ----------
    df : DataFrame
        What `analysis.connections.connections` returned.
    start_ns, end_ns : int
        The moment from which time is counted, by default the first in the table; and until
        when connections that were still open are drawn, by default the last.
    lost : int
        Rows of `kernel_tcp` lost while recording.
    """
    title = "TCP connections, and their round trips"
    if not df.height:
        return theme.nothing(title, lost)
    start = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
    moments = [df["t_ns"].max(), df["t_closed_ns"].max(), end_ns]
    end = max(int(moment) for moment in moments if moment is not None)  # type: ignore[arg-type]
    stream = pl.col("stream_id").fill_null("no stream")
    rows = (
        df.head(MAX_ROWS)
        .with_row_index("row")
        .select(
            pl.format(
                "{} · {}:{} #{}",
                stream,
                pl.col("remote_address").fill_null("?"),
                pl.col("remote_port").fill_null(0),
                pl.col("row") + 1,
            ).alias("name"),
            "t_ns",
            pl.col("t_closed_ns").fill_null(end).alias("t_end_ns"),
            pl.when(pl.col("retransmits") > 0)
            .then(pl.lit("with retransmits"))
            .otherwise(pl.lit("none sent again"))
            .alias("kind"),
            "retransmits",
            "bytes_sent",
            "bytes_received",
            pl.when(pl.col("srtt_us").is_not_null())
            .then(pl.format("{} µs", pl.col("srtt_us")))
            .otherwise(pl.lit("round trip not known"))
            .alias("text"),
        )
    )
    drawn = theme.seconds(rows, start)
    order = rows["name"].to_list()
    base = alt.Chart(theme.data(drawn)).encode(y=alt.Y("name:N", sort=order, title=None))
    bars = base.mark_bar(height=12).encode(
        x=alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False)),
        x2="t_end_s:Q",
        color=alt.Color(
            "kind:N",
            title=None,
            legend=alt.Legend(orient="top"),
            scale=theme.scale_of(
                {"none sent again": "#4A8FBF", "with retransmits": "#CC3311"}, rows["kind"]
            ),
        ),
        tooltip=[
            alt.Tooltip("name:N", title="connection"),
            alt.Tooltip("retransmits:Q", format=","),
            alt.Tooltip("bytes_sent:Q", title="bytes sent", format=","),
            alt.Tooltip("bytes_received:Q", title="bytes received", format=","),
            alt.Tooltip("text:N", title="smoothed round trip"),
        ],
    )
    text = base.mark_text(align="left", dx=6, color=theme.QUIET).encode(
        x=alt.value(theme.WIDTH - 190), text="text:N"
    )
    chart = alt.layer(bars, text).properties(width=theme.WIDTH - 200, height=alt.Step(theme.ROW))
    more = df.height - MAX_ROWS
    return theme.titled(
        chart, title, f"{more} later connections are left out" if more > 0 else "", lost
    )

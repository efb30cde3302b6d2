"""How evenly streams came out: what `analysis.stutter` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import theme
from .theme import AnyChart

#: Streams, and freezes, that a chart shows at most.
MAX_ROWS, MAX_FREEZES = 40, 2_000


def by_stream(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw the intervals between frames of each stream against the nominal one.

    Parameters
    ----------
    df : DataFrame
        What `analysis.stutter.by_stream` returned.
    lost : int
        Rows of `frames` lost while recording.
    """
    title = "Time from one frame to the next, by stream"
    known = df.filter(pl.col("p50_ns").is_not_null())
    if not known.height:
        return theme.nothing(title, lost)
    rows = theme.in_ms(known.sort("max_ns", descending=True).head(MAX_ROWS)).with_columns(
        pl.when(pl.col("freezes") > 0)
        .then(pl.format("{} freezes, {} ms", "freezes", theme.digits(pl.col("frozen_ms"))))
        .otherwise(pl.lit("no freeze"))
        .alias("text")
    )
    limits = [
        max(float(rows["p50_ms"].min()), 1e-3) / 1.5,  # type: ignore[arg-type]
        float(rows["max_ms"].max()) * 1.5,  # type: ignore[arg-type]
    ]
    rows = rows.with_columns(pl.col("p50_ms", "p99_ms", "max_ms").clip(limits[0]))
    base = alt.Chart(theme.data(rows)).encode(
        y=alt.Y("stream_id:N", sort=rows["stream_id"].to_list(), title=None),
        color=alt.Color(
            "codec:N",
            title="codec",
            scale=theme.codec_scale(rows["codec"]),
            legend=alt.Legend(offset=150),
        ),
        tooltip=[
            alt.Tooltip("stream_id:N", title="stream"),
            "codec:N",
            alt.Tooltip("nominal_ms:Q", title="nominal, ms", format=",.4~r"),
            alt.Tooltip("jitter_ms:Q", title="jitter, ms", format=",.4~r"),
            alt.Tooltip("p50_ms:Q", title="p50, ms", format=",.4~r"),
            alt.Tooltip("p99_ms:Q", title="p99, ms", format=",.4~r"),
            alt.Tooltip("max_ms:Q", title="longest, ms", format=",.4~r"),
            alt.Tooltip("text:N", title="freezes"),
        ],
    )
    x = alt.X(
        "max_ms:Q",
        scale=alt.Scale(type="log", domain=limits, nice=False),
        axis=theme.log_axis("interval (ms, log scale)", limits),
    )
    chart = alt.layer(
        base.mark_rule(strokeWidth=2.5, opacity=0.4).encode(x=x, x2="p50_ms:Q"),
        base.mark_tick(thickness=2.5, size=12).encode(x="p50_ms:Q"),
        base.mark_tick(thickness=2.5, size=12).encode(x="p99_ms:Q"),
        base.mark_circle(size=70, opacity=1).encode(x=x),
        base.mark_point(shape="diamond", size=60, filled=False, color=theme.INK).encode(
            x="nominal_ms:Q", color=alt.value(theme.INK)
        ),
        base.mark_text(align="left").encode(
            x=alt.value(theme.WIDTH - 150), text="text:N", color=alt.value(theme.QUIET)
        ),
    ).properties(width=theme.WIDTH - 160, height=alt.Step(theme.ROW))
    return theme.titled(
        chart, title, "ticks: p50 and p99; dot: the longest; diamond: the nominal interval", lost
    )


def freezes(df: pl.DataFrame, *, start_ns: int | None = None, lost: int = 0) -> AnyChart:
    """Draw when each stream froze, and for how long.

    Parameters
    ----------
    df : DataFrame
        What `analysis.stutter.freezes` returned.
    start_ns : int
        The moment from which time is counted; by default the first in the table.
    lost : int
        Rows of `frames` lost while recording.
    """
    title = "Freezes, by stream"
    if not df.height:
        return theme.nothing(title, lost)
    start = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
    frozen = df.group_by("stream_id").agg(pl.col("duration_ns").sum())
    most = frozen.sort("duration_ns", "stream_id", descending=[True, False])["stream_id"].to_list()
    shown = df.filter(pl.col("stream_id").is_in(most[:MAX_ROWS])).select(
        "stream_id", "codec", "t_ns", "duration_ns", t_end_ns=pl.col("t_ns") + pl.col("duration_ns")
    )
    rows = theme.in_ms(theme.seconds(shown.top_k(MAX_FREEZES, by="duration_ns"), start))
    chart = (
        alt.Chart(theme.data(rows))
        .mark_bar(height=12)
        .encode(
            x=alt.X("t_s:Q", axis=theme.time_axis()),
            x2="t_end_s:Q",
            y=alt.Y("stream_id:N", sort=theme.natural(rows["stream_id"]), title=None),
            color=alt.Color("codec:N", title="codec", scale=theme.codec_scale(rows["codec"])),
            tooltip=[
                alt.Tooltip("stream_id:N", title="stream"),
                alt.Tooltip("t_s:Q", title="from, s", format=",.3~f"),
                alt.Tooltip("duration_ms:Q", title="frozen, ms", format=",.4~r"),
            ],
        )
        .properties(width=theme.WIDTH, height=alt.Step(theme.ROW))
    )
    few = shown.height > MAX_FREEZES or len(most) > MAX_ROWS
    left_out = f"the {rows.height:,} longest of {df.height:,}" if few else ""
    return theme.titled(chart, title, ["by WebRTC's rule", left_out], lost)

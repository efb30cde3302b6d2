"""How long until the first frame: what `analysis.startup` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import theme
from .theme import AnyChart

#: Streams that a chart shows at most: the slowest to deliver.
MAX_ROWS = 40

_STEPS = {"demuxed_ms": "read", "decoded_ms": "decoded", "delivered_ms": "delivered"}


def first_frames(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw when each stream's first frame was read, decoded and delivered, from its opening.

    Parameters
    ----------
    df : DataFrame
        What `analysis.startup.first_frames` returned.
    lost : int
        Rows of `frames` lost while recording.
    """
    title = "Time to the first frame, by stream"
    if not df.height:
        return theme.nothing(title, lost)
    wide = theme.in_ms(df.head(MAX_ROWS)).with_columns(
        pl.format(
            "{} ({})", pl.col("stream_id").fill_null("?"), pl.col("codec").fill_null("?")
        ).alias("name")
    )
    rows = (
        wide.unpivot(list(_STEPS), index="name", variable_name="step", value_name="ms")
        .with_columns(pl.col("step").replace(_STEPS))
        .drop_nulls("ms")
    )
    never = wide.filter(pl.col("delivered_ms").is_null()).select("name")
    y = alt.Y("name:N", sort=wide["name"].to_list(), title=None)
    points = alt.Chart(theme.data(rows)).encode(
        y=y, x=alt.X("ms:Q", title="since the stream was opened (ms)", scale=alt.Scale(zero=True))
    )
    layers = [
        points.mark_line(color=theme.GRID, strokeWidth=3).encode(detail="name:N"),
        points.mark_point(filled=True, size=80, opacity=1).encode(
            color=alt.Color(
                "step:N",
                title="first frame",
                scale=alt.Scale(
                    domain=list(_STEPS.values()), range=["#9CC3DD", "#4A8FBF", "#004488"]
                ),
            ),
            shape=alt.Shape(
                "step:N",
                title="first frame",
                scale=alt.Scale(
                    domain=list(_STEPS.values()), range=["circle", "square", "triangle-up"]
                ),
            ),
            tooltip=[
                alt.Tooltip("name:N", title="stream"),
                alt.Tooltip("step:N", title="first frame"),
                alt.Tooltip("ms:Q", format=",.4~r"),
            ],
        ),
    ]
    if never.height:
        layers.append(
            alt.Chart(theme.data(never))
            .mark_text(align="left", color=theme.ALARM, text="never delivered one")
            .encode(y=y, x=alt.value(theme.WIDTH - 190))
        )
    later = [] if "exact" not in df.columns else wide.filter(~pl.col("exact"))["name"].to_list()
    chart = alt.layer(*layers).properties(width=theme.WIDTH - 60, height=alt.Step(theme.ROW))
    more = df.height - MAX_ROWS
    return theme.titled(
        chart,
        title,
        [
            f"{more} streams that were quicker are left out" if more > 0 else "the slowest first",
            f"of {len(later)} streams only a sample was recorded: shown is the first frame of it, "
            "the first of all was as early or earlier"
            if later
            else "",
        ],
        lost,
    )

"""Asyncio tasks over time: what `analysis.threads.tasks` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import names, theme
from .theme import AnyChart

#: Tasks that a chart shows at most: the oldest.
MAX_ROWS = 40

_COLOURS = {"it moved": "#4A8FBF", "it never moved": "#BB5566", "its loop's main task": "#C9CCD1"}


def lives(df: pl.DataFrame, *, start_ns: int | None = None, lost: int = 0) -> AnyChart:
    """Draw from when to when each task was seen, and whether it came any further.

    Parameters
    ----------
    df : DataFrame
        What `analysis.threads.tasks` returned.
    start_ns : int
        The moment from which time is counted; by default the first in the table.
    lost : int
        Rows of `tasks` lost while recording.
    """
    title = "Asyncio tasks, the oldest first"
    if not df.height:
        return theme.nothing(title, lost)
    start = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
    shortest = (int(df["t_end_ns"].max()) - start) // 250  # type: ignore[arg-type]
    moved = (
        pl.when("main")
        .then(pl.lit("its loop's main task"))
        .when(pl.col("steps") > 0)
        .then(pl.lit("it moved"))
        .otherwise(pl.lit("it never moved"))
    )
    shown = theme.in_ms(
        theme.seconds(
            df.head(MAX_ROWS).select(
                pl.int_range(pl.len()).alias("row"),
                names.shortened(
                    pl.concat_str("coroutine", "name", separator=" · ", ignore_nulls=True), 48
                ).alias("task"),
                moved.alias("moved"),
                "waits_at",
                "steps",
                "looks",
                "t_ns",
                pl.max_horizontal("t_end_ns", pl.col("t_ns") + shortest).alias("t_end_ns"),
                "age_ns",
            ),
            start,
        )
    )
    chart = (
        alt.Chart(theme.data(shown))
        .mark_bar(size=12)
        .encode(
            x=alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False, zero=False)),
            x2="t_end_s:Q",
            y=alt.Y(
                "row:O",
                title=None,
                axis=alt.Axis(labelExpr=names.of_rows(shown["task"]), labelLimit=300),
            ),
            color=alt.Color(
                "moved:N", title="between looks", scale=theme.scale_of(_COLOURS, shown["moved"])
            ),
            tooltip=[
                "task:N",
                alt.Tooltip("waits_at:N", title="waits at"),
                alt.Tooltip("age_ms:Q", title="age, ms", format=",.4~r"),
                alt.Tooltip("steps:Q", title="times it had moved", format=","),
                alt.Tooltip("looks:Q", title="times it was seen", format=","),
            ],
        )
        .properties(width=theme.WIDTH - 80, height=alt.Step(18))
    )
    more = df.height - MAX_ROWS
    return theme.titled(
        chart, title, f"{more:,} younger tasks are left out" if more > 0 else "", lost
    )

"""When the garbage collector, or anything else, stopped a whole process."""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from . import latency, theme
from .theme import AnyChart

#: Pauses that are drawn at most: the longest.
MAX_PAUSES = 2_000

_GENERATIONS = {"0": "#9CC3DD", "1": "#4A8FBF", "2": "#004488"}
_SILENCES = {"gc": "#004488", "cpu": "#DDAA33", "unknown": "#BB5566"}
_CAUSES = {"gc": "garbage collector", "cpu": "no CPU", "unknown": "unknown: the GIL held?"}


def timeline(gc_pauses: pl.DataFrame, cells: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw the collector's pauses below the frames' latency, on one time axis.

    Parameters
    ----------
    gc_pauses : DataFrame
        The table `gc_pauses`.
    cells : DataFrame
        What `analysis.latency.over_time` returned for whole frames.
    lost : int
        Rows of either lost while recording.
    """
    title = "End-to-end latency over time, and garbage-collector pauses"
    if not gc_pauses.height and not cells.height:
        return theme.nothing(title, lost)
    if not gc_pauses.height:
        start = int(cells["t_ns"].min())  # type: ignore[arg-type]
        return theme.titled(latency.cells(cells, start), title, "no pause was recorded", lost)
    start = min(int(gc_pauses["t_ns"].min()), *cells["t_ns"].head(1))  # type: ignore[arg-type]
    pauses = collections(gc_pauses, start)
    subtitle = left_out(gc_pauses)
    if not cells.height:
        return theme.titled(pauses, title, subtitle, lost)
    both = alt.vconcat(latency.cells(cells, start).properties(height=170), pauses)
    return theme.titled(both.resolve_scale(x="shared", color="independent"), title, subtitle, lost)


def collections(gc_pauses: pl.DataFrame, start_ns: int) -> alt.Chart:
    """Return the pauses of `timeline` without title: a rule each, as high as it was long."""
    rows = theme.in_ms(
        theme.seconds(
            gc_pauses.top_k(MAX_PAUSES, by="duration_ns").select(
                "t_ns", "duration_ns", pl.col("generation").cast(pl.String), "collected"
            ),
            start_ns,
        )
    )
    limits = [
        float(rows["duration_ms"].min()) / 1.5,  # type: ignore[arg-type]
        float(rows["duration_ms"].max()) * 1.5,  # type: ignore[arg-type]
    ]
    limits[0] = max(limits[0], 1e-4)
    chart: alt.Chart = (
        alt.Chart(theme.data(rows.with_columns(pl.lit(limits[0]).alias("floor_ms"))))
        .mark_rule(strokeWidth=1.6)
        .encode(
            x=alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False, zero=False)),
            y=alt.Y(
                "duration_ms:Q",
                scale=alt.Scale(type="log", domain=limits, nice=False),
                axis=theme.log_axis("pause (ms, log scale)", limits),
            ),
            y2="floor_ms:Q",
            color=alt.Color(
                "generation:N",
                title="generation",
                scale=theme.scale_of(_GENERATIONS, rows["generation"]),
            ),
            tooltip=[
                alt.Tooltip("t_s:Q", title="at, s", format=",.3~f"),
                alt.Tooltip("duration_ms:Q", title="ms", format=",.4~r"),
                "generation:N",
                alt.Tooltip("collected:Q", title="objects freed", format=","),
            ],
        )
        .properties(width=theme.WIDTH, height=110)
    )
    return chart


def left_out(gc_pauses: pl.DataFrame) -> str:
    """Return a line on the pauses that `collections` does not draw; '' if it draws all."""
    more = gc_pauses.height - MAX_PAUSES
    return f"the {MAX_PAUSES:,} longest; {more:,} shorter ones are left out" if more > 0 else ""


def silences(df: pl.DataFrame, *, start_ns: int | None = None, lost: int = 0) -> AnyChart:
    """Draw when a whole process stood still.

    Parameters
    ----------
    df : DataFrame
        What `analysis.silences.episodes` returned.
    start_ns : int
        The moment from which time is counted; by default the first in the table.
    lost : int
        Rows of `spans` lost while recording.
    """
    title = "When a whole process stood still"
    if not df.height:
        return theme.nothing(title, lost)
    start = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
    ends = df.with_columns(t_end_ns=pl.col("t_ns") + pl.col("duration_ns"))
    rows = theme.in_ms(theme.seconds(ends, start)).with_columns(pl.col("pid").cast(pl.String))
    chart = (
        alt.Chart(theme.data(rows))
        .mark_bar(height=14, stroke="white", strokeWidth=0.5)
        .encode(
            x=alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(zero=start_ns is not None)),
            x2="t_end_s:Q",
            y=alt.Y("pid:N", title="process"),
            color=alt.Color(
                "cause:N",
                title="cause",
                scale=theme.scale_of(_SILENCES, rows["cause"]),
                legend=alt.Legend(labelExpr=f"({json.dumps(_CAUSES)})[datum.value]"),
            ),
            tooltip=[
                alt.Tooltip("t_s:Q", title="from, s", format=",.3~f"),
                alt.Tooltip("duration_ms:Q", title="lasted, ms", format=",.4~r"),
                alt.Tooltip("silent_ms:Q", title="of it silent, ms", format=",.4~r"),
                alt.Tooltip("longest_ms:Q", title="longest, ms", format=",.4~r"),
                alt.Tooltip("count:Q", title="silences"),
            ],
        )
        .properties(width=theme.WIDTH, height=alt.Step(30))
    )
    return theme.titled(chart, title, "no thread began or ended any work meanwhile", lost)

"""One frame's life, stage by stage: what it waited for, and what was done to it."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import polars as pl

from ..analysis.causewords import CAUSE_WORDS
from . import names, theme
from .theme import AnyChart

#: Stages that a frame's chart shows at most: those that took longest; the rest is counted.
MAX_STAGES = 40

#: Parts of a frame that are drawn at most: the longest. A browser draws no more in comfort.
MAX_PARTS = 1_000

#: Pixels of one stage's row.
_ROW = 24

#: The shortest parts are drawn this share of the frame's time wide, a pixel, to be seen.
_PIXEL = 1 / (theme.WIDTH - 60)


def frame(
    parts: pl.DataFrame, *, title: str = "Where the frame's time went", lost: int = 0
) -> AnyChart:
    """Draw one frame's way: from left to right its time, from top to bottom its stages.

    What is known in amount and not in place is drawn paler, after what is known in place.

    Parameters
    ----------
    parts : DataFrame
        What `analysis.blame.waterfall` returned.
    title : str
        Which frame it is.
    lost : int
        Rows lost while recording.
    """
    if not parts.height:
        return theme.nothing(title, lost, "nothing was recorded of this frame")
    begin = parts["t_ns"].min()
    rows = _placed(parts)
    most = rows.sort("duration_ns", descending=True).head(MAX_PARTS).sort("t_ns")
    shown = most.select(
        "row",
        "name",
        from_ms=((pl.col("t_ns") - begin) / 1e6).round(5),
        to_ms=((pl.col("t_ns") + pl.col("duration_ns") - begin) / 1e6).round(5),
        ms=(pl.col("duration_ns") / 1e6).round_sig_figs(5),
        cause="cause",
        exact=pl.col("exact").cast(pl.Int8),  # as text, "false" would be true to Vega
        evidence="evidence",
    )
    labels = rows.unique("row").sort("row")
    bars = marks(
        theme.data(shown),
        stage="name",
        y=alt.Y(
            "row:O",
            title=None,
            axis=alt.Axis(labelExpr=names.of_rows(labels["name"]), grid=True),
        ),
        color=theme.cause_colour(shown["cause"]),
    )
    chart = bars.properties(width=theme.WIDTH - 60, height=alt.Step(_ROW))
    return theme.titled(chart, title, _left_out(parts, rows, most, shown), lost)


def marks(data: Any, *, stage: str, y: alt.Y, color: alt.Color) -> alt.Chart:
    """Return the bars of a frame's parts, as a report and the explorer draw them.

    Parameters
    ----------
    data : altair data
        `from_ms`, `to_ms`, `ms`, `cause`, `exact`, `evidence`, and the columns of `stage` and `y`.
    stage : str
        The column that says which stage it is.
    y : Y
        A row each stage.
    color : Color
        Of the column `cause`.
    """
    chart: alt.Chart = (
        alt.Chart(data)
        .transform_joinaggregate(end_ms="max(to_ms)")
        .transform_calculate(
            seen_to_ms=f"max(datum.to_ms, min(datum.from_ms + {_PIXEL} * datum.end_ms, "
            "datum.end_ms))",
            said=f"({json.dumps(CAUSE_WORDS)})[datum.cause] || datum.cause",
            known="datum.exact ? 'in place' : 'in amount only'",
        )
        .mark_bar()
        .encode(
            x=alt.X(
                "from_ms:Q",
                title="since the read of its packet (ms)",
                scale=alt.Scale(nice=False, zero=True),
                axis=alt.Axis(labelFlush=20),  # or a label at the end would be cut
            ),
            x2="seen_to_ms:Q",
            y=y,
            color=color,
            opacity=alt.condition("datum.exact", alt.value(1), alt.value(0.6)),
            tooltip=[
                alt.Tooltip(f"{stage}:N", title="stage"),
                alt.Tooltip("said:N", title="cause"),
                alt.Tooltip("ms:Q", title="ms", format=",.4~r"),
                alt.Tooltip("from_ms:Q", title="from, ms", format=",.4~r"),
                alt.Tooltip("known:N", title="known"),
                alt.Tooltip("evidence:N", title="by the table"),
            ],
        )
    )
    return chart


def _placed(parts: pl.DataFrame) -> pl.DataFrame:
    """Return the parts with the row of their stage: in the order of the frame's way."""
    named = parts.with_columns(
        pl.col("cause", "evidence", "kind").cast(pl.String),
        name=names.shortened(theme.stage_row(), 36),
    )
    stages = (
        named.group_by("name")
        .agg(pl.col("t_ns").min(), pl.col("duration_ns").sum(), (pl.col("kind") == "none").all())
        .top_k(MAX_STAGES, by="duration_ns")
        .sort("kind", "t_ns", "name")  # what no span covers is last
        .select("name", row=pl.int_range(pl.len()))
    )
    return named.join(stages, on="name").sort("t_ns")


def _left_out(
    parts: pl.DataFrame, rows: pl.DataFrame, most: pl.DataFrame, shown: pl.DataFrame
) -> list[str]:
    lines = []
    if (shown["exact"] == 0).any():
        lines.append("paler: its amount is known, its place within the stage is not")
    if rows.height > most.height or parts.height > rows.height:
        gone_ns = sum(parts["duration_ns"]) - sum(most["duration_ns"])
        lines.append(
            f"{parts.height - most.height:,} short parts, {gone_ns / 1e6:.3g} ms in all, "
            "are left out"
        )
    return lines

"""Flame graphs of memory and of GPU time, with a slider for the moment; see `boxes`."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from . import boxes, sizes, theme
from .theme import AnyChart

#: What a graph shows, by what it was asked for.
TITLES = {
    "in_use": "What holds the memory that is in use",
    "peak": "What held the memory when the most was in use",
    "allocated": "Who took memory, given back or not",
    "gpu_time": "What the GPU's time went into",
}

_LAYERED = "from the device at the top, by labels, down to the line that allocated"
_OVERVIEW = 54


def flame(
    df: pl.DataFrame,
    *,
    measure: str = "in_use",
    start_ns: int | None = None,
    lost: int = 0,
) -> AnyChart:
    """Draw a flame graph; of several moments, with a slider between them.

    Parameters
    ----------
    df : DataFrame
        What `analysis.flame.memory`, `memory_over_time` or `gpu_time` returned.
    measure : str
        What of memory the table was asked for: in_use, peak or allocated.
    start_ns : int
        The moment from which time is counted; by default the first in the table.
    lost : int
        Rows of `allocations`, or of `spans`, lost while recording.
    """
    timed = "total_ns" in df.columns
    title = TITLES["gpu_time" if timed else measure]
    value = "total_ns" if timed else "total_bytes"
    if not df.height or not df[value].max():
        return theme.nothing(title, lost)
    several = "step" in df.columns
    whole = df if several else df.with_columns(pl.lit(0, pl.Int32).alias("step"))
    kept, left_out = boxes.largest(whole, value)
    unit = sizes.Unit("ms", 1_000_000) if timed else sizes.unit(kept[value].max())
    rectangles = boxes.layout(kept, value, unit.size_bytes)
    drawing = boxes.drawing(rectangles, boxes.by_codec(rectangles), unit.name)
    last = int(kept["step"].max())  # type: ignore[arg-type]
    chart: Any = drawing
    slider = several and last > 0
    if slider:
        first = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
        moments = theme.seconds(
            kept.filter(pl.col("parent").is_null())
            .select(
                "step", "t_ns", (pl.col(value) / unit.size_bytes).round_sig_figs(5).alias("total")
            )
            .sort("step"),
            first,
        )
        chart = alt.vconcat(_overview(moments, unit.name), drawing, spacing=14)
    chart = boxes.searchable(chart, last, slider)
    return theme.titled(
        chart,
        title,
        [
            _LAYERED,
            "click: open a branch; double click: all of it"
            + ("; the slider moves through time" if slider else ""),
            f"{left_out:,} smaller or deeper branches are left out" if left_out else "",
        ],
        lost,
    )


def _overview(moments: pl.DataFrame, unit: str) -> AnyChart:
    """Return the total over time, and a line where the slider stands."""
    base = alt.Chart(theme.data(moments))
    x = alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False, zero=False))
    chosen = base.transform_filter("datum.step == moment")
    return alt.layer(
        base.mark_area(color=theme.GRID, line={"color": theme.QUIET}).encode(
            x=x, y=alt.Y("total:Q", title=unit, axis=alt.Axis(tickCount=2, grid=False))
        ),
        chosen.mark_rule(color=theme.INK, strokeWidth=2).encode(x=x),
        chosen.transform_calculate(
            text=f"format(datum.t_s, ',.2~f') + ' s: ' + format(datum.total, ',.3~r') + ' {unit}'"
        )
        .mark_text(
            align=alt.ExprRef(f"datum.step > {moments.height / 2} ? 'right' : 'left'"),
            fontWeight=600,
        )
        .encode(x=x, y=alt.value(-8), text="text:N"),
    ).properties(width=boxes.PLOT, height=_OVERVIEW)

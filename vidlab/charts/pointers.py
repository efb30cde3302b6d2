"""Who saw which driver memory: what `analysis.pointers` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import sizes, theme
from .theme import AnyChart

MAX_ROWS = 30

#: By what is known of it: both engines, only the probes, only the tracker.
SEEN_BY = {"both": "#4A8FBF", "driver only": "#CC3311", "cupy only": "#DDAA33"}


def summary(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw the driver memory that was taken, by the function and by who saw it.

    Parameters
    ----------
    df : DataFrame
        What `analysis.pointers.summary` returned.
    lost : int
        Rows of `kernel_cuda_memory` lost while recording.
    """
    title = "Driver memory that was taken, and who saw it"
    if not df.height:
        return theme.nothing(title, lost)
    largest = sizes.unit(int(df["size_bytes"].max() or 0))  # type: ignore[arg-type]
    rows = sizes.counted_in(
        df.head(MAX_ROWS).with_columns(
            pl.col("symbol").fill_null("(not seen by a probe)"),
            sizes.text(pl.col("still_there_bytes").cast(pl.Float64)).alias("kept"),
        ),
        largest,
    )
    chart = (
        alt.Chart(theme.data(rows))
        .mark_bar()
        .encode(
            x=alt.X("size:Q", title=f"taken in all ({largest.name})"),
            y=alt.Y("symbol:N", sort="-x", title=None),
            color=alt.Color(
                "seen_by:N", title="seen by", scale=theme.scale_of(SEEN_BY, rows["seen_by"])
            ),
            tooltip=[
                alt.Tooltip("symbol:N", title="function"),
                alt.Tooltip("seen_by:N", title="seen by"),
                alt.Tooltip("allocations:Q", format=","),
                alt.Tooltip("size:Q", title=f"taken, {largest.name}", format=",.4~r"),
                alt.Tooltip("still_there:Q", title="never freed", format=","),
                alt.Tooltip("kept:N", title="of that size"),
            ],
        )
        .properties(width=theme.WIDTH - 60, height=alt.Step(theme.ROW))
    )
    more = df.height - MAX_ROWS
    return theme.titled(
        chart,
        title,
        [
            "driver only: taken past CuPy, by another library of the process",
            f"{more} functions that took less are left out" if more > 0 else "",
        ],
        lost,
    )

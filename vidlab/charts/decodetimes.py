"""Decoding in FFmpeg beside the spans around it: what `analysis.decodetimes` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import names, theme
from .theme import AnyChart

MAX_ROWS = 40

_PARTS = {"in FFmpeg": "#004488", "around it": "#B9BDC4"}


def by_stream(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw how much of each stream's decode time was FFmpeg's, per span.

    Parameters
    ----------
    df : DataFrame
        What `analysis.decodetimes.by_stream` returned.
    lost : int
        Rows of `kernel_libav` lost while recording.
    """
    title = "Decode time per call: FFmpeg itself, and what is around it"
    if not df.height:
        return theme.nothing(title, lost)
    keys = df.columns[: df.columns.index("spans")]
    named = df.head(MAX_ROWS).with_columns(row_name(keys))
    rows = named.select(
        "name",
        "spans",
        "calls",
        (pl.col("ffmpeg_ns") / pl.col("spans") / 1e6).alias("in FFmpeg"),
        (pl.col("around_ns") / pl.col("spans") / 1e6).alias("around it"),
    ).unpivot(
        list(_PARTS), index=["name", "spans", "calls"], variable_name="part", value_name="mean_ms"
    )
    chart = (
        alt.Chart(theme.data(rows))
        .mark_bar()
        .encode(
            x=alt.X("mean_ms:Q", title="mean of a decode span (ms)"),
            y=alt.Y("name:N", sort=named["name"].to_list(), title=None),
            color=alt.Color("part:N", title=None, scale=theme.scale_of(_PARTS, _PARTS)),
            order=alt.Order("part:O", sort="descending"),
            tooltip=[
                alt.Tooltip("name:N", title="stream"),
                alt.Tooltip("part:N", title=" "),
                alt.Tooltip("mean_ms:Q", title="ms", format=",.4~r"),
                alt.Tooltip("spans:Q", format=","),
                alt.Tooltip("calls:Q", title="FFmpeg calls", format=","),
            ],
        )
        .properties(width=theme.WIDTH - 60, height=alt.Step(theme.ROW))
    )
    more = df.height - MAX_ROWS
    return theme.titled(
        chart,
        title,
        [
            "around it: Python, the wait for its lock, and the probes themselves",
            f"{more} streams that took less are left out" if more > 0 else "",
        ],
        lost,
    )


def row_name(keys: list[str]) -> pl.Expr:
    """Return the name of a row by labels; what was in no stage has none of them."""
    return names.group(keys).str.replace(r"^\?( · \?)*$", "no stream")

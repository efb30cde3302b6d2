"""Copies between blocks of device memory: what `analysis.memory_graph` built."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import names, sizes, theme
from .theme import AnyChart

#: Edges that a chart shows at most: those with most bytes.
MAX_EDGES = 40

_FROM, _TO = 0.0, 1.0

#: Letters of a kind of memory that are shown.
_LONGEST = 16


def copies(nodes: pl.DataFrame, edges: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw what was copied from where to where, as lines from sources to destinations.

    Parameters
    ----------
    nodes, edges : DataFrame
        What `MemoryGraph.nodes` and `MemoryGraph.edges` returned.
    lost : int
        Rows of `kernel_cuda_copies` lost while recording.
    """
    title = "What was copied between blocks of memory"
    if not edges.height:
        return theme.nothing(title, lost)
    shown = edges.head(MAX_EDGES)
    called = _names(nodes)
    drawn = shown.with_columns(
        pl.col("source").replace(called), pl.col("destination").replace(called)
    )
    left, right = (_places(drawn, side) for side in ("source", "destination"))
    lines = pl.concat(
        drawn.with_row_index("edge")
        .join(places, left_on=side, right_on="name")
        .select(
            "edge",
            pl.lit(x).alias("x"),
            "place",
            pl.format("{} → {}", "source", "destination").alias("between"),
            "copies",
            (pl.col("size_bytes") / max(int(shown["size_bytes"].max() or 1), 1)).alias("share"),  # type: ignore[arg-type]
            sizes.text(pl.col("size_bytes").cast(pl.Float64)).alias("text"),
        )
        for side, places, x in (("source", left, _FROM), ("destination", right, _TO))
    )
    height = 30 + theme.ROW * max(left.height, right.height)
    scale = alt.Scale(domain=[-0.5, max(left.height, right.height) - 0.5], reverse=True)
    axis = alt.Axis(labels=False, grid=False, ticks=False, domain=False)
    base = alt.Chart().encode(y=alt.Y("place:Q", scale=scale, axis=None))
    edge = (
        base.mark_line(opacity=0.55, color=theme.MEMORY["pool in use"])
        .encode(
            x=alt.X("x:Q", scale=alt.Scale(domain=[-0.9, 1.9]), axis=axis, title=None),
            detail="edge:N",
            strokeWidth=alt.StrokeWidth("share:Q", legend=None, scale=alt.Scale(range=[1, 14])),
            tooltip=[
                alt.Tooltip("between:N", title="copies"),
                alt.Tooltip("copies:Q", format=","),
                alt.Tooltip("text:N", title="in all"),
            ],
        )
        .properties(data=theme.data(lines))
    )
    ends = [places.with_columns(x=pl.lit(x)) for places, x in ((left, _FROM), (right, _TO))]
    texts = [base.encode(x="x:Q", text="name:N").properties(data=theme.data(end)) for end in ends]
    ends_named = [
        texts[0].mark_text(align="right", dx=-8),
        texts[1].mark_text(align="left", dx=8),
    ]
    chart = alt.layer(edge, *ends_named).properties(width=theme.WIDTH, height=height)
    more = edges.height - shown.height
    return theme.titled(
        chart,
        title,
        [
            "from the left to the right; the wider, the more bytes",
            f"{more} pairs with fewer bytes are left out" if more > 0 else "",
        ],
        lost,
    )


def _names(nodes: pl.DataFrame) -> dict[str, str]:
    """Return what blocks are called: their number, kind and size."""
    named = nodes.select(
        pl.col("number").cast(pl.String),
        pl.format(
            "block {} · {} · {}",
            "number",
            names.shortened(pl.col("kind"), _LONGEST),
            sizes.text(pl.col("size_bytes").cast(pl.Float64)),
        ).alias("name"),
    )
    return dict(named.iter_rows())


def _places(drawn: pl.DataFrame, side: str) -> pl.DataFrame:
    """Return the names on one side from top to bottom: most bytes first."""
    return (
        drawn.group_by(pl.col(side).alias("name"))
        .agg(pl.col("size_bytes").sum())
        .sort("size_bytes", "name", descending=[True, False])
        .with_row_index("place")
        .select("name", pl.col("place").cast(pl.Float64))
    )

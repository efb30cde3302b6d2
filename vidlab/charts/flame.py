"""Flame graphs of memory and of GPU time, with a slider for the moment.

They are rectangles that Vega lays out: they work in a notebook and on a report's page alike,
with no kernel and no network. A click opens a branch, a double click shows all of it again,
and what is typed into *find* is highlighted.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from . import sizes, theme
from .theme import AnyChart

#: Rectangles that a chart carries at most, of all its moments together.
MAX_MARKS = 5_000

#: What a graph shows, by what it was asked for.
TITLES = {
    "in_use": "What holds the memory that is in use",
    "peak": "What held the memory when the most was in use",
    "allocated": "Who took memory, given back or not",
    "gpu_time": "What the GPU's time went into",
}

_LAYERED = "from the device at the top, by labels, down to the line that allocated"
_LAYERS = {"stream_id": "stream", "cuda_stream": "CUDA stream", "gpu": "GPU", "stack": "call"}

_PLOT, _ROW, _OVERVIEW = 880, 20, 54

#: A rectangle that is narrower than this many pixels bears no name.
_NAMED_FROM = 34

# A node's rank in the tree and that of its last descendant, `first` and `last`, tell who is
# inside whom. As long as nothing is chosen, everything is inside.
_ZOOM_FIRST = "isArray(zoom.first) && zoom.first.length ? zoom.first[0] : 0"
_ZOOM_LAST = "isArray(zoom.last) && zoom.last.length ? zoom.last[0] : 1e9"


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
    kept, left_out = _largest(whole, value)
    unit = sizes.Unit("ms", 1_000_000) if timed else sizes.unit(kept[value].max())
    boxes, codecs = _boxes(kept, value, unit)
    depth = int(kept["depth"].max()) + 1  # type: ignore[arg-type]
    last = int(kept["step"].max())  # type: ignore[arg-type]
    drawing = _drawing(alt.InlineData(values=boxes), codecs, depth, unit.name)
    chart: Any = drawing
    slider: dict[str, Any] = {}
    if several and last:
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
        slider = {"bind": alt.binding_range(min=0, max=last, step=1, name="moment ")}
    chart = chart.add_params(
        alt.param(name="moment", value=last, **slider),
        alt.param(
            name="find",
            value="",
            bind=alt.BindInput(input="search", name="find ", placeholder="function, file, label"),
        ),
    ).resolve_scale(x="independent", y="independent")
    return theme.titled(
        chart,
        title,
        [
            _LAYERED,
            "click: open a branch; double click: all of it"
            + ("; the slider moves through time" if slider else ""),
            f"{left_out:,} smaller branches are left out" if left_out else "",
        ],
        lost,
    )


def _largest(df: pl.DataFrame, value: str) -> tuple[pl.DataFrame, int]:
    """Return as many nodes as a chart may carry, and how many are left out.

    Nothing is larger than what it is part of: where a node stays, all above it do.
    """
    steps = df["step"].n_unique()
    greatest = (
        df.group_by("id")
        .agg(pl.col(value).max())
        .filter(pl.col(value) > 0)
        .sort(value, "id", descending=[True, False])
    )
    ids = greatest["id"].head(max(1, MAX_MARKS // steps))
    return df.filter(pl.col("id").is_in(ids.to_list())), greatest.height - ids.len()


def _boxes(
    df: pl.DataFrame, value: str, unit: sizes.Unit
) -> tuple[list[dict[str, Any]], list[str | None]]:
    """Return each node's rectangles, those of all steps together, and the codecs there are.

    A node's children lie beside each other from its left edge on, in the table's order.
    """
    nodes = df.unique("id").sort("id")
    values = (
        df.sort("id", "step")[value].cast(pl.Float64).to_numpy().reshape(nodes.height, -1)
        / unit.size_bytes
    )
    rows: dict[int, dict[str, Any]] = {}
    cursor: dict[int, Any] = {}
    for number, node in enumerate(nodes.select("id", "parent", "name", "layer", "depth").rows()):
        id_, parent, name, layer, depth = node
        left = 0 * values[number] if parent is None else cursor[parent].copy()
        if parent is not None:
            cursor[parent] += values[number]
        cursor[id_] = left.copy()
        codec = name if layer == "codec" and not name.startswith("(") else None
        if layer != "codec" and parent is not None:
            codec = rows[parent]["codec"]
        there = (values[number] > 0).nonzero()[0]
        rows[id_] = {
            "name": name,
            "layer": _LAYERS.get(layer, layer),
            "depth": depth,
            "codec": codec,
            "first": number,
            "last": number,
            "step": there.tolist(),
            "x0": [round(float(x), 4) for x in left[there]],
            "x1": [round(float(x), 4) for x in (left + values[number])[there]],
            "parent": parent,
        }
    for id_ in reversed(rows):  # children come after their parents
        row = rows[id_]
        parent = row.pop("parent")
        if parent is not None:
            rows[parent]["last"] = max(rows[parent]["last"], row["last"])
        row["codec"] = row["codec"] or theme.NO_CODEC
    boxes = list(rows.values())
    return boxes, sorted({row["codec"] for row in boxes})


def _drawing(source: alt.InlineData, codecs: list[str | None], depth: int, unit: str) -> AnyChart:
    """Return the rectangles of the chosen moment and branch, and their names."""
    base = (
        alt.Chart(source)
        .transform_flatten(flatten=["step", "x0", "x1"])
        .transform_filter("datum.step == moment")
        .transform_calculate(zoom_first=_ZOOM_FIRST, zoom_last=_ZOOM_LAST)
        .transform_calculate(
            within="datum.first >= datum.zoom_first && datum.last <= datum.zoom_last ? 1 : 0",
            around="datum.first <= datum.zoom_first && datum.last >= datum.zoom_last",
        )
        .transform_joinaggregate(whole="max(x1)", open="max(within)")
        # At a moment at which there is nothing of the open branch, all is shown.
        .transform_calculate(inside="!datum.open || datum.within")
        .transform_calculate(
            inner_x0="datum.inside ? datum.x0 : null", inner_x1="datum.inside ? datum.x1 : null"
        )
        .transform_joinaggregate(from_x="min(inner_x0)", to_x="max(inner_x1)")
        .transform_filter("(datum.inside || datum.around) && datum.to_x > datum.from_x")
        .transform_calculate(
            left="max(0, (datum.x0 - datum.from_x) / (datum.to_x - datum.from_x))",
            right="min(1, (datum.x1 - datum.from_x) / (datum.to_x - datum.from_x))",
            bottom="datum.depth + 1",
            size="datum.x1 - datum.x0",
            share="(datum.x1 - datum.x0) / datum.whole",
            found="find == '' || indexof(lower(datum.name), lower(find)) >= 0",
        )
        .transform_calculate(pixels=f"(datum.right - datum.left) * {_PLOT}")
        .transform_filter("datum.pixels > 0.5")
    )
    x = alt.X("left:Q", scale=alt.Scale(domain=[0, 1], nice=False), axis=None)
    y_scale = alt.Scale(domain=[0, depth], reverse=True, nice=False)
    zoom = alt.selection_point(
        name="zoom", fields=["first", "last"], clear="dblclick", toggle=False, empty=False
    )
    rectangles = (
        base.mark_rect(stroke="white", strokeWidth=0.8, cursor="pointer")
        .encode(
            x=x,
            x2="right:Q",
            y=alt.Y("depth:Q", scale=y_scale, axis=None),
            y2="bottom:Q",
            color=alt.Color(
                "codec:N",
                title="codec",
                scale=theme.codec_scale(codecs),
                legend=alt.Legend(orient="bottom", direction="horizontal", symbolOpacity=0.6),
            ),
            opacity=alt.condition("datum.found", alt.value(0.6), alt.value(0.12)),
            tooltip=[
                alt.Tooltip("name:N", title="name"),
                alt.Tooltip("layer:N", title="layer"),
                alt.Tooltip("size:Q", title=unit, format=",.4~r"),
                alt.Tooltip("share:Q", title="share of all", format=".2~%"),
            ],
        )
        .add_params(zoom)
    )
    names = (
        base.transform_filter(f"datum.pixels > {_NAMED_FROM}")
        .transform_calculate(
            middle="datum.depth + 0.5",
            text=f"datum.name + '  ' + format(datum.size, ',.3~r') + ' {unit}'",
        )
        .mark_text(align="left", dx=4, fontSize=11, limit=alt.ExprRef("datum.pixels - 7"))
        .encode(x=x, y=alt.Y("middle:Q", scale=y_scale, axis=None), text="text:N")
    )
    return alt.layer(rectangles, names).properties(width=_PLOT, height=_ROW * depth)


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
    ).properties(width=_PLOT, height=_OVERVIEW)

"""The rectangles of flame graphs, which Vega lays out: with a click, and with a search.

They work in a notebook and on a report's page alike, with no kernel and no network. A click
opens a branch, a double click shows all of it again, and what is typed into *find* is
highlighted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from ..analysis.appearance import LAYERS
from . import theme
from .theme import AnyChart

#: Rectangles that a chart carries at most, of all its moments together.
MAX_MARKS = 5_000

#: Rows of rectangles: what was called further in is left out.
MOST_ROWS = 40

#: The width of a graph, and the height of a row of rectangles, in pixels.
PLOT, ROW = 880, 20

#: A rectangle that is narrower than this many pixels bears no name.
_NAMED_FROM = 34


# A node's rank in the tree and that of its last descendant, `first` and `last`, tell who is
# inside whom. As long as nothing is chosen, everything is inside.
_ZOOM_FIRST = "isArray(zoom.first) && zoom.first.length ? zoom.first[0] : 0"
_ZOOM_LAST = "isArray(zoom.last) && zoom.last.length ? zoom.last[0] : 1e9"


def largest(df: pl.DataFrame, value: str) -> tuple[pl.DataFrame, int]:
    """Return as many nodes of a tree as a chart may carry, and how many are left out.

    Nothing is larger than what it is part of: where a node stays, all above it do.

    Parameters
    ----------
    df : DataFrame
        A tree (`analysis.trees`), with the column `step`.
    value : str
        The column that says how large a node is.
    """
    branches = df["id"].n_unique()
    df = df.filter(pl.col("depth") < MOST_ROWS)
    steps = df["step"].n_unique()
    greatest = (
        df.group_by("id")
        .agg(pl.col(value).max())
        .filter(pl.col(value) > 0)
        .sort(value, "id", descending=[True, False])
    )
    ids = greatest["id"].head(max(1, MAX_MARKS // steps))
    left_out = greatest.height - ids.len() + branches - df["id"].n_unique()
    return df.filter(pl.col("id").is_in(ids.to_list())), left_out


def layout(
    df: pl.DataFrame, value: str, one: float, further: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Return each node's rectangles, those of all steps together.

    A node's children lie beside each other from its left edge on, in the table's order.

    Parameters
    ----------
    df, value
        As of `largest`, which should have been asked before.
    one : float
        How much of the value makes one of the unit that the chart counts in.
    further : sequence of str
        Other columns that a rectangle bears, as they are at the first step.
    """
    nodes = df.sort("id", "step").unique("id", keep="first", maintain_order=True)
    values = (
        df.sort("id", "step")[value].cast(pl.Float64).to_numpy().reshape(nodes.height, -1) / one
    )
    rows: dict[int, dict[str, Any]] = {}
    cursor: dict[int, Any] = {}
    columns = ("id", "parent", "name", "layer", "depth", *further)
    for number, node in enumerate(nodes.select(columns).rows()):
        id_, parent, name, layer, depth, *rest = node
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
            "layer": LAYERS.get(layer, layer),
            "depth": depth,
            "codec": codec,
            "first": number,
            "last": number,
            "step": there.tolist(),
            "x0": [round(float(x), 4) for x in left[there]],
            "x1": [round(float(x), 4) for x in (left + values[number])[there]],
            "parent": parent,
            **dict(zip(further, rest, strict=True)),
        }
    for id_ in reversed(rows):  # children come after their parents
        row = rows[id_]
        parent = row.pop("parent")
        if parent is not None:
            rows[parent]["last"] = max(rows[parent]["last"], row["last"])
        row["codec"] = row["codec"] or theme.NO_CODEC
    return list(rows.values())


def by_codec(boxes: Sequence[dict[str, Any]]) -> alt.Color:
    """Return the colour of rectangles by the codec that they are under."""
    return alt.Color(
        "codec:N",
        title="codec",
        scale=theme.codec_scale({box["codec"] for box in boxes}),
        legend=alt.Legend(orient="bottom", direction="horizontal", symbolOpacity=0.6),
    )


def drawing(
    boxes: list[dict[str, Any]],
    colour: alt.Color,
    unit: str,
    tooltip: Sequence[alt.Tooltip] = (),
) -> AnyChart:
    """Return the rectangles of the chosen moment and branch, and their names.

    Parameters
    ----------
    boxes : list of dict
        What `layout` returned.
    colour : altair.Color
        Their colour.
    unit : str
        What the chart counts in.
    tooltip : sequence of altair.Tooltip
        What to show of a rectangle besides its name, layer, size and share.
    """
    depth = 1 + max(box["depth"] for box in boxes)
    base = (
        alt.Chart(alt.InlineData(values=boxes))
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
        .transform_calculate(pixels=f"(datum.right - datum.left) * {PLOT}")
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
            color=colour,
            opacity=alt.condition("datum.found", alt.value(0.6), alt.value(0.12)),
            tooltip=[
                alt.Tooltip("name:N", title="name"),
                alt.Tooltip("layer:N", title="layer"),
                alt.Tooltip("size:Q", title=unit, format=",.4~r"),
                alt.Tooltip("share:Q", title="share of all", format=".2~%"),
                *tooltip,
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
    return alt.layer(rectangles, names).properties(width=PLOT, height=ROW * depth)


def searchable(chart: Any, last: int = 0, slider: bool = False) -> Any:
    """Return the chart with its search, and the moment that it shows, if asked with a slider.

    Parameters
    ----------
    chart : altair chart
        What `drawing` returned, alone or beside others.
    last : int
        The last step, which is shown at first.
    slider : bool
        Whether the step can be chosen.
    """
    chosen: dict[str, Any] = {}
    if slider:
        chosen = {"bind": alt.binding_range(min=0, max=last, step=1, name="moment ")}
    return chart.add_params(
        alt.param(name="moment", value=last, **chosen),
        alt.param(
            name="find",
            value="",
            bind=alt.BindInput(input="search", name="find ", placeholder="function, file, label"),
        ),
    ).resolve_scale(x="independent", y="independent")

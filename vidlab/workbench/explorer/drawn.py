"""A view's table as its chart, or its table on the page, takes it: the columns that are drawn."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from ... import sizes
from ...analysis import appearance
from ...analysis.causewords import CAUSE_WORDS

#: Columns of the views that are tables on the page, with their headings; `pick` names the part
#: of the state that a row chooses.
TABLES: dict[str, list[dict[str, str]]] = {
    "beyond": [
        {"column": "frame", "title": "frame", "pick": "frame"},
        {"column": "latency_ms", "title": "latency (ms)"},
        {"column": "t_s", "title": "at (s)"},
        {"column": "stream_id", "title": "stream"},
        {"column": "codec", "title": "codec"},
        {"column": "worst_cause", "title": "most to blame"},
    ],
    "stacks": [
        {"column": "cpu_ms", "title": "CPU (ms)"},
        {"column": "samples", "title": "samples"},
        {"column": "calls", "title": "calls, the innermost first"},
    ],
    "frame_memory": [
        {"column": "t_ms", "title": "at (ms)"},
        {"column": "op", "title": "what"},
        {"column": "level", "title": "level"},
        {"column": "size", "title": "size"},
        {"column": "site", "title": "where"},
    ],
}


#: Of streams, where memory is told apart by them: browns, dark and light by turns. No codec is
#: brown, to colour-blind readers either, so that no stream is taken for a codec.
STREAMS = (
    "#A7874E", "#FDD79A", "#7F622B", "#D2AF73", "#6B511A", "#BC9B61", "#93753D", "#E7C387",
)  # fmt: skip


def drawn(view: str, df: pl.DataFrame) -> pl.DataFrame:
    """Return what is drawn of a view's answer."""
    if not df.height:
        return df
    if "codec" in df.columns:
        codec = pl.col("codec").cast(pl.String).replace("(no codec)", None)
        df = df.with_columns(codec.fill_null(appearance.NO_CODEC))
    change = _CHANGES.get(view)
    return df if change is None else change(df)


def legends(frames: Mapping[str, pl.DataFrame]) -> dict[str, list[str]]:
    """Return what the legends name that are not always the same, as values of parameters.

    `frames` are what is drawn of some views. Returned are `labels` and `label_colours` of
    memory, and `causes` of a waterfall, each if there are some.
    """
    found: dict[str, list[str]] = {}
    memory, waterfall = (frames.get(name, pl.DataFrame()) for name in ("memory", "waterfall"))
    if memory.height:
        labels = memory["label"].unique().sort().to_list()
        found["labels"] = labels
        by_codec = "codec" in memory.columns
        found["label_colours"] = [
            appearance.codec_colour(label) if by_codec else STREAMS[number % len(STREAMS)]
            for number, label in enumerate(labels)
        ]
    if waterfall.height:
        present = set(waterfall["cause"])
        found["causes"] = [cause for cause in CAUSE_WORDS if cause in present]
    return found


def _memory(df: pl.DataFrame) -> pl.DataFrame:
    return df.with_columns(label="codec" if "codec" in df.columns else "stream_id")


def _waterfall(df: pl.DataFrame) -> pl.DataFrame:
    between = pl.col("kind").cast(pl.String) == "none"  # what no span covers is the last row
    return df.sort(between, maintain_order=True).select(
        appearance.stage_row().alias("row"),
        "from_ms",
        "to_ms",
        pl.col("cause", "evidence").cast(pl.String),
        "exact",
        ms=pl.col("to_ms") - pl.col("from_ms"),
    )


def _flame(df: pl.DataFrame) -> pl.DataFrame:
    """Return the tree's rectangles: `name`, `layer`, `depth`, `x0` and `x1` (shares of all).

    A node's children lie beside each other from its left edge on, in the table's order.
    """
    value = next(name for name in df.columns if name.startswith("total_"))
    whole = float(df.filter(pl.col("parent").is_null())[value].sum())
    if not whole:
        return df.clear()
    free: dict[int | None, float] = {None: 0.0}  # where a node's next child begins
    begins, nodes = [], df.sort("id")
    for id_, parent, size in nodes.select("id", "parent", pl.col(value) / whole).rows():
        begins.append(free[parent])
        free[id_] = free[parent]
        free[parent] += size
    x0 = pl.Series("x0", begins, pl.Float64)
    boxes = nodes.select(
        "name",
        pl.col("layer").replace(appearance.LAYERS),
        "depth",
        x0,
        x1=x0 + pl.col(value) / whole,
    )
    return boxes.filter(pl.col("x1") > pl.col("x0"))


def _stacks(df: pl.DataFrame) -> pl.DataFrame:
    calls = pl.col("calls").str.split(" > ").list.reverse().list.join(" ← ")
    return df.select(calls, "samples", cpu_ms=pl.col("cpu_ns") / 1e6)


def _frame_memory(df: pl.DataFrame) -> pl.DataFrame:
    size = pl.col("size_bytes").map_elements(sizes.say, return_dtype=pl.String)
    return df.select("t_ms", "op", "level", "site", size=size)


_CHANGES = {
    "memory": _memory,
    "waterfall": _waterfall,
    "flame": _flame,
    "beyond_flame": _flame,
    "beyond_memory": _flame,
    "stacks": _stacks,
    "frame_memory": _frame_memory,
}

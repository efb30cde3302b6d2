"""Flame graphs of profiles, and of the difference of two: what `analysis.profiles` found."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from ..analysis.profiles import ENOUGH
from . import boxes, sizes, theme
from .theme import AnyChart

#: What a graph shows, by what its values are.
TITLES = {
    "ns": "Where the CPU's time went",
    "bytes": "Who took memory",
    "count": "Who made objects",
}

#: From less to more, for a colour-blind reader too: blue, nothing, orange.
_CHANGE = ("#2166AC", "#8FB8D8", "#D9DBDF", "#F0B37E", "#C2510A")

_HOW = "click: open a branch; double click: all of it"
_EXACT = "how much is exact, by the threads' clocks; what it is divided into is sampled"


def flame(df: pl.DataFrame, *, title: str = "", note: str = "", lost: int = 0) -> AnyChart:
    """Draw a profile's flame graph; of too few samples, say so instead.

    Parameters
    ----------
    df : DataFrame
        What `analysis.profiles.flame` returned.
    title : str
        What is seen, if not simply where the CPU's time, memory or objects went.
    note : str
        What else a reader should know.
    lost : int
        Rows of `profile_samples` lost while recording.
    """
    kind = _kind(df, "total")
    title = title or TITLES[kind]
    value = f"total_{kind}"
    if not df.height or not df[value].max():
        return theme.nothing(title, lost)
    samples = int(df["samples"][0]) if "samples" in df.columns else None
    if samples is not None and samples < ENOUGH:
        return theme.nothing(title, lost, _too_few(samples))
    kept, left_out = boxes.largest(_one_step(df), value)
    unit = _unit(kind, kept[value].max())
    says, tooltip, further = [], [], []
    if samples is not None:
        says.append(f"{samples:,} samples")
        tooltip.append(alt.Tooltip("samples:Q", format=","))
        further.append("samples")
    if "sampled_ns" in df.columns:
        kept = kept.with_columns(sampled=(pl.col("sampled_ns") / unit.size_bytes).round(3))
        said = f"samples alone say, {unit.name}"
        tooltip.append(alt.Tooltip("sampled:Q", title=said, format=",.4~r"))
        further.append("sampled")
        says += [f"alone they make it {df['sampled_ns'][0] / df[value][0]:.0%} of this", _EXACT]
    rectangles = boxes.layout(kept, value, unit.size_bytes, further)
    drawing = boxes.drawing(rectangles, boxes.by_codec(rectangles), unit.name, tooltip)
    return theme.titled(
        boxes.searchable(drawing),
        title,
        ["; ".join(says), _HOW, note, _left_out(left_out)],
        lost,
    )


def difference(
    df: pl.DataFrame,
    *,
    before: str = "before",
    after: str = "after",
    per_frame: bool = False,
    lost: int = 0,
) -> AnyChart:
    """Draw what two profiles spend differently; of too few samples of one, say so instead.

    A rectangle is as wide as the mean of both.

    Parameters
    ----------
    df : DataFrame
        What `analysis.profiles.difference` returned.
    before, after : str
        What the two are called.
    per_frame : bool
        Whether the values are of a frame, rather than scaled to the same total.
    lost : int
        Rows of `profile_samples` lost while recording, of both.
    """
    kind = _kind(df, "before")
    title = f"What changes from {before} to {after}"
    if not df.height:
        return theme.nothing(title, lost)
    told = "samples_before" in df.columns
    counts = [int(df[f"samples_{side}"][0]) for side in ("before", "after")] if told else []
    if told and min(counts) < ENOUGH:
        few = before if counts[0] < ENOUGH else after
        return theme.nothing(title, lost, f"{few}: {_too_few(min(counts))}")
    first, second = pl.col(f"before_{kind}"), pl.col(f"after_{kind}")
    kept, left_out = boxes.largest(_one_step(df).with_columns(width=(first + second) / 2), "width")
    unit = _unit(kind, kept["width"].max())
    kept = kept.with_columns(
        ((second - first) / pl.max_horizontal(first, second)).round(4).alias("relative"),
        *(
            (pl.col(f"{name}_{kind}") / unit.size_bytes).round_sig_figs(5).alias(name)
            for name in ("before", "after", "change")
        ),
    )
    rectangles = boxes.layout(
        kept, "width", unit.size_bytes, ["relative", "before", "after", "change"]
    )
    colour = alt.Color(
        "relative:Q",
        title="change",
        scale=alt.Scale(domain=[-1, -0.3, 0, 0.3, 1], range=list(_CHANGE), interpolate="rgb"),
        legend=alt.Legend(
            orient="bottom",
            direction="horizontal",
            gradientLength=260,
            values=[-1, -0.5, 0, 0.5, 1],
            labelExpr="datum.value == -1 ? 'gone' : datum.value == 1 ? 'new' : "
            "datum.value == 0 ? 'the same' : datum.value < 0 ? 'half' : 'double'",
        ),
    )
    shown = f"{unit.name} a frame" if per_frame else unit.name
    tooltip = [
        alt.Tooltip("before:Q", title=f"{before}, {shown}", format=",.4~r"),
        alt.Tooltip("after:Q", title=f"{after}, {shown}", format=",.4~r"),
        alt.Tooltip("change:Q", title=f"change, {shown}", format="+,.4~r"),
    ]
    compared = ["for each frame" if per_frame else "the second scaled to the total of the first"]
    compared += [f"{counts[0]:,} and {counts[1]:,} samples"] if told else []
    return theme.titled(
        boxes.searchable(boxes.drawing(rectangles, colour, unit.name, tooltip)),
        title,
        [
            "; ".join([*compared, "as wide as the mean of both"]),
            _HOW,
            _left_out(left_out),
        ],
        lost,
    )


def _kind(df: pl.DataFrame, prefix: str) -> str:
    return next(kind for kind in TITLES if f"{prefix}_{kind}" in df.columns)


def _unit(kind: str, greatest: Any) -> sizes.Unit:
    """Return the unit for values up to the greatest."""
    if kind == "bytes":
        return sizes.unit(greatest)
    if kind == "count":
        return sizes.Unit("objects", 1)
    return sizes.Unit("ms", 1_000_000) if greatest >= 1_000_000 else sizes.Unit("µs", 1_000)


def _one_step(df: pl.DataFrame) -> pl.DataFrame:
    return df.with_columns(pl.lit(0, pl.Int32).alias("step"))


def _too_few(samples: int) -> str:
    what = "sample" if samples == 1 else "samples"
    return f"{samples} {what}: too few for a flame graph, which needs {ENOUGH}"


def _left_out(branches: int) -> str:
    return f"{branches:,} smaller or deeper branches are left out" if branches else ""

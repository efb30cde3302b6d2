"""Allocations beside the frames they were made for, on one time axis."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from . import memory, sizes, theme
from .theme import AnyChart

#: Frames, and calls of the driver, that a timeline shows at most.
MAX_FRAMES, MAX_CALLS = 1_500, 800

_CALLS = {
    "the pool took more": "#CC3311",
    "taken past the pool": "#EE7733",
    "given back": "#009988",
}
_CALL_SHAPES = ("triangle-up", "diamond", "triangle-down")


def allocations(
    frames: pl.DataFrame,
    in_use: pl.DataFrame,
    calls: pl.DataFrame,
    *,
    start_ns: int | None = None,
    lost: int = 0,
) -> AnyChart:
    """Draw allocations beside frames: latency, bytes in use, and calls of the driver.

    What is dragged over in the lowest panel is shown in those above.

    Parameters
    ----------
    frames : DataFrame
        Whole frames as spans: what `analysis.latency.as_spans` returned, with `codec`.
    in_use : DataFrame
        What `analysis.memory.in_use` returned, by codec, or by other labels.
    calls : DataFrame
        The rows of the table `allocations` that are of the driver level.
    start_ns : int
        The moment from which time is counted; by default the first in the tables.
    lost : int
        Rows of `allocations` and `frames` lost while recording.
    """
    title = "Allocations beside frames"
    if not in_use.height:
        return theme.nothing(title, lost)
    moments = [
        int(end)
        for end in (
            start_ns if start_ns is not None else frames["t_ns"].min(),
            *(() if start_ns is not None else (in_use["t_ns"].min(), calls["t_ns"].min())),
            frames["t_ns"].max(),
            in_use["t_end_ns"].max(),
            calls["t_ns"].max(),
        )
        if end is not None
    ]
    start = min(moments) if start_ns is None else start_ns
    span = [0.0, (max(moments) - start) / 1e9]
    brush = alt.selection_interval(name="brush", encodings=["x"])
    scale = alt.Scale(domain=brush, nice=False, zero=False)
    unit = sizes.unit(
        in_use.group_by("t_ns").agg(pl.col("in_use_bytes").sum())["in_use_bytes"].max()
    )
    dots, few_frames = _frames(frames, start)
    marks, few_calls = _driver_calls(calls, start)
    panels: list[Any] = []
    if dots is not None:
        panels.append(_panel(dots.encode(x=alt.X("t_s:Q", title=None, scale=scale)), span, 150))
    used = memory.stack(in_use, start, unit)
    panels.append(_panel(used.encode(x=alt.X("t_end_s:Q", title=None, scale=scale)), span, 150))
    if marks is not None:
        panels.append(_panel(marks.encode(x=alt.X("t_s:Q", title=None, scale=scale)), span, 64))
    whole = memory.stack(in_use, start, unit).encode(
        x=alt.X("t_end_s:Q", axis=theme.time_axis(), scale=alt.Scale(domain=span, nice=False)),
        y=alt.Y("in_use:Q", title=None, axis=None, stack="zero"),
    )
    panels.append(whole.properties(height=40).add_params(brush))
    coded = "codec" in in_use.columns
    return theme.titled(
        alt.vconcat(*panels, spacing=12).resolve_scale(
            x="independent", color="shared" if coded else "independent"
        ),
        title,
        [
            "frames, memory in use, and what was asked of the driver; drag in the lowest panel to "
            "look closer",
            few_frames,
            few_calls,
        ],
        lost,
    )


def _panel(chart: alt.Chart, span: list[float], height: int) -> AnyChart:
    """Return the chart with the whole recording on its time axis, until something is chosen."""
    ends = alt.InlineData(values=[{"end": end} for end in span])
    edges = alt.Chart(ends).mark_rule(opacity=0).encode(x=alt.X("end:Q", title=None))
    return alt.layer(chart, edges).properties(width=theme.WIDTH, height=height)


def _frames(frames: pl.DataFrame, start_ns: int) -> tuple[alt.Chart | None, str]:
    """Return a dot for each frame, or for one in so many, by its latency."""
    done = frames.filter(pl.col("duration_ns").is_not_null())
    if not done.height:
        return None, "no frame was recorded"
    # By chance: what comes in turns is not left out in turns.
    kept = done.sample(min(done.height, MAX_FRAMES), seed=1).sort("t_ns")
    rows = theme.in_ms(
        theme.seconds(kept.select("t_ns", "duration_ns", "stream_id", "codec"), start_ns)
    )
    dots: alt.Chart = (
        alt.Chart(theme.data(rows))
        .mark_circle(size=16, opacity=0.75, clip=True)
        .encode(
            y=alt.Y("duration_ms:Q", title="frame latency (ms)", axis=alt.Axis(tickCount=4)),
            color=alt.Color("codec:N", title="codec", scale=theme.codec_scale(rows["codec"])),
            tooltip=[
                alt.Tooltip("stream_id:N", title="stream"),
                "codec:N",
                alt.Tooltip("t_s:Q", title="read at, s", format=",.3~f"),
                alt.Tooltip("duration_ms:Q", title="latency, ms", format=",.4~r"),
            ],
        )
        .properties(width=theme.WIDTH)
    )
    few = f"{kept.height:,} of {done.height:,} frames are drawn, by chance"
    return dots, few if kept.height < done.height else ""


def _driver_calls(calls: pl.DataFrame, start_ns: int) -> tuple[alt.Chart | None, str]:
    """Return a mark for each call of the driver, the largest if there are many."""
    known = calls.filter(pl.col("status").cast(pl.String) == "ok", pl.col("size_bytes") > 0)
    if not known.height:
        return None, "the driver was not asked for anything"
    more, own, back = _CALLS
    what = (
        pl.when(pl.col("op").cast(pl.String) == "free")
        .then(pl.lit(back))
        .when(pl.col("pooled").fill_null(False))
        .then(pl.lit(more))
        .otherwise(pl.lit(own))
    )
    kept = known.top_k(MAX_CALLS, by="size_bytes").select(
        "t_ns",
        what.alias("what"),
        what.replace_strict(_CALLS).alias("colour"),
        sizes.text(pl.col("size_bytes")).alias("size"),
        "duration_ns",
    )
    rows = theme.in_ms(theme.seconds(kept, start_ns)).sort("t_s")
    marks: alt.Chart = (
        alt.Chart(theme.data(rows))
        .mark_point(filled=True, size=42, opacity=0.85, clip=True)
        .encode(
            y=alt.Y("what:N", title=None, sort=list(_CALLS), scale=alt.Scale(domain=list(_CALLS))),
            color=alt.Color("colour:N", scale=None),
            shape=alt.Shape(
                "what:N",
                legend=None,
                scale=alt.Scale(domain=list(_CALLS), range=list(_CALL_SHAPES)),
            ),
            tooltip=[
                alt.Tooltip("what:N", title="the driver was asked:"),
                alt.Tooltip("size:N"),
                alt.Tooltip("t_s:Q", title="at, s", format=",.3~f"),
                alt.Tooltip("duration_ms:Q", title="took, ms", format=",.4~r"),
            ],
        )
        .properties(width=theme.WIDTH)
    )
    few = f"the {MAX_CALLS} largest of {known.height:,} calls of the driver"
    return marks, few if known.height > MAX_CALLS else ""

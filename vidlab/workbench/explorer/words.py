"""What is seen in a view, in words: for those who do not see it, and for its heading."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import polars as pl

from ... import sizes
from ...analysis.causewords import CAUSE_WORDS

#: What is above each view.
TITLES = {
    "overview": "Frames over the whole run, late ones red: drag to choose a time",
    "latency": "Latency: stronger colour, more frames; points are the worst, triangles late",
    "memory": "GPU memory in use",
    "kernel": "What threads waited for, by the kernel",
    "runtime": "How long the interpreter and the CPU queue held work up",
    "stages": "Stages: median (tick) and chosen quantile (dot)",
    "tail": "Share of frames that take longer",
    "streams": "Late frames by stream, with the chosen quantile",
    "profile": "Functions by CPU",
    "flame": "Flame graph of the CPU",
    "beyond": "Frames at or beyond the chosen quantile",
    "beyond_flame": "Their CPU",
    "beyond_memory": "The GPU memory that they took",
    "waterfall": "Where the chosen frame's time went",
    "stacks": "Stacks seen while the chosen frame was worked on",
    "frame_memory": "GPU memory taken and given back for the chosen frame",
}

#: What a view says that has nothing to show, if nothing more is known.
EMPTY = {
    "overview": "No delivered frame in this slice.",
    "latency": "No delivered frame in this slice.",
    "memory": "No GPU memory events in this slice.",
    "kernel": "No kernel events in this slice.",
    "runtime": "No readings of the runtime in this slice.",
    "stages": "No spans in this slice.",
    "tail": "No delivered frame in this slice.",
    "streams": "No delivered frame in this slice.",
    "profile": "No CPU samples in this slice.",
    "flame": "",
    "beyond": "No delivered frame in this slice.",
    "beyond_flame": "No CPU samples of these frames.",
    "beyond_memory": "No GPU memory events of these frames.",
    "waterfall": "No frame is chosen: click a point of the latency chart, or a slow frame.",
    "stacks": "No CPU sample was taken while it was worked on.",
    "frame_memory": "It took no GPU memory that was recorded.",
}


def alt(view: str, df: pl.DataFrame) -> str:
    """Return what a view's table shows, in a sentence or two."""
    if not df.height:
        return ""
    say = _SAYINGS.get(view)
    return "" if say is None else say(df)


def _span(df: pl.DataFrame) -> str:
    return f"from {_least(df['t_s']):.4g} to {_most(df['t_end_s']):.4g} s"


def _least(column: pl.Series) -> float:
    return float(column.min())  # type: ignore[arg-type]


def _most(column: pl.Series) -> float:
    return float(column.max())  # type: ignore[arg-type]


def _overview(df: pl.DataFrame) -> str:
    frames, late = df["frames"].sum(), df["late"].sum()
    says = f"Bars over time {_span(df)}: {frames:,} frames, {late:,} of them late."
    if late:
        worst = df.row(df["late"].arg_max() or 0, named=True)
        says += f" Most are late at {worst['t_s']:.4g} s: {worst['late']:,}."
    return says


def _latency(df: pl.DataFrame) -> str:
    most = df.row(df["frames"].arg_max() or 0, named=True)
    return (
        f"Heat map of {df['frames'].sum():,} frames {_span(df)}, between "
        f"{_least(df['low_ms']):.4g} and {_most(df['high_ms']):.4g} ms; most of them near "
        f"{most['low_ms']:.3g} ms. The slow frames are also listed under Slow frames."
    )


def _stacked(label: str, value: str, words: Callable[[float], str]) -> Callable[..., str]:
    def say(df: pl.DataFrame) -> str:
        most = (
            df.group_by(label).agg(pl.col(value).max()).sort(value, label, descending=[True, False])
        )
        parts = ", ".join(f"{name} {words(float(top))}" for name, top in most.rows()[:5])
        return f"Stacked bars over time {_span(df)}. At most: {parts}."

    return say


def _stages(df: pl.DataFrame) -> str:
    rows = df.sort("quantile_ms", descending=True).head(5).iter_rows(named=True)
    parts = "; ".join(
        f"{row['row']} {row['median_ms']:.3g} and {row['quantile_ms']:.3g} ms" for row in rows
    )
    return f"Median and quantile of {df.height} stages, the slowest first: {parts}."


def _tail(df: pl.DataFrame) -> str:
    most = df.group_by("codec").agg(pl.col("value_ms").max()).sort("codec")
    parts = ", ".join(f"{codec} {value:.4g} ms" for codec, value in most.rows())
    return f"One falling line for each codec. The longest of each: {parts}."


def _streams(df: pl.DataFrame) -> str:
    parts = ", ".join(
        f"{row['stream_id']} {row['late']:,} late of {row['frames']:,}"
        for row in df.head(5).iter_rows(named=True)
    )
    return f"Bars for {df.height} streams, those with most late frames first: {parts}."


def _profile(df: pl.DataFrame) -> str:
    parts = ", ".join(
        f"{row['function']} {row['self_share']:.1%}" for row in df.head(5).iter_rows(named=True)
    )
    return f"Bars for {df.height} functions, by their own share of the CPU: {parts}."


def _flame(df: pl.DataFrame) -> str:
    """The widest boxes of each depth below the whole, the first three depths."""
    wide = df.with_columns(share=pl.col("x1") - pl.col("x0")).filter(pl.col("depth") > 0)
    top = wide.sort("share", descending=True).unique("depth", keep="first").sort("depth").head(3)
    parts = ", ".join(f"{name} {share:.1%}" for name, share in top.select("name", "share").rows())
    return f"A flame graph of {df.height} boxes. The widest, from the top down: {parts}."


def _waterfall(df: pl.DataFrame) -> str:
    by = (
        df.group_by("row", pl.col("cause").replace(CAUSE_WORDS))
        .agg(pl.col("ms").sum())
        .sort("ms", descending=True)
        .head(5)
    )
    parts = "; ".join(f"{row}, {said} {ms:.3g} ms" for row, said, ms in by.rows())
    return f"The frame's {_most(df['to_ms']):.4g} ms in {df.height} parts. Longest: {parts}."


_SAYINGS: Mapping[str, Callable[[pl.DataFrame], str]] = {
    "overview": _overview,
    "latency": _latency,
    "memory": _stacked("label", "in_use_bytes", lambda value: sizes.say(value)),
    "kernel": _stacked("state", "threads", lambda value: f"{value:.3g} threads"),
    "runtime": _stacked("what", "ms", lambda value: f"{value:.3g} ms"),
    "stages": _stages,
    "tail": _tail,
    "streams": _streams,
    "profile": _profile,
    "flame": _flame,
    "beyond_flame": _flame,
    "beyond_memory": _flame,
    "waterfall": _waterfall,
}

"""How much GPU memory is in use, and by whom: what `analysis.memory` found."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from . import names, sizes, theme
from .theme import AnyChart

#: Groups that a chart stacks at most: the greatest; what is left is their rest. Points that
#: it draws of each.
MAX_SERIES, MAX_POINTS = 12, 400

#: Rows of bars at most.
MAX_ROWS = 40

_FIGURES = frozenset({"t_ns", "t_end_ns", "in_use_bytes", "peak_bytes", "blocks"})
_RATES = frozenset(
    {"t_ns", "t_end_ns", "asked", "missed", "hit_rate", "asked_bytes", "driver_bytes"}
)


def in_use(
    df: pl.DataFrame,
    *,
    peak: pl.DataFrame | None = None,
    start_ns: int | None = None,
    lost: int = 0,
) -> AnyChart:
    """Draw the bytes in use over time, stacked by what the table is grouped by.

    Parameters
    ----------
    df : DataFrame
        What `analysis.memory.in_use` returned, by any labels.
    peak : DataFrame, optional
        What `analysis.memory.peak` returned without `by`: the moment of the peak is marked.
    start_ns : int
        The moment from which time is counted; by default the first in the table.
    lost : int
        Rows of `allocations` lost while recording.
    """
    by = [name for name in df.columns if name not in _FIGURES]
    title = "Memory in use over time" + (f", by {names.listed(by)}" if by else "")
    if not df.height:
        return theme.nothing(title, lost)
    start = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
    most = df.group_by("t_ns").agg(pl.col("in_use_bytes").sum())["in_use_bytes"].max()
    unit = sizes.unit(most, None if peak is None else peak["peak_bytes"].max())
    chart: Any = stack(df, start, unit)
    subtitle = ["dashed: the most that was in use at any moment"]
    if peak is not None and peak.height:
        chart = alt.layer(chart, *_peak(peak, start, unit))
    else:
        subtitle = []
    left_out = df.select(by).n_unique() - MAX_SERIES if by else 0
    if left_out > 0:
        subtitle.append(f"{left_out + 1} groups that use less are added up as the rest")
    return theme.titled(chart, title, subtitle, lost)


def _fewer(df: pl.DataFrame) -> pl.DataFrame:
    """Return at most so many points of each name: of several bins the last."""
    times = df["t_ns"].unique().sort()
    several = -(-times.len() // MAX_POINTS)
    if several <= 1:
        return df
    bins = pl.DataFrame({"t_ns": times}).with_row_index("bin")
    return (
        df.join(bins.with_columns(pl.col("bin") // several), on="t_ns")
        .group_by("name", "codec", "bin", maintain_order=True)
        .agg(pl.col("t_end_ns").max(), pl.col("in_use_bytes").last(), pl.col("peak_bytes").max())
        .drop("bin")
    )


def stack(df: pl.DataFrame, start_ns: int, unit: sizes.Unit) -> alt.Chart:
    """Return the stacked areas of `analysis.memory.in_use`, in the codecs' colours if it has
    them, without a title."""
    by = [name for name in df.columns if name not in _FIGURES]
    coded = "codec" in by
    codec = pl.col("codec").cast(pl.String) if coded else pl.lit(None, pl.String)
    named = df.with_columns(names.group(by)).with_columns(codec.alias("codec"))
    greatest = named.group_by("name").agg(pl.col("peak_bytes").max()).sort("peak_bytes", "name")
    kept = greatest["name"].tail(MAX_SERIES - 1 if greatest.height > MAX_SERIES else MAX_SERIES)
    rest = ~pl.col("name").is_in(kept.to_list())
    summed = (
        named.with_columns(
            pl.when(rest).then(pl.lit(theme.REST)).otherwise("name").alias("name"),
            pl.when(rest).then(None).otherwise("codec").alias("codec"),
        )
        .group_by("name", "codec", "t_ns", "t_end_ns", maintain_order=True)
        .agg(pl.col("in_use_bytes", "peak_bytes").sum())
    )
    series = [*theme.natural(kept), *([theme.REST] if greatest.height > MAX_SERIES else [])]
    rows = (
        sizes.counted_in(theme.seconds(_fewer(summed), start_ns), unit)
        .join(pl.DataFrame({"name": series}).with_row_index("order"), on="name")
        .sort("order", "t_end_s")
    )
    colour = (
        alt.Color("codec:N", title="codec", scale=theme.codec_scale(rows["codec"]))
        if coded
        else alt.Color(
            "name:N",
            title=names.listed(by) if by else None,
            scale=theme.series_scale(series),
            legend=alt.Legend() if by else None,
        )
    )
    chart: alt.Chart = (
        alt.Chart(theme.data(rows))
        .mark_area(interpolate="step-after", stroke="white", strokeWidth=0.7, clip=True)
        .encode(
            x=alt.X("t_end_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False, zero=False)),
            y=alt.Y("in_use:Q", title=f"in use ({unit.name})", stack="zero"),
            detail="name:N",
            color=colour,
            order=alt.Order("order:Q"),
            tooltip=[
                alt.Tooltip("name:N", title=names.listed(by) if by else "of"),
                alt.Tooltip("t_end_s:Q", title="at, s", format=",.3~f"),
                alt.Tooltip("in_use:Q", title=f"in use, {unit.name}", format=",.4~r"),
                alt.Tooltip("peak:Q", title=f"most shortly before, {unit.name}", format=",.4~r"),
            ],
        )
        .properties(width=theme.WIDTH, height=theme.HEIGHT)
    )
    return chart


def _peak(peak: pl.DataFrame, start_ns: int, unit: sizes.Unit) -> list[alt.Chart]:
    """Return the line of the peak and what it says."""
    row = peak.row(0, named=True)
    at_s = (row["t_ns"] - start_ns) / 1e9
    value = row["peak_bytes"] / unit.size_bytes
    text = f"peak {sizes.say(row['peak_bytes'])} at {at_s:,.2f} s"
    one = alt.Chart(alt.InlineData(values=[{"t": at_s, "size": value, "text": text}]))
    at = {"x": alt.X("t:Q"), "y": alt.Y("size:Q")}
    return [
        one.mark_rule(color=theme.INK, strokeDash=[5, 3]).encode(y=at["y"]),
        one.mark_point(color=theme.INK, filled=True, size=50, opacity=1).encode(**at),
        # Above the line, and on the side on which there is room.
        one.mark_text(dy=-9, fontWeight=600, align="right").encode(
            x=alt.value(theme.WIDTH), y=at["y"], text="text:N"
        ),
    ]


def hit_rate(df: pl.DataFrame, *, start_ns: int | None = None, lost: int = 0) -> AnyChart:
    """Draw how often pools served an allocation without asking the driver.

    Parameters
    ----------
    df : DataFrame
        What `analysis.memory.hit_rate` returned: bars, or lines if it is by time too.
    start_ns : int
        The moment from which time is counted; by default the first in the table.
    lost : int
        Rows of `allocations` lost while recording.
    """
    title = "Share of allocations that a pool served without asking the driver"
    if not df.height:
        return theme.nothing(title, lost)
    by = [name for name in df.columns if name not in _RATES]
    named = df.with_columns(names.group(by)).with_columns(pl.col("hit_rate").round_sig_figs(5))
    tooltip = [
        alt.Tooltip("name:N", title=names.listed(by) if by else "of"),
        alt.Tooltip("hit_rate:Q", title="served by the pool", format=".2~%"),
        alt.Tooltip("asked:Q", title="allocations", format=","),
        alt.Tooltip("missed:Q", title="for which the driver was asked", format=","),
    ]
    axis = alt.Axis(format="~%")
    if "t_ns" in df.columns:
        start = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
        series = theme.natural(named["name"])[:MAX_SERIES]
        rows = theme.seconds(named.filter(pl.col("name").is_in(series)), start)
        lines = (
            alt.Chart(theme.data(rows))
            .mark_line(interpolate="step-after", strokeWidth=2)
            .encode(
                x=alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False)),
                y=alt.Y("hit_rate:Q", title="served by the pool", axis=axis, scale=_whole_share()),
                color=alt.Color(
                    "name:N",
                    title=names.listed(by) if by else None,
                    scale=theme.series_scale(series),
                ),
                tooltip=tooltip,
            )
            .properties(width=theme.WIDTH, height=theme.HEIGHT * 2 // 3)
        )
        return theme.titled(lines, title, "", lost)
    rows = named.head(MAX_ROWS).with_columns(
        pl.format(
            "{} of {} asked the driver, {}",
            "missed",
            "asked",
            sizes.text(pl.col("driver_bytes")),
        ).alias("text")
    )
    base = alt.Chart(theme.data(rows)).encode(
        x=alt.X("hit_rate:Q", title="served by the pool", axis=axis, scale=_whole_share()),
        y=alt.Y("name:N", sort=rows["name"].to_list(), title=None),
    )
    chart = alt.layer(
        base.mark_bar(color=theme.MEMORY["pool in use"]).encode(tooltip=tooltip),
        base.mark_text(align="left", color=theme.QUIET).encode(
            x=alt.value(theme.WIDTH - 250), text="text:N"
        ),
    ).properties(width=theme.WIDTH - 260, height=alt.Step(theme.ROW))
    more = df.height - MAX_ROWS
    return theme.titled(
        chart,
        title,
        [
            f"by {names.listed(by)}" if by else "",
            f"{more} groups are left out" if more > 0 else "",
        ],
        lost,
    )


def _whole_share() -> alt.Scale:
    return alt.Scale(domain=[0, 1])

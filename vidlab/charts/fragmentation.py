"""How the free memory of the pools is cut up: what `analysis.fragmentation` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import sizes, theme
from .theme import AnyChart

#: Pools that a chart shows at most, and points of all of them together.
MAX_SERIES, MAX_POINTS = 8, 2_000


def over_time(df: pl.DataFrame, *, start_ns: int | None = None, lost: int = 0) -> AnyChart:
    """Draw how fragmented the pools' free memory is, above the largest block they could give.

    Parameters
    ----------
    df : DataFrame
        What `analysis.fragmentation.over_time` returned.
    start_ns : int
        The moment from which time is counted; by default the first in the table.
    lost : int
        Rows of `allocations` lost while recording.
    """
    title = "How the pools' free memory is cut up"
    known = df.filter(pl.col("chunks") > 0)
    if not known.height:
        return theme.nothing(title, lost)
    start = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
    several = known["pid"].n_unique() > 1
    process = [pl.format("process {}", "pid")] if several else []
    named = known.with_columns(
        pl.concat_str(
            *process,
            pl.format("device {}", "device"),
            pl.format("{} memory", pl.col("kind").cast(pl.String)),
            separator=" · ",
        ).alias("name")
    )
    most = named.group_by("name").agg(pl.col("chunk_bytes").max())
    names = theme.natural(most.sort("chunk_bytes", "name")["name"].tail(MAX_SERIES))
    unit = sizes.unit(known["free_bytes"].max())
    kept = named.filter(pl.col("name").is_in(names)).select(
        "name", "t_ns", "fragmentation", "free_bytes", "largest_free_bytes", "chunks", "gaps"
    )
    every = -(-kept.height // MAX_POINTS)
    rows = sizes.counted_in(theme.seconds(kept.gather_every(every), start), unit).with_columns(
        pl.col("fragmentation").round(4)
    )
    x = alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False, zero=False))
    colour = alt.Color(
        "name:N",
        title="pool",
        scale=theme.series_scale(names),
        legend=alt.Legend() if len(names) > 1 else None,
    )
    base = alt.Chart(theme.data(rows)).encode(
        x=x,
        color=colour,
        tooltip=[
            alt.Tooltip("name:N", title="pool"),
            alt.Tooltip("t_s:Q", title="at, s", format=",.3~f"),
            alt.Tooltip("fragmentation:Q", title="not in the largest gap", format=".1~%"),
            alt.Tooltip("largest_free:Q", title=f"largest gap, {unit.name}", format=",.4~r"),
            alt.Tooltip("free:Q", title=f"free in all, {unit.name}", format=",.4~r"),
            alt.Tooltip("gaps:Q", title="gaps", format=","),
            alt.Tooltip("chunks:Q", title="chunks", format=","),
        ],
    )
    share = (
        base.mark_line(interpolate="step-after", strokeWidth=1.8)
        .encode(
            y=alt.Y(
                "fragmentation:Q",
                title="fragmentation (share)",
                axis=alt.Axis(format="~%", tickCount=5),
                scale=alt.Scale(domain=[0, 1]),
            )
        )
        .properties(width=theme.WIDTH, height=150)
    )
    free = alt.layer(
        base.mark_area(interpolate="step-after", opacity=0.18).encode(
            y=alt.Y("free:Q", title=f"free ({unit.name})", stack=None)
        ),
        base.mark_line(interpolate="step-after", strokeWidth=1.8).encode(y="largest_free:Q"),
    ).properties(width=theme.WIDTH, height=130)
    more = most.height - MAX_SERIES
    excluded = int(df["excluded_bytes"].max() or 0)  # type: ignore[arg-type]
    return theme.titled(
        alt.vconcat(share, free).resolve_scale(x="shared"),
        title,
        [
            "above: share of the free bytes outside the largest gap; below: the largest gap "
            "(line) of all that is free (area)",
            f"left out: up to {sizes.say(excluded)} that lie in no known chunk" if excluded else "",
            f"{more} smaller pools are left out" if more > 0 else "",
        ],
        lost,
    )

"""What threads waited for off the CPU: what `analysis.offcpu` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import theme
from .theme import AnyChart

#: Stages that a chart shows at most: those that waited longest.
MAX_ROWS = 30

#: The states of a thread off the CPU, from what it chose to what it suffered.
STATES = {
    "sleeping": "#7FB8D8",
    "idle": "#D5D8DC",
    "new": "#44AA99",
    "disk": "#DDAA33",
    "preempted": "#BB5566",
    "stopped": "#332288",
}
_REST = "#8A8F98"


def by_stage(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw how long each stage's threads were off the CPU, by the state that they were in.

    Parameters
    ----------
    df : DataFrame
        What `analysis.offcpu.by_stage` returned, by stage and state.
    lost : int
        Rows of `kernel_offcpu` lost while recording.
    """
    title = "Time off the CPU, by stage and what it was for"
    if not df.height:
        return theme.nothing(title, lost)
    order = (
        df.group_by("stage")
        .agg(pl.col("total_ns").sum())
        .sort("total_ns", "stage", descending=[True, False])["stage"]
        .to_list()
    )
    shown = df.filter(pl.col("stage").is_in(order[:MAX_ROWS]))
    rows = theme.in_ms(shown.with_columns(pl.col("state").fill_null("unknown")))
    chart = (
        alt.Chart(theme.data(rows))
        .mark_bar()
        .encode(
            x=alt.X("total_ms:Q", title="off the CPU (ms)"),
            y=alt.Y("stage:N", sort=order, title=None),
            color=alt.Color("state:N", title="state", scale=_scale(rows["state"])),
            order=alt.Order("state:N"),
            tooltip=[
                "stage:N",
                "state:N",
                alt.Tooltip("total_ms:Q", title="off the CPU, ms", format=",.4~r"),
                alt.Tooltip("runqueue_ms:Q", title="of it waiting for a CPU, ms", format=",.4~r"),
                alt.Tooltip("longest_ms:Q", title="longest, ms", format=",.4~r"),
                alt.Tooltip("count:Q", title="times", format=","),
            ],
        )
        .properties(width=theme.WIDTH - 60, height=alt.Step(theme.ROW))
    )
    more = len(order) - MAX_ROWS
    return theme.titled(
        chart,
        title,
        [
            "preempted: it could have run, and another thread had the CPU",
            f"{more} stages that waited less are left out" if more > 0 else "",
        ],
        lost,
    )


def over_time(df: pl.DataFrame, *, start_ns: int | None = None, lost: int = 0) -> AnyChart:
    """Draw how many threads were off the CPU over time, by state.

    Parameters
    ----------
    df : DataFrame
        What `analysis.offcpu.over_time` returned.
    start_ns : int
        The moment from which time is counted; by default the first in the table.
    lost : int
        Rows of `kernel_offcpu` lost while recording.
    """
    title = "Threads off the CPU over time"
    if not df.height:
        return theme.nothing(title, lost)
    start = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
    # A step reaches to the next moment: the last one's to the end.
    last = df.filter(pl.col("t_end_ns") == pl.col("t_end_ns").max())
    rows = theme.seconds(pl.concat([df, last.with_columns(t_ns="t_end_ns")]), start)
    chart = (
        alt.Chart(theme.data(rows))
        .mark_area(interpolate="step-after")
        .encode(
            x=alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False)),
            y=alt.Y("threads:Q", title="threads (mean)"),
            color=alt.Color("state:N", title="state", scale=_scale(rows["state"])),
            tooltip=[
                alt.Tooltip("t_s:Q", title="from, s", format=",.3~f"),
                "state:N",
                alt.Tooltip("threads:Q", format=".3~r"),
            ],
        )
        .properties(width=theme.WIDTH, height=150)
    )
    return theme.titled(chart, title, "preempted: it could have run", lost)


def _scale(states: pl.Series) -> alt.Scale:
    colours = {name: STATES.get(name, _REST) for name in (*STATES, *states.drop_nulls().unique())}
    return theme.scale_of(colours, states)

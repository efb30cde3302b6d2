"""What the runtime did to the frames: everything that held them up, on one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from . import latency, names, pauses, scheduling, theme
from .theme import AnyChart

#: What a thread that is due waits for: the colours are those of `charts.pauses.silences`.
WAITS = {"a CPU": "#DDAA33", "the garbage collector": "#004488", "the GIL (estimate)": "#BB5566"}
_PARTS = {
    "runqueue_ns": "a CPU",
    "gc_ns": "the garbage collector",
    "gil_ns": "the GIL (estimate)",
}

#: Threads that the timeline shows: those that waited most.
MAX_THREADS = 6

#: Event loops that it shows: those with the lowest numbers.
_MAX_LOOPS = 8

_PANEL = 80

#: Verdicts that a chart shows at most.
_MAX_ROWS = 30
_SEVERITIES = {"error": theme.ALARM, "warning": "#DDAA33"}


def timeline(
    cells: pl.DataFrame,
    gc_pauses: pl.DataFrame,
    late: pl.DataFrame,
    threads: pl.DataFrame,
    delays: pl.DataFrame,
    *,
    start_ns: int | None = None,
    lost: int = 0,
) -> AnyChart:
    """Draw the frames' latency, and below it what may have held them up, on one time axis.

    A part that nothing was recorded of is left out.

    Parameters
    ----------
    cells : DataFrame
        What `analysis.latency.over_time` returned for whole frames.
    gc_pauses : DataFrame
        The table `gc_pauses`.
    late : DataFrame
        What `analysis.wakeups.over_time` returned.
    threads : DataFrame
        What `analysis.scheduling.over_time` returned, with names (`analysis.threadnames.named`).
    delays : DataFrame
        What `analysis.loops.over_time` returned.
    start_ns : int
        The moment from which time is counted; by default the first in the tables.
    lost : int
        Rows of these tables lost while recording.
    """
    title = "What the runtime did while frames were under way"
    tables = (cells, gc_pauses, late, threads, delays)
    if not any(table.height for table in tables):
        return theme.nothing(title, lost)
    first, last = _bounds(tables)
    start = first if start_ns is None else start_ns
    scale = alt.Scale(
        domain=[(min(first, start) - start) / 1e9, (last - start) / 1e9], nice=False, zero=False
    )
    panels: list[Any] = []

    def add(text: str, panel: alt.Chart) -> None:
        heading = alt.TitleParams(text, fontSize=12, fontWeight=500, offset=4)
        panels.append(panel.properties(title=heading))

    if cells.height:
        add("latency of frames, end to end", latency.cells(cells, start).properties(height=140))
    if gc_pauses.height:
        add("garbage collections", pauses.collections(gc_pauses, start).properties(height=_PANEL))
    if late.height:
        add("how late Python ran again: the latest of each moment", _wakeups(late, start))
    if threads.height:
        strips = scheduling.strips(threads, start, MAX_THREADS)
        add("how much of the time threads waited for a CPU", strips)
    if delays.height:
        add(
            "how late event loops ran what was due: the latest of each moment",
            _loops(delays, start),
        )
    placed = [
        panel.encode(
            x=panel.encoding.x.copy().scale(scale).axis(
                theme.time_axis() if panel is panels[-1] else alt.Axis(title=None, grid=False)
            )
        )
        for panel in panels
    ]  # fmt: skip
    chart = alt.vconcat(*placed, spacing=14).resolve_scale(
        x="shared", color="independent", y="independent"
    )
    return theme.titled(chart, title, pauses.left_out(gc_pauses), lost)


def _bounds(tables: Sequence[pl.DataFrame]) -> tuple[int, int]:
    """Return the first and the last moment of these tables."""
    begins = [table["t_ns"].min() for table in tables if table.height]
    ends = [table["t_end_ns" if "t_end_ns" in table.columns else "t_ns"].max()
            for table in tables if table.height]  # fmt: skip
    return int(min(begins)), int(max(ends))  # type: ignore[type-var, arg-type]


def _wakeups(late: pl.DataFrame, start_ns: int) -> alt.Chart:
    """Return how late Python ran: of each moment the latest, and what it waited for."""
    worst = late.sort("late_ns").group_by("t_ns", "t_end_ns").last()  # of several processes
    stacked = []
    until = pl.lit(0, pl.Int64)
    for column, name in _PARTS.items():
        since, until = until, until + pl.col(column)
        stacked.append(
            worst.filter(pl.col(column) > 0).select(
                "t_ns",
                "t_end_ns",
                "late_ns",
                pl.lit(name).alias("part"),
                pl.col(column).alias("waited_ns"),
                since.alias("from_ns"),
                until.alias("to_ns"),
            )
        )
    rows = theme.in_ms(theme.seconds(pl.concat(stacked).sort("t_ns"), start_ns))
    chart: alt.Chart = (
        alt.Chart(theme.data(rows))
        .mark_rect()
        .encode(
            x=alt.X("t_s:Q"),
            x2="t_end_s:Q",
            y=alt.Y("from_ms:Q", title="late (ms)", axis=alt.Axis(tickCount=4)),
            y2="to_ms:Q",
            color=alt.Color(
                "part:N", title="it waited for", scale=theme.scale_of(WAITS, rows["part"])
            ),
            tooltip=[
                alt.Tooltip("t_s:Q", title="from, s", format=",.3~f"),
                alt.Tooltip("part:N", title="waited for"),
                alt.Tooltip("waited_ms:Q", title="ms", format=",.4~r"),
                alt.Tooltip("late_ms:Q", title="in all, ms", format=",.4~r"),
            ],
        )
        .properties(width=theme.WIDTH, height=_PANEL)
    )
    return chart


def _loops(delays: pl.DataFrame, start_ns: int) -> alt.Chart:
    """Return how late event loops ran what was due: of each moment the latest."""
    named = delays.with_columns(
        loop=pl.format("loop {}", "loop")
        if delays["pid"].n_unique() < 2
        else pl.format("loop {} of {}", "loop", "pid")
    )
    loops = theme.natural(named["loop"])[:_MAX_LOOPS]
    drawn = named.filter(pl.col("loop").is_in(loops)).sort("t_ns").with_columns(floor=pl.lit(0))
    chart: alt.Chart = (
        alt.Chart(theme.data(theme.in_ms(theme.seconds(drawn, start_ns))))
        .mark_rect(opacity=0.8)
        .encode(
            x=alt.X("t_s:Q"),
            x2="t_end_s:Q",
            y=alt.Y("delay_ms:Q", title="late (ms)", axis=alt.Axis(tickCount=4)),
            y2="floor:Q",
            color=alt.Color("loop:N", title="event loop", scale=theme.series_scale(loops)),
            tooltip=[
                "loop:N",
                alt.Tooltip("t_s:Q", title="from, s", format=",.3~f"),
                alt.Tooltip("delay_ms:Q", title="latest, ms", format=",.4~r"),
                alt.Tooltip("count:Q", title="timers", format=","),
            ],
        )
        .properties(width=theme.WIDTH, height=_PANEL)
    )
    return chart


def verdicts(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw how far beyond its threshold each verdict is, by its kind and subject.

    Parameters
    ----------
    df : DataFrame
        What `analysis.health.verdicts` returned.
    lost : int
        Rows lost while recording.
    """
    title = "Verdicts on the runtime: how many times its threshold each is"
    if not df.height:
        return theme.nothing(title, lost, "nothing is beyond its threshold")
    rows = df.head(_MAX_ROWS).select(
        pl.int_range(pl.len()).alias("row"),
        names.shortened(
            pl.format("{}: {}", pl.col("kind").str.replace_all("_", " "), "subject"), 56
        ).alias("name"),
        (pl.col("value") / pl.col("threshold")).round_sig_figs(4).alias("times"),
        "severity",
        "message",
        pl.format(
            "{} {}, allowed {}",
            theme.digits(pl.col("value")),
            "unit",
            theme.digits(pl.col("threshold")),
        ).alias("text"),
    )
    limits = [0.9, max(2.0, float(rows["times"].max()) * 1.2)]  # type: ignore[arg-type]
    base = alt.Chart(theme.data(rows)).encode(
        y=alt.Y(
            "row:O", title=None, axis=alt.Axis(labelExpr=names.of_rows(rows["name"]))
        )
    )  # fmt: skip
    chart = alt.layer(
        base.mark_bar(size=14).encode(
            x=alt.X(
                "times:Q",
                scale=alt.Scale(type="log", domain=limits, nice=False),
                axis=theme.log_axis("times the threshold (log scale)", limits),
            ),
            x2=alt.datum(1),
            color=alt.Color(
                "severity:N",
                title="severity",
                scale=theme.scale_of(_SEVERITIES, rows["severity"]),
                legend=alt.Legend(orient="top", direction="horizontal"),
            ),
            tooltip=["name:N", "severity:N", alt.Tooltip("text:N", title="measured"), "message:N"],
        ),
        base.mark_text(align="left", color=theme.QUIET).encode(
            x=alt.value(theme.WIDTH - 270), text="text:N"
        ),
    ).properties(width=theme.WIDTH - 280, height=alt.Step(theme.ROW))
    more = df.height - _MAX_ROWS
    return theme.titled(chart, title, f"{more} more are left out" if more > 0 else "", lost)

"""Which threads ran, and which waited for a CPU: what `analysis.scheduling` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import theme
from .theme import AnyChart

#: Threads that a chart shows at most.
MAX_ROWS = 30

_SHARES = {"on a CPU": "#4A8FBF", "ready, without a CPU": "#BB5566"}
_PALE_TO_DARK = ["#f1f2f5", "#BB5566", "#5c1020"]
_COLUMNS = {"cpu_share": "on a CPU", "runqueue_share": "ready, without a CPU"}


def by_thread(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw how much of its time each thread ran, and waited for a CPU.

    Parameters
    ----------
    df : DataFrame
        What `analysis.threads.by_thread` returned.
    lost : int
        Rows of `thread_waits` lost while recording.
    """
    title = "Threads: time on a CPU, and time waiting for one"
    ran = df.filter(pl.col("cpu_share").is_not_null())
    if not ran.height:
        return theme.nothing(title, lost)
    busiest = ran.sort(pl.col("cpu_ns") + pl.col("runqueue_ns"), descending=True).head(MAX_ROWS)
    shown = busiest.with_columns(_unique_name())
    order = shown["thread"].to_list()
    delays = ["p50_delay_ns", "p99_delay_ns", "worst_delay_ns"]
    rows = theme.in_ms(
        shown.unpivot(
            list(_COLUMNS), index=["thread", *delays], variable_name="what", value_name="share"
        ).with_columns(
            pl.col("what").replace_strict(_COLUMNS, return_dtype=pl.String),
            pl.col("share").round_sig_figs(4),
        )
    ).with_columns(
        theme.digits(pl.col(f"{name[:-3]}_ms")).fill_null("–").alias(name[:-3]) for name in delays
    )
    said = pl.format("p99 {} ms", theme.digits(pl.col("p99_delay_ms")))
    marks = theme.in_ms(shown.select("thread", "p99_delay_ns").drop_nulls()).with_columns(
        said.alias("text")
    )
    y = alt.Y("thread:N", sort=order, title=None, axis=alt.Axis(labelLimit=220))
    width = theme.WIDTH - 130
    chart = alt.layer(
        alt.Chart(theme.data(rows))
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title="share of its windows", axis=alt.Axis(format="~%")),
            y=y,
            color=alt.Color(
                "what:N",
                title="the thread was",
                scale=theme.scale_of(_SHARES, rows["what"]),
                legend=alt.Legend(orient="top", direction="horizontal"),
            ),
            order=alt.Order("what:N", sort="descending"),
            tooltip=[
                "thread:N",
                "what:N",
                alt.Tooltip("share:Q", format=".2~%"),
                alt.Tooltip("p50_delay:N", title="median wait, ms"),
                alt.Tooltip("p99_delay:N", title="p99 wait, ms"),
                alt.Tooltip("worst_delay:N", title="worst wait, ms"),
            ],
        ),
        alt.Chart(theme.data(marks))
        .mark_text(align="left", color=theme.QUIET)
        .encode(x=alt.value(width + 10), y=y, text="text:N"),
    ).properties(width=width, height=alt.Step(theme.ROW))
    more = ran.height - MAX_ROWS
    return theme.titled(
        chart,
        title,
        [
            "beside it: the wait for a CPU that one in a hundred exceeded",
            f"{more} threads that did less are left out" if more > 0 else "",
        ],
        lost,
    )


def over_time(df: pl.DataFrame, *, start_ns: int | None = None, lost: int = 0) -> AnyChart:
    """Draw when each thread waited for a CPU, a row a thread.

    Parameters
    ----------
    df : DataFrame
        What `analysis.scheduling.over_time` returned, with names (`analysis.threadnames.named`).
    start_ns : int
        The moment from which time is counted; by default the first in the table.
    lost : int
        Rows of `thread_waits` lost while recording.
    """
    title = "When threads waited for a CPU"
    if not df.height:
        return theme.nothing(title, lost)
    start = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
    chart = strips(df, start, MAX_ROWS)
    more = df.select("pid", "tid").n_unique() - MAX_ROWS
    return theme.titled(
        chart,
        title,
        [
            "the darker, the more of the time; those that waited most come first",
            f"{more} threads that waited less are left out" if more > 0 else "",
        ],
        lost,
    )


def strips(df: pl.DataFrame, start_ns: int, most: int) -> alt.Chart:
    """Return the chart of `over_time` without title, of so many threads at most."""
    waited = (pl.col("runqueue_share") * (pl.col("t_end_ns") - pl.col("t_ns"))).sum()
    ranked = (
        df.group_by("pid", "tid", "name")
        .agg(waited.alias("waited"))
        .sort("waited", "pid", "tid", descending=[True, False, False])
        .head(most)
        .with_columns(_unique_name())
    )
    shown = theme.in_ms(
        theme.seconds(
            df.join(ranked.select("pid", "tid", "thread"), on=["pid", "tid"]).select(
                "thread",
                "t_ns",
                "t_end_ns",
                pl.col("runqueue_share", "cpu_share").round_sig_figs(4),
                "worst_delay_ns",
            ),
            start_ns,
        )
    ).with_columns(theme.digits(pl.col("worst_delay_ms")).fill_null("–").alias("worst_delay"))
    chart: alt.Chart = (
        alt.Chart(theme.data(shown))
        .mark_rect()
        .encode(
            x=alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False, zero=False)),
            x2="t_end_s:Q",
            y=alt.Y(
                "thread:N",
                sort=ranked["thread"].to_list(),
                title=None,
                axis=alt.Axis(labelLimit=200),
            ),
            color=alt.Color(
                "runqueue_share:Q",
                title="waited for a CPU",
                scale=alt.Scale(range=_PALE_TO_DARK, domain=_shares(shown["runqueue_share"])),
                legend=alt.Legend(format="~%", gradientLength=90, tickCount=3),
            ),
            tooltip=[
                "thread:N",
                alt.Tooltip("t_s:Q", title="from, s", format=",.3~f"),
                alt.Tooltip("runqueue_share:Q", title="waited for a CPU", format=".2~%"),
                alt.Tooltip("cpu_share:Q", title="on a CPU", format=".2~%"),
                alt.Tooltip("worst_delay:N", title="worst wait, ms"),
            ],
        )
        .properties(width=theme.WIDTH, height=alt.Step(16))
    )
    return chart


def _shares(found: pl.Series) -> list[float]:
    """Return the domain of a colour scale of shares: a wait of a few per mille stays pale."""
    most = max(0.05, float(found.max() or 0))  # type: ignore[arg-type]
    return [0, most / 2, most]


def _unique_name() -> pl.Expr:
    """Return `thread`: the thread's name, with its number where several are called so."""
    several = pl.len().over("name") > 1
    numbered = pl.format("{} ({})", "name", "tid")
    return pl.when(several).then(numbered).otherwise("name").alias("thread")

"""What caches, context variables and queues held over time: what `analysis.accumulation` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import names, sizes, theme
from .theme import AnyChart

#: Holders that a chart shows at most: those that came first in the table of holders.
MAX_LINES = 8


def over_time(
    df: pl.DataFrame,
    held: pl.DataFrame,
    *,
    start_ns: int | None = None,
    lost: int = 0,
) -> AnyChart:
    """Draw how many bytes holders held, those that go on growing as thick lines.

    Parameters
    ----------
    df : DataFrame
        What `analysis.accumulation.over_time` returned.
    held : DataFrame
        What `analysis.accumulation.holders` returned, in the order in which they matter.
    start_ns : int
        The moment from which time is counted; by default the first in the table.
    lost : int
        Rows of `objects` lost while recording.
    """
    title = "What holders in the program held"
    if not df.height:
        return theme.nothing(title, lost)
    start = int(df["t_ns"].min()) if start_ns is None else start_ns  # type: ignore[arg-type]
    keys = ["pid", "holder", "name"]
    line = names.shortened(
        pl.format("{} ({})", "name", pl.col("holder").str.replace("_", " ")), 44
    ).alias("line")
    grows = pl.when(pl.col("items_grow") | pl.col("bytes_grow")).then(3.0).otherwise(1.2)
    ranked = held.join(df.select(keys).unique(), on=keys, how="semi", maintain_order="left")
    shown = df.join(ranked.head(MAX_LINES).select(*keys, line, grows.alias("wide")), on=keys)
    unit = sizes.unit(shown["size_bytes"].max())
    order = ranked.head(MAX_LINES).select(line)["line"].unique(maintain_order=True).to_list()
    rows = theme.seconds(
        sizes.counted_in(
            shown.select("line", "wide", "t_ns", "items", pl.col("size_bytes").fill_null(0)), unit
        ),
        start,
    )
    chart = (
        alt.Chart(theme.data(rows))
        .mark_line(point=alt.OverlayMarkDef(size=18))
        .encode(
            x=alt.X("t_s:Q", axis=theme.time_axis(), scale=alt.Scale(nice=False, zero=False)),
            y=alt.Y("size:Q", title=f"held, by estimate ({unit.name})"),
            color=alt.Color(
                "line:N", title="holder", sort=order, scale=theme.series_scale(order),
                legend=alt.Legend(labelLimit=320, orient="bottom", columns=2),
            ),
            strokeWidth=alt.StrokeWidth("wide:Q", scale=None),
            tooltip=[
                alt.Tooltip("line:N", title="holder"),
                alt.Tooltip("t_s:Q", title="at, s", format=",.3~f"),
                alt.Tooltip("items:Q", format=","),
                alt.Tooltip("size:Q", title=unit.name, format=",.4~r"),
            ],
        )
        .properties(width=theme.WIDTH, height=200)
    )  # fmt: skip
    more = ranked.height - MAX_LINES
    return theme.titled(
        chart,
        title,
        [
            "a thick line: it goes on growing",
            f"{more} more are left out" if more > 0 else "",
        ],
        lost,
    )

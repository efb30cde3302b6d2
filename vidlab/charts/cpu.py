"""How much CPU went where, and what samples say of it: what `analysis.cpu` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import names, theme
from .theme import AnyChart

#: Bars of a chart at most: those of the most CPU.
MAX_ROWS = 30

#: The parts of a bar: column, name and colour.
_PARTS = {
    "in_stages_ns": ("in stages, by the clocks", "#004488"),
    "outside_ns": ("outside of stages, by the clocks", "#7FB8D8"),
    "unchecked_ns": ("as samples say: no clock was read", "#C9CCD1"),
}
_SAMPLED = "what samples say"


def by_label(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw the CPU of each label, stage or thread, with a mark at what samples say of it.

    Parameters
    ----------
    df : DataFrame
        What `analysis.cpu.by_label` returned.
    lost : int
        Rows of `spans`, `profile_samples` and `thread_waits` lost while recording.
    """
    keys = df.columns[: df.columns.index("cpu_ns")]
    title = f"CPU by {names.listed(keys)}" if keys else "CPU of all"
    used = df.filter(pl.max_horizontal("cpu_ns", "sampled_ns") > 0)
    if not used.height:
        return theme.nothing(title, lost)
    shown = used.head(MAX_ROWS).with_columns(
        _name(keys),
        outside_ns=(pl.col("cpu_ns") - pl.col("in_stages_ns") - pl.col("unchecked_ns")).clip(0),
    )
    order = shown["name"].to_list()
    parts = theme.in_ms(
        pl.concat(
            shown.select("name", pl.lit(said).alias("how"), pl.col(column).alias("part_ns"))
            for column, (said, _) in _PARTS.items()
        ).filter(pl.col("part_ns") > 0)
    )
    present = [said for said, _ in _PARTS.values() if said in set(parts["how"])]
    colours = dict(_PARTS.values())
    whole = theme.in_ms(shown.select("name", "cpu_ns", "sampled_ns", "samples", "coverage"))
    marks = theme.data(
        whole.with_columns(
            pl.format(
                "{} samples, {}",
                "samples",
                pl.when(pl.col("coverage").is_null())
                .then(pl.lit("nothing to compare"))
                .otherwise(pl.format("{} %", (pl.col("coverage") * 100).round(0).cast(pl.Int64))),
            ).alias("text"),
            pl.max_horizontal("cpu_ms", "sampled_ms").alias("end_ms"),
            pl.lit(_SAMPLED).alias("sign"),
        )
    )
    y = alt.Y("name:N", sort=order, title=None)
    scale = theme.roomy(whole.select(pl.max_horizontal("cpu_ms", "sampled_ms")).to_series(), 0.24)
    bars = (
        alt.Chart(theme.data(parts))
        .mark_bar()
        .encode(
            x=alt.X("sum(part_ms):Q", title="CPU time (ms)", scale=scale),
            y=y,
            color=alt.Color(
                "how:N",
                title=None,
                scale=alt.Scale(domain=present, range=[colours[said] for said in present]),
                sort=present,
                legend=alt.Legend(orient="bottom", columns=1, labelLimit=400),
            ),
            order=alt.Order("how:O", sort="ascending"),
            tooltip=[
                alt.Tooltip("name:N", title=names.listed(keys) if keys else "all"),
                alt.Tooltip("how:N", title="how it is known"),
                alt.Tooltip("part_ms:Q", title="CPU, ms", format=",.4~r"),
            ],
        )
    )
    base = alt.Chart(marks)
    ticks = (
        base.transform_filter("datum.samples > 0")
        .mark_tick(thickness=3, size=theme.ROW * 0.9)
        .encode(
            x="sampled_ms:Q",
            y=y,
            color=alt.Color(
                "sign:N",
                title=None,
                scale=alt.Scale(domain=[_SAMPLED], range=["#E8213B"]),
                legend=alt.Legend(orient="bottom", labelLimit=400),
            ),
            tooltip=[
                "name:N",
                alt.Tooltip("cpu_ms:Q", title="CPU, ms", format=",.4~r"),
                alt.Tooltip("sampled_ms:Q", title="samples say, ms", format=",.4~r"),
                alt.Tooltip("samples:Q", format=","),
                alt.Tooltip("coverage:Q", title="coverage", format=".0%"),
            ],
        )
    )
    texts = base.mark_text(align="left", dx=8, color=theme.QUIET).encode(
        x="end_ms:Q", y=y, text="text:N"
    )
    chart = (
        alt.layer(bars, ticks, texts)
        .resolve_scale(color="independent")
        .properties(width=theme.WIDTH - 60, height=alt.Step(theme.ROW))
    )
    more = used.height - MAX_ROWS
    unread = int(df["unread"].sum())
    return theme.titled(
        chart,
        title,
        [
            "of each: how many samples, and how much of the CPU they make of it",
            f"{unread:,} short spans had no clocks read: their CPU is that of what is around them"
            if unread
            else "",
            f"{more} that took less are left out" if more > 0 else "",
        ],
        lost,
    )


def _name(keys: list[str]) -> pl.Expr:
    """Return what a row is called: the values of its keys that there are."""
    if not keys:
        return pl.lit("all").alias("name")
    joined = pl.concat_str(names.of(keys), separator=" · ", ignore_nulls=True)
    none = pl.lit(f"(no {names.listed(keys).replace(' and ', ' or ')})")
    return names.shortened(pl.when(joined == "").then(none).otherwise(joined), 48).alias("name")

"""Which allocation sites leak, and what holds what they took: what `analysis.leaks` found."""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from . import names, sizes, theme
from .theme import AnyChart

#: Sites that a chart shows at most, the worst; of steady ones some, so that it has a few rows.
MAX_ROWS, MAX_STEADY, MIN_ROWS = 30, 3, 8

#: What a name at the end of a line takes, in pixels.
_NAME_HEIGHT = 16

#: Lines of what is in use at most.
MAX_LINES = 8

#: Characters of a holder's name that are shown; the tooltip has all of them.
_HOLDER = 46

_PLOT = 360

_ENDS = ("low", "high")

_SHAPES = {
    "leaking": "circle",
    "growing": "triangle-up",
    "steady": "square",
    "not enough data": "cross",
}

# What a site's table says besides its labels.
_FIGURES = frozenset(
    {
        "verdict", "site", "bytes_per_1000_frames", "low", "high", "live_bytes", "live_blocks",
        "oldest_frames", "newest_frames", "frames", "holder", "holder_kind", "chain", "stack",
    }
)  # fmt: skip


def verdicts(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw how fast each site's memory grows, with the verdict and what holds it.

    Parameters
    ----------
    df : DataFrame
        What `analysis.leaks.verdicts` returned.
    lost : int
        Rows of `allocations` lost while recording.
    """
    title = "Which allocation sites leak: bytes that stay, per 1,000 frames"
    if not df.height:
        return theme.nothing(title, lost)
    labels = [name for name in df.columns if name not in _FIGURES]
    steady = pl.col("verdict") == "steady"
    grows = df.filter(~steady).head(MAX_ROWS)
    shown = pl.concat([grows, df.filter(steady).head(max(MAX_STEADY, MIN_ROWS - grows.height))])
    # A steady site's interval may be wide: it is cut off, so that the others can be read.
    low, high = _reach(
        shown
        if not grows.height
        else pl.concat(
            [grows, shown.with_columns(pl.col("bytes_per_1000_frames").alias(end) for end in _ENDS)]
        )
    )
    unit = sizes.unit(low, high)
    site = pl.col("site").cast(pl.String).fill_null("unknown site")
    holder = pl.col("holder").cast(pl.String)
    per_frames = {
        name: (pl.col(name) / unit.size_bytes).round_sig_figs(5)
        for name in ("bytes_per_1000_frames", "low", "high")
    }
    rows = shown.select(
        pl.int_range(pl.len()).alias("row"),
        pl.col("verdict").cast(pl.String),
        site.alias("site"),
        names.site_and(labels),
        *names.of(labels),
        pl.coalesce(per_frames["bytes_per_1000_frames"], pl.lit(0.0)).alias("slope"),
        per_frames["low"].alias("low"),
        per_frames["high"].alias("high"),
        pl.col("live_blocks"),
        sizes.text(pl.col("live_bytes")).alias("live"),
        holder.alias("holder"),
        pl.concat_str(
            pl.col("verdict").cast(pl.String),
            pl.when(pl.col("live_blocks") > 0).then(
                pl.format(
                    "{} held by {}",
                    sizes.text(pl.col("live_bytes")),
                    names.shortened(holder, _HOLDER),
                )
            ),
            separator=": ",
            ignore_nulls=True,
        ).alias("text"),
    )
    base = alt.Chart(theme.data(rows)).encode(
        y=alt.Y(
            "row:O",
            title=None,
            axis=alt.Axis(
                labelExpr=f"({json.dumps(dict(enumerate(rows['name'].to_list())))})[datum.value]",
                labelLimit=400,
            ),
        )
    )
    x_title = f"{unit.name} per 1,000 frames of the stream, with the interval around it"
    margin = (high - low) * 0.04 or 1.0
    x_scale = alt.Scale(
        domain=[(low - margin) / unit.size_bytes, (high + margin) / unit.size_bytes],
        clamp=True,
        nice=False,
    )
    colour = alt.Color(
        "verdict:N",
        title="verdict",
        scale=theme.scale_of(theme.VERDICTS, rows["verdict"]),
        legend=alt.Legend(orient="top", direction="horizontal"),
    )
    present = [name for name in theme.VERDICTS if name in set(rows["verdict"])]
    chart = alt.layer(
        alt.Chart(alt.InlineData(values=[{}]))
        .mark_rule(color="#9aa0ab", strokeDash=[3, 3])
        .encode(x=alt.datum(0)),
        base.mark_rule(strokeWidth=2.5, opacity=0.6).encode(
            x=alt.X("low:Q", title=x_title, scale=x_scale), x2="high:Q", color=colour
        ),
        base.mark_point(size=80, filled=True, opacity=1).encode(
            x="slope:Q",
            color=colour,
            shape=alt.Shape(
                "verdict:N",
                title="verdict",
                scale=alt.Scale(domain=present, range=[_SHAPES[name] for name in present]),
            ),
            tooltip=[
                "verdict:N",
                "site:N",
                *(f"{name}:N" for name in labels),
                alt.Tooltip("slope:Q", title=f"{unit.name} per 1,000 frames", format=",.4~r"),
                alt.Tooltip("low:Q", title="at least", format=",.4~r"),
                alt.Tooltip("high:Q", title="at most", format=",.4~r"),
                alt.Tooltip("live:N", title="in use at the end"),
                alt.Tooltip("live_blocks:Q", title="blocks", format=","),
                alt.Tooltip("holder:N", title="held by"),
            ],
        ),
        base.mark_text(align="left", color=theme.QUIET).encode(
            x=alt.value(_PLOT + 12), text="text:N"
        ),
    ).properties(width=_PLOT, height=alt.Step(theme.ROW))
    more = df.height - shown.height
    return theme.titled(
        chart,
        title,
        [
            "the surest leak first; beside it: what is in use at the end, and what holds it",
            f"{more} sites that are steady, or grow less surely, are left out" if more > 0 else "",
        ],
        lost,
    )


def growth(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw what the sites that hold the most have in use, against the frames that came.

    Parameters
    ----------
    df : DataFrame
        What `analysis.growthcurves.by_site` returned.
    lost : int
        Rows of `allocations` lost while recording.
    """
    title = "What allocation sites keep in use, frame by frame"
    if not df.height:
        return theme.nothing(title, lost)
    figures = ("site", "stack", "frame_count", "in_use_bytes")
    labels = [name for name in df.columns if name not in figures]
    named = df.with_columns(names.site_and(labels))
    series = named["name"].unique(maintain_order=True)[:MAX_LINES].to_list()
    unit = sizes.unit(named["in_use_bytes"].max())
    coded = "codec" in labels
    kept = named.filter(pl.col("name").is_in(series))
    rows = sizes.counted_in(
        kept.select("name", "frame_count", "in_use_bytes", *(["codec"] if coded else [])), unit
    )
    line = alt.Chart(theme.data(rows)).encode(
        x=alt.X("frame_count:Q", title="frames of the stream", scale=alt.Scale(nice=False)),
        y=alt.Y("in_use:Q", title=f"in use ({unit.name})"),
        color=alt.Color("codec:N", title="codec", scale=theme.codec_scale(rows["codec"]))
        if coded
        else alt.value(theme.MEMORY["pool in use"]),
        detail="name:N",
        tooltip=[
            alt.Tooltip("name:N", title="site"),
            alt.Tooltip("frame_count:Q", title="frames", format=","),
            alt.Tooltip("in_use:Q", title=f"in use, {unit.name}", format=",.4~r"),
        ],
    )
    # The two that hold the most are named where they end, if there is room for two names.
    ends = (
        rows.filter(pl.col("name").is_in(series[:2])).group_by("name", maintain_order=True).last()
    )
    most, least = ends["in_use"].max(), ends["in_use"].min()
    if (most - least) * theme.HEIGHT < rows["in_use"].max() * _NAME_HEIGHT:  # type: ignore[operator]
        ends = ends.head(1)
    label = alt.Chart(theme.data(ends)).encode(x="frame_count:Q", y="in_use:Q", text="name:N")
    chart = alt.layer(
        line.mark_line(interpolate="step-after", strokeWidth=2),
        label.mark_text(align="right", dx=-4, dy=-9),
    ).properties(width=theme.WIDTH, height=theme.HEIGHT)
    more = named["name"].n_unique() - MAX_LINES
    return theme.titled(
        chart,
        title,
        [
            "a leak climbs to the end, a cache until it is full",
            f"{more} sites that keep less are left out" if more > 0 else "",
        ],
        lost,
    )


def _reach(df: pl.DataFrame) -> tuple[float, float]:
    """Return the least and the greatest slope that an interval of these sites reaches."""
    ends = df.select("bytes_per_1000_frames", "low", "high").unpivot()["value"].drop_nulls()
    return min(0.0, float(ends.min() or 0)), max(0.0, float(ends.max() or 0))  # type: ignore[arg-type]

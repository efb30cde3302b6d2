"""What lived on between two moments: what `analysis.livesets` found."""

from __future__ import annotations

import json

import altair as alt
import polars as pl

from . import names, sizes, theme
from .theme import AnyChart

#: Sites that a chart shows at most: those that hold the most.
MAX_ROWS = 30

_PLOT = 400

_FIGURES = frozenset(
    {
        "site", "long_lived_blocks", "long_lived_bytes", "young_blocks", "young_bytes",
        "freed_blocks", "freed_bytes", "change_bytes", "oldest_s", "oldest_frames",
    }
)  # fmt: skip


def diff(
    df: pl.DataFrame, *, seconds: float | None = 30.0, frames: int | None = None, lost: int = 0
) -> AnyChart:
    """Draw what was taken between two moments and is still there, by site and labels.

    Parameters
    ----------
    df : DataFrame
        What `analysis.livesets.diff` returned.
    seconds, frames : float, int
        From which age on blocks counted as long-lived, as `diff` was asked.
    lost : int
        Rows of `allocations` lost while recording.
    """
    title = "What was taken between two moments, and lived on"
    if not df.height:
        return theme.nothing(title, lost)
    left = df.filter(pl.col("long_lived_bytes") + pl.col("young_bytes") > 0)
    if not left.height:
        return theme.nothing(title, lost, "all that was taken meanwhile was given back")
    labels = [name for name in df.columns if name not in _FIGURES]
    shown = left.head(MAX_ROWS)
    unit = sizes.unit(shown.select(pl.col("long_lived_bytes") + pl.col("young_bytes")).max().item())
    old = pl.col("long_lived_blocks") > 0
    rows = shown.select(
        pl.int_range(pl.len()).alias("row"),
        names.site_and(labels),
        pl.col("site").cast(pl.String).alias("site"),
        (pl.col("codec").cast(pl.String) if "codec" in labels else pl.lit(None, pl.String)).alias(
            "codec"
        ),
        "long_lived_blocks",
        "young_blocks",
        "long_lived_bytes",
        "young_bytes",
        pl.col("oldest_s").round(3),
        "oldest_frames",
        pl.concat_str(
            pl.when(old).then(
                pl.format(
                    "{} in {} blocks", sizes.text(pl.col("long_lived_bytes")), "long_lived_blocks"
                )
            ),
            pl.when(~old).then(pl.format("{} young blocks", "young_blocks")),
            pl.format("oldest {} s", theme.digits(pl.col("oldest_s"))),
            pl.format("{} frames", "oldest_frames"),
            separator=", ",
            ignore_nulls=True,
        ).alias("text"),
    )
    parts = sizes.counted_in(
        rows.with_columns(pl.col("long_lived_bytes").alias("from_bytes")).with_columns(
            (pl.col("from_bytes") + pl.col("young_bytes")).alias("to_bytes")
        ),
        unit,
    )
    base = alt.Chart(theme.data(parts)).encode(
        y=alt.Y(
            "row:O",
            title=None,
            axis=alt.Axis(
                labelExpr=f"({json.dumps(dict(enumerate(parts['name'].to_list())))})[datum.value]",
                labelLimit=400,
            ),
        ),
        color=alt.Color(
            "codec:N",
            title="codec",
            scale=theme.codec_scale(parts["codec"]),
            legend=alt.Legend(orient="top", direction="horizontal"),
        )
        if "codec" in labels
        else alt.value(theme.MEMORY["pool in use"]),
        tooltip=[
            "site:N",
            *(f"{name}:N" for name in labels if name == "codec"),
            alt.Tooltip("long_lived:Q", title=f"long-lived, {unit.name}", format=",.4~r"),
            alt.Tooltip("long_lived_blocks:Q", title="long-lived blocks", format=","),
            alt.Tooltip("young:Q", title=f"younger, {unit.name}", format=",.4~r"),
            alt.Tooltip("young_blocks:Q", title="younger blocks", format=","),
            alt.Tooltip("oldest_s:Q", title="the oldest, s", format=",.4~r"),
            alt.Tooltip("oldest_frames:Q", title="the oldest, frames", format=","),
        ],
    )
    x = alt.X("long_lived:Q", title=f"still in use ({unit.name})", scale=alt.Scale(zero=True))
    chart = alt.layer(
        base.mark_bar(opacity=0.35).encode(x=alt.X("from:Q"), x2="to:Q"),
        base.mark_bar().encode(x=x),
        base.mark_text(align="left").encode(
            x=alt.value(_PLOT + 12), text="text:N", color=alt.value(theme.QUIET)
        ),
    ).properties(width=_PLOT, height=alt.Step(theme.ROW))
    ages = [f"{seconds:g} s" if seconds is not None else "", f"{frames:,} frames" if frames else ""]
    limit = " or ".join(age for age in ages if age)
    more = left.height - MAX_ROWS
    return theme.titled(
        chart,
        title,
        [
            f"solid: older than {limit}; light: younger" if limit else "",
            f"{more} sites with less are left out" if more > 0 else "",
        ],
        lost,
    )

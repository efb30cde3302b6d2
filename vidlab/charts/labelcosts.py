"""What each label key costs: what `analysis.labelcosts` found."""

from __future__ import annotations

import altair as alt
import polars as pl

from . import sizes, theme
from .theme import AnyChart

#: Keys that are shown: those that add most.
MAX_KEYS = 20

_SHAPE = {"written as they are": "#4A8FBF", "changed by rules": "#DDAA33"}
_PANELS = ("distinct values", "label sets that it adds", "recorded rows that bear it")


def costs(df: pl.DataFrame, *, lost: int = 0) -> AnyChart:
    """Draw what each key costs: distinct values, and those that rules changed; sets; rows.

    Parameters
    ----------
    df : DataFrame
        What `analysis.labelcosts.costs` returned.
    lost : int
        Rows of any table lost while recording.
    """
    title = "What each label costs"
    if not df.height:
        return theme.nothing(title, lost, "no label was recorded")
    shown = df.head(MAX_KEYS)
    size = (
        pl.when(pl.col("bytes").is_null())
        .then(pl.lit(""))
        .otherwise(", " + sizes.text(pl.col("bytes").fill_null(0).cast(pl.Float64)))
    )
    parts = [
        shown.select(
            "key",
            panel=pl.lit(_PANELS[0]),
            what=pl.lit("written as they are"),
            value="values",
            text=pl.lit(""),
        ),
        shown.select(
            "key",
            panel=pl.lit(_PANELS[0]),
            what=pl.lit("changed by rules"),
            value="folded",
            text=pl.lit(""),
        ),
        shown.select(
            "key",
            panel=pl.lit(_PANELS[1]),
            what=pl.lit("written as they are"),
            value="sets_added",
            text=pl.format(
                "{} ({})", "sets_added", sizes.text(pl.col("memory_bytes").cast(pl.Float64))
            ),
        ),
        shown.select(
            "key",
            panel=pl.lit(_PANELS[2]),
            what=pl.lit("written as they are"),
            value="rows",
            text=pl.format("{}{}", "rows", size),
        ),
    ]
    totals = shown.select(
        "key",
        panel=pl.lit(_PANELS[0]),
        value=pl.col("values") + pl.col("folded"),
        text=pl.when(pl.col("folded") > 0)
        .then(pl.format("{} + at least {} changed ({})", "values", "folded", "rules"))
        .otherwise(pl.col("values").cast(pl.String)),
    )
    rows = pl.concat(parts)
    texts = pl.concat(
        [totals, rows.filter(pl.col("panel") != _PANELS[0]).select("key", "panel", "value", "text")]
    )
    order = shown["key"].to_list()
    return theme.titled(
        alt.vconcat(*(_panel(rows, texts, panel, order) for panel in _PANELS)),
        title,
        _left_out(df.height - MAX_KEYS),
        lost,
    )


def _panel(rows: pl.DataFrame, texts: pl.DataFrame, panel: str, order: list[str]) -> AnyChart:
    bars, ends = (df.filter(pl.col("panel") == panel) for df in (rows, texts))
    y = alt.Y("key:N", sort=order, title=None)
    return alt.layer(
        alt.Chart(theme.data(bars.filter(pl.col("value") > 0)))
        .mark_bar()
        .encode(
            x=alt.X(
                "value:Q",
                title=panel,
                axis=alt.Axis(tickMinStep=1, format="~s"),
                scale=theme.roomy(ends["value"], 0.4),
            ),
            y=y,
            color=alt.Color("what:N", title="values", scale=theme.scale_of(_SHAPE, rows["what"])),
            order=alt.Order("what:O", sort="descending"),
            tooltip=["key:N", "what:N", alt.Tooltip("value:Q", title=panel, format=",")],
        ),
        alt.Chart(theme.data(ends))
        .mark_text(align="left", dx=6, color=theme.QUIET)
        .encode(x="value:Q", y=y, text="text:N"),
    ).properties(width=theme.WIDTH - 60, height=alt.Step(theme.ROW))


def _left_out(keys: int) -> str:
    return f"{keys} keys that add less are left out" if keys > 0 else ""

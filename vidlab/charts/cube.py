"""Percentiles that a page recomputes by itself, from the run's cube.

The cube's histograms travel with the chart. Dropdowns pick stream, codec and GPU, a
slider the quantile; the browser adds up the histograms of that slice and walks each
stage's sum to the quantile, as `histogram.Histogram.quantile` does: the numbers are those
of `analysis.latency.from_cube`.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from ..analysis.latency import END_TO_END
from ..histogram import GAMMA, ZERO_BUCKET
from . import theme
from .theme import AnyChart

#: Histogram rows that a page carries at most: half a megabyte.
MAX_ROWS = 50_000

#: Stages that are shown at most: those that took the most time.
MAX_STAGES = 40

_ALL, _NONE = "all", "none"
_LABELS = ("stream_id", "codec", "gpu")
_CHOSEN = " && ".join(f"(pick_{k} == '{_ALL}' || datum.{k} == pick_{k})" for k in _LABELS)
_PLOT = 620
_RAREST = 1e-4
_HEADINGS = {"median": "median, ms", "counted": "counted"}
_KINDS = {**theme.KINDS, "frame": theme.INK}


def percentiles(
    cube: pl.DataFrame,
    *,
    quantile: float = 0.99,
    stream_id: str | None = None,
    codec: str | None = None,
    gpu: int | None = None,
    deadline_ms: float | None = None,
    lost: int = 0,
) -> AnyChart:
    """Draw the percentiles of each stage, with dropdowns for the slice and a quantile slider.

    Parameters
    ----------
    cube : DataFrame
        A run's cube: `stage, kind, codec, gpu, stream_id, bucket, count, total_ns`.
    quantile : float
        Where the slider starts, from 0.5 to 0.999.
    stream_id, codec, gpu
        Where the dropdowns start; None is "all".
    deadline_ms : float
        Marked on the distribution of the end-to-end latency.
    lost : int
        Rows of `spans` lost while recording.
    """
    title = "How long each stage takes"
    if not cube.height:
        return theme.nothing(title, lost)
    named, order, left_out = _with_rows(cube)
    named, gamma = coarsened(named)
    params = [
        _dropdown(named, "stream_id", stream_id),
        _dropdown(named, "codec", codec),
        _dropdown(named, "gpu", gpu),
        alt.param(
            name="quantile",
            value=quantile,
            bind=alt.binding_range(min=0.5, max=0.999, step=0.001, name="quantile "),
        ),
    ]
    source = alt.InlineData(values=_groups(named))
    by_stage = theme.titled(
        _stages(source, gamma, order, _limits(named, gamma)),
        title,
        [
            "from the median (tick) to the chosen quantile (dot), for the chosen slice",
            f"≈ each number is within {(gamma - 1) / (gamma + 1):.0%} of the exact one",
            f"coarser than recorded: the cube has more than {MAX_ROWS:,} rows"
            if gamma > GAMMA
            else "",
            f"{left_out} stages that took less time are left out" if left_out else "",
        ],
        lost,
    )
    tail = theme.titled(
        _tail(gamma, named, deadline_ms),
        "Share of frames that take longer than that, end to end",
        "for the chosen slice; grey: the chosen quantile"
        + ("; red: the deadline" if deadline_ms else ""),
    )
    chart = alt.vconcat(by_stage, tail, spacing=28).resolve_scale(color="independent")
    chart.data = source
    chart.transform = [
        alt.FilterTransform(_CHOSEN),
        alt.FlattenTransform(flatten=["bucket", "count"]),
    ]
    drawn: alt.VConcatChart = chart.add_params(*params)
    return drawn


def coarsened(cube: pl.DataFrame, rows: int = MAX_ROWS) -> tuple[pl.DataFrame, float]:
    """Return the cube with at most `rows` rows, by joining neighbouring buckets, and its gamma.

    Each round squares gamma: buckets 2i - 1 and 2i of the finer one are bucket i of the
    coarser one, exactly.
    """
    gamma = GAMMA
    keys = [name for name in cube.columns if name not in ("count", "total_ns")]
    while cube.height > rows:
        half = (
            pl.when(pl.col("bucket") == ZERO_BUCKET)
            .then(pl.col("bucket"))
            .otherwise((pl.col("bucket") + 1) // 2)
        )
        fewer = (
            cube.with_columns(half.cast(pl.Int32).alias("bucket"))
            .group_by(keys)
            .agg(pl.col("count").sum(), pl.col("total_ns").sum())
        )
        if fewer.height == cube.height:  # one bucket a group: nothing left to join
            break
        cube, gamma = fewer, gamma**2
    return cube, gamma


def _with_rows(cube: pl.DataFrame) -> tuple[pl.DataFrame, list[str], int]:
    """Add `row`, the stage's name on the chart; return also the rows' order and those left out."""
    named = cube.with_columns(
        theme.stage_row().alias("row"),
        pl.col("kind").cast(pl.String),
        *(pl.col(k).cast(pl.String).fill_null(_NONE) for k in _LABELS),
    )
    ranked = (
        named.group_by("row")
        .agg(pl.col("total_ns").sum())
        .sort(pl.col("row") == END_TO_END, "total_ns", "row", descending=[True, True, False])
    )
    order = ranked["row"].to_list()
    return (
        named.filter(pl.col("row").is_in(order[:MAX_STAGES])),
        order[:MAX_STAGES],
        max(0, len(order) - MAX_STAGES),
    )


def _groups(named: pl.DataFrame) -> list[dict[str, Any]]:
    """Return one object a group, its buckets and counts as lists: eight bytes a row, not eighty."""
    whole = (named["count"] == named["count"].round()).all()
    return (
        named.with_columns(pl.col("count").cast(pl.Int64 if whole else pl.Float64))
        .group_by("row", "kind", *_LABELS, "bucket")
        .agg(pl.col("count").sum())
        .sort("bucket")
        .group_by("row", "kind", *_LABELS)
        .agg("bucket", "count")
        .sort("row", *_LABELS)
        .to_dicts()
    )


def _dropdown(named: pl.DataFrame, label: str, value: str | int | None) -> alt.Parameter:
    return alt.param(
        name=f"pick_{label}",
        value=_ALL if value is None else str(value),
        bind=alt.binding_select(options=[_ALL, *theme.natural(named[label])], name=f"{label} "),
    )


def _value(bucket: str, gamma: float) -> str:
    """Return the Vega expression of the milliseconds that a bucket stands for."""
    value = f"2 * pow({gamma!r}, {bucket}) / {gamma + 1!r} / 1e6"
    return f"{bucket} == {ZERO_BUCKET} ? 0 : {value}"


def _reached(share: str) -> str:
    """Return the Vega expression that is true from the nearest-rank bucket of `share` on."""
    return f"datum.running >= {share} * datum.total * (1 - 1e-12)"


def _stages(
    source: alt.InlineData, gamma: float, order: list[str], limits: list[float]
) -> AnyChart:
    x = alt.X(
        "shown_ms:Q",
        scale=alt.Scale(type="log", domain=limits, nice=False),
        axis=theme.log_axis("milliseconds (log scale)", limits),
    )
    y = alt.Y("row:N", sort=order, scale=alt.Scale(domain=order), title=None)
    colour = alt.Color(
        "kind:N", scale=alt.Scale(domain=list(_KINDS), range=list(_KINDS.values())), legend=None
    )
    base = alt.Chart().encode(y=y)
    layers: list[Any] = [
        base.mark_rule(strokeWidth=3, opacity=0.45).encode(
            x=x, x2="shown_median_ms:Q", color=colour
        ),
        base.mark_tick(thickness=3, size=13).encode(x=alt.X("shown_median_ms:Q"), color=colour),
        base.mark_circle(size=95, opacity=1).encode(
            x=x,
            color=colour,
            tooltip=[
                alt.Tooltip("row:N", title="stage"),
                alt.Tooltip("value_ms:Q", title="at the quantile, ms", format=".4~r"),
                alt.Tooltip("median_ms:Q", title="median, ms", format=".4~r"),
                alt.Tooltip("total:Q", title="counted", format=",.0f"),
            ],
        ),
    ]
    columns = (("median", "median_ms:Q", ",.3~r"), ("quantile", "value_ms:Q", ",.3~r"))
    for number, (name, field, format) in enumerate((*columns, ("counted", "total:Q", ",.0f"))):
        at = alt.value(_PLOT + 75 + 90 * number)
        heading = (
            alt.ExprRef("'p' + format(100 * quantile, '.3~g') + ', ms'")
            if name == "quantile"
            else None
        )
        layers += [
            base.mark_text(align="right", fontWeight=600 if heading else 400)
            .encode(x=at, text=alt.Text(field, format=format))
            .properties(name=name),
            alt.Chart(alt.InlineData(values=[{}]))
            .mark_text(align="right", color=theme.QUIET, text=heading or _HEADINGS[name])
            .encode(x=at, y=alt.value(-10)),
        ]
    layers.append(_nothing_here(source))
    chart = (
        alt.layer(*layers)
        .transform_aggregate(count="sum(count)", groupby=["row", "kind", "bucket"])
        .transform_window(
            running="sum(count)",
            sort=[alt.SortField("bucket")],
            groupby=["row", "kind"],
        )
        .transform_joinaggregate(total="sum(count)", groupby=["row", "kind"])
        .transform_calculate(
            reached=f"{_reached('quantile')} ? datum.bucket : null",
            reached_half=f"{_reached('0.5')} ? datum.bucket : null",
        )
        .transform_aggregate(
            bucket="min(reached)",
            half="min(reached_half)",
            total="max(total)",
            groupby=["row", "kind"],
        )
        .transform_calculate(
            value_ms=_value("datum.bucket", gamma),
            median_ms=_value("datum.half", gamma),
            shown_ms=f"max({limits[0]!r}, datum.value_ms)",
            shown_median_ms=f"max({limits[0]!r}, datum.median_ms)",
        )
    )
    return chart.properties(width=_PLOT, height=alt.Step(theme.ROW), name="stages")


def _nothing_here(source: alt.InlineData) -> AnyChart:
    """Return the layer that speaks up when the chosen slice holds nothing."""
    chart: alt.Chart = (
        # Its own data: of a slice without rows there is nothing to aggregate.
        alt.Chart(source)
        .transform_calculate(chosen=f"{_CHOSEN} ? 1 : 0")
        .transform_aggregate(groups="sum(chosen)")
        .transform_filter("datum.groups == 0")
        .mark_text(color=theme.QUIET, fontStyle="italic", text="nothing recorded for this choice")
        .encode(x=alt.value(_PLOT / 2), y=alt.value(theme.ROW / 2))
    )
    return chart


def _tail(gamma: float, named: pl.DataFrame, deadline_ms: float | None) -> AnyChart:
    whole = named.filter(pl.col("row") == END_TO_END)
    limits = _limits(whole, gamma)
    curve = (
        alt.Chart()
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X(
                "value_ms:Q",
                scale=alt.Scale(type="log", domain=limits, nice=False),
                axis=theme.log_axis("latency (ms, log scale)", limits),
            ),
            y=alt.Y(
                "longer:Q",
                scale=alt.Scale(type="log", domain=[_RAREST, 1]),
                axis=alt.Axis(
                    title="share of frames", format="~%", values=[1, 0.1, 0.01, 0.001, 0.0001]
                ),
            ),
            color=alt.Color("codec:N", title="codec", scale=theme.codec_scale(whole["codec"])),
            tooltip=[
                alt.Tooltip("codec:N"),
                alt.Tooltip("value_ms:Q", title="ms", format=".4~r"),
                alt.Tooltip("longer:Q", title="share that takes longer", format=".3~%"),
            ],
        )
        .transform_filter(f"datum.row == '{END_TO_END}'")
        .transform_aggregate(count="sum(count)", groupby=["codec", "bucket"])
        .transform_window(running="sum(count)", sort=[alt.SortField("bucket")], groupby=["codec"])
        .transform_joinaggregate(total="sum(count)", groupby=["codec"])
        .transform_calculate(
            value_ms=_value("datum.bucket", gamma), longer="1 - datum.running / datum.total"
        )
        .transform_filter(f"datum.value_ms > 0 && datum.longer >= {_RAREST}")
    )
    one = alt.InlineData(values=[{}])
    layers = [
        curve,
        alt.Chart(one)
        .mark_rule(color=theme.QUIET, strokeDash=[4, 3])
        .transform_calculate(share="1 - quantile")
        .encode(y="share:Q"),
    ]
    if deadline_ms:
        layers.append(
            alt.Chart(one)
            .mark_rule(color=theme.ALARM, strokeWidth=1.5)
            .encode(x=alt.datum(deadline_ms))
        )
    return alt.layer(*layers).properties(width=_PLOT + 255, height=theme.HEIGHT)


def _limits(named: pl.DataFrame, gamma: float) -> list[float]:
    """Return the axis: from the least bucket to the greatest, whatever slice is chosen."""
    positive = named.filter(pl.col("bucket") > ZERO_BUCKET)["bucket"]
    if not positive.len():
        return [1e-6, 1.0]
    first, last = (float(gamma**b) / 1e6 for b in (positive.min(), positive.max()))  # type: ignore[operator]
    return [first / 1.2, last * 1.2]

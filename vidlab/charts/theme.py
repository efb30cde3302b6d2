"""How every chart looks: colours that mean the same everywhere, sizes, units, notes.

The colours are safe for colour-blind readers and stay apart in grey print. A
codec has one colour and a span kind another, on whichever chart they appear.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import polars as pl

from ..analysis.appearance import NO_CODEC as NO_CODEC
from ..analysis.appearance import codec_colour as codec_colour
from ..analysis.appearance import natural as natural
from ..analysis.appearance import stage_row as stage_row
from ..analysis.causewords import CAUSE_WORDS

#: What a chart of this package is.
AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.VConcatChart

#: Pixels: with axis titles and a legend a chart stays within a page of 1,200, and its marks
#: within a notebook beside the file browser.
WIDTH, HEIGHT, ROW = 700, 240, 22

FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
INK, QUIET, GRID, ALARM = "#1f2430", "#5d6472", "#e4e6ea", "#b00020"

#: What a frame's time went into, in the order in which charts stack it.
KINDS = {
    "service": "#004488",
    "queue": "#DDAA33",
    "reorder": "#BB5566",
    "encoder_lag": "#7FB8D8",
    "residual": "#B9BDC4",
}

#: What a frame's time is to be blamed on, in the order in which charts stack it: work, then
#: waits, then what was done to it. Any two stay apart for colour-blind readers too.
CAUSES = {
    "work": "#026FB9",
    "queue_wait": "#ECBB49",
    "reordering": "#593ED0",
    "encoder_lag": "#40D7ED",
    "run_queue": "#EF7116",
    "garbage_collection": "#7A205C",
    "gil": "#C370A0",
    "allocator": "#545800",
    "io": "#16745D",
    "asleep": "#445F8B",
    "corrupt_input": "#D1172B",
    "unexplained": "#B4B8C0",
}

#: What became of a frame, from good to bad.
FATES = {
    "delivered": "#4A8FBF",
    "duplicated": "#8E6BBF",
    "dropped": "#DDAA33",
    "corrupt": "#BB5566",
    "cancelled": "#7A7F87",
    "unfinished": "#C9CCD1",
}

#: What the GPU's memory is used for, as the bill stacks it from the ground up. Blues are the
#: pool's, greys nobody's fault; what nothing explains is a red that stands out from all of them,
#: by its brightness too.
MEMORY = {
    "pool in use": "#004488",
    "pool cached": "#7FB8D8",
    "other driver": "#DDAA33",
    "context and modules": "#9AA0AB",
    "other processes": "#D5D8DC",
    "unexplained": "#E8213B",
}

#: What is said of an allocation site, from bad to good.
VERDICTS = {
    "leaking": "#CC3311",
    "growing": "#DDAA33",
    "steady": "#4A8FBF",
    "not enough data": "#8A8F98",
}

#: What has no colour of its own: streams, stages, threads. The rest of them shares a grey.
_SERIES = ("#332288", "#44AA99", "#AA4499", "#DDCC77", "#117733", "#CC6677", "#88CCEE", "#999933")
REST = "the rest"


def codec_scale(codecs: Iterable[str | None]) -> alt.Scale:
    """Return the colour scale for these codecs, sorted by name."""
    names = sorted({codec or NO_CODEC for codec in codecs})
    return alt.Scale(domain=names, range=[codec_colour(name) for name in names])


def series_scale(names: Sequence[str]) -> alt.Scale:
    """Return the colour scale for up to eight names, in their order; `REST` is grey."""
    own = [name for name in names if name != REST]
    colours = {name: _SERIES[number % len(_SERIES)] for number, name in enumerate(own)}
    return alt.Scale(
        domain=list(names), range=[colours.get(name, codec_colour(NO_CODEC)) for name in names]
    )


def scale_of(colours: dict[str, str], present: Iterable[str | None]) -> alt.Scale:
    """Return the colour scale for those of `colours` that are present, in their order."""
    seen = set(present)
    names = [name for name in colours if name in seen]
    return alt.Scale(domain=names, range=[colours[name] for name in names])


def cause_colour(causes: Iterable[str | None], **channel: Any) -> alt.Color:
    """Return the colour of the column `cause`, of those that are present, in words.

    `channel` holds further options of the channel, such as a legend of its own.
    """
    legend = alt.Legend(labelExpr=f"({json.dumps(CAUSE_WORDS)})[datum.value] || datum.value")
    options = {"title": "spent on", "legend": legend, **channel}
    return alt.Color("cause:N", scale=scale_of(CAUSES, causes), **options)


def data(df: pl.DataFrame) -> alt.InlineData:
    """Return the rows as compact inline data (CSV with declared types), whatever their number.

    Categories and booleans become text; a null stays null, but for that of a codec.
    """
    parse: dict[str, Any] = {
        name: "number" if type.is_numeric() else "string" for name, type in df.schema.items()
    }
    plain = df.with_columns(pl.col(pl.Categorical, pl.Enum, pl.Boolean).cast(pl.String))
    if "codec" in plain.columns:
        plain = plain.with_columns(pl.col("codec").fill_null(NO_CODEC))
    return alt.InlineData(
        values=plain.write_csv(), format=alt.CsvDataFormat(type="csv", parse=parse)
    )


def in_ms(df: pl.DataFrame) -> pl.DataFrame:
    """Return the table with every duration `x_ns` as `x_ms`, to five digits.

    Moments (`t_ns`, `t_…_ns`) stay as they are.
    """
    durations = [name for name in df.columns if name.endswith("_ns") and not name.startswith("t_")]
    return df.with_columns(
        (pl.col(name) / 1e6).round_sig_figs(5).alias(name.removesuffix("_ns") + "_ms")
        for name in durations
    ).drop(durations)


def seconds(df: pl.DataFrame, start_ns: int) -> pl.DataFrame:
    """Return the table with every moment `t_…ns` as seconds since `start_ns`: `t_s`, `t_end_s`."""
    moments = [name for name in df.columns if name.startswith("t_") and name.endswith("ns")]
    return df.with_columns(
        ((pl.col(name) - start_ns) / 1e9).round(4).alias(name.removesuffix("ns") + "s")
        for name in moments
    ).drop(moments)


def roomy(values: pl.Series, share: float) -> alt.Scale:
    """Return the scale from zero that leaves this share of the width free for text on the right."""
    greatest = values.max() if values.len() else None
    end = float(greatest or 0) / (1 - share)  # type: ignore[arg-type]
    return alt.Scale(domain=[0, end or 1], nice=False)


def time_axis() -> alt.Axis:
    """Return the axis of moments, as `seconds` makes them."""
    return alt.Axis(title="time since the beginning (s)", grid=False)


def digits(value: pl.Expr) -> pl.Expr:
    """Return numbers as text with about three digits: 1234, 12.3, 0.0123."""
    return (
        pl.when(value.abs() >= 100)
        .then(value.round(0).cast(pl.Int64, strict=False).cast(pl.String))
        .otherwise(value.round_sig_figs(3).cast(pl.String))
    )


def log_axis(title: str, limits: Sequence[float]) -> alt.Axis:
    """Return a logarithmic axis with as many ticks as are read at a glance: 1, 10, … or 1, 2, 5, …

    `limits` are the least and the greatest value on it, both positive.
    """
    first, last = math.floor(math.log10(limits[0])), math.ceil(math.log10(limits[1]))
    steps = (1,) if last - first > 3 else (1, 2, 5)
    ticks = [step * 10.0**exponent for exponent in range(first, last + 1) for step in steps]
    shown = [tick for tick in ticks if limits[0] <= tick <= limits[1]]
    return alt.Axis(title=title, values=shown, format=",~g")


def note(lost: int) -> list[str]:
    """Return what a chart must say if rows of its tables were lost, or frames left out.

    `lost` is the number of rows, or `analysis.sampling.Gaps`, which knows both.
    """
    rows = "row" if lost == 1 else "rows"
    gone = f"⚠ {lost:,} {rows} lost while recording: what is shown is incomplete" if lost else ""
    return [line for line in (gone, getattr(lost, "sampled", "")) if line]


def titled(
    chart: AnyChart, title: str, subtitle: str | Sequence[str] = (), lost: int = 0
) -> AnyChart:
    """Return the chart with a title that says what is seen, and with the note on lost rows."""
    lines = [subtitle] if isinstance(subtitle, str) else list(subtitle)
    lines = note(lost) + [line for line in lines if line]
    return chart.properties(title=alt.TitleParams(title, subtitle=lines) if lines else title)


def nothing(title: str, lost: int = 0, text: str = "nothing recorded") -> AnyChart:
    """Return the chart that stands for an empty table."""
    empty = (
        alt.Chart(alt.InlineData(values=[{"text": text}]))
        .mark_text(color=QUIET, fontSize=14, fontStyle="italic")
        .encode(text=alt.Text("text:N"))
        .properties(width=WIDTH, height=30)
    )
    return titled(empty, title, lost=lost)


def config() -> alt.theme.ThemeConfig:
    """Return the Vega-Lite configuration that all charts share."""
    return {
        "config": {
            "font": FONT,
            "background": "white",
            "view": {"stroke": None},
            "title": {
                "anchor": "start",
                "frame": "group",
                "fontSize": 15,
                "fontWeight": 600,
                "color": INK,
                "subtitleFontSize": 12,
                "subtitleColor": QUIET,
                "subtitlePadding": 5,
                "offset": 14,
            },
            "axis": {
                "labelFontSize": 12,
                "titleFontSize": 12,
                "titleFontWeight": 500,
                "titleColor": QUIET,
                "labelColor": INK,
                "gridColor": GRID,
                "domainColor": "#9aa0ab",
                "tickColor": "#9aa0ab",
                "labelLimit": 260,
                "titlePadding": 8,
            },
            "axisX": {"labelFlush": False, "tickCount": 8},
            "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
            "legend": {
                "labelFontSize": 12,
                "titleFontSize": 12,
                "titleFontWeight": 500,
                "titleColor": QUIET,
                "labelColor": INK,
                "symbolStrokeWidth": 2,
                "symbolOpacity": 1,
                "labelLimit": 200,
            },
            "header": {"labelFontSize": 12, "titleFontSize": 12, "labelColor": INK},
            "text": {"fontSize": 12, "color": INK},
            "scale": {"barBandPaddingInner": 0.25},
        }
    }


def enable() -> None:
    """Give all altair charts of this process vidlab's look, the reader's own ones included."""
    alt.theme.register("vidlab", enable=True)(config)

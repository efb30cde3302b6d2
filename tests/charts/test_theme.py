"""Colours mean one thing everywhere, and tables reach the browser unchanged."""

from __future__ import annotations

import altair as alt
import polars as pl
import vl_convert

from vidlab.charts import theme


def test_each_codec_has_a_colour_of_its_own_whatever_else_is_there() -> None:
    common = ["h264", "hevc", "av1", "vp9", "mpeg2video", "mpeg4"]
    assert len({theme.codec_colour(codec) for codec in common}) == len(common)
    few, many = theme.codec_scale(["vp9", "av1"]), theme.codec_scale([*common, None, "prores"])
    assert few.to_dict()["domain"] == ["av1", "vp9"]
    colours = dict(zip(many.to_dict()["domain"], many.to_dict()["range"], strict=True))
    assert [colours["av1"], colours["vp9"]] == few.to_dict()["range"]
    assert colours["none"] == theme.codec_colour(None)
    assert colours["prores"] == theme.codec_colour("prores") == "#AA4466"


def test_span_kinds_keep_their_colour_and_order() -> None:
    scale = theme.scale_of(theme.KINDS, ["residual", "service", "queue"]).to_dict()
    assert scale["domain"] == ["service", "queue", "residual"]
    assert scale["range"] == [theme.KINDS[kind] for kind in scale["domain"]]


def test_data_reaches_vega_with_its_types_and_nulls() -> None:
    table = pl.DataFrame(
        {
            "name": ['quoted "x"', "a,b\nc", None],
            "digits": ["1", "02", "3"],
            "number": [1.5, None, 3.0],
        }
    )
    chart = (
        alt.Chart(theme.data(table))
        .transform_calculate(
            text="'<' + datum.name + '|' + datum.digits + '|' + datum.number + '>'"
        )
        .mark_text()
        .encode(text="text:N", y="digits:N")
    )
    svg = vl_convert.vegalite_to_svg(chart.to_json(), vl_version="6.4")
    for text in ("quoted", "|02|null", "null|3|3"):
        assert text in svg


def test_durations_become_milliseconds_and_moments_seconds() -> None:
    table = pl.DataFrame(
        {"t_ns": [3_000_000_000], "t_end_ns": [4_000_000_000], "p99_ns": [1_234_567]}
    )
    shown = theme.in_ms(theme.seconds(table, 1_000_000_000))
    assert shown.row(0, named=True) == {"t_s": 2.0, "t_end_s": 3.0, "p99_ms": 1.2346}


def test_names_are_sorted_as_people_count() -> None:
    assert theme.natural(["cam-10", "cam-2", "b", "2", "cam-2"]) == ["2", "b", "cam-2", "cam-10"]


def test_a_logarithmic_axis_has_a_handful_of_ticks() -> None:
    wide = theme.log_axis("ms", [0.003, 4_000]).to_dict()["values"]
    narrow = theme.log_axis("ms", [8, 120]).to_dict()["values"]
    assert wide == [0.01, 0.1, 1, 10, 100, 1000]
    assert narrow == [10, 20, 50, 100]


def test_the_theme_touches_nobody_elses_charts_until_it_is_enabled() -> None:
    before = alt.theme.active
    assert before != "vidlab"
    theme.enable()
    try:
        assert alt.Chart().mark_point().to_dict()["config"]["font"] == theme.FONT
    finally:
        alt.theme.enable(before)

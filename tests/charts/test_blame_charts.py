"""The charts of blame draw what the analysis returns: one colour a cause, bounded, honest."""

from __future__ import annotations

import json
from collections.abc import Iterable

import altair as alt
import numpy as np
import polars as pl
import pytest

from tests.charts.drawing import svg_of, title_of
from vidlab.analysis.blame import CAUSES
from vidlab.analysis.causewords import CAUSE_WORDS
from vidlab.charts import blame, explorer, theme, waterfall
from vidlab.charts.theme import AnyChart
from vidlab.workbench.explorer.drawn import STREAMS

MS = 1_000_000
BEGIN = 10**15

#: Colours as protanopes, deuteranopes and tritanopes see them (Machado et al., 2009), of light.
SEEN_BY = {
    "all": np.eye(3),
    "protanopes": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopes": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopes": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def parts(rows: Iterable[tuple[str, str, float, float]], exact: bool = True) -> pl.DataFrame:
    """A frame's parts: stage, cause, from and to in milliseconds."""
    return pl.DataFrame(
        [
            {
                "t_ns": BEGIN + round(since * MS),
                "duration_ns": round((until - since) * MS),
                "stage": stage,
                "within": stage,
                "kind": "queue" if cause == "queue_wait" else "service",
                "cause": cause,
                "exact": exact,
                "pid": 1,
                "tid": 2,
                "span": 3,
                "evidence": "spans",
            }
            for stage, cause, since, until in rows
        ]
    )


WAY = [
    ("decode", "work", 0, 10),
    ("before filter", "queue_wait", 10, 300),
    ("filter", "work", 300, 320),
    ("filter", "garbage_collection", 320, 500),
]


def ranked(streams: int, causes: Iterable[str] = ("queue_wait", "work")) -> pl.DataFrame:
    rows = [
        {
            "stream_id": f"cam-{n}",
            "codec": "av1",
            "gpu": n % 2 or None,
            "stage": "filter",
            "cause": cause,
            "frames": 10,
            "first": 5,
            "seconds": 1.0 + n,
        }
        for n in range(streams)
        for cause in causes
    ]
    found = pl.DataFrame(rows).sort("seconds", descending=True)
    return found.with_columns(share=pl.col("seconds") / pl.col("seconds").sum())


def drawn(chart: AnyChart) -> pl.DataFrame:
    """The rows of a chart's data, as Vega reads them."""
    spec = json.loads(chart.to_json())
    data = spec["data"] if "data" in spec else spec["layer"][0]["data"]
    values = data["values"] if "values" in data else spec["datasets"][data["name"]]
    return pl.read_csv(values.encode())


def colours(chart: AnyChart) -> dict[str, str]:
    spec = json.loads(chart.to_json())
    scale = (spec.get("layer") or [spec])[0]["encoding"]["color"]["scale"]
    return dict(zip(scale["domain"], scale["range"], strict=True))


# --- colours --------------------------------------------------------------------


def test_every_cause_has_a_colour_and_words() -> None:
    assert set(theme.CAUSES) == set(CAUSES) == set(CAUSE_WORDS)


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_any_two_causes_are_told_apart(eyes: str) -> None:
    lab = {name: _lab(colour, np.array(SEEN_BY[eyes])) for name, colour in theme.CAUSES.items()}
    for one in lab:
        for other in lab:
            if one < other:
                assert np.linalg.norm(lab[one] - lab[other]) > 11, f"{one} and {other} to {eyes}"


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_no_stream_is_taken_for_a_codec(eyes: str) -> None:
    seen = np.array(SEEN_BY[eyes])
    for codec in ("h264", "hevc", "av1", "vp9", "mpeg2video", "mpeg4", "vp8", "mjpeg", None):
        for stream in STREAMS:
            apart = _lab(theme.codec_colour(codec), seen) - _lab(stream, seen)
            assert np.linalg.norm(apart) > 11, f"{codec} and {stream} to {eyes}"


def _lab(colour: str, seen: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """CIE L*a*b* of an sRGB colour as it is seen."""
    srgb = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    light = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ np.clip(seen @ light, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_a_cause_has_one_colour_on_all_charts() -> None:
    shown = [waterfall.frame(parts(WAY)), blame.by_stream(ranked(2)), blame.ranking(ranked(2))]
    for chart in shown:
        for cause, colour in colours(chart).items():
            assert theme.CAUSES[cause] == colour
    assert set(colours(shown[0])) == {"work", "queue_wait", "garbage_collection"}


def test_the_explorer_names_causes_as_reports_do() -> None:
    chart = waterfall.frame(parts(WAY)).to_dict()
    there = explorer.specifications()["waterfall"]
    colour, theirs = (spec["encoding"]["color"] for spec in (chart, there))
    assert theirs["legend"]["labelExpr"] == colour["legend"]["labelExpr"]
    assert dict(zip(*map(theirs["scale"].get, ("domain", "range")), strict=True)) == theme.CAUSES
    assert there["transform"] == chart["transform"]
    said = [{"field": "said", "title": "cause", "type": "nominal"}]
    for spec in (chart, there):
        assert [tip for tip in spec["encoding"]["tooltip"] if tip["title"] == "cause"] == said


# --- one frame ------------------------------------------------------------------


def test_a_waterfall_goes_down_the_stages_as_time_goes_on() -> None:
    chart = waterfall.frame(parts(WAY), title="cam-3:117")
    rows = drawn(chart)
    assert rows["name"].to_list() == ["decode", "before filter · queue", "filter", "filter"]
    assert rows["row"].to_list() == [0, 1, 2, 2]
    assert rows.row(3, named=True)["from_ms"] == 320
    assert rows.row(3, named=True)["to_ms"] == 500
    assert title_of(chart) == ("cam-3:117", [])
    svg = svg_of(chart)
    for text in ("before filter", "garbage collection", "since the read of its packet (ms)"):
        assert text in svg


def test_what_no_span_covers_is_the_last_row() -> None:
    gap = parts([("(between stages)", "unexplained", 0, 1)]).with_columns(kind=pl.lit("none"))
    rows = drawn(waterfall.frame(pl.concat([gap, parts(WAY)])))
    assert rows.sort("row")["name"][-1] == "(between stages)"


def test_what_is_known_in_amount_only_is_said_to_be() -> None:
    _, lines = title_of(waterfall.frame(parts(WAY, exact=False)))
    assert any("paler" in line for line in lines)


def test_a_frame_of_very_many_parts_stays_drawable_and_counts_what_it_leaves_out() -> None:
    many = [(f"stage {n % 60}", "work", n, n + 0.5 + n / 10_000) for n in range(5_000)]
    chart = waterfall.frame(parts(many))
    assert drawn(chart).height <= waterfall.MAX_PARTS
    assert drawn(chart)["row"].n_unique() <= waterfall.MAX_STAGES
    _, lines = title_of(chart)
    assert any("4,000 short parts" in line for line in lines)
    svg_of(chart)


def test_a_frame_that_took_no_time_is_drawn() -> None:
    svg_of(waterfall.frame(parts([("decode", "work", 0, 0)])))


# --- all late frames ------------------------------------------------------------


def test_each_stream_is_a_bar_the_worst_first() -> None:
    chart = blame.by_stream(ranked(3))
    rows = drawn(chart)
    assert rows.unique("row").sort("row")["name"].to_list() == [
        "cam-2 · av1", "cam-1 · av1 · GPU 1", "cam-0 · av1",
    ]  # fmt: skip
    assert rows["seconds"].sum() == pytest.approx(12)
    assert "cam-1 · av1 · GPU 1" in svg_of(chart)


def test_streams_whose_names_are_cut_alike_stay_apart() -> None:
    long = ranked(2).with_columns(stream_id="x" * 60 + pl.col("stream_id"))
    assert drawn(blame.by_stream(long))["row"].n_unique() == 2


def test_without_labels_there_is_one_bar() -> None:
    rows = ranked(3).group_by("cause").agg(pl.col("frames", "first", "seconds", "share").sum())
    assert drawn(blame.by_stream(rows))["name"].unique().to_list() == ["all frames"]
    svg_of(blame.ranking(rows))


def test_very_many_streams_and_causes_are_bounded_and_counted() -> None:
    many = ranked(500)
    by_stream, ranking = blame.by_stream(many), blame.ranking(many)
    assert drawn(by_stream)["row"].n_unique() == blame.MAX_STREAMS
    assert title_of(by_stream)[1] == ["460 streams are left out"]
    assert drawn(ranking).height == blame.MAX_CAUSES
    assert "980 smaller ones are left out" in title_of(ranking)[1]
    svg_of(by_stream)
    svg_of(ranking)


def test_nothing_late_and_lost_rows_are_said() -> None:
    none = ranked(1).head(0)
    for chart in (blame.by_stream(none, lost=3), blame.ranking(none, lost=3),
                  waterfall.frame(parts([*WAY]).head(0), lost=3)):  # fmt: skip
        assert "3 rows lost" in title_of(chart)[1][0]
        svg_of(chart)
    assert "no frame was late" in svg_of(blame.by_stream(none))
    assert "2 rows lost" in title_of(blame.ranking(ranked(2), lost=2))[1][0]
    assert isinstance(blame.ranking(ranked(1)), alt.LayerChart)

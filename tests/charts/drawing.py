"""What tests of charts look at: a chart as SVG, and what its title says."""

from __future__ import annotations

from typing import Any

import altair as alt
import vl_convert


def svg_of(chart: Any) -> str:
    alt.JupyterChart(chart)  # which reads the specification back: not all can be
    svg: str = vl_convert.vegalite_to_svg(chart.to_json(), vl_version="6.4")
    return svg


def title_of(chart: Any) -> tuple[str, list[str]]:
    title = chart.to_dict()["title"]
    return (title["text"], title["subtitle"]) if isinstance(title, dict) else (title, [])

"""A page holds Vega once, its charts as data, and no address of anything else."""

from __future__ import annotations

import json
import re

import altair as alt
import nbformat
import pytest

from vidlab.workbench import page, renderer
from vidlab.workbench.notebooks import REPORT_VARIABLE


def notebook_of(*bundles: dict[str, str]) -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_markdown_cell("# Heading\n\nsome *prose*")]
    for bundle in bundles:
        output = nbformat.v4.new_output("display_data", data=bundle)
        cells.append(nbformat.v4.new_code_cell("secret_source()", outputs=[output]))
    return nbformat.v4.new_notebook(cells=cells)


def chart(title: str = "a chart") -> alt.Chart:
    return alt.Chart(alt.InlineData(values=[{"x": 1}]), title=title).mark_point().encode(x="x:Q")


def specs_in(html: str) -> list[dict[str, object]]:
    blocks = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    return [json.loads(block) for block in blocks]


def test_vega_is_there_once_however_many_charts() -> None:
    bundles = [renderer.chart_on_page(chart(f"chart {n}").to_dict()) for n in range(3)]
    html = page.of_notebook(notebook_of(*bundles), "three charts")
    assert [spec["title"] for spec in specs_in(html)] == ["chart 0", "chart 1", "chart 2"]
    assert html.count('<script type="module">') == 1
    assert 800_000 < len(html) < 1_200_000


def test_it_refers_to_nothing_elsewhere() -> None:
    html = page.of_notebook(notebook_of(renderer.chart_on_page(chart().to_dict())), "page")
    markup = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert not re.findall(r"https?://", markup)
    assert not re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=", markup)
    assert [link for link in re.findall(r"<link[^>]*>", html) if "data:," not in link] == []


def test_prose_and_outputs_are_shown_and_code_is_not() -> None:
    html = page.of_notebook(notebook_of({"text/plain": "4 < 5"}), "a <title>")
    assert "some <em>prose</em>" in html
    assert "4 &lt; 5" in html
    assert "secret_source" not in html
    assert "<title>a &lt;title&gt;</title>" in html


def test_text_in_a_chart_cannot_end_its_element() -> None:
    evil = "</script><script>alert(1)</script><!--"
    bundle = renderer.chart_on_page(chart(evil).to_dict())
    html = page.of_notebook(notebook_of(bundle), "page")
    assert evil not in html
    assert specs_in(html)[0]["title"] == evil


def test_charts_are_drawn_for_the_page_or_for_jupyterlab(monkeypatch: pytest.MonkeyPatch) -> None:
    before = (alt.renderers.active, alt.renderers.options, alt.theme.active)
    try:
        monkeypatch.setenv(REPORT_VARIABLE, "1")
        renderer.enable()
        bundle = chart()._repr_mimebundle_()
        assert "vidlab-chart" in bundle["text/html"]
        assert json.dumps(bundle).find("vega-embed") == -1
        monkeypatch.delenv(REPORT_VARIABLE)
        renderer.enable()
        assert (alt.renderers.active, alt.renderers.options) == ("jupyter", {"offline": True})
    finally:
        alt.renderers.enable(before[0], **before[1])
        alt.theme.enable(before[2])

"""The report in a browser without a network: drawn, alive, and right."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from vidlab.analysis import latency
from vidlab.charts import theme
from vidlab.lab.synthetic import write_run
from vidlab.runs.run import Run, open_run
from vidlab.workbench.report import write_report

#: How long anything may take, and a whole test, in seconds: without a CPU a page is slow.
PATIENCE_S, LONGEST_S = 300, 1_800

pytestmark = [pytest.mark.needs("browser"), pytest.mark.timeout(LONGEST_S)]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND"

#: Of the first chart's table: what each line says, by the text marks' labels.
READ_TABLE = """
() => [...document.querySelectorAll("text[aria-label]")]
  .map((mark) => mark.getAttribute("aria-label").match(
    /^row: ([^;]+); (median_ms|value_ms|total): (.*)$/))
  .filter((match) => match).map((match) => match.slice(1))
"""


@dataclass
class Opened:
    """The report in a browser, and what the browser complained about or asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def table(self) -> dict[str, tuple[float, ...]]:
        """The table of the live chart: row -> (median in ms, the quantile in ms, counted)."""
        found: dict[str, dict[str, float]] = {}
        for row, name, text in self.page.evaluate(READ_TABLE):
            found.setdefault(row, {})[name] = float(text.replace(",", ""))
        return {
            row: (values["median_ms"], values["value_ms"], values["total"])
            for row, values in found.items()
        }

    def choose(self, label: str, value: str) -> None:
        self.page.locator(f"select[name='pick_{label}']").select_option(value)
        self.settle()

    def move(self, quantile: float) -> None:
        slider = self.page.locator("input[name='quantile']")
        slider.evaluate(
            "(input, value) => { input.value = value;"
            " input.dispatchEvent(new Event('input', { bubbles: true })); }",
            str(quantile),
        )
        self.settle()

    def settle(self) -> None:
        self.page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder: Path = tmp_path_factory.mktemp("browser")
    return open_run(write_run(folder / "run", frames=1_200, streams=4, seed=1))


@pytest.fixture(scope="module")
def report(run: Run) -> Path:
    return write_report(run.path, run.path.parent / "report.html")


@pytest.fixture
def opened(report: Path) -> Iterator[Opened]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", OFFLINE], timeout=PATIENCE_S * 1e3
        )
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(PATIENCE_S * 1e3)
        result = Opened(page)
        page.on("request", lambda request: result.requests.append(request.url))
        page.on("pageerror", lambda error: result.complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                result.complaints.append(message.text)
                if message.type in ("error", "warning")
                else None
            ),
        )
        page.goto(report.as_uri())
        page.wait_for_selector("html[data-charts=done]")
        yield result
        browser.close()


def expected(run: Run, quantile: float, **chosen: str) -> dict[str, tuple[float, ...]]:
    rows = run.cube()
    for label, value in chosen.items():
        rows = rows.filter(pl.col(label).cast(pl.String) == value)
    by, quantiles = ["stage", "kind"], sorted({0.5, quantile})
    spans = latency.from_cube(rows, by, quantiles)
    frames = latency.end_to_end_from_cube(rows, by, quantiles)
    table = pl.concat([spans, frames]).with_columns(theme.stage_row().alias("row"))
    column = [name for name in table.columns if re.fullmatch(r"p[\d_]+_ns", name)][-1]
    return {
        row["row"]: (row["p50_ns"] / 1e6, row[column] / 1e6, row["count"])
        for row in table.iter_rows(named=True)
    }


def assert_shows(shown: dict[str, tuple[float, ...]], wanted: dict[str, tuple[float, ...]]) -> None:
    assert shown.keys() == wanted.keys()
    for row, numbers in wanted.items():
        # The table shows three digits.
        np.testing.assert_allclose(shown[row], numbers, rtol=5.1e-3, err_msg=row)


def test_all_charts_are_drawn_without_a_network_or_a_complaint(
    opened: Opened, report: Path
) -> None:
    page = opened.page
    charts = page.locator("figure.vidlab-chart").count()
    assert charts == report.read_text(encoding="utf-8").count('class="vidlab-chart"') > 15
    assert page.locator("figure[data-state=drawn] svg").count() == charts
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []


def test_nothing_overflows_a_page_of_1200_pixels(opened: Opened) -> None:
    width = opened.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 1200
    widest = opened.page.evaluate(
        "Math.max(...[...document.querySelectorAll('figure svg')]"
        ".map((svg) => svg.getBoundingClientRect().right))"
    )
    assert widest <= 1200


def test_the_verdict_comes_first(opened: Opened) -> None:
    top = opened.page.locator("p.headline").bounding_box()
    assert top
    assert top["y"] < 200
    assert "frames" in opened.page.locator("p.headline").inner_text()


def test_the_first_numbers_are_those_of_the_cube(opened: Opened, run: Run) -> None:
    assert_shows(opened.table(), expected(run, 0.99))


def test_dropdowns_and_slider_change_the_numbers(opened: Opened, run: Run) -> None:
    whole = opened.table()
    opened.choose("codec", "av1")
    av1 = opened.table()
    assert av1 != whole
    assert_shows(av1, expected(run, 0.99, codec="av1"))
    opened.move(0.9)
    assert_shows(opened.table(), expected(run, 0.9, codec="av1"))
    opened.choose("codec", "all")
    opened.choose("stream_id", "cam-00")
    opened.choose("gpu", "0")
    assert_shows(opened.table(), expected(run, 0.9, stream_id="cam-00", gpu="0"))
    opened.choose("stream_id", "all")
    opened.choose("gpu", "all")
    opened.move(0.99)
    assert opened.table() == whole
    assert opened.complaints == []


def test_an_empty_choice_says_so(opened: Opened) -> None:
    opened.choose("stream_id", "cam-00")
    opened.choose("codec", "vp9")
    assert opened.table() == {}
    assert opened.page.get_by_text("nothing recorded for this choice").count() == 1


def test_a_chart_that_fails_leaves_the_others_alone(report: Path, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    page_text = report.read_text(encoding="utf-8")
    broken = page_text.replace(
        '<script type="application/json">', '<script type="application/json">?', 1
    )
    path = tmp_path / "broken.html"
    path.write_text(broken, encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", OFFLINE], timeout=PATIENCE_S * 1e3
        )
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_S * 1e3)
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-charts=done]")
        assert page.locator("figure[data-state=failed]").count() == 1
        assert page.get_by_text("This chart could not be drawn").count() == 1
        assert page.locator("figure[data-state=drawn]").count() > 15
        browser.close()

"""The flame graph in a browser without a network or a kernel: slider, click and search."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from vidlab.analysis import flame
from vidlab.charts import flame as flame_charts
from vidlab.charts import sizes
from vidlab.lab.simulated_memory import Leak, simulated_allocations
from vidlab.workbench import page as pages
from vidlab.workbench.renderer import chart_on_page

#: How long anything may take, and a whole test, in seconds: without a CPU a page is slow.
PATIENCE_S, LONGEST_S = 300, 1_800

pytestmark = [pytest.mark.needs("browser"), pytest.mark.timeout(LONGEST_S)]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND"

STEPS = 8

#: Of every rectangle that is drawn: what its label says, and how opaque it is.
READ_BOXES = """
() => [...document.querySelectorAll("path[aria-label*='layer: ']")].map((mark) => [
  mark.getAttribute("aria-label"), Number(mark.getAttribute("opacity")),
  mark.getBoundingClientRect().width])
"""


@dataclass
class Box:
    """A rectangle as it is drawn."""

    name: str
    size: float
    opacity: float
    width: float


@dataclass
class Opened:
    """The page in a browser, and what the browser complained about or asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def boxes(self) -> list[Box]:
        found = []
        for label, opacity, width in self.page.evaluate(READ_BOXES):
            name = re.search(r"(?:^|; )name: (.*?); layer: ", label)
            size = re.search(r"; [KMG]iB: ([\d.,]+); share", label)
            assert name is not None
            assert size is not None
            found.append(Box(name[1], float(size[1].replace(",", "")), opacity, width))
        return found

    def move(self, moment: int) -> None:
        self.page.locator("input[name='moment']").evaluate(
            "(input, value) => { input.value = value;"
            " input.dispatchEvent(new Event('input', { bubbles: true })); }",
            str(moment),
        )
        self.settle()

    def click(self, name: str) -> None:
        self.page.locator(f"path[aria-label*='name: {name}; layer: ']").first.click()
        self.settle()

    def settle(self) -> None:
        self.page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )


@pytest.fixture(scope="module")
def tree() -> pl.DataFrame:
    tables = simulated_allocations(
        frames=800, streams=3, seed=5, leaks=[Leak(site=2, stream=1, every=5)]
    )
    return flame.memory_over_time(tables.allocations, tables.stacks, steps=STEPS)


@pytest.fixture
def opened(tree: pl.DataFrame, tmp_path: Path) -> Iterator[Opened]:
    sync_api = pytest.importorskip("playwright.sync_api")
    chart = chart_on_page(flame_charts.flame(tree).to_dict())["text/html"]
    path = tmp_path / "flame.html"
    path.write_text(
        f"<!doctype html><meta charset='utf-8'><main>{chart}</main>"
        f"<script type='module'>{pages.script()}</script>",
        encoding="utf-8",
    )
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
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-charts=done]")
        yield result
        assert result.complaints == []
        assert [url for url in result.requests if not url.startswith(("file:", "data:"))] == []
        browser.close()


def test_the_slider_shows_each_moments_sizes(opened: Opened, tree: pl.DataFrame) -> None:
    unit = sizes.unit(tree["total_bytes"].max())
    for step in (STEPS - 1, 0, 3):
        opened.move(step)
        at = tree.filter(pl.col("step") == step, pl.col("total_bytes") > 0)
        whole = at.filter(pl.col("depth") == 0)["total_bytes"].item()
        wanted = sorted(
            (row["name"], row["total_bytes"] / unit.size_bytes)
            for row in at.iter_rows(named=True)
            if row["total_bytes"] / whole > 2e-3  # what is narrower than a pixel is not drawn
        )
        shown = sorted((box.name, box.size) for box in opened.boxes() if box.width > 2.5)
        assert {name for name, _ in wanted} <= {box.name for box in opened.boxes()}
        assert max(size for _, size in shown) == pytest.approx(
            whole / unit.size_bytes, rel=2e-3, abs=2e-4
        )
        for name, size in wanted:
            nearest = min(abs(box.size - size) for box in opened.boxes() if box.name == name)
            assert nearest <= 2e-3 * size + 2e-4
        root = next(box for box in opened.boxes() if box.name == "all")
        assert max(box.width for box in opened.boxes()) == root.width


def test_a_click_opens_a_branch_and_a_double_click_shows_all(opened: Opened) -> None:
    opened.move(4)
    before = {box.name: box.width for box in opened.boxes()}
    opened.click("cam-00")
    after = {box.name: box.width for box in opened.boxes()}
    assert after["cam-00"] == pytest.approx(before["all"], rel=0.01)
    assert after["cam-00"] > before["cam-00"] * 1.05
    assert "cam-01" not in after
    assert after["all"] == pytest.approx(before["all"], rel=0.01)
    opened.page.locator("path[aria-label*='name: all; layer: ']").first.dblclick()
    opened.settle()
    assert {box.name for box in opened.boxes()} == before.keys()


def test_what_is_searched_stands_out(opened: Opened) -> None:
    assert len({box.opacity for box in opened.boxes()}) == 1
    opened.page.locator("input[name='find']").fill("STAGE_2")
    # The binding waits until nobody types any more.
    opened.page.wait_for_function(
        "() => new Set([...document.querySelectorAll(\"path[aria-label*='layer: ']\")]"
        ".map((mark) => mark.getAttribute('opacity'))).size == 2"
    )
    strong = max(box.opacity for box in opened.boxes())
    for box in opened.boxes():
        assert (box.opacity == strong) == ("stage_2" in box.name)

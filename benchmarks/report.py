"""The report of a 10-million-span run, in headless Chromium with the network cut."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import Page, Request, sync_playwright

from vidlab.lab import synthetic
from vidlab.workbench.report import write_report

from .figure import Figure, report

SPANS = 10_000_000
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CUT = ("--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND")

# Resolves when a frame has been painted after the page's charts have all been drawn.
DRAWN = "() => document.querySelectorAll('.vega-embed svg, .vega-embed canvas').length > 0"
PAINTED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def first_paint(page: Page, url: str) -> float:
    begin = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_function(DRAWN)
    page.evaluate(PAINTED)
    return time.perf_counter() - begin


def dropdown_changes(page: Page) -> list[float]:
    """Return the milliseconds from each change of a dropdown to the next painted frame.

    Measured inside the page, where Vega answers the change event in the same task.
    """
    changes = page.evaluate(
        """async () => {
            const times = [];
            for (const select of document.querySelectorAll('.vega-bindings select')) {
                for (let index = 0; index < Math.min(4, select.options.length); index++) {
                    const begin = performance.now();
                    select.selectedIndex = index;
                    select.dispatchEvent(new Event('change', {bubbles: true}));
                    await new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)));
                    times.push(performance.now() - begin);
                }
            }
            return times;
        }"""
    )
    assert changes, "the report has no dropdown"
    return [float(change) for change in changes]


def main() -> None:
    requests: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            requests.append(request.url)

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        synthetic.write_run(run, spans=SPANS)
        begin = time.perf_counter()
        page_path = write_report(run, Path(folder) / "report.html")
        written = time.perf_counter() - begin
        size = page_path.stat().st_size
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(CUT))
            paints = []
            for _ in range(3):
                page = browser.new_page(viewport={"width": 1200, "height": 900})
                page.on("request", note)
                paints.append(first_paint(page, page_path.as_uri()))
            page.wait_for_timeout(2000)
            changes = dropdown_changes(page)
            browser.close()
    report(
        [
            Figure("the report of 1e7 spans: size", size / 1e6, "MB", None, 4),
            Figure("the report: first paint", median(paints), "s", None, 2),
            Figure("the report: a dropdown change", median(changes), "ms", None, 150),
            Figure("the report: network requests", len(requests), "", None, 0),
            Figure("the report: time to write it", written, "s"),
        ]
    )


if __name__ == "__main__":
    main()

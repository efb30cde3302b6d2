"""The explorer of a 10-million-span run, in JupyterLab in headless Chromium, without a network."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Page, sync_playwright

from vidlab.lab import synthetic
from vidlab.lab.jupyter import jupyterlab, write_notebook

from .figure import Figure, report

SPANS = 10_000_000
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CUT = ("--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
KERNEL_IDLE = "text=/ipykernel.*[|].*Idle/"

# How long a kernel is given to read the spans, which it does once the first views are drawn. What
# is asked meanwhile is told apart.
READ_MS = 10_000
EARLY = "a dropdown while the spans are read"

# Notes when the cell is run, when the first views are drawn, and from each event of a control
# to the frame in which what answers it is on the canvas.
WATCH = """
() => {
  window.waited = [];
  let began;
  for (const name of ["change", "keydown", "pointermove", "click"]) {
    addEventListener(name, (event) => {
      const on = event.target.closest?.(".vidlab-explorer");
      if (on && began === undefined && (name !== "pointermove" || event.buttons)) {
        began = performance.now();
      }
    }, { capture: true });
  }
  new MutationObserver(() => requestAnimationFrame(() => requestAnimationFrame(() => {
    window.shown ??= Date.now();
    if (began !== undefined) window.waited.push(performance.now() - began);
    began = undefined;
  }))).observe(document, { subtree: true, attributeFilter: ["data-drawn"] });
}
"""


class Explorer:
    """The explorer on its page, and how long each kind of input was waited for, in ms."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.waited: dict[str, list[float]] = {}

    def measured(self, kind: str, act: Callable[[], object]) -> None:
        """Do something that is answered once or more, and keep the longest wait."""
        self.page.evaluate("window.waited = []")
        act()
        self.page.wait_for_function("window.waited.length > 0")
        self.page.wait_for_timeout(400)  # whatever else it set off is over
        self.waited.setdefault(kind, []).append(max(self.page.evaluate("window.waited")))

    def dropdown(self, label: str, index: int, kind: str = "dropdown") -> None:
        select = self.page.locator(f".widget-dropdown:has-text('{label}') select").first
        self.measured(kind, lambda: select.select_option(index=index))

    def slider(self, handle: str, key: str) -> None:
        self.page.get_by_role("slider", name=handle, exact=True).focus()
        self.measured("slider", lambda: self.page.keyboard.press(key))

    def brush(self, begin: float, end: float) -> None:
        box = self.page.locator("[data-view=overview] canvas").bounding_box()
        assert box is not None
        y, mouse = box["y"] + box["height"] * 0.4, self.page.mouse

        def drag() -> None:
            mouse.move(box["x"] + box["width"] * begin, y)
            mouse.down()
            mouse.move(box["x"] + box["width"] * end, y, steps=6)
            mouse.up()

        self.measured("brush", drag)

    def reset(self) -> None:
        self.page.get_by_role("button", name="Reset").click()
        self.page.wait_for_timeout(500)

    def work_everything(self) -> None:
        """Move each control several times."""
        for index in (1, 2, 3, 0):
            self.dropdown("codec", index)
        for index in (1, 3, 5, 0):
            self.dropdown("stage", index)
        for _ in range(2):
            for handle in ("quantile", "time (s), from", "latency (ms), from"):
                self.slider(handle, "ArrowRight")
        self.reset()
        for begin, end in ((0.2, 0.5), (0.6, 0.9), (0.1, 0.15)):
            self.brush(begin, end)
            self.reset()


def first_view(page: Page) -> float:
    """Run the cell, and return the seconds from the call to the first views on the page."""
    page.locator(".lm-MenuBar-item:has-text('Run')").click()
    page.locator("[data-command='runmenu:run-all']").click()
    page.wait_for_function("window.shown !== undefined", timeout=120_000)
    called = float(printed(page, "CALLED"))
    return float(page.evaluate("window.shown")) / 1000 - called


def printed(page: Page, word: str) -> str:
    line = page.locator(f".jp-OutputArea-output:has-text('{word}')").last
    return (line.text_content() or "").split(word)[1].split()[0]


def peak_mb(pid: int) -> float:
    """Return the most memory that a process has had so far, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def cells(run: Path) -> list[str]:
    call = "import os, time; print('PID', os.getpid(), 'CALLED', time.time())"
    return ["import vidlab as vl", f"{call}\nexplorer = vl.explore({str(run)!r})\nexplorer"]


def opened(browser: Any, address: str, folder: Path, run: Path, name: str) -> Page:
    write_notebook(folder / name, cells(run))
    page: Page = browser.new_page(viewport={"width": 1366, "height": 900})
    page.set_default_timeout(120_000)
    page.goto(address.format(path=name))
    page.wait_for_selector(KERNEL_IDLE)
    page.keyboard.press("Control+b")
    page.evaluate(WATCH)
    return page


def main() -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if len(sys.argv) > 1:  # a run of that size that is there already
            run = Path(sys.argv[1]).absolute()
        else:
            run = synthetic.write_run(folder / "run", spans=SPANS)
        address = stack.enter_context(jupyterlab(folder))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(CUT))
        firsts = []
        for attempt in range(3):  # the first one also makes what is kept on disk
            page = opened(browser, address, folder, run, f"{attempt}.ipynb")
            firsts.append(first_view(page))
            if attempt < 2:
                page.wait_for_timeout(READ_MS)
                page.close()
        explorer = Explorer(page)
        page.locator(".vidlab-explorer").scroll_into_view_if_needed()
        for index in (1, 2, 3, 0):
            explorer.dropdown("codec", index, kind=EARLY)
        page.wait_for_timeout(READ_MS)
        early = explorer.waited.pop(EARLY)
        explorer.work_everything()
        memory_mb = peak_mb(int(printed(page, "PID")))
        browser.close()
    report(
        [
            Figure("the explorer of 1e7 spans: first view", median(firsts), "s", None, 2),
            *(
                Figure(f"the explorer: a {kind} is answered", median(times), "ms", None, 150)
                for kind, times in explorer.waited.items()
            ),
            *(
                Figure(f"the explorer: the slowest answer to a {kind}", max(times), "ms")
                for kind, times in explorer.waited.items()
            ),
            Figure(f"the explorer: {EARLY}", median(early), "ms"),
            Figure("the explorer: memory of the kernel", memory_mb, "MB", None, 1500),
        ]
    )


if __name__ == "__main__":
    main()

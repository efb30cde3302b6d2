"""The explorer in JupyterLab, in a browser with the network cut: one session, as a person has it.

The tests go from the first look to the end of the kernel, in their order. Screenshots of each
view are kept in the folder that `VIDLAB_ARTIFACTS` names, or with pytest's temporary files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from vidlab import datasets
from vidlab.analysis import blame
from vidlab.lab.jupyter import jupyterlab, write_notebook
from vidlab.lab.synthetic import write_segments
from vidlab.runs.run import Run, open_run
from vidlab.workbench.explorer.state import checked

#: How long anything may take, and a whole test, in seconds: without a CPU a page is slow.
PATIENCE_S, LONGEST_S = 300, 1_800

pytestmark = [pytest.mark.needs("browser"), pytest.mark.timeout(LONGEST_S)]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"

BOARD = ".vidlab-board"

#: What the line of status says only when there is a kernel; before, running a cell asks for one.
KERNEL_IDLE = "text=/ipykernel.*[|].*Idle/"

#: Where a row of a data set is on the page: x, y.
PLACE = """
([view, set, number, x, y]) => {
  const place = document.querySelector(`[data-view=${view}] .vidlab-place`);
  const chart = place.view, row = chart.data(set)[number];
  const box = place.querySelector("canvas").getBoundingClientRect();
  const at = (name, side) => {
    const scale = chart.scale(name);
    const middle = scale.bandwidth ? scale.bandwidth() / 2 : 0;
    return chart.origin()[side] + scale(row[name === "x" ? x : y]) + middle;
  };
  const { left, top } = chart.padding();
  return [box.x + left + at("x", 0), box.y + top + at("y", 1)];
}
"""

#: The page has been laid out and painted.
PAINTED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"

#: A view takes a while to be drawn from now on.
SLOWED = """
(view) => {
  const chart = document.querySelector(`[data-view=${view}] .vidlab-place`).view;
  const run = chart.runAsync.bind(chart);
  chart.runAsync = () => new Promise((done) => setTimeout(done, 400)).then(run);
}
"""

#: The rows of a data set, as Vega has them.
ROWS = """
([view, set]) => document.querySelector(`[data-view=${view}] .vidlab-place`).view.data(set)
"""


@dataclass
class Lab:
    """A notebook with an explorer, open in JupyterLab, and what the browser complained about."""

    page: Any
    folder: Path
    run: Run
    screenshots: Path
    complaints: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        return str(self.page.locator(f"{BOARD} [role=status]").text_content())

    @property
    def state(self) -> dict[str, Any]:
        """What is chosen in what is drawn."""
        drawn = json.loads(self.page.locator(BOARD).get_attribute("data-state"))
        return {name: value for name, value in drawn.items() if value is not None}

    @property
    def field(self) -> Any:
        """The field of states."""
        return self.page.locator(".vidlab-explorer .widget-text input").last

    @property
    def shown(self) -> dict[str, Any] | None:
        """The state that the controls show: they follow when an answer has been sent."""
        with contextlib.suppress(ValueError):
            return dict(json.loads(self.field.input_value()))
        return None

    def rows(self, view: str, of: str | None = None) -> pl.DataFrame:
        return pl.DataFrame(self.page.evaluate(ROWS, [view, of or view]), infer_schema_length=None)

    def drawn(self) -> int:
        return int(self.page.locator(BOARD).get_attribute("data-drawn"))

    def after(self, act: Callable[[], object]) -> None:
        """Do something, and wait until its answer has been drawn. Each has one number."""
        self.until(lambda: self.shown == self.state)  # nothing is under way any more
        before = self.drawn()
        act()
        self.page.wait_for_selector(f"{BOARD}[data-drawn]:not([data-drawn='{before}'])")

    def until(self, told: Callable[[], object]) -> None:
        """Wait until this is so; whatever is drawn may lead to it."""
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            if told():
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"it never was so; the status is {self.status!r}")

    def become(self, **state: Any) -> None:
        """Put a state into the field of states, and wait until it is the one that is drawn."""
        self.until(lambda: self.shown == self.state)
        wanted = {name: value for name, value in checked(state, 2).items() if value is not None}
        self.type(state)

        def drawn() -> bool:
            if self.shown == self.state != wanted:  # an answer before came as this was typed
                self.type(state)
            return self.state == wanted == self.shown

        self.until(drawn)

    def type(self, state: dict[str, Any]) -> None:
        self.enter(self.field, json.dumps(state))

    def enter(self, field: Any, text: str) -> None:
        field.fill(text)
        field.press("Enter")

    def reset(self) -> None:
        self.become(run=0, quantile=0.5)
        self.become(run=0)

    def tab(self, title: str) -> None:
        tab = self.page.get_by_role("tab", name=title, exact=True)
        if tab.get_attribute("aria-selected") != "true":
            self.after(tab.click)

    def choose(self, label: str, value: str) -> None:
        select = self.page.locator(f".widget-dropdown:has-text('{label}') select").first
        self.after(lambda: select.select_option(value))

    def press(self, handle: str, key: str) -> None:
        self.page.get_by_role("slider", name=handle, exact=True).focus()
        self.after(lambda: self.page.keyboard.press(key))

    def drag(self, view: str, begin: tuple[float, float], end: tuple[float, float]) -> None:
        box = self.page.locator(f"[data-view={view}] canvas").bounding_box()
        x, y, width, height = (box[name] for name in ("x", "y", "width", "height"))
        mouse = self.page.mouse
        mouse.move(x + width * begin[0], y + height * begin[1])
        mouse.down()
        mouse.move(x + width * end[0], y + height * end[1], steps=4)
        mouse.up()

    def click(self, view: str, of: str, number: int, x: str, y: str) -> None:
        at = self.place(view, of, number, x, y)
        self.after(lambda: self.page.mouse.click(*at))

    def place(self, view: str, of: str, number: int, x: str, y: str) -> list[float]:
        """Where a row is on the page, once it stays there."""
        found: list[list[float]] = []

        def stays() -> bool:
            found.append(self.page.evaluate(PLACE, [view, of, number, x, y]))
            self.page.evaluate(PAINTED)
            return found[-2:-1] == found[-1:]

        self.until(stays)
        return found[-1]

    def keep(self, name: str) -> None:
        self.page.locator(".vidlab-explorer").screenshot(path=self.screenshots / f"{name}.png")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    sync_api = pytest.importorskip("playwright.sync_api")
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(datasets.load("everything").path, folder / "run")
    on_two_gpus(folder / "run")
    shutil.copytree(write_segments(folder / "whole", frames=400, streams=2), folder / "growing")
    events = frame_events(folder / "growing")
    events.write_bytes(events.read_bytes()[:-1_000])  # what was written last is not there yet
    write_notebook(
        folder / "explore.ipynb",
        ["import vidlab as vl", "explorer = vl.explore(['run', 'growing'])\nexplorer"],
    )
    kept = os.environ.get("VIDLAB_ARTIFACTS")
    screenshots = Path(kept) if kept else tmp_path_factory.mktemp("screenshots")
    screenshots.mkdir(parents=True, exist_ok=True)
    with jupyterlab(folder) as address, sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", OFFLINE], timeout=PATIENCE_S * 1e3
        )
        page = browser.new_page(viewport={"width": 1366, "height": 900})
        page.set_default_timeout(PATIENCE_S * 1e3)
        result = Lab(page, folder, open_run(folder / "run"), screenshots)
        page.on("pageerror", lambda error: result.complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                result.complaints.append(message.text) if message.type == "error" else None
            ),
        )
        page.goto(address.format(path="explore.ipynb"))
        page.wait_for_selector(KERNEL_IDLE)
        page.keyboard.press("Control+b")  # the file browser takes a third of the width
        try:
            run_all(page)
        except sync_api.Error:
            page.screenshot(path=screenshots / "not-drawn.png")
            raise
        yield result
        browser.close()


def on_two_gpus(run: Path) -> None:
    """Make a run as if each second of its streams had been on another GPU."""
    gpu = pl.when(pl.col("stream_id").is_not_null()).then(pl.col("labels") % 2)
    for path in run.glob("*.parquet"):
        if {"labels", "gpu"} <= set(pl.read_parquet_schema(path)):
            pl.read_parquet(path).with_columns(gpu=gpu.cast(pl.Int16)).write_parquet(path)


def frame_events(run: Path) -> Path:
    """The file that says which frames there are, of a run that is not compacted yet."""
    return next((run / "segments").glob("*-frame_events-*.arrows"))


def run_all(page: Any) -> None:
    page.locator(".lm-MenuBar-item:has-text('Run')").click()
    page.locator("[data-command='runmenu:run-all']").click()
    page.wait_for_selector(f"{BOARD}[data-drawn]")
    page.locator(".vidlab-explorer").scroll_into_view_if_needed()


@pytest.fixture(autouse=True)
def no_complaint(lab: Lab) -> Iterator[None]:
    yield
    assert lab.complaints == []


@pytest.fixture(scope="module")
def frames(lab: Lab) -> pl.DataFrame:
    return delivered(lab.run)


def delivered(run: Run) -> pl.DataFrame:
    """The delivered frames: `frame`, `t_s`, `latency_ms`, `stream_id`, `codec`, `gpu`."""
    start_ns = run.manifest.started.monotonic_ns
    found = run.scan("frames").filter(
        pl.col("fate").cast(pl.String).is_in(["delivered", "duplicated"])
    )
    return found.select(
        pl.col("frame").cast(pl.String),
        pl.col("stream_id", "codec").cast(pl.String),
        "gpu",
        t_s=(pl.col("t_demux_ns") - start_ns) / 1e9,
        latency_ms=(pl.col("t_done_ns") - pl.col("t_demux_ns")) / 1e6,
    ).collect()


#: Each tab, and the view in it that has something to show of this run.
TABS = {
    "Memory": "memory",
    "Kernel": "kernel",
    "Runtime": "runtime",
    "Stages": "stages",
    "Streams": "streams",
    "Profile": "profile",
    "Slow frames": "beyond",
    "One frame": "waterfall",
}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_is_drawn_and_said_in_words(lab: Lab, theme: str) -> None:
    choose_theme(lab, theme)
    lab.become(run=0, frame=lab.rows("latency", "worst")["frame"][0])
    for title, view in TABS.items():
        lab.tab(title)
        figure = lab.page.locator(f"[data-view={view}]")
        figure.locator("canvas, tbody tr").first.wait_for()
        lab.page.wait_for_function(
            "(view) => { const place = document.querySelector(`[data-view=${view}] .vidlab-place`);"
            " return !place.view || place.view.width() > 250; }",
            arg=view,
        )
        assert figure.locator(".vidlab-note").text_content().count("could not") == 0
        if view != "beyond":  # a table needs no other words than its own
            assert len(figure.locator(".vidlab-alt").text_content()) > 30
        lab.keep(f"{theme}-{view}")
    choose_theme(lab, "light")


def choose_theme(lab: Lab, theme: str) -> None:
    """As JupyterLab's own menu does it."""
    wanted = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}[theme]
    if lab.page.evaluate("document.body.dataset.jpThemeName") == wanted:
        return
    lab.page.locator(".lm-MenuBar-item:has-text('Settings')").click()
    lab.page.locator(".lm-Menu-item:has-text('Theme')").first.hover()
    lab.page.locator(f".lm-Menu-item:has-text('{wanted}')").first.click()
    lab.page.wait_for_function("(name) => document.body.dataset.jpThemeName === name", arg=wanted)


def test_every_control_can_be_worked_and_narrows_what_is_drawn(
    lab: Lab, frames: pl.DataFrame
) -> None:
    lab.reset()
    lab.tab("Stages")
    assert lab.rows("latency")["frames"].sum() == frames.height
    codec = frames["codec"][0]
    lab.choose("codec", codec)
    assert lab.state["codec"] == codec
    own = frames.filter(pl.col("codec") == codec)
    assert lab.rows("latency")["frames"].sum() == own.height < frames.height
    stream = own["stream_id"][0]
    field = lab.page.locator(".widget-text:has-text('stream') input")
    lab.after(lambda: lab.enter(field, stream))
    assert lab.state["stream_id"] == stream
    assert lab.rows("latency")["frames"].sum() == own.filter(stream_id=stream).height
    lab.reset()
    stage = lab.rows("stages")["row"][0]
    lab.choose("stage", stage)
    assert lab.state["stage"] == stage
    lab.reset()
    lab.press("time (s), from", "PageUp")
    from_s, to_s = lab.state["time_s"]
    assert from_s > 0
    chosen = frames.filter(pl.col("t_s").is_between(from_s, to_s))
    assert lab.rows("latency")["frames"].sum() == chosen.height
    lab.press("latency (ms), from", "PageUp")
    low_ms, _ = lab.state["latency_ms"]
    assert lab.rows("latency", "worst")["latency_ms"].min() >= low_ms > 0
    lab.reset()
    before = lab.rows("stages")
    lab.press("quantile", "ArrowLeft")
    assert lab.state["quantile"] == 0.98
    assert not lab.rows("stages").equals(before)
    deadline = lab.page.locator(".widget-text:has-text('deadline') input")
    lab.after(lambda: lab.enter(deadline, "0.001"))
    assert lab.rows("overview")["late"].sum() == frames.height
    lab.until(lambda: lab.shown == lab.state)
    lab.enter(deadline, "soon")
    lab.until(lambda: "deadline_ms is positive milliseconds" in lab.status)
    lab.until(lambda: deadline.input_value() == "0.001")
    lab.page.get_by_role("button", name="Reset").click()
    lab.until(lambda: "deadline_ms" not in lab.state)
    lab.until(lambda: deadline.input_value() == "")
    assert deadline.get_attribute("placeholder") == "200 (the run's)"


def test_a_gpu_is_chosen_and_the_views_follow(lab: Lab, frames: pl.DataFrame) -> None:
    lab.reset()
    lab.tab("Memory")
    lab.tab("Streams")
    for gpu in (0, 1):
        lab.choose("gpu", str(gpu))
        own = frames.filter(gpu=gpu)
        assert 0 < own.height < frames.height

        def only_those_are_drawn(gpu: int = gpu, own: pl.DataFrame = own) -> bool:
            streams = set(own["stream_id"])
            return (
                lab.state.get("gpu") == gpu
                and lab.rows("overview")["frames"].sum() == own.height
                and lab.rows("latency")["frames"].sum() == own.height
                and set(lab.rows("streams")["stream_id"]) == streams
                and set(lab.rows("memory")["label"]) == streams
            )

        lab.until(only_those_are_drawn)
        assert f"{own.height:,} frames in this slice" in lab.status
    lab.choose("gpu", "all")
    lab.until(lambda: lab.rows("latency")["frames"].sum() == frames.height)


def test_a_run_that_has_grown_is_said_and_read_again(lab: Lab) -> None:
    notice = "There is more of the run by now: Refresh reads it."
    lab.choose("run", "growing")
    lab.until(lambda: lab.state["run"] == 1)
    before = lab.rows("latency")["frames"].sum()
    whole = delivered(open_run(lab.folder / "whole")).height
    assert 0 < before < whole
    assert notice not in lab.status
    # At once: who reads it meanwhile finds no file that is cut off.
    whole_file = shutil.copy(frame_events(lab.folder / "whole"), lab.folder / "of-whole")
    Path(whole_file).replace(frame_events(lab.folder / "growing"))
    lab.press("quantile", "ArrowLeft")
    lab.until(lambda: notice in lab.status)
    assert lab.rows("latency")["frames"].sum() == before
    lab.page.get_by_role("button", name="Refresh").click()
    lab.until(lambda: lab.status.startswith(f"Read again: {whole:,} frames"))
    lab.until(lambda: lab.rows("latency")["frames"].sum() == whole)
    lab.press("quantile", "ArrowLeft")
    lab.until(lambda: lab.status == f"{whole:,} frames in this slice.")


def test_a_brush_over_time_filters_every_view(lab: Lab, frames: pl.DataFrame) -> None:
    lab.reset()
    lab.tab("Memory")
    lab.drag("overview", (0.3, 0.4), (0.6, 0.4))

    def only_those_are_drawn() -> bool:
        """Of the last of the brush's states; it passes through others."""
        from_s, to_s = lab.state.get("time_s") or (0, 0)
        chosen = frames.filter(pl.col("t_s").is_between(from_s, to_s))
        seen, memory = lab.rows("latency"), lab.rows("memory")
        signals = "document.querySelector('[data-view=memory] .vidlab-place').view.signal('t_to')"
        return (
            0 < seen["frames"].sum() == chosen.height < frames.height
            and from_s - 1 <= memory["t_s"].min()
            and memory["t_end_s"].max() <= to_s + 1
            and abs(lab.page.evaluate(signals) - to_s) < 1e-6
        )

    end_s = lab.page.evaluate(
        "document.querySelector('[data-view=overview] .vidlab-place').view.signal('span_to')"
    )
    lab.until(lambda: only_those_are_drawn() and lab.state["time_s"][1] > 0.54 * end_s)
    from_s, to_s = lab.state["time_s"]
    lab.keep("brushed")
    # Where a brush looks closer, it is gone when it has.
    lab.drag("latency", (0.4, 0.3), (0.7, 0.7))
    lab.until(lambda: "latency_ms" in lab.state)
    closer = lab.state["time_s"]
    assert from_s < closer[0] < closer[1] < to_s


def test_a_click_leads_to_the_frames_waterfall(lab: Lab, frames: pl.DataFrame) -> None:
    lab.reset()
    worst = lab.rows("latency", "worst")
    number = int(worst["latency_ms"].arg_max() or 0)
    lab.click("latency", "worst", number, "t_s", "latency_ms")
    frame = str(lab.state["frame"])  # or the one that lies on top of it
    there, meant = worst.filter(frame=frame), worst[number]
    assert there["latency_ms"].item() == pytest.approx(meant["latency_ms"].item(), rel=0.05)
    shown = lab.rows("waterfall")
    exact = blame.waterfall(lab.run, int(frame))
    assert shown["ms"].sum() == pytest.approx(exact["duration_ns"].sum() / 1e6)
    latency_ms = frames.filter(frame=frame)["latency_ms"].item()
    assert shown["ms"].sum() == pytest.approx(latency_ms)
    # The same by keyboard, from the list of slow frames.
    lab.tab("Slow frames")
    button = lab.page.locator("[data-view=beyond] td button").last
    other = button.text_content()
    button.focus()
    lab.after(lambda: lab.page.keyboard.press("Enter"))
    assert str(lab.state["frame"]) == other
    assert lab.page.get_by_role("tab", name="One frame").get_attribute("aria-selected") == "true"


def test_what_comes_while_a_chart_is_drawn_is_drawn_after_it(lab: Lab) -> None:
    lab.reset()
    lab.tab("Stages")
    lab.page.evaluate(SLOWED, "stages")
    before = lab.rows("stages")["quantile_ms"].to_list()
    lab.page.get_by_role("slider", name="quantile", exact=True).focus()
    first = lab.drawn()
    for _ in range(3):
        lab.page.keyboard.press("ArrowLeft")
        lab.page.wait_for_timeout(150)  # its answer comes while the one before is drawn
    lab.until(lambda: lab.state["quantile"] == 0.96 and lab.drawn() > first)
    last = lab.rows("stages")["quantile_ms"].to_list()
    lab.become(quantile=0.96, deadline_ms=200)  # drawn anew, nothing being under way
    lab.become(run=0)
    lab.become(quantile=0.96)
    assert lab.rows("stages")["quantile_ms"].to_list() == last != before


def test_what_is_under_the_pointer_is_told(lab: Lab) -> None:
    lab.reset()
    worst = lab.rows("latency", "worst").row(0, named=True)
    x, y = lab.place("latency", "worst", 0, "t_s", "latency_ms")
    for step in (-60, 0, 1):
        lab.page.mouse.move(x + step, y)
    tip = lab.page.locator("#vg-tooltip-element.visible")
    lab.until(tip.count)
    for value in (worst["frame"], worst["stream_id"], f"{worst['latency_ms']:,.4g}"):
        assert value in tip.inner_text()
    lab.page.mouse.move(0, 0)
    lab.until(lambda: not tip.count())


def test_a_click_chooses_a_stage_and_another_takes_it_back(lab: Lab) -> None:
    lab.reset()
    lab.tab("Stages")
    stage = lab.rows("stages")["row"][0]
    lab.click("stages", "stages", 0, "quantile_ms", "row")
    assert lab.state["stage"] == stage
    lab.click("stages", "stages", 0, "quantile_ms", "row")
    assert "stage" not in lab.state


def test_a_state_that_is_wrong_is_said_and_changes_nothing(lab: Lab) -> None:
    lab.reset()
    for text in ('{"codek": "av1"}', "av1"):
        lab.enter(lab.field, text)
        lab.until(lambda: "state" in lab.status)
        lab.until(lambda: lab.shown == lab.state == {"version": 1, "run": 0, "quantile": 0.99})


def test_the_page_is_loaded_again(lab: Lab) -> None:
    lab.reset()
    with lab.page.expect_response(
        lambda answer: answer.request.method == "PUT" and "/explore.ipynb" in answer.url
    ):
        lab.page.locator(".lm-MenuBar-item:has-text('File')").click()
        lab.page.locator("[data-command='docmanager:save']").last.click()
    lab.page.reload()
    lab.page.wait_for_selector(f"{BOARD}[data-drawn]")
    lab.page.wait_for_selector(KERNEL_IDLE)
    lab.tab("Streams")
    lab.become(run=0, quantile=0.5)
    assert lab.state["quantile"] == 0.5


def test_the_run_is_deleted_and_the_rest_goes_on(lab: Lab) -> None:
    lab.reset()
    shutil.rmtree(lab.run.path)
    lab.page.get_by_role("button", name="Refresh").click()
    lab.until(lambda: "no longer there" in lab.status)
    before = lab.drawn()
    lab.become(run=0, quantile=0.5)
    assert lab.drawn() > before


def test_a_kernel_that_is_gone_is_said(lab: Lab) -> None:
    lab.page.locator(".lm-MenuBar-item:has-text('Kernel')").click()
    lab.page.locator("[data-command='kernelmenu:restart']").click()
    lab.page.locator(".jp-Dialog button:has-text('Restart')").click()
    lab.until(lambda: "gone" in lab.status)
    lab.drag("overview", (0.3, 0.4), (0.6, 0.4))  # must neither hang nor complain
    lab.keep("kernel-gone")

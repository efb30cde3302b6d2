"""What is said of the runtime: each answer where its table is there, None where it is not."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import vidlab as vl
from vidlab.analysis.thresholds import Thresholds
from vidlab.capture.runtime.engine import Runtime
from vidlab.capture.runtime.profiles import DEBUG
from vidlab.runs.run import Run
from vidlab.workbench.health_section import NOTHING, HealthSection
from vidlab.workbench.slices import Slice
from vidlab.workbench.tables import Table

#: What is drawn, and what is a table.
CHARTS = ("timeline", "scheduling", "tasks", "holders", "metrics", "beyond")
TABLES = ("told", "collections", "wakeups", "threads", "loops", "lines")

every_answer = pytest.mark.parametrize("answer", [*CHARTS, *TABLES])

waiting: queue.Queue[int] = queue.Queue()
picture: ContextVar[bytes] = ContextVar("picture")


#: The tables of which there is to be something, and those that are looked at now and then.
RECORDED = ("gc_pauses", "wakeups", "thread_waits", "loop_delays", "runtime_metrics")
LOOKED_AT = ("threads", "tasks", "objects", "host_allocations")

#: How long it may take until the recorder's own threads have seen all, in seconds.
PATIENCE_S = 60


def all_is_seen(path: Path) -> bool:
    """Whether a run that goes on has something in each table, of two looks where it looks."""
    run = vl.open_run(path)
    moments = {name: run.scan(name).collect()["t_ns"] for name in (*RECORDED, *LOOKED_AT)}
    return all(
        times.n_unique() >= (2 if name in LOOKED_AT else 1) for name, times in moments.items()
    )


async def until_called() -> None:
    """Wait for what never comes."""
    await asyncio.Event().wait()


async def serve(seconds: float, is_enough: Callable[[], bool]) -> None:
    """Work for a while beside a task that never ends, and a queue that nobody empties."""
    until_s = time.monotonic() + PATIENCE_S
    never = asyncio.create_task(until_called(), name="forgotten")
    picture.set(bytes(1_000))
    while True:
        for number in range(round(seconds * 100)):
            with vl.labels(stream_id="cam-1", codec="h264"), vl.stage("work"):
                waiting.put(number)
            await asyncio.sleep(0.01)
        if is_enough() or time.monotonic() > until_s:
            break
    never.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await never


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path: Path = tmp_path_factory.mktemp("health") / "run"
    profile = replace(DEBUG, heap=0.1, tracing=0.4, census=0.5, most_share=1.0)
    with vl.record(path, engines=[vl.Frames(), Runtime(profile=profile)]):
        asyncio.run(serve(1.5, lambda: all_is_seen(path)))
    return vl.open_run(path)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path: Path = tmp_path_factory.mktemp("health") / "bare"
    with vl.record(path, engines=[vl.Frames()]):
        pass
    return vl.open_run(path)


#: One that all that is there is beyond.
LOW = Thresholds(task_age_seconds=0.1, generation_2_ms=1e-3)


@every_answer
def test_it_answers_where_there_is_something(whole: Run, answer: str) -> None:
    found = getattr(HealthSection(Slice(whole), LOW), answer)()
    if answer in TABLES:
        assert isinstance(found, Table)
        assert found.df.height
        assert "<table>" in found._repr_html_()
    else:
        assert len(found.to_dict()["title"]) > 0


@every_answer
def test_it_is_silent_where_there_is_nothing(bare: Run, answer: str) -> None:
    assert getattr(HealthSection(Slice(bare)), answer)() is None


def test_the_headline_names_what_is_wrong(whole: Run) -> None:
    section = HealthSection(Slice(whole), LOW)
    assert "task never ends (until_called)" in section.headline().text
    heading = section.section()
    assert heading is not None
    assert heading._repr_html_().startswith("<h2>What the runtime did</h2>")
    told = section.told()
    assert told is not None
    [message] = told.df.filter(pl.col("kind") == "task never ends")["message"]
    assert "1 task of until_called (forgotten) has waited at" in message


def test_thresholds_of_the_users_count(whole: Run) -> None:
    huge = Thresholds(**{field.name: 1e9 for field in fields(Thresholds)})  # type: ignore[arg-type]
    section = HealthSection(Slice(whole), huge)
    assert section.headline().text == "Nothing about the runtime is beyond its threshold."
    assert section.told() is None
    assert section.beyond() is None


def test_without_tables_it_says_how_to_get_them(bare: Run) -> None:
    section = HealthSection(Slice(bare))
    assert section.headline().text == NOTHING
    assert section.section() is None
    assert section.holders_of_the_gil() is None


def test_the_timeline_has_what_was_recorded(whole: Run) -> None:
    chart: Any = HealthSection(Slice(whole)).timeline()
    titles = [panel["title"]["text"] for panel in chart.to_dict()["vconcat"]]
    assert titles == [
        "garbage collections",
        "how late Python ran again: the latest of each moment",
        "how much of the time threads waited for a CPU",
        "how late event loops ran what was due: the latest of each moment",
    ]  # no frame was read, so there is no latency

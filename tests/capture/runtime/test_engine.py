"""The engine: profiles switched while it records, forks, and that it leaves no trace."""

from __future__ import annotations

import _thread
import asyncio
import gc
import json
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import vidlab as vl
from vidlab.capture.runtime import engine as engine_module
from vidlab.capture.runtime import sampler, scheduler
from vidlab.capture.runtime.engine import Runtime
from vidlab.capture.runtime.profiles import PARTS, Profile
from vidlab.schema.metrics import METRICS

#: All that a test has the time for: tracemalloc makes all else slow.
QUICK = Profile("quick", **{part: 0.02 for part in PARTS if part != "tracing"}, most_share=1)


@pytest.fixture(autouse=True)
def _ends_whole(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The end of a recording waits for what is going on, on a machine that stands still too."""
    until(lambda: not threads_of_ours())  # those of a test before may be about to end
    monkeypatch.setattr(engine_module, "_PATIENCE_S", 60.0)
    yield
    until(lambda: not threads_of_ours())  # Python is done with a thread before the kernel is


def until(condition: Callable[[], Any]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


def threads_of_ours() -> list[str]:
    found = []
    for comm in Path("/proc/self/task").glob("*/comm"):
        try:
            found.append(comm.read_text().strip())
        except OSError:
            continue
    return [name for name in found if name in ("vidlab-sampler", "vidlab-probe")]


def open_files() -> list[str]:
    found = []
    for file in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(file.readlink()))
        except OSError:
            continue
    return [path for path in found if path.endswith(("schedstat", "statm"))]


def texts(run: vl.Run, table: str, column: str) -> set[str]:
    return set(run.scan(table).collect()[column].cast(str).unique())


def missing_in(run: vl.Run) -> set[str]:
    """The tables, metrics and threads that are to be in a run with all parts, and are not yet."""
    tables = (
        *("gc_pauses", "runtime_metrics", "thread_waits", "wakeups", "loop_delays", "threads"),
        *("tasks", "objects", "runtime_profiles"),
    )
    elsewhere = ("vidlab.cupy", "vidlab.tracemalloc", "vidlab.runtime.tracing")
    metrics = {m.name for m in METRICS if m.table == "runtime_metrics"}
    return {
        *(table for table in tables if run.scan(table).collect().is_empty()),
        *(name for name in metrics if not name.startswith(elsewhere)),
        *("MainThread", "vidlab-sampler", "vidlab-probe"),
    } - (texts(run, "runtime_metrics", "metric") | texts(run, "threads", "name"))


def test_a_recording_has_every_table_and_metric(tmp_path: Path) -> None:
    def progress() -> dict[str, object]:
        """What changes as each part, the probe and the loop's timer write something more."""
        sampler, probe, loops = engine._sampler, engine._probe, engine._loops
        assert sampler is not None
        assert probe is not None
        assert loops is not None
        found: dict[str, object] = {
            name: turn.looked_ns for name, turn in list(sampler._turns.items())
        }
        if scheduler_turn := sampler._turns.get("scheduler"):
            found["window"] = scheduler_turn.part._since_ns  # type: ignore[attr-defined]
        for known in list(loops._known.values()):
            found["timer"] = known._due_ns
        return {**found, "probe": probe.cpu_ns}

    async def program() -> None:
        task = asyncio.create_task(asyncio.sleep(3600), name="stuck")
        seen: dict[str, set[object]] = {}
        limit = time.monotonic() + 60
        # Of three values that differ, two were seen after something was written here.
        while len(seen) <= len(PARTS) or min(map(len, seen.values())) < 3:
            assert time.monotonic() < limit, seen
            for name, value in progress().items():
                seen.setdefault(name, set()).add(value)
            gc.collect(0)
            await asyncio.sleep(0.01)
        task.cancel()

    engine = Runtime(QUICK)
    with vl.record(tmp_path / "run", engines=[engine]):
        asyncio.run(program())
    run = vl.open_run(tmp_path / "run")
    assert run.losses == {}
    assert missing_in(run) == set()
    # How dear a look is depends on the machine, and on what else is in this process.
    usual = {"runtime_part_slowed", "census_partial"}
    assert texts(run, "findings", "kind") <= usual, run.scan("findings").collect().rows()
    known = {m.name for m in METRICS if m.table == "runtime_metrics"}
    assert texts(run, "runtime_metrics", "metric") <= known
    (profile,) = run.scan("runtime_profiles").collect().to_dicts()
    assert (profile["profile"], profile["profile_before"]) == ("quick", None)
    assert json.loads(profile["settings"]) == QUICK.settings()


def test_a_thousand_switches_lose_no_event_and_leak_nothing(tmp_path: Path) -> None:
    gc.collect()
    before = (set(threading.enumerate()), list(gc.callbacks), _thread._count())
    set_loop = asyncio.events._set_running_loop
    gc.disable()
    engine = Runtime("production")
    names = ("debug", "production", "staging", "production")
    over = threading.Event()
    stages = [0, 0]
    # Not each call collects: while one is at it, the other thread's does nothing.
    collections = gc.get_stats()[0]["collections"]
    try:
        with vl.record(tmp_path / "run", engines=[vl.Frames(), engine]):

            def collects(place: int) -> None:
                while not over.is_set():
                    with vl.stage("collect"):
                        gc.collect(0)
                    stages[place] += 1
                    time.sleep(0)

            workers = [threading.Thread(target=collects, args=(n,)) for n in range(2)]
            for worker in workers:
                worker.start()
            until(lambda: threads_of_ours())
            during = threads_of_ours()
            for number in range(1000):
                engine.switch(names[number % 4], reason=f"test {number}")
            over.set()
            for worker in workers:
                worker.join()
            collections = gc.get_stats()[0]["collections"] - collections
            engine.switch(QUICK)
            until(lambda: engine._sampler is not None and engine._sampler._settled is QUICK)
            # Each thread names itself, as it begins.
            until(lambda: sorted(threads_of_ours()) == ["vidlab-probe", "vidlab-sampler"])
            assert set(during) <= set(threads_of_ours())
            assert set(threading.enumerate()) <= before[0]
            assert len([c for c in gc.callbacks if "Collector" in repr(c)]) == 1
    finally:
        gc.enable()
    assert open_files() == []
    # Python is done with a thread a moment after that has said that it ends.
    until(lambda: not threads_of_ours() and _thread._count() <= before[2])
    assert set(threading.enumerate()) <= before[0]
    assert list(gc.callbacks) == before[1]
    assert asyncio.events._set_running_loop is set_loop
    assert not tracemalloc.is_tracing()

    run = vl.open_run(tmp_path / "run")
    assert run.losses == {}
    # `collect_all` of the engine's own threads is impossible: automatic collection is off.
    pauses = run.scan("gc_pauses").filter(pl.col("generation") == 0).collect()
    assert pauses.height == collections > 0
    assert run.scan("spans").collect().height == sum(stages)
    switches = run.scan("runtime_profiles").sort("t_ns").collect()
    by_us = switches.filter(pl.col("profile_before").is_not_null())
    assert by_us.height == 1001
    assert by_us["profile"].cast(str).to_list() == [*names * 250, "quick"]
    assert by_us["profile_before"].cast(str).to_list() == ["production", *names * 250]
    assert by_us["reason"][7] == "test 7"


def test_threads_switch_at_once_and_each_switch_is_told_in_turn(recorded: Any) -> None:
    engine = Runtime("staging")
    engine.start(recorded.writer)

    def switches(names: tuple[str, ...]) -> None:
        for _ in range(50):
            for name in names:
                engine.switch(name)

    groups = (("debug", "production"), ("staging", "debug"), ("production", "staging"))
    threads = [threading.Thread(target=switches, args=(names,)) for names in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: engine._sampler is None or engine._sampler._settled is engine.profile)
    engine.stop()
    engine.stop()
    rows = [row for row in recorded.rows("runtime_profiles") if row["profile_before"]]
    chain = [row["profile"] for row in rows]
    assert [row["profile_before"] for row in rows] == ["staging", *chain[:-1]]
    assert chain[-1] == engine.profile.name
    engine.switch("debug")  # before it starts again: the profile to start with
    assert engine.parameters() == {"profile": "debug"}


def test_without_a_thread_to_be_had_pauses_are_still_recorded(
    recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuses)
    engine = Runtime("production")
    engine.start(recorded.writer)
    gc.collect()
    engine.stop()
    (finding,) = recorded.rows("findings")
    assert finding["kind"] == "runtime_not_sampled"
    assert recorded.records("gc_pauses")


def test_without_proc_the_rest_goes_on(
    recorded: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opens = os.open

    def without_proc(path: Any, *flags: Any, **more: Any) -> int:
        if str(path).startswith("/proc"):
            raise PermissionError(13, "Permission denied", str(path))
        return opens(path, *flags, **more)

    monkeypatch.setattr(os, "open", without_proc)
    monkeypatch.setattr(scheduler, "TASKS", str(tmp_path / "nothing"))
    engine = Runtime(Profile("p", process=0.01, scheduler=0.01, threads=0.01, interpreter=0.01))
    engine.start(recorded.writer)
    until(lambda: recorded.records("runtime_metrics"))
    engine.stop()
    findings = recorded.rows("findings")
    missing = {row["part"] for row in findings if row["kind"] == "runtime_part_missing"}
    assert missing == {"process", "scheduler", "threads"}
    assert {row["metric"].split(".")[0] for row in recorded.records("runtime_metrics")} == {
        "cpython"
    }


FORKS = """
import _thread, gc, os, sys, threading, time
import vidlab as vl
from vidlab.capture.runtime import engine as module
from vidlab.capture.runtime.engine import Runtime
from vidlab.capture.runtime.profiles import PARTS, Profile

def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)

def probed():
    "Wait until the probe has slept, and has written how long it did."
    for _ in range(2):
        cpu = engine._probe.cpu_ns
        wait_for(lambda: engine._probe.cpu_ns != cpu)

vl.record.__globals__["_can_compact"] = lambda: False
module._PATIENCE_S = 60
usual, module._CHILD_AFTER_S = module._CHILD_AFTER_S, 3600  # none that ends at once lives on
engine = Runtime(Profile("p", wakeups=0.01, process=0.01, scheduler=0.01, threads=0.05))
with vl.record(sys.argv[1], engines=[engine]):
    def switches():
        while not over.is_set():
            engine.switch("debug")
            engine.switch("production")
    over = threading.Event()
    switching = threading.Thread(target=switches)
    switching.start()
    for _ in range(8):   # a child that ends at once
        pid = os.fork()
        if pid == 0:
            os._exit(len(threading.enumerate()) - 1)
        assert os.waitpid(pid, 0)[1] == 0
    over.set()
    switching.join()
    module._CHILD_AFTER_S = usual
    engine.switch(Profile("p", wakeups=0.01, process=0.01, scheduler=0.01, threads=0.05))
    pid = os.fork()
    if pid == 0:          # and one that lives
        wait_for(lambda: engine._probe.cpu_ns and engine._sampler.cpu_ns)
        probed()
        gc.collect()
        engine.switch("staging")
        engine.stop()
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    probed()
    print(pid)
"""


def test_a_forked_child_is_looked_at_and_the_parent_goes_on(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore:This process", "-c", FORKS, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    child = int(result.stdout)
    run = vl.open_run(tmp_path / "run")
    metrics = run.scan("runtime_metrics").collect()
    assert len(metrics["pid"].unique()) == 2
    mine = metrics.filter(pl.col("pid") == child)
    assert mine.filter(pl.col("metric").cast(str) == "process.memory.usage").height > 1
    for table in ("wakeups", "threads", "runtime_profiles", "gc_pauses"):
        assert run.scan(table).filter(pl.col("pid") == child).collect().height > 0, table
    threads = run.scan("threads").filter(pl.col("pid") == child).collect()
    assert {row["tid"] for row in threads.to_dicts() if row["name"] == "MainThread"} == {child}
    profiles = run.scan("runtime_profiles").filter(pl.col("pid") == child).collect()
    assert profiles["profile"].cast(str).to_list() == ["p", "staging"]
    assert "recorder_failed" not in set(run.scan("findings").collect()["kind"].cast(str))


def test_a_sampler_that_fails_altogether_says_so(
    recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(recorded.writer, "finding", lambda kind, *_, **__: said.append(kind))

    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sampler.Sampler, "_settle", fails)
    engine = Runtime("production")
    engine.start(recorded.writer)
    until(lambda: said)
    engine.stop()
    assert said[0] == "recorder_failed"

"""Pauses of the garbage collector, with the frame and labels of the thread that paid."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import vidlab as vl
from vidlab.analysis import pauses
from vidlab.capture.frames import threadstate
from vidlab.capture.frames.stages import stage
from vidlab.capture.runtime.collector import Collector
from vidlab.capture.runtime.engine import Runtime
from vidlab.clock import now_ns


@pytest.fixture
def runtime(recorded: Any) -> Any:
    gc.disable()
    collector = Collector(recorded.writer)
    collector.start()
    recorded.collector = collector
    yield recorded
    collector.stop()
    gc.enable()


class Cycle:
    def __init__(self) -> None:
        self.self = self


def test_each_collection_is_a_pause_of_the_thread_that_paid(runtime: Any) -> None:
    ref = runtime.new_ref(stream_id="cam")
    gc.collect(2)
    before_ns = now_ns()
    with stage("filter", ref):
        Cycle()
        gc.collect(0)
    thread = threading.Thread(target=gc.collect, args=(1,))
    thread.start()
    thread.join()
    first, second, third = runtime.records("gc_pauses")
    assert [p["generation"] - 1 for p in (first, second, third)] == [2, 0, 1]
    assert second["collected"] >= 1
    assert (second["frame"], second["labels"]) == (ref.frame, ref.labels)
    assert (first["frame"], third["frame"]) == (0, 0)
    assert before_ns < second["t_ns"] < second["t_ns"] + second["duration_ns"] < now_ns()

    frames = pl.DataFrame(
        {"frame": [ref.frame], "pid": [7], "t_demux_ns": [before_ns], "t_done_ns": [now_ns()]},
        schema_overrides={"frame": pl.UInt64},
    )
    table = pl.DataFrame([first, second, third]).with_columns(pid=pl.lit(7, pl.Int64))
    hit = pauses.frames_hit(table, frames)
    assert hit["t_ns"].to_list() == [second["t_ns"], third["t_ns"]]
    assert hit["overlap_ns"].to_list() == [second["duration_ns"], third["duration_ns"]]


def test_the_programs_own_callbacks_stay(recorded: Any) -> None:
    class Awkward:
        def __call__(self, phase: str, info: Any) -> None: ...

        def __eq__(self, other: object) -> bool:
            return True

    own = Awkward()
    before = list(map(id, gc.callbacks))
    engine = Runtime()
    gc.callbacks.append(own)
    engine.start(recorded.writer)
    engine.stop()
    engine.stop()
    assert list(map(id, gc.callbacks)) == [*before, id(own)]
    gc.callbacks.pop()
    until_now = len(recorded.records("gc_pauses"))  # Python may have collected meanwhile
    gc.collect()
    assert len(recorded.records("gc_pauses")) == until_now


def test_a_pause_that_cannot_be_written_is_counted(
    runtime: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(table: str) -> None:
        raise MemoryError

    monkeypatch.setattr(runtime.writer, "buffer", fails)
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join()
    runtime.collector.stop()
    assert runtime.writer.losses == {"gc_pauses": 1}
    assert capsys.readouterr().err == ""


def test_a_collection_while_a_thread_begins_to_record_is_kept(tmp_path: Path) -> None:
    """The thread's state is half made when the collector asks for its open span."""
    made = threadstate.ThreadState.__init__

    def made_slowly(self: threadstate.ThreadState, *args: Any) -> None:
        gc.collect()
        made(self, *args)

    def work() -> None:
        with vl.stage("work"):
            pass

    gc.disable()  # within a collection of Python's own, which may be what asks, there is no other
    try:
        with (
            pytest.MonkeyPatch.context() as patch,
            vl.record(tmp_path / "run", engines=[vl.Frames(), vl.Runtime()]),
        ):
            patch.setattr(threadstate.ThreadState, "__init__", made_slowly)
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
    finally:
        gc.enable()
    run = vl.open_run(tmp_path / "run")
    assert run.losses == {}
    assert run.scan("gc_pauses").filter(pl.col("generation") == 2).collect().height >= 1

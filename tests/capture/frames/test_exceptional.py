"""Frames that go wrong are noted, each in the way in which it does."""

from __future__ import annotations

import pickle
import queue
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vidlab import labelsets
from vidlab.capture.frames import exceptional, queues, refs, stages
from vidlab.capture.frames.adaptive import Adaptive
from vidlab.capture.frames.decoding import Inside
from vidlab.capture.frames.exceptional import AdaptiveRecorder
from vidlab.capture.frames.recorder import frame_here
from vidlab.capture.frames.refs import FrameRef
from vidlab.capture.frames.sinks import deliver
from vidlab.capture.frames.sources import Source
from vidlab.capture.frames.stages import stage
from vidlab.capture.frames.traced_queue import TracedQueue
from vidlab.clock import now_ns
from vidlab.runs.lookback import Lookback
from vidlab.schema import (
    DECODED,
    DELIVERED,
    DEMUXED,
    FLAG_CORRUPT,
    FLAG_SKIP,
    OK,
    QUEUE,
    SENT,
)

SECOND = 1_000_000_000

#: Of streams whose frames are late after ten seconds: longer than any pause of a test.
RATE = 0.3


class Known:
    """A recording that samples adaptively, into memory."""

    def __init__(self, recorded: Any, folder: Path, rate: float | None = RATE) -> None:
        self.recorded = recorded
        recorded.writer.path = folder
        recorded.writer.lookback = Lookback(folder, lambda: 1, None, lambda what, error: None)
        self.recorder = AdaptiveRecorder(recorded.writer, "never", Adaptive(base=0.01, busy=0.01))
        recorded.patches.restore()
        stages.activate(recorded.patches, self.recorder)
        queues.install(recorded.patches, self.recorder)
        self.source = Source(self.recorder, "cam", "h264", nominal_rate=rate)

    def frame(self, age_s: float = 0.0) -> FrameRef:
        return self.source.born(now_ns() - int(age_s * SECOND), None, None)

    def kept(self) -> dict[int, str]:
        found = self.recorded.records("kept_frames")
        assert len(found) == len({row["frame"] for row in found}), "noted twice"
        return {row["frame"]: row["kept_for"] for row in found}


@pytest.fixture
def known(recorded, tmp_path: Path) -> Iterator[Known]:
    made = Known(recorded, tmp_path)
    yield made
    assert made.recorder.failures == 0
    made.recorder.close()
    assert not refs.deadlines


def test_a_frame_that_is_in_time_is_not_noted(known) -> None:
    ref = known.frame(age_s=0.1)
    with stage("filter", ref), stage("inside"):
        pass
    deliver(ref)
    assert known.kept() == {}
    assert len(known.recorded.records("spans")) == 2


@pytest.mark.parametrize("inside", [False, True])
def test_late_by_the_end_of_a_span(known, inside) -> None:
    ref = known.frame(age_s=10.1)
    with stage("filter", ref):
        if inside:
            with stage("more", ref):
                pass
    assert known.kept() == {ref.frame: "late"}
    assert labelsets.get(known.recorded.records("kept_frames")[0]["labels"]).values["codec"] == (
        "h264"
    )


def test_late_by_a_span_that_is_told_later(known) -> None:
    ref = known.frame(age_s=10.1)
    known.recorder.emit(1, QUEUE, OK, ref, now_ns() - 5, None)
    assert known.kept() == {ref.frame: "late"}


def test_late_at_the_sink(known) -> None:
    ref, other = known.frame(), known.frame()
    known.recorder.event(other, DELIVERED, t_ns=other.t_demux_ns + int(9.9 * SECOND))
    known.recorder.event(ref, DELIVERED, t_ns=ref.t_demux_ns + int(10.1 * SECOND))
    assert known.kept() == {ref.frame: "late"}


def test_late_while_it_waits_in_a_queue(known) -> None:
    waiting: queue.Queue[FrameRef] = queue.Queue()
    late, young = known.frame(age_s=20), known.frame()
    waiting.put(young)
    waiting.put(late)
    assert known.kept() == {}
    assert known.recorder.look()
    assert known.kept() == {late.frame: "late"}


def test_late_while_it_is_in_a_codec_or_an_open_stage(known) -> None:
    inside = Inside()
    known.recorder.holds(inside)
    coded, skipped, worked = (known.frame(age_s=20) for _ in range(3))
    inside.enter(coded, None, 0, None)
    known.recorder.event(skipped, SENT, flags=FLAG_SKIP)
    inside.enter(skipped, None, 0, None)
    with stage("detect", worked), stage("inside"):
        assert known.recorder.look()
        assert known.kept() == {coded.frame: "late", worked.frame: "late"}


def test_too_many_to_look_at_are_not_taken_for_all(known, monkeypatch) -> None:
    monkeypatch.setattr(exceptional, "_MOST_WAITING", 3)
    waiting: queue.Queue[FrameRef] = queue.Queue()
    for _ in range(3):
        waiting.put(known.frame())
    assert not known.recorder.look()


def test_failed(known) -> None:
    ref = known.frame()
    with pytest.raises(ValueError, match="no such"), stage("detect", ref):
        raise ValueError("no such thing")
    assert known.kept() == {ref.frame: "failed"}
    assert known.recorder.governor.errors == 1


def test_cancelled_is_lost(known) -> None:
    ref = known.frame()
    with pytest.raises(KeyboardInterrupt), stage("detect", ref):
        raise KeyboardInterrupt
    assert known.kept() == {ref.frame: "lost"}
    assert known.recorder.governor.errors == 0


def test_evicted_is_lost(known) -> None:
    small: TracedQueue[FrameRef] = TracedQueue(1, evict=True)
    first, second = known.frame(), known.frame()
    small.put(first)
    small.put(second)
    assert known.kept() == {first.frame: "lost"}


def test_corrupt(known) -> None:
    flagged, whole, swallowed, skipped = (known.frame() for _ in range(4))
    known.recorder.event(flagged, DECODED, flags=FLAG_CORRUPT)
    known.recorder.event(whole, DECODED)
    known.recorder.event(skipped, SENT, flags=FLAG_SKIP)
    known.recorder.never_came_out([swallowed, skipped])
    assert known.kept() == {flagged.frame: "corrupt", swallowed.frame: "corrupt"}
    assert known.recorder.governor.errors == 2


def test_while_all_are_recorded_errors_are_only_counted(known) -> None:
    known.recorder.sampling.change(1.0)
    ref = known.frame(age_s=20)
    for _ in range(2):
        with pytest.raises(ValueError, match="x"), stage("detect", ref):
            raise ValueError("x")
    assert known.kept() == {}
    assert known.recorder.governor.errors == 1


def test_births_are_counted(known) -> None:
    for _ in range(3):
        known.recorder.event(known.frame(), DEMUXED)
    assert known.recorder.governor.births == 3


def test_a_deadline_of_the_recording_counts_before_the_nominal_rate(
    recorded, tmp_path: Path, monkeypatch
) -> None:
    parameters = SimpleNamespace(parameters={"deadline_ms": 20_000})
    monkeypatch.setattr(exceptional.Manifest, "read", lambda run: parameters)
    known = Known(recorded, tmp_path)
    in_time, late = known.frame(age_s=10.1), known.frame(age_s=20.1)
    deliver(in_time)
    deliver(late)
    assert known.kept() == {late.frame: "late"}


def test_without_any_deadline_no_frame_is_late(recorded, tmp_path: Path) -> None:
    known = Known(recorded, tmp_path, rate=None)
    ref = known.frame(age_s=1000)
    with stage("filter", ref):
        pass
    assert known.kept() == {}


def test_the_look_back_reaches_beyond_long_intervals(recorded, tmp_path: Path) -> None:
    known = Known(recorded, tmp_path, rate=0.5)  # late after 6 s
    assert recorded.writer.lookback.seconds == 5.0
    known.frame()
    assert recorded.writer.lookback.seconds == 12.0


def test_deadlines_cross_to_other_processes_with_the_frame(known) -> None:
    sent = pickle.dumps(known.frame(age_s=10.1))
    refs.forget_deadlines()
    ref = pickle.loads(sent)
    with stage("filter", ref):
        pass
    assert known.kept() == {ref.frame: "late"}
    frame_here.set(None)

"""Queues of an unmodified program: waits, depths, identity, and nothing else changed."""

from __future__ import annotations

import itertools
import queue
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from vidlab.capture.frames import queues
from vidlab.capture.frames.recorder import frame_here
from vidlab.capture.frames.refs import attach
from vidlab.capture.frames.stages import stage


@pytest.fixture
def watched(recorded: Any) -> Any:
    queues.install(recorded.patches, recorded.recorder)
    return recorded


def image(ref: Any) -> np.ndarray[Any, Any]:
    array = np.zeros((4, 4), np.uint8)
    attach(array, ref)
    return array


def test_an_array_keeps_its_identity_through_a_plain_queue(watched: Any) -> None:
    line: queue.Queue[Any] = queue.Queue(maxsize=3)
    made_at = sys._getframe().f_lineno - 1
    refs = [watched.new_ref(stream_id="cam") for _ in range(5)]
    seen = []
    first_got_ns = 0

    def consume() -> None:
        nonlocal first_got_ns
        watch = queues.watched(line)
        assert watch is not None
        limit = time.monotonic() + 60
        while len(watch._waiting) < 4 and time.monotonic() < limit:
            time.sleep(0.001)  # until the fourth stands before the full queue
        first_got_ns = time.perf_counter_ns()
        for _ in refs:
            item = line.get()
            with stage("filter"):  # of whatever frame this thread took last
                seen.append(int(item["image"][0, 0]))

    consumer = threading.Thread(target=consume)
    consumer.start()
    for number, ref in enumerate(refs):
        array = image(ref)
        array[:] = number
        line.put({"number": number, "image": array})
        del array
    consumer.join()
    assert seen == list(range(5))
    spans = watched.records("spans")
    waits = [span for span in spans if span["kind"] == "queue"]
    assert [span["frame"] for span in waits] == [ref.frame for ref in refs]
    assert {span["stage"] for span in waits} == {f"test_queues.py:{made_at}"}
    assert {span["labels"] for span in waits} == {refs[0].labels}
    assert all(span["parent"] == 0 and span["duration_ns"] > 0 for span in waits)
    # A wait begins as put is entered, though this one stood before a full queue.
    assert waits[3]["t_ns"] < first_got_ns
    filtered = [span for span in spans if span["stage"] == "filter"]
    assert [span["frame"] for span in filtered] == [ref.frame for ref in refs]
    for wait, work in zip(waits, filtered, strict=True):
        assert wait["t_ns"] + wait["duration_ns"] <= work["t_ns"]


def test_depths_are_noted_at_each_touch(watched: Any) -> None:
    line: queue.Queue[int] = queue.LifoQueue(2)
    line.vidlab_name = "jobs"  # type: ignore[attr-defined]
    line.put_nowait(1)
    line.put(2, timeout=1)
    line.get()
    rows = watched.records("queue_depths")
    assert [(row["touch"], row["depth"]) for row in rows] == [("put", 1), ("put", 2), ("get", 1)]
    assert {row["queue"] for row in rows} == {"jobs"}
    assert {row["capacity"] for row in rows} == {2}
    endless: queue.SimpleQueue[int] | queue.Queue[int] = queue.Queue()
    endless.put(1)
    assert watched.records("queue_depths")[-1]["capacity"] == -1


def test_the_program_sees_its_queue_unchanged(watched: Any) -> None:
    line: queue.Queue[Any] = queue.Queue(1)
    with pytest.raises(queue.Empty):
        line.get_nowait()
    with pytest.raises(queue.Empty):
        line.get(timeout=0.001)
    item = object()
    line.put(item=item)
    with pytest.raises(queue.Full):
        line.put_nowait(1)
    with pytest.raises(queue.Full):
        line.put(1, True, 0.001)
    with pytest.raises(ValueError, match="timeout"):
        line.put(1, timeout=-1)
    assert line.get() is item
    line.task_done()
    line.join()
    assert isinstance(line, queue.Queue)
    # What failed leaves no wait behind.
    assert len(watched.records("spans")) == 1
    assert queues.watched(line)._waiting == {}  # type: ignore[union-attr]


def test_items_from_before_and_for_after_a_recording(watched: Any) -> None:
    watched.stop()
    plain = queue.Queue.put
    line: queue.Queue[Any] = queue.Queue()
    early, late = image(watched.new_ref()), image(watched.new_ref())
    line.put(early)
    from vidlab.capture.frames import stages

    stages.activate(watched.patches, watched.recorder)
    queues.install(watched.patches, watched.recorder)
    assert queue.Queue.put is not plain
    line.put(late)
    assert line.get() is early
    assert frame_here.get().frame == 1 << 52 | 1 << 32 | 1  # type: ignore[union-attr]
    watched.stop()
    assert queue.Queue.put is plain
    assert queues.watched(line) is None
    assert line.get() is late
    assert vars(line).keys() == vars(queue.Queue()).keys()
    assert watched.records("spans") == []


def test_any_order_of_getting_and_the_same_object_twice(watched: Any) -> None:
    line: queue.Queue[Any] = queue.PriorityQueue()
    refs = [watched.new_ref() for _ in range(3)]
    for priority, ref in zip((2, 0, 1), refs, strict=True):
        line.put((priority, image(ref)))
    assert [line.get()[0] for _ in range(3)] == [0, 1, 2]
    assert [s["frame"] for s in sorted(watched.records("spans"), key=end_of)] == [
        refs[1].frame,
        refs[2].frame,
        refs[0].frame,
    ]
    twice = image(refs[0])
    plain: queue.Queue[Any] = queue.Queue()
    plain.put(twice)
    plain.put(twice)
    assert plain.get() is plain.get() is twice
    waits = watched.records("spans")[3:]
    assert [span["frame"] for span in waits] == [refs[0].frame] * 2
    assert waits[0]["t_ns"] < waits[1]["t_ns"]


def end_of(span: dict[str, Any]) -> int:
    return int(span["t_ns"] + span["duration_ns"])


def test_items_taken_out_by_other_ways_are_forgotten(
    watched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "_LOOK_AT", 10)
    line: queue.Queue[Any] = queue.Queue()
    for _ in range(100):
        line.put(np.zeros(1))
        line.queue.clear()
    watch = queues.watched(line)
    assert watch is not None
    assert len(watch._waiting) <= 21
    again = np.zeros(1)
    line.put(again)
    line.queue.clear()
    put_again_ns = time.perf_counter_ns()
    line.put(again)  # as if another array had come to lie where one of before was
    line.get()
    (span,) = watched.records("spans")
    assert span["t_ns"] >= put_again_ns


def test_a_put_inside_a_stage_of_the_frame_does_not_overlap_it(watched: Any) -> None:
    line: queue.Queue[Any] = queue.Queue()
    ref = watched.new_ref()
    with stage("read", ref):
        line.put(image(ref))
        time.sleep(0.002)
    line.get()
    read, wait = watched.records("spans")
    assert (read["stage"], wait["kind"]) == ("read", "queue")
    assert wait["t_ns"] >= read["t_ns"] + read["duration_ns"]


def test_a_falling_buffer_is_found_once(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(queues.now_ns())
    monkeypatch.setattr(queues, "now_ns", lambda: next(ticks))  # all of it within the window
    buffered: queue.Queue[Any] = queue.Queue(20)
    buffered.vidlab_name = "jitter buffer"  # type: ignore[attr-defined]
    for number in range(10):
        buffered.put(number)
    for _ in range(6):
        buffered.get()
    assert watched.rows("findings") == []  # exactly 30 % of its capacity, not more
    for _ in range(4):
        buffered.get()
    (finding,) = watched.rows("findings")
    assert finding["kind"] == "buffer_falling"
    assert (finding["from_depth"], finding["to_depth"], finding["capacity"]) == (10, 3, 20)
    assert "'jitter buffer' fell from 10 to 3 items, 35%" in finding["message"]
    ending: queue.Queue[Any] = queue.Queue(10)
    for item in (*range(9), None):
        ending.put(item)
    while ending.get() is not None:
        pass
    small: queue.Queue[Any] = queue.Queue(3)
    for number in range(3):
        small.put(number)
    for _ in range(3):
        small.get()
    assert len(watched.rows("findings")) == 1


def test_a_get_before_the_peak_is_no_fall_from_it(
    watched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    line: queue.Queue[Any] = queue.Queue()
    began_ns = queues.now_ns()
    for number in range(10):
        line.put(number)
    monkeypatch.setattr(queues, "now_ns", lambda: began_ns)  # noted late by another thread
    for _ in range(10):
        line.get()
    assert watched.rows("findings") == []


def test_a_slow_fall_is_not_found(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "_FALL_WINDOW_NS", 1_000_000)
    line: queue.Queue[Any] = queue.Queue()
    for number in range(10):
        line.put(number)
    for _ in range(10):
        time.sleep(0.002)
        line.get()
    assert watched.rows("findings") == []


def test_what_fails_in_the_engine_does_not_reach_the_program(
    watched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(watched.recorder.writer, "finding", lambda *args, **kwargs: None)
    line: queue.Queue[Any] = queue.Queue()
    monkeypatch.setattr(queues, "find_ref", fails)
    line.put(1)
    monkeypatch.setattr(queues, "_pack_into", fails)
    assert line.get() == 1
    monkeypatch.setattr(queues, "Watch", fails)
    other: queue.Queue[Any] = queue.Queue()
    other.put(1)
    assert other.get() == 1
    assert watched.recorder.failures > 0
    watched.recorder.failures = 0

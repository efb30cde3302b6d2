"""Queues between threads, tasks and processes that are recorded, and that evict."""

from __future__ import annotations

import asyncio
import multiprocessing
import queue
import threading
from typing import Any

import numpy as np
import pytest

from vidlab import labelsets
from vidlab.capture.frames import queues
from vidlab.capture.frames.recorder import frame_here
from vidlab.capture.frames.refs import attach, ref_of
from vidlab.capture.frames.traced_queue import TracedAsyncQueue, TracedProcessQueue, TracedQueue
from vidlab.errors import InputError


@pytest.fixture
def watched(recorded: Any) -> Any:
    queues.install(recorded.patches, recorded.recorder)
    return recorded


def image(ref: Any) -> np.ndarray[Any, Any]:
    array = np.zeros((4, 4), np.uint8)
    attach(array, ref)
    return array


def check_evictions(watched: Any, refs: list[Any], name: str) -> None:
    events = [e for e in watched.records("frame_events") if e["event"] == "evicted"]
    assert [(e["frame"], e["stage"]) for e in events] == [(ref.frame, name) for ref in refs[:3]]
    waits = watched.records("spans")
    by_status = {s: [w["frame"] for w in waits if w["status"] == s] for s in ("cancelled", "ok")}
    assert by_status["cancelled"] == [ref.frame for ref in refs[:3]]
    assert by_status["ok"] == [ref.frame for ref in refs[3:]]
    depths = [(r["touch"], r["depth"]) for r in watched.records("queue_depths")]
    assert depths == [("put", 1), ("put", 2)] + [("evict", 1), ("put", 2)] * 3 + [
        ("get", 1),
        ("get", 0),
    ]
    assert {r["capacity"] for r in watched.records("queue_depths")} == {2}


def test_a_queue_that_evicts_says_which_frames(watched: Any) -> None:
    newest: TracedQueue[Any] = TracedQueue(2, name="newest", evict=True)
    refs = [watched.new_ref() for _ in range(5)]
    images = [image(ref) for ref in refs]
    for one in images:
        newest.put(one)
    assert newest.get() is images[3]
    assert newest.get() is images[4]
    assert newest.evicted == 3
    newest.task_done()
    newest.task_done()
    newest.join()  # evicted items are not waited for
    check_evictions(watched, refs, "newest")


def test_without_a_recording_it_is_a_plain_queue() -> None:
    line: TracedQueue[int] = TracedQueue(1)
    line.put(1)
    with pytest.raises(queue.Full):
        line.put_nowait(2)
    assert (line.get(), line.capacity, line.maxsize) == (1, 1, 1)
    assert str(line.vidlab_name).startswith("test_traced_queue.py:")
    with pytest.raises(InputError, match="maxsize"):
        TracedQueue(evict=True)


def test_asyncio_waits_and_evictions(watched: Any) -> None:
    refs = [watched.new_ref() for _ in range(5)]

    async def evicting() -> None:
        newest: TracedAsyncQueue[Any] = TracedAsyncQueue(2, name="newest", evict=True)
        for ref in refs:
            await newest.put(image(ref))
        await newest.get()
        newest.get_nowait()
        newest.task_done()
        newest.task_done()
        await asyncio.wait_for(newest.join(), 5)

    asyncio.run(evicting())
    check_evictions(watched, refs, "newest")


def test_an_asyncio_wait_begins_as_put_is_entered(watched: Any) -> None:
    refs = [watched.new_ref() for _ in range(3)]
    got: list[Any] = []

    async def produce(line: TracedAsyncQueue[Any]) -> None:
        for ref in refs:
            await line.put(image(ref))

    async def consume(line: TracedAsyncQueue[Any]) -> None:
        for _ in refs:
            await asyncio.sleep(0.01)
            item = await line.get()
            got.append((ref_of(item).frame, frame_here.get().frame))  # type: ignore[union-attr]

    async def both() -> None:
        line: TracedAsyncQueue[Any] = TracedAsyncQueue(1)
        cancelled = asyncio.create_task(line.get())
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(produce(line), consume(line))
        with pytest.raises(asyncio.QueueEmpty):
            line.get_nowait()
        line.put_nowait(None)
        with pytest.raises(asyncio.QueueFull):
            line.put_nowait(None)

    asyncio.run(both())
    assert got == [(ref.frame, ref.frame) for ref in refs]
    first, second, third = watched.records("spans")
    # The third stood before the full queue until the first was got.
    assert third["t_ns"] < second["t_ns"] + second["duration_ns"]
    assert all(s["duration_ns"] > 8_000_000 for s in (first, second, third))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_frames_cross_to_another_process_and_labels_as_text(watched: Any, method: str) -> None:
    context = multiprocessing.get_context(method)
    inbox = TracedProcessQueue(4, name="inbox", context=context)
    outbox = TracedProcessQueue(name="outbox", context=context)
    process = context.Process(target=tell_identity, args=(inbox, outbox))
    process.start()
    ref = watched.new_ref(stream_id=f"cam {method}")
    inbox.put((7, image(ref)), timeout=10)
    number, frame, values, name = outbox.get(timeout=60)
    process.join()
    assert (number, frame, name) == (7, ref.frame, "inbox")
    assert values == {"stream_id": f"cam {method}"}
    depths = watched.records("queue_depths")
    assert [(d["queue"], d["touch"], d["capacity"]) for d in depths] == [
        ("inbox", "put", 4),
        ("outbox", "get", -1),
    ]


def tell_identity(inbox: Any, outbox: Any) -> None:
    """In a child process: say what frame has arrived."""
    parcel = multiprocessing.queues.Queue.get(inbox)
    known = labelsets.get(parcel.ref.labels)
    outbox.put((parcel.item[0], parcel.ref.frame, dict(known.values), inbox.vidlab_name))


def test_a_process_queue_evicts_and_attaches(watched: Any) -> None:
    newest = TracedProcessQueue(2, name="newest", evict=True)
    refs = [watched.new_ref() for _ in range(5)]
    for ref in refs:
        newest.put({"image": image(ref)})
    for ref in refs[3:]:
        item = newest.get(timeout=10)
        found = ref_of(item["image"])
        assert found is not None
        assert found.frame == ref.frame
    with pytest.raises(queue.Empty):
        newest.get_nowait()
    assert newest.evicted == 3
    check_evictions(watched, refs, "newest")


def test_a_process_queue_when_nothing_is_recorded() -> None:
    line = TracedProcessQueue(1)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(line.get(timeout=10)))
    thread.start()
    line.put("text")
    thread.join()
    assert results == ["text"]

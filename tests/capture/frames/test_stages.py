"""Stages: what is written, and that nothing of the program's is changed by them."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from vidlab import labelsets
from vidlab.capture.frames import stages
from vidlab.capture.frames.recorder import SpanRecorder
from vidlab.capture.frames.stages import Idle, stage
from vidlab.capture.patching import Patches
from vidlab.schema import QUEUE, UNKNOWN


def by_stage(recorded) -> dict[str, dict]:
    return {span["stage"]: span for span in recorded.records("spans")}


def number(span: dict, thread: int = 1) -> int:
    return 1 << 52 | thread << 32 | span["sequence"]


# --- off ---


def test_off_it_is_one_object_a_name_that_does_nothing() -> None:
    assert stages.active is None
    assert stage("off") is stage("off", object())
    with pytest.raises(KeyError), stage("off"):
        raise KeyError
    with stage("off"):
        pass


def test_made_before_the_recording_it_records_from_then_on(recorded) -> None:
    recorded.stop()
    made = stage("made before")

    @stage("decorated before")
    def work() -> int:
        return 5

    assert work() == 5
    stages.activate(recorded.patches, recorded.recorder)
    with made:
        assert work() == 5
    assert work() == 5
    recorded.stop()
    with made:
        work()
    names = [span["stage"] for span in recorded.records("spans")]
    assert names == ["made before", "decorated before", "decorated before"]


def test_activation_leaves_no_trace() -> None:
    before = dict(vars(Idle)), stages.active
    patches = Patches()
    stages.activate(patches, object())  # type: ignore[arg-type]
    assert stages.active is not None
    patches.restore()
    assert (dict(vars(Idle)), stages.active) == before


# --- what is written ---


def test_a_span_has_its_frame_labels_and_time(recorded) -> None:
    ref = recorded.new_ref(stream_id="cam", codec="h264")
    before = time.perf_counter_ns()
    with labelsets.labels(gpu=1), stage("filter", ref):
        time.sleep(0.002)
    after = time.perf_counter_ns()
    (span,) = recorded.records("spans")
    assert span["frame"] == ref.frame
    assert span["parent"] == 0
    assert (span["kind"], span["status"]) == ("service", "ok")
    assert before <= span["t_ns"] <= span["t_ns"] + span["duration_ns"] <= after
    assert span["duration_ns"] >= 2_000_000
    values = labelsets.get(span["labels"]).values
    assert values == {"codec": "h264", "gpu": 1, "stream_id": "cam"}


def test_without_a_frame_it_has_the_current_labels(recorded) -> None:
    with labelsets.labels(region="north"), stage("work"):
        pass
    (span,) = recorded.records("spans")
    assert span["frame"] == 0
    assert labelsets.get(span["labels"]).values == {"region": "north"}


def test_a_stage_inside_inherits_the_frame_and_knows_its_parent(recorded) -> None:
    ref = recorded.new_ref()
    with stage("outer", ref):
        with stage("inner"), stage("innermost"):
            pass
        with stage("sibling", ref):
            pass
    found = by_stage(recorded)
    assert {span["frame"] for span in found.values()} == {ref.frame}
    assert found["outer"]["parent"] == 0
    assert found["inner"]["parent"] == found["sibling"]["parent"] == number(found["outer"])
    assert found["innermost"]["parent"] == number(found["inner"])


def test_inside_a_span_of_another_frame_it_is_at_the_top_level(recorded) -> None:
    one, two = recorded.new_ref(), recorded.new_ref()
    with stage("loop"), stage("one", one), stage("two", two), stage("one again", one):
        pass
    found = by_stage(recorded)
    assert found["one"]["parent"] == found["two"]["parent"] == 0
    assert found["one again"]["parent"] == number(found["one"])


def test_the_frame_that_the_thread_took_last_is_the_default(recorded) -> None:
    ref = recorded.new_ref()
    recorded.recorder.set_current_frame(ref)
    with stage("work"):
        pass
    assert recorded.records("spans")[0]["frame"] == ref.frame


def test_all_spans_of_rolled_buffers_are_there(recorded) -> None:
    for n in range(1000):
        with stage(f"stage {n % 7}"):
            pass
    found = recorded.records("spans")
    assert [span["sequence"] for span in found] == list(range(1, 1001))


def test_threads_write_to_buffers_of_their_own(recorded) -> None:
    def work() -> None:
        for _ in range(300):
            with stage("outer"), stage("inner"):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorded.records("spans")) == 4 * 600
    assert recorded.recorder.failures == 0


def test_a_waiting_span_counts_from_the_end_of_the_one_that_it_began_in(recorded) -> None:
    ref, recorder = recorded.new_ref(), recorded.recorder
    with stage("filter", ref):
        began = time.perf_counter_ns()
        under = recorder.outermost(ref)
        time.sleep(0.001)
        recorder.emit(1, QUEUE, 0, ref, began, time.perf_counter_ns(), after=under)
    recorder.emit(1, QUEUE, 0, ref, began, time.perf_counter_ns(), after=under)
    service, queue = recorded.records("spans")
    assert queue["t_ns"] == service["t_ns"] + service["duration_ns"]


def test_a_wait_that_ends_in_a_span_is_not_inside_it(recorded) -> None:
    ref = recorded.new_ref()
    began = time.perf_counter_ns()
    with stage("pull", ref):
        recorded.recorder.emit(1, QUEUE, 0, ref, began, time.perf_counter_ns())
        inside = time.perf_counter_ns()
        recorded.recorder.emit(1, QUEUE, 0, ref, inside, time.perf_counter_ns())
    found = {span["t_ns"]: span["parent"] for span in recorded.records("spans")}
    assert found[began] == 0
    assert found[inside] != 0


# --- the ways out ---


def test_exceptions_and_returns_pass_through(recorded) -> None:
    def returns() -> int:
        with stage("return"):
            return 7

    assert returns() == 7
    for error in (ValueError, KeyboardInterrupt, asyncio.CancelledError, SystemExit):
        with pytest.raises(error), stage(error.__name__):
            raise error
    statuses = {name: span["status"] for name, span in by_stage(recorded).items()}
    assert statuses == {
        "return": "ok",
        "ValueError": "error",
        "KeyboardInterrupt": "cancelled",
        "CancelledError": "cancelled",
        "SystemExit": "error",
    }
    assert recorded.recorder.innermost() is None


def test_a_generator_closed_early_is_cancelled(recorded) -> None:
    def frames() -> Iterator[int]:
        with stage("generator"):
            yield 1
            yield 2

    steps = frames()
    next(steps)
    with stage("consumer"):  # opened inside, ended after
        steps.close()
    found = by_stage(recorded)
    assert found["generator"]["status"] == "cancelled"
    assert found["consumer"]["status"] == "ok"
    with stage("after"):
        pass
    assert by_stage(recorded)["after"]["parent"] == 0
    assert recorded.recorder.innermost() is None


def test_a_generator_closed_in_another_thread(recorded) -> None:
    def frames() -> Iterator[int]:
        with stage("generator"):
            yield 1

    steps = frames()
    next(steps)
    with stage("here"):
        thread = threading.Thread(target=steps.close)
        thread.start()
        thread.join()
    with stage("after"):
        pass
    found = by_stage(recorded)
    assert found["generator"]["status"] == "cancelled"
    assert found["after"]["parent"] == 0
    assert recorded.recorder.failures == 0
    # Each thread has written to its own buffer.
    assert len({id(buffer) for name, buffer in recorded.writer.buffers if name == "spans"}) == 2


def test_a_generator_collected_by_the_garbage_collector(recorded) -> None:
    def frames() -> Iterator[int]:
        with stage("generator"):
            yield 1

    steps = frames()
    next(steps)
    del steps
    gc.collect()
    assert by_stage(recorded)["generator"]["status"] == "cancelled"


def test_the_same_stage_entered_again(recorded) -> None:
    again = stage("again")
    for _ in range(2):
        with again:
            pass
    with again, again:
        pass
    with stage("after"):
        pass
    found = recorded.records("spans")
    assert [span["stage"] for span in found] == ["again", "again", "again", "after"]
    assert found[-1]["parent"] == 0


def test_two_stages_made_before_either_is_entered(recorded) -> None:
    one, two = stage("one"), stage("two")
    with two, one:
        pass
    assert set(by_stage(recorded)) == {"one", "two"}


def test_a_recording_that_ends_inside_a_stage(recorded) -> None:
    with stage("inside"):
        recorded.stop()
    assert by_stage(recorded)["inside"]["status"] == "ok"


def test_our_own_failures_are_counted_and_never_the_programs(recorded) -> None:
    findings: list[str] = []

    class Broken:
        def __getattr__(self, name: str) -> object:
            raise OSError("disk gone")

        def finding(self, kind: str, message: str, **other: object) -> None:
            findings.append(message)

    recorder = SpanRecorder(recorded.writer, "never")
    recorder.writer = Broken()  # type: ignore[assignment]
    recorded.stop()
    patches = Patches()
    stages.activate(patches, recorder)
    try:
        for _ in range(3):
            with stage("work"):
                pass
    finally:
        patches.restore()
    assert recorder.failures >= 3
    assert len(findings) == 1
    assert "disk gone" in findings[0]


# --- asyncio ---


def test_tasks_have_chains_of_their_own(recorded) -> None:
    refs = [recorded.new_ref() for _ in range(3)]

    async def work(index: int) -> None:
        with stage(f"outer {index}", refs[index]):
            await asyncio.sleep(0.003 * (3 - index))
            with stage(f"inner {index}"):
                await asyncio.sleep(0.001)

    async def main() -> None:
        await asyncio.gather(*(work(index) for index in range(3)))
        task = asyncio.create_task(work(0))
        await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    found = recorded.records("spans")
    assert len(found) == 7
    numbers = {number(span): span for span in found}
    for span in found:
        kind, index = span["stage"].split()
        assert span["frame"] == refs[int(index)].frame
        if kind == "inner":
            assert numbers[span["parent"]]["stage"] == f"outer {index}"
        else:
            assert span["parent"] == 0
    assert [span["status"] for span in found].count("cancelled") == 1


def test_an_event_loop_inside_a_stage(recorded) -> None:
    ref = recorded.new_ref()

    async def main() -> None:
        with stage("inner"):
            await asyncio.sleep(0)

    with stage("outer", ref):
        asyncio.run(main())
    found = by_stage(recorded)
    assert found["inner"]["parent"] == number(found["outer"])
    assert found["inner"]["frame"] == ref.frame


def test_tasks_that_start_tasks_forever_keep_nothing(recorded) -> None:
    depth = []

    async def main() -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def step(left: int) -> None:
            with stage("step"):
                if left:
                    loop.call_soon(step, left - 1)
                else:
                    span, count = stages.current.get(), 0
                    while span is not None:
                        span, count = span.outer, count + 1
                    depth.append(count)
                    done.set()

        step(200)
        await done.wait()

    asyncio.run(main())
    assert depth == [1]


# --- decorators ---


def test_decorated_functions_of_all_kinds(recorded) -> None:
    ref = recorded.new_ref()

    @stage("plain")
    def plain(a: int, frame: object, *, b: int = 2) -> int:
        "Adds."
        return a + b

    @stage("coroutine")
    async def coroutine(frame: object) -> int:
        await asyncio.sleep(0)
        return 3

    @stage("generator")
    def generator(count: int) -> Iterator[object]:
        got = yield ref
        assert got == "sent"
        with pytest.raises(KeyError):
            yield ref
        return "done"

    @stage("async generator")
    async def async_generator() -> AsyncIterator[object]:
        yield ref
        yield ref

    assert plain(1, ref, b=4) == 5
    assert (plain.__name__, plain.__doc__) == ("plain", "Adds.")
    assert inspect.iscoroutinefunction(coroutine)
    assert inspect.isgeneratorfunction(generator)
    assert inspect.isasyncgenfunction(async_generator)
    assert asyncio.run(coroutine(ref)) == 3
    steps = generator(1)
    assert next(steps) is ref
    assert steps.send("sent") is ref
    with pytest.raises(StopIteration) as end:
        steps.throw(KeyError())
    assert end.value.value == "done"

    async def consume() -> list[object]:
        return [item async for item in async_generator()]

    assert asyncio.run(consume()) == [ref, ref]
    found = recorded.records("spans")
    counts = {name: sum(s["stage"] == name for s in found) for name in by_stage(recorded)}
    assert counts == {"plain": 1, "coroutine": 1, "generator": 3, "async generator": 3}
    assert {span["status"] for span in found} == {"ok"}
    assert sum(span["frame"] == ref.frame for span in found) == 6  # not the two ends


def test_a_decorated_generator_is_not_timed_while_its_consumer_works(recorded) -> None:
    @stage("generator")
    def generator() -> Iterator[int]:
        yield 1
        yield 2

    worked = []
    for _ in generator():
        began_ns = time.perf_counter_ns()
        time.sleep(0.001)
        worked.append((began_ns, time.perf_counter_ns()))
    spans = recorded.records("spans")
    assert len(spans) == 3
    for span in spans:
        end_ns = span["t_ns"] + span["duration_ns"]
        assert all(end_ns <= began or span["t_ns"] >= ended for began, ended in worked)


# --- clocks ---


@pytest.fixture
def clocked(recorded):
    """The same recording with `clocks` set."""

    def set_clocks(clocks: str) -> None:
        recorded.recorder._clocks = clocks
        recorded.recorder.kinds.clear()

    return set_clocks


def test_cpu_time_is_the_threads_own(recorded, clocked) -> None:
    clocked("always")
    with stage("sleeps"):
        time.sleep(0.02)
    with stage("works"):
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
    found = by_stage(recorded)
    sleeps, works = found["sleeps"], found["works"]
    assert sleeps["duration_ns"] - sleeps["cpu_ns"] > 19_000_000
    # The two clocks do not tick quite alike: the one is disciplined, the other is not.
    assert 20_000_000 <= works["cpu_ns"] <= 1.01 * works["duration_ns"]
    if sys.platform == "linux":
        assert 0 <= works["runqueue_ns"] <= works["duration_ns"]


def test_never_reads_no_clock(recorded) -> None:
    with stage("work"):
        time.sleep(0.001)
    (span,) = recorded.records("spans")
    assert span["cpu_ns"] == span["runqueue_ns"] == UNKNOWN


def test_auto_reads_clocks_of_long_stages_only(recorded, clocked) -> None:
    clocked("auto")
    for _ in range(100):  # a pause of the machine makes a stage a long one, for a while
        for _ in range(100):
            with stage("short"):
                pass
        short = [s["cpu_ns"] != UNKNOWN for s in recorded.records("spans")]
        if not any(short[-50:]):
            break
    assert short[0]  # unknown yet
    assert not any(short[-50:])
    for _ in range(30):
        with stage("long"):
            time.sleep(0.0005)
    found = recorded.records("spans")
    assert all(s["cpu_ns"] != UNKNOWN for s in found if s["stage"] == "long")
    recorded.recorder.kinds["short"].mean_ns = 0.0
    for _ in range(30):  # a stage may become long
        with stage("short"):
            time.sleep(0.0005)
    assert recorded.recorder.kinds["short"].reads_clocks


def test_a_task_has_no_clocks_that_others_run_on(recorded, clocked) -> None:
    clocked("always")

    async def main() -> None:
        with stage("work"):
            await asyncio.sleep(0.001)

    asyncio.run(main())
    assert by_stage(recorded)["work"]["cpu_ns"] == UNKNOWN


def test_work_handed_to_a_pool_is_inside_the_stage_around_it(recorded) -> None:
    ref = recorded.new_ref()

    def work() -> None:
        with stage("inner", ref):
            pass

    with ThreadPoolExecutor(1) as pool, stage("outer", ref):
        outer = stages.current.get()

        def task() -> None:
            token = stages.current.set(outer)
            try:
                work()
            finally:
                stages.current.reset(token)

        pool.submit(task).result()
        pool.submit(work).result()
    found = recorded.records("spans")
    outer_number = next(number(s) for s in found if s["stage"] == "outer")
    assert [s["parent"] for s in found if s["stage"] == "inner"] == [outer_number, 0]

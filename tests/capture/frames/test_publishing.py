"""Span words while recording: always the innermost open span of the thread, or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from vidlab import labelsets
from vidlab.capture.frames import publishing, spans, stages
from vidlab.capture.frames.pyav import PyAV
from vidlab.capture.frames.recorder import SpanRecorder
from vidlab.capture.frames.refs import frame_ref
from vidlab.capture.frames.spans import Span, TaskSpan
from vidlab.capture.frames.stages import stage
from vidlab.capture.patching import Patches
from vidlab.capture.spanwords import SIZE, words

NOTHING = (0, 0, 0)


def word() -> tuple[int, int, int]:
    """The span, frame and labels that a kernel program would read in this thread."""
    memory = ctypes.string_at(words.word_of_thread().address, SIZE)
    span, frame, labels, again = np.frombuffer(memory, "<u8").tolist()
    return (span, frame, labels) if span == again else NOTHING


def number(span: Span) -> int:
    return span.state.buffer.span + span.sequence


def of(span: Span) -> tuple[int, int, int]:
    """What the word is in this span."""
    ref, here = span.ref, labelsets.current.get()
    if ref is None:
        return number(span), 0, here
    return number(span), ref.frame, labelsets.of_frame(ref.labels, here)


@pytest.fixture
def listening() -> Iterator[None]:
    listening = words.listen(lambda *_: None, lambda *_: None)
    yield
    listening.close()
    assert word() == NOTHING


@pytest.fixture
def published(listening, recorded):
    """A recording whose spans are published."""
    return recorded


@pytest.fixture(params=["never", "always"])
def clocks(request, published):
    published.recorder._clocks = request.param
    published.recorder.kinds.clear()
    return published


# --- who asks for it ---


def methods() -> list[object]:
    return [vars(owner)[name] for owner, name, _ in publishing._REPLACED]


def test_nothing_is_replaced_while_nobody_listens(recorded) -> None:
    assert not words.listening
    plain = methods()
    assert plain[0].__module__ == spans.__name__  # type: ignore[attr-defined]
    with stage("work", recorded.new_ref()):
        assert word() == NOTHING
    for _ in range(2):
        listening = words.listen(lambda *_: None, lambda *_: None)
        assert all(now is not before for now, before in zip(methods(), plain, strict=True))
        with stage("work") as span:
            assert word() == of(span)
        listening.close()
        assert methods() == plain
    recorded.stop()
    assert methods() == plain


def test_all_is_as_before_once_the_recording_ends(published) -> None:
    assert Span.__enter__ is publishing._enter
    published.stop()
    assert methods() == [Span.__enter__, Span.__exit__, Span._end, *methods()[3:]]
    assert all(method.__module__ == spans.__name__ for method in methods())  # type: ignore[attr-defined]
    assert publishing.since_ns == 0


def test_a_recording_that_begins_while_somebody_listens(published) -> None:
    with stage("work") as span:
        assert word() == of(span) != NOTHING


def test_a_span_that_was_open_before_is_not_published(recorded) -> None:
    with stage("before"):
        listening = words.listen(lambda *_: None, lambda *_: None)
        assert word() == NOTHING
        with stage("inside") as span:
            assert word() == of(span)
        assert word() == NOTHING
    assert word() == NOTHING
    with stage("after") as span:
        assert word() == of(span)
        listening.close()
        assert word() == NOTHING
    assert word() == NOTHING


def test_a_stage_that_was_made_before_is_published(recorded) -> None:
    made = stage("made before")
    listening = words.listen(lambda *_: None, lambda *_: None)
    with made:
        assert word() == of(made)
    assert word() == NOTHING
    listening.close()


@pytest.mark.parametrize("closed", [True, False])
def test_spans_of_a_recording_that_is_over_leave_the_word_alone(published, closed) -> None:
    def leaves_one_open() -> Iterator[None]:
        with stage("outer"), stage("inner"):
            yield

    steps = leaves_one_open()
    next(steps)
    published.stop()
    if closed:
        published.recorder.close()
        assert word() == NOTHING
    patches = Patches()
    stages.activate(patches, SpanRecorder(published.writer, "never"))
    try:
        with stage("next") as span:
            steps.close()
            assert word() == of(span)
    finally:
        patches.restore()


# --- in a thread ---


def test_nested_spans_and_back(clocks) -> None:
    one, two = clocks.new_ref(stream_id="a"), clocks.new_ref(stream_id="b")
    assert word() == NOTHING
    with stage("outer", one) as outer:
        assert word() == of(outer)
        assert word()[1] == one.frame
        with labelsets.labels(gpu=1), stage("inner", two) as inner:
            assert word() == of(inner)
            assert labelsets.get(word()[2]).values == {"gpu": 1, "stream_id": "b"}
        assert word() == of(outer)
        for _ in range(3):
            with stage("again") as again:
                assert word() == of(again)
        assert word() == of(outer)
    assert word() == NOTHING
    with stage("without a frame") as span:
        assert word() == (number(span), 0, 0)
    assert word() == NOTHING


def test_its_number_is_the_one_in_the_table(published) -> None:
    seen = []
    for _ in range(200):  # the buffer rolls
        with stage("work"):
            seen.append(word()[0])
    assert seen == [1 << 52 | 1 << 32 | s["sequence"] for s in published.records("spans")]


def test_the_shortest_spans(published) -> None:
    ref = published.new_ref()
    for _ in range(100):
        with stage("work", ref):
            pass
        assert word() == NOTHING


def test_exceptions(clocks) -> None:
    with stage("outer") as outer:
        for error in (ValueError, KeyboardInterrupt, GeneratorExit, SystemExit):
            with pytest.raises(error), stage("inner"):
                raise error
            assert word() == of(outer)
    assert word() == NOTHING


def test_frames_that_are_not_recorded_are_nothing(clocks) -> None:
    left_out = frame_ref(frame=1 << 52 | 7, seq=1, sampled=False)
    with stage("outer", clocks.new_ref()) as outer:
        with stage("left out", left_out):
            assert word() == NOTHING
        assert word() == of(outer)
    assert word() == NOTHING


def test_spans_that_end_out_of_order(clocks) -> None:
    one, two, three = (clocks.recorder.span(clocks.recorder.kind(n), None) for n in "abc")
    for span in (one, two, three):
        span.__enter__()
    two.__exit__(None, None, None)
    assert word() == of(three)
    three.__exit__(None, None, None)
    assert word() == of(one)
    three.drop()
    two.__exit__(None, None, None)
    assert word() == of(one)
    one.drop()
    assert word() == NOTHING


def test_generators(clocks) -> None:
    def frames() -> Iterator[int]:
        with stage("generator") as span:
            kept.append(span)
            yield 1
            yield 2

    kept: list[Span] = []
    steps = frames()
    next(steps)
    assert word() == of(kept[0])
    with stage("consumer") as consumer:
        assert word() == of(consumer)
        next(steps)
        assert word() == of(consumer)
    assert word() == of(kept[0])
    with stage("consumer") as consumer:
        steps.close()
        assert word() == of(consumer)
    assert word() == NOTHING
    steps = frames()
    next(steps)
    del steps
    gc.collect()
    assert word() == NOTHING


def test_decorated_generators(published) -> None:
    @stage("step")
    def frames() -> Iterator[int]:
        for n in range(3):
            seen.append(word()[0])
            yield n

    seen: list[int] = []
    for _ in frames():
        assert word() == NOTHING
    assert len(set(seen)) == 3


def test_a_span_that_ends_in_another_thread(clocks) -> None:
    def frames() -> Iterator[int]:
        with stage("generator"):
            yield 1

    def elsewhere() -> None:
        with stage("elsewhere") as span:
            steps.close()
            seen.append(word() == of(span))
        seen.append(word() == NOTHING)

    seen: list[bool] = []
    with stage("outer") as outer:
        steps = frames()
        next(steps)
        assert word() not in (NOTHING, of(outer))
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert word() == of(outer)
    assert seen == [True, True]


def test_threads_have_words_of_their_own(published) -> None:
    def work() -> None:
        for _ in range(300):
            with stage("outer") as outer:
                with stage("inner") as inner:
                    wrong.append(word() != of(inner))
                wrong.append(word() != of(outer))
            wrong.append(word() != NOTHING)

    wrong: list[bool] = []
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [False] * (4 * 900)


def test_a_thread_that_ends_within_a_span_leaves_its_word_clean(published) -> None:
    known: dict[int, int] = {}
    listening = words.listen(known.__setitem__, known.__delitem__)

    def work() -> None:
        stage("never ended").__enter__()
        tids.add(threading.get_native_id())
        addresses.append(known[threading.get_native_id()])
        assert word() != NOTHING

    addresses: list[int] = []
    tids: set[int] = set()
    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert ctypes.string_at(addresses[-1], SIZE) == bytes(SIZE)
        assert not known.keys() & tids
    assert threading.get_native_id() in known
    listening.close()


def test_work_handed_to_a_pool(published) -> None:
    with ThreadPoolExecutor(1) as pool, stage("outer") as outer:
        mine = of(outer)

        def task() -> None:
            token = stages.current.set(outer)
            try:
                assert word() == mine
                with stage("inner") as inner:
                    assert word() == of(inner)
                assert word() == mine
            finally:
                stages.current.reset(token)
            assert word() == NOTHING

        pool.submit(task).result()


def test_a_fork_inside_a_span(published) -> None:
    with stage("outer") as outer:
        if (child := os.fork()) == 0:
            try:
                assert word() == NOTHING
                with stage("in the child") as span:
                    assert word() == of(span)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert word() == of(outer)


class Chain:
    """Spans opened and ended in any order, against what the frame engine says is innermost."""

    def __init__(self, recorded) -> None:
        self.recorder = recorded.recorder
        self.kinds = [self.recorder.kind("short"), self.recorder.kind("long")]
        self.kinds[1].reads_clocks = True
        self.refs = [recorded.new_ref(), None, frame_ref(frame=9, seq=1, sampled=False)]
        self.open: list[Span] = []

    def step(self, what: str, index: int) -> None:
        if what == "enter":
            span = self.recorder.span(self.kinds[index % 2], self.refs[index % 3])
            self.open.append(span.__enter__())
        elif self.open:
            span = self.open.pop(index % len(self.open))
            if what == "exit":
                span.__exit__(None, None, None)
            elif what == "error":
                span.__exit__(ValueError, ValueError(), None)
            else:
                span.drop()

    def check(self) -> None:
        span = self.recorder.innermost()
        expected = NOTHING if span is None or span.ref is self.refs[2] else of(span)
        assert word() == expected

    def end(self) -> None:
        while self.open:
            self.open.pop().drop()


STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "enter", "exit", "error", "drop"]), st.integers(0, 9)),
    max_size=30,
)


def test_any_order(published) -> None:
    @settings(max_examples=200, deadline=None, database=None)
    @given(STEPS)
    def runs(steps: list[tuple[str, int]]) -> None:
        chain = Chain(published)
        try:
            for step in steps:
                chain.step(*step)
                chain.check()
        finally:
            chain.end()

    runs()


# --- threads with an event loop ---


def test_tasks_say_nothing_for_what_others_may_run_in(clocks) -> None:
    async def work() -> None:
        with stage("task"):
            assert word() == NOTHING
            await asyncio.sleep(0)
            assert word() == NOTHING
            plain()
            assert word() == NOTHING
            for _ in generator():
                assert word() == NOTHING
            with contextlib.ExitStack() as stack:
                stack.enter_context(stage("on behalf"))
                assert word() == NOTHING
                await asyncio.sleep(0)
        assert word() == NOTHING

    def plain() -> None:
        with stage("plain") as outer:
            assert word() == of(outer)
            with stage("inner") as inner:
                assert word() == of(inner)
            assert word() == of(outer)
            for _ in generator():
                assert word() == NOTHING
            assert word() == of(outer)

    def generator() -> Iterator[int]:
        with stage("generator"):
            assert word() == NOTHING
            yield 1

    async def main() -> None:
        plain()
        await asyncio.gather(*(work() for _ in range(3)))
        plain()

    asyncio.run(main())
    with stage("outer") as outer:
        asyncio.run(main())
        assert word() == of(outer)
    assert word() == NOTHING
    assert not clocks.recorder.local.state.firm


def test_idle_stages_in_tasks_say_nothing(listening, recorded) -> None:
    recorded.stop()
    made = stage("made before")
    stages.activate(recorded.patches, recorded.recorder)

    async def main() -> None:
        with made:
            assert word() == NOTHING

    asyncio.run(main())
    with made:
        assert word() != NOTHING


def test_a_task_that_never_ends_does_not_hold_the_word(published) -> None:
    async def forever() -> None:
        with stage("forever"):
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        with stage("work"):
            assert word() == NOTHING
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert word() == NOTHING
    with stage("after") as span:
        assert type(span) is TaskSpan
        assert word() == of(span)


# --- PyAV ---


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for pts in range(20):
            frame = VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * pts, np.uint8))
            frame.pts, frame.time_base = pts, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("loop", [False, True])
def test_the_calls_into_pyav(clip, tmp_path, monkeypatch, published, loop) -> None:
    """What a uprobe within a call would read: the call is PyAV's, seen from just around it."""
    seen: dict[str, list[tuple[int, int, int]]] = {}

    def spied(owner: type, name: str) -> None:
        method = getattr(owner, name)

        def spy(self, *args, **kwargs):
            seen.setdefault(name, []).append(word())
            return method(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, spy)

    def spied_demux() -> None:
        demux = av.container.InputContainer.demux

        def spy(self, *args, **kwargs):
            for packet in demux(self, *args, **kwargs):
                seen.setdefault("demux", []).append(word())
                yield packet

        monkeypatch.setattr(av.container.InputContainer, "demux", spy)

    spied(VideoCodecContext, "decode")
    spied(VideoCodecContext, "encode")
    spied(av.container.OutputContainer, "mux_one")
    spied_demux()
    PyAV(published.patches, published.recorder)

    def transcode() -> None:
        with av.open(str(clip)) as source, av.open(str(tmp_path / "out.mp4"), "w") as output:
            stream = output.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for packet in source.demux(video=0):
                assert word() == NOTHING
                for frame in packet.decode():
                    frame.pict_type = 0
                    for done in stream.encode(frame):
                        output.mux_one(done)
            for done in stream.encode(None):
                output.mux_one(done)
        assert word() == NOTHING

    async def main() -> None:
        transcode()

    if loop:
        asyncio.run(main())
    else:
        transcode()
    published.stop()
    numbers = {
        (span["stage"], 1 << 52 | 1 << 32 | span["sequence"]): span
        for span in published.records("spans")
        if span["kind"] == "service"
    }
    frames = {span["frame"] for span in numbers.values() if span["frame"]}
    assert len(frames) == 20
    for name, calls in seen.items():
        known = [numbers.get((name.removesuffix("_one"), span)) for span, _, _ in calls]
        assert sum(span is not None and span["frame"] != 0 for span in known) == 20, name
        if name == "demux":  # the packet is not known yet
            assert {frame for _, frame, _ in calls} == {0}
        else:
            pairs = zip(calls, known, strict=True)
            told = [(word[1:], span) for word, span in pairs if span is not None]
            assert all(word == (span["frame"], span["labels"]) for word, span in told), name
            assert {word[0] for word, _ in told} >= frames

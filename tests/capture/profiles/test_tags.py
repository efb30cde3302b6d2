"""What a thread is tagged with is what it is in: always, and after anything that happens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidlab import labelsets
from vidlab.capture import propagation
from vidlab.capture.frames.stages import stage
from vidlab.capture.patching import Patches
from vidlab.capture.profiles import following, labeltags
from vidlab.capture.profiles.labeltags import LABELS_TAG
from vidlab.capture.profiles.tags import NAME_TAG, SPAN_TAG, Tags, deepest
from vidlab.labelsets import labels


class FakeAgent:
    """Keeps the tags of each thread as pyroscope's agent does: a set of (key, value)."""

    def __init__(self) -> None:
        self.threads: dict[int, set[tuple[str, str]]] = {}
        self.calls = 0

    def here(self) -> set[tuple[str, str]]:
        return self.threads.setdefault(threading.get_ident(), set())

    def add(self, key: str, value: str, /) -> None:
        self.calls += 1
        self.here().add((key, value))

    def remove(self, key: str, value: str, /) -> None:
        self.calls += 1
        self.here().remove((key, value))

    def values(self, key: str) -> list[str]:
        return [value for known, value in self.here() if known == key]

    def labels(self) -> dict[str, Any]:
        """What the receiver takes the calling thread's label set to be."""
        return dict(labelsets.get(deepest(self.values(LABELS_TAG))).values)

    def span(self) -> int:
        return deepest(self.values(SPAN_TAG))


class Followed:
    """Tags that follow until the end of the test."""

    def __init__(self, readable: bool = False) -> None:
        self.agent = FakeAgent()
        self.tags = Tags(self.agent, readable, self.failed)
        self.patches = Patches()
        self.failures = 0
        following.follow(self.patches, self.tags, self.failed)
        propagation.install(self.patches)

    def failed(self) -> None:
        self.failures += 1


@pytest.fixture
def followed() -> Iterator[Followed]:
    followed = Followed()
    yield followed
    followed.patches.restore()
    assert followed.failures == 0
    assert labelsets.entered is None
    assert followed.agent.here() == {(NAME_TAG, "MainThread")}


def test_a_set_is_one_tag_whatever_is_around_it(followed: Followed) -> None:
    agent = followed.agent
    with labels(stream_id="a", codec="h264", gpu=0):
        before = agent.calls
        with labels(stream_id="b"):
            assert agent.labels() == {"stream_id": "b", "codec": "h264", "gpu": 0}
        assert agent.calls - before == 2
        assert agent.labels() == {"stream_id": "a", "codec": "h264", "gpu": 0}
        with labels(stream_id="a"):  # the same key and value, nested
            assert agent.labels()["stream_id"] == "a"
        assert agent.labels()["stream_id"] == "a"
        with labels(stream_id=None, codec=None, gpu=None):
            assert agent.labels() == {}
        assert agent.labels()["gpu"] == 0
    assert agent.labels() == {}


@given(st.lists(st.sampled_from("abcd<<<<"), max_size=200))
def test_any_sequence_shows_the_current_set(steps: list[str]) -> None:
    followed = Followed(readable=True)
    open_ones: list[labelsets.LabelBlock] = []
    try:
        for step in steps:
            if step != "<":
                open_ones.append(labels(**{step: len(open_ones) % 3, "stream_id": step}))
                open_ones[-1].__enter__()
            elif open_ones:
                open_ones.pop().__exit__(None, None, None)
            now = labelsets.get(labelsets.current.get()).values
            assert followed.agent.labels() == now
            own = {
                tag for tag in followed.agent.here() if not tag[0].startswith(("vidlab", "thread"))
            }
            assert own == {(key, str(value)) for key, value in now.items()}
    finally:
        while open_ones:
            open_ones.pop().__exit__(None, None, None)
        followed.patches.restore()
    assert followed.agent.here() == {(NAME_TAG, "MainThread")}
    assert followed.failures == 0


def test_sets_without_end_do_not_pile_up(followed: Followed) -> None:
    ids = [labelsets.intern({"stream_id": f"s{n}"}) for n in range(100)]
    begun = followed.tags.begin_step(labelsets.EMPTY)
    for before, after in pairwise(ids):
        followed.tags.changed(before, after)
        assert deepest(followed.agent.values(LABELS_TAG)) == after
    assert len(followed.agent.values(LABELS_TAG)) <= 33
    followed.tags.end_step(begun)


def test_few_ways_are_remembered(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeltags, "_MOST_REMEMBERED", 3)
    agent = followed.agent
    for step in range(10):
        with labels(stream_id="a", step=step), labels(stream_id="b"):
            begun = followed.tags.begin_step(labelsets.EMPTY)
            assert agent.labels() == {}
            with labels(gpu=step):
                assert agent.labels() == {"stream_id": "b", "step": str(step), "gpu": step}
            followed.tags.end_step(begun)
            assert agent.labels() == {"stream_id": "b", "step": str(step)}
        assert agent.labels() == {}
    assert sum(map(len, followed.tags._labels._remembered)) <= 6


def test_a_new_agent_is_told_all_that_holds(followed: Followed) -> None:
    agent = followed.agent
    with labels(stream_id="a"), labels(codec="h264"):
        before = set(agent.here())
        agent.threads.clear()  # as after a fork
        followed.tags.renew()
        with labels(gpu=1):
            assert agent.labels() == {"stream_id": "a", "codec": "h264", "gpu": 1}
        assert agent.here() == before
    assert agent.labels() == {}


def test_threads_and_pools_have_their_labels_and_leave_none_behind(followed: Followed) -> None:
    from concurrent.futures import ThreadPoolExecutor

    agent, seen = followed.agent, []

    def look() -> None:
        assert agent.values(NAME_TAG) == [threading.current_thread().name]
        seen.append(agent.labels())
        with labels(stream_id="own"):
            seen.append(agent.labels())

    with labels(stream_id="cam"):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        pool = ThreadPoolExecutor(1)
        pool.submit(look).result()
    with pool:
        pool.submit(look).result()
        (worker,) = pool._threads
        task = propagation._Task(int, labelsets.intern({"stream_id": "cam"}), None, None)
        task()
        assert agent.labels() == {}
        assert worker.ident in agent.threads
    assert [found.get("stream_id") for found in seen] == ["cam", "own", "cam", "own", None, "own"]
    assert [each for each in agent.threads.values() if each] == [{(NAME_TAG, "MainThread")}]


def test_each_task_has_its_own(followed: Followed) -> None:
    agent = followed.agent

    async def work(name: str) -> None:
        for step in range(3):
            assert agent.labels() == {"stream_id": "outer"}
            with labels(stream_id=name, step=step):
                assert agent.labels() == {"stream_id": name, "step": str(step)}
                await asyncio.sleep(0)
                assert agent.labels() == {"stream_id": name, "step": str(step)}
                with labels(stream_id=None):
                    await asyncio.sleep(0.001)
                    assert agent.labels() == {"step": str(step)}
            await asyncio.sleep(0)
            assert await asyncio.to_thread(agent.labels) == {"stream_id": "outer"}

    async def both() -> None:
        with labels(stream_id="outer"):
            await asyncio.gather(*(work(name) for name in "abc"))

    with labels(codec="h264"), labels(codec=None):
        asyncio.run(both())
        assert agent.labels() == {}
    assert followed.agent.here() == {(NAME_TAG, "MainThread")}


def test_a_step_leaves_what_was_there_before_the_loop(followed: Followed) -> None:
    agent, loop = followed.agent, asyncio.new_event_loop()
    loop.call_soon(lambda: None)  # of the empty set
    with labels(stream_id="a"):
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert agent.labels() == {"stream_id": "a"}
    loop.close()


@pytest.fixture
def clocked(recorded: Any, followed: Followed) -> Any:
    recorded.recorder._clocks = "always"
    recorded.followed = followed
    return recorded


def test_a_long_stages_span_is_shown_with_the_frame_it_turns_out_to_be_of(clocked: Any) -> None:
    tags, agent = clocked.followed.tags, clocked.followed.agent
    ref = clocked.new_ref(stream_id="cam")
    with stage("decode") as span:
        shown = agent.span()
        with stage("inner", ref):
            inner = agent.span()
        assert agent.span() == shown
        span.ref = ref  # as a decoder's is, once its packet is known
        assert tags.spans()[shown] == (shown, ref.frame, ref.labels)
    assert agent.span() == 0
    inner_row, outer_row = clocked.records("spans")[::-1]
    numbers = {1 << 52 | 1 << 32 | row["sequence"] for row in (inner_row, outer_row)}
    assert {shown, inner} == numbers
    assert tags.spans()[shown] == (shown, ref.frame, ref.labels)
    assert not tags.of_thread().spans


def test_a_short_stage_is_not_shown(recorded: Any, followed: Followed) -> None:
    with stage("quick", recorded.new_ref()):  # clocks="never"
        assert not followed.agent.values(SPAN_TAG)


def test_a_dropped_span_is_no_span(clocked: Any) -> None:
    tags, agent = clocked.followed.tags, clocked.followed.agent
    span = clocked.recorder.span(clocked.recorder.kind("decode"), None)
    span.__enter__()
    shown = agent.span()
    span.drop()
    assert agent.span() == 0
    assert tags.spans()[shown] == (0, 0, 0)


def test_a_span_that_ends_in_another_thread_has_its_records_number(clocked: Any) -> None:
    tags, agent = clocked.followed.tags, clocked.followed.agent
    span = stage("handed over", clocked.new_ref())
    span.__enter__()
    shown = agent.span()
    thread = threading.Thread(target=span.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    (row,) = clocked.records("spans")
    assert tags.spans()[shown].span & 0xFFFFFFFF == row["sequence"]
    assert tags.spans()[shown].span != shown
    with stage("next"):
        assert agent.span() not in (0, shown)
        assert len(agent.values(SPAN_TAG)) == 1


def test_coroutines_spans_are_shown_in_their_own_steps(clocked: Any) -> None:
    agent = clocked.followed.agent
    seen: dict[str, set[int]] = {"a": set(), "b": set()}

    async def work(name: str) -> None:
        with stage(name, clocked.new_ref()):
            for _ in range(3):
                seen[name].add(agent.span())
                await asyncio.sleep(0)
        assert agent.span() == 0

    async def both() -> None:
        await asyncio.gather(work("a"), work("b"))
        assert agent.span() == 0

    asyncio.run(both())
    assert [len(found) for found in seen.values()] == [1, 1]
    assert seen["a"] != seen["b"]
    assert all(row["cpu_ns"] < 0 for row in clocked.records("spans"))  # tasks take turns


def test_a_program_under_a_foreign_loop_has_no_label_rather_than_a_wrong_one(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    monkeypatch.setitem(sys.modules, "rloop", types.ModuleType("rloop"))
    patches = Patches()
    following.follow(patches, followed.tags, followed.failed)
    try:
        with ExitStack() as stack:
            stack.enter_context(labels(stream_id="before"))
            asyncio._set_running_loop(object())  # type: ignore[arg-type]
            stack.callback(asyncio._set_running_loop, None)
            with labels(stream_id="inside"):
                assert followed.agent.labels() == {}
        assert followed.agent.labels() == {}
    finally:
        patches.restore()

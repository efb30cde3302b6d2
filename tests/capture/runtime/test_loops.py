"""Event loops: how late they run a timer, and that they are left as they were."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vidlab.capture.runtime.loops import Loops

MS = 1_000_000


@pytest.fixture
def loops(writer: Any) -> Iterator[Loops]:
    before = asyncio.events._set_running_loop
    made = Loops(writer)
    made.start()
    made.follow(2 * MS)
    yield made
    made.stop()
    assert asyncio.events._set_running_loop is before


async def until(condition: Callable[[], Any]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.001)


def timers_of(loop: Any) -> list[Any]:
    """The timers that are set in a loop, by whomever."""
    return [handle for handle in loop._scheduled if not handle.cancelled()]


def test_a_blocked_loop_is_late_by_as_much(recorded: Any, loops: Loops) -> None:
    async def program() -> None:
        await until(lambda: recorded.records("loop_delays"))
        time.sleep(0.05)
        blocked_ns = time.perf_counter_ns()
        await until(lambda: recorded.records("loop_delays")[-1]["t_ns"] > blocked_ns - 40 * MS)
        here = (1, threading.get_native_id())
        assert loops.identify(asyncio.get_running_loop()) == here
        (known,) = loops._known.values()
        known.tid = 0  # as if it had not been measured
        assert loops.identify(asyncio.get_running_loop()) == here

    asyncio.run(program())
    rows = recorded.records("loop_delays")
    assert max(row["delay_ns"] for row in rows) > 45 * MS
    assert {(row["period_ns"], row["loop"]) for row in rows} == {(2 * MS, 1)}


def test_a_loop_that_pauses_is_not_late_for_that(recorded: Any, loops: Loops) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(until(lambda: recorded.records("loop_delays")))
    assert timers_of(loop) == []
    resumed_ns = time.perf_counter_ns()
    loop.run_until_complete(until(lambda: len(recorded.records("loop_delays")) > 5))
    rows = recorded.records("loop_delays")
    assert not [row for row in rows if row["t_ns"] < resumed_ns < row["t_ns"] + row["delay_ns"]]
    assert {row["loop"] for row in rows} == {1}
    loop.close()


def test_a_loop_that_runs_already_is_found_and_left_without_timers(
    recorded: Any, writer: Any
) -> None:
    async def program() -> None:
        loops = Loops(writer)
        loops.start()
        loops.follow(2 * MS)
        sampler = threading.Thread(target=loops.look, args=(1,))
        sampler.start()
        await until(lambda: len(recorded.records("loop_delays")) > 2)
        sampler.join()
        stopping = threading.Thread(target=loops.stop)  # as it may be by any thread
        stopping.start()
        await until(lambda: not stopping.is_alive())
        others = asyncio.get_running_loop()
        await until(lambda: not [h for h in timers_of(others) if "_tick" in repr(h)])

    asyncio.run(program(), debug=False)


def test_switching_it_off_and_on_again_leaves_one_timer(recorded: Any, loops: Loops) -> None:
    async def program() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(20):
            loops.close()
            loops.follow(2 * MS)
            loops.look(1)
            await asyncio.sleep(0)
        await until(lambda: recorded.records("loop_delays"))
        assert len([h for h in timers_of(loop) if "_tick" in repr(h)]) <= 1
        (known,) = loops._known.values()
        known._tick(known._turn - 1)  # one of before that came too late to be taken away
        assert len([h for h in timers_of(loop) if "_tick" in repr(h)]) <= 1
        loops.close()
        await until(lambda: not [h for h in timers_of(loop) if "_tick" in repr(h)])
        before = len(recorded.records("loop_delays"))
        loops.follow(2 * MS)
        loops.look(1)
        await until(lambda: len(recorded.records("loop_delays")) > before)

    asyncio.run(program())


def test_the_programs_context_is_neither_kept_nor_recorded(recorded: Any, loops: Loops) -> None:
    async def program() -> None:
        loop = asyncio.get_running_loop()
        await until(lambda: recorded.records("loop_delays"))
        # It is not there while the loop is about to run it.
        await until(lambda: [h for h in timers_of(loop) if "_tick" in repr(h)])
        (handle,) = [h for h in timers_of(loop) if "_tick" in repr(h)]
        assert list(handle._context.items()) == []

    asyncio.run(program())


class Hurried(asyncio.SelectorEventLoop):
    """A loop of a test: its time jumps to the next timer when there is nothing to do."""

    jumped_s = 0.0

    def time(self) -> float:
        return super().time() + self.jumped_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            when = self._scheduled[0].when()  # type: ignore[attr-defined]
            self.jumped_s += max(0.0, when - self.time())
        super()._run_once()  # type: ignore[misc]


def test_a_loop_whose_time_is_not_the_clocks_is_left_alone(recorded: Any, loops: Loops) -> None:
    loops.follow(60_000 * MS)
    loop = Hurried()
    began = time.monotonic()

    async def program() -> None:
        await asyncio.sleep(3600)
        assert timers_of(loop) == []

    loop.run_until_complete(program())
    assert time.monotonic() - began < 60
    assert recorded.records("loop_delays") == []
    assert timers_of(loop) == []
    loop.close()


class Unseen(asyncio.SelectorEventLoop):
    """Like a loop of C: asyncio's Python is not told that it runs."""

    def run_forever(self) -> None:
        begin = asyncio.events._set_running_loop
        asyncio.events._set_running_loop = asyncio._set_running_loop  # the one of C
        try:
            super().run_forever()
        finally:
            asyncio.events._set_running_loop = begin


def test_a_foreign_loop_is_seen_by_its_class_and_else_by_its_tasks(
    recorded: Any, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(look: bool) -> None:
        loops = Loops(writer)
        loops.start()
        loops.follow(2 * MS)
        loop = Unseen()

        async def program() -> None:
            seen = len(recorded.records("loop_delays"))
            if look:
                await asyncio.to_thread(loops.look, 1)
            await until(lambda: len(recorded.records("loop_delays")) > seen + 2)

        loop.run_until_complete(program())
        loop.run_until_complete(loop.shutdown_default_executor())
        loops.stop()
        loop.close()

    run(look=True)
    run_forever = Unseen.run_forever
    monkeypatch.setitem(sys.modules, "uvloop", types.SimpleNamespace(Loop=Unseen))
    run(look=False)
    assert Unseen.run_forever is run_forever


def test_a_measurement_that_fails_is_counted_and_ends_no_loop(
    recorded: Any, loops: Loops, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(loops, "write", fails)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(until(lambda: recorded.writer.losses))
    loop.close()  # `asyncio.run` would run it some more, and it would fail again
    assert recorded.writer.losses == {"loop_delays": 1}


def test_many_loops_are_measured_less_often(loops: Loops, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [asyncio.new_event_loop() for _ in range(20)]
    for loop in made:
        known = loops._of(loop)
        assert known is not None
        known.ticking = True
    loops.follow(2 * MS)
    assert loops.period_ns == 3 * 2 * MS
    assert [loops.identify(loop) for loop in made] == [(n, 0) for n in range(1, 21)]
    for loop in made:
        loop.close()


FORKS = """
import asyncio, os, sys, time
from vidlab.capture.runtime.engine import Runtime
from vidlab.capture.runtime.profiles import Profile
import vidlab as vl

vl.record.__globals__["_can_compact"] = lambda: False
engine = Runtime(Profile("p", loops=0.001, tasks=0.05))

async def until(condition):
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.001)

def measured(loop=None):
    known = engine._loops._known
    return [each for each in known if known[each].ticking and loop in (None, each)]

def child(loop):
    "Its parent's loop stands still here, whatever it says; its own is measured."
    assert loop.is_running() and not engine._loops._known
    asyncio.events._set_running_loop(None)
    own = asyncio.new_event_loop()
    async def work():
        await until(measured)
        engine._loops.look(1)
        assert measured() == [own]
    own.run_until_complete(work())
    assert engine._loops.identify(loop) is None
    again = asyncio.events._set_running_loop
    again(loop)  # it does run, as far as can be told
    again(None)
    assert engine._loops.identify(loop)[0]

async def parent():
    loop = asyncio.get_running_loop()
    asyncio.create_task(asyncio.sleep(3600), name="beat")
    await until(measured)
    pid = os.fork()
    if pid == 0:
        try:
            child(loop)
        except BaseException as error:
            print(repr(error), flush=True)
            os._exit(8)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert measured(loop)

with vl.record(sys.argv[1], engines=[engine]):
    asyncio.run(parent())
"""


def test_a_forked_child_tells_its_own_loops_from_copies_of_its_parents(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore:This process", "-c", FORKS, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr, result.stdout) == (0, "", "")

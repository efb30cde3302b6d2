"""Tasks: how old they are, where they wait, and whether they get on."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from vidlab.capture.runtime.parts import Pen
from vidlab.capture.runtime.tasks import Tasks
from vidlab.capture.runtime.waiting import frames_of, place


def part_of(writer: Any, most_rows: int = 100) -> Tasks:
    """A part that takes tasks of other tests, whose loops are over, for a parent's."""
    return Tasks(
        writer,
        Pen(writer),
        lambda loop: (1, 77) if loop.is_running() else None,
        lambda: most_rows,
    )


async def inner(event: asyncio.Event) -> None:
    await event.wait()


async def outer(event: asyncio.Event) -> None:
    await inner(event)


async def works() -> None:
    while True:
        await asyncio.sleep(0)


def test_a_stuck_task_ages_and_one_that_works_makes_steps(
    recorded: Any, writer: Any, clock: Any
) -> None:
    async def program() -> None:
        event = asyncio.Event()
        stuck = asyncio.create_task(outer(event), name="stuck")
        working = asyncio.create_task(works(), name="working")
        gone = asyncio.create_task(asyncio.sleep(0), name="gone")
        part = part_of(writer)
        for _ in range(4):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            part.look(clock.pass_s(1))
        assert gone.done()
        stuck.cancel()
        working.cancel()
        await asyncio.gather(stuck, working, return_exceptions=True)

    asyncio.run(program())
    rows = recorded.rows("tasks")
    stuck = [row for row in rows if row["name"] == "stuck"]
    assert [row["age_ns"] // 1_000_000_000 for row in stuck] == [0, 1, 2, 3]
    assert [row["steps"] for row in stuck] == [0, 0, 0, 0]
    assert stuck[-1]["coroutine"] == "outer"
    # Of the places that it waits in, the program's innermost one, not asyncio's.
    assert stuck[-1]["waits_at"] == f"inner ({__file__}:{inner.__code__.co_firstlineno + 1})"
    assert (stuck[-1]["loop"], stuck[-1]["tid"]) == (1, 77)
    working = [row for row in rows if row["name"] == "working"]
    assert len({row["task"] for row in working}) == 1
    assert [row["steps"] for row in working] == [0, 1, 2, 3]
    assert not [row for row in rows if row["name"] == "gone"]
    counts = recorded.records("runtime_metrics")
    assert [(row["attribute"], row["value"]) for row in counts] == [("loop=1", 3.0)] * 4


def test_a_task_that_waits_at_the_same_line_for_another_thing_has_made_a_step(
    recorded: Any, writer: Any
) -> None:
    async def takes(queue: asyncio.Queue[int]) -> None:
        while True:
            await queue.get()

    async def program() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        task = asyncio.create_task(takes(queue), name="consumer")
        part = part_of(writer)
        for _ in range(3):
            await asyncio.sleep(0.001)
            part.look(1)
            queue.put_nowait(1)
        await asyncio.sleep(0.001)
        part.look(1)
        part.look(1)
        task.cancel()

    asyncio.run(program())
    steps = [row["steps"] for row in recorded.rows("tasks") if row["name"] == "consumer"]
    assert steps == [0, 1, 2, 3, 3]


def test_tasks_of_a_loop_that_does_not_run_here_are_left_out(recorded: Any, writer: Any) -> None:
    async def program() -> None:
        Tasks(writer, Pen(writer), lambda loop: None, lambda: 100).look(1)

    asyncio.run(program())
    assert recorded.rows("tasks") == []


def test_the_oldest_are_written_when_there_are_many(recorded: Any, writer: Any) -> None:
    async def program() -> None:
        event = asyncio.Event()
        part = part_of(writer, most_rows=5)
        old = [asyncio.create_task(inner(event), name=f"old {n}") for n in range(4)]
        part.look(1)
        new = [asyncio.create_task(inner(event), name=f"new {n}") for n in range(50)]
        part.look(2)
        event.set()
        await asyncio.gather(*old, *new)
        part.look(3)
        assert len(part._known) == 1

    asyncio.run(program())
    second = {row["name"] for row in recorded.rows("tasks") if row["t_ns"] == 2}
    assert len(second) == 5
    assert {name for name in second if name.startswith("old")} == {f"old {n}" for n in range(4)}


def test_a_task_that_blocks_its_loop_is_seen_where_it_is(recorded: Any, writer: Any) -> None:
    blocks, go_on = threading.Event(), threading.Event()

    async def program() -> None:
        blocks.set()
        go_on.wait(60)

    thread = threading.Thread(target=lambda: asyncio.run(program()))
    thread.start()
    assert blocks.wait(60)
    line = program.__code__.co_firstlineno + 2
    limit = time.monotonic() + 60
    while line_in(thread, program) != line:  # it has told of itself in the line before
        assert time.monotonic() < limit
        time.sleep(0.001)
    part_of(writer).look(1)
    go_on.set()
    thread.join()
    (row,) = recorded.rows("tasks")
    assert row["waits_at"].endswith(f"program ({__file__}:{line})")


def line_in(thread: threading.Thread, function: Any) -> int | None:
    """The line of a function that a thread is in; None if it is not in that."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return None if frame is None else frame.f_lineno


def test_generators_are_followed_and_what_cannot_be_is_not() -> None:
    async def numbers() -> Any:
        yield 1

    coroutine = inner(asyncio.Event())
    assert place(frames_of(coroutine)) == f"inner ({__file__}:{inner.__code__.co_firstlineno})"
    coroutine.close()
    assert frames_of(coroutine) == []
    assert len(frames_of(numbers())) == 1
    assert frames_of(object()) == []
    assert place([]) is None


def framed(file: str, module: str) -> Callable[[Any], Any]:
    """Return a coroutine function that awaits what it is given, as if it were of this file."""
    names = {"__name__": module}
    exec(compile("async def call(what):\n    await what", file, "exec"), names)
    called: Callable[[Any], Any] = names["call"]  # type: ignore[assignment]
    return called


def test_the_place_shown_is_the_programs_own(recorded: Any, writer: Any) -> None:
    packages = sysconfig.get_path("purelib")
    server = framed(f"{packages}/server/loop.py", "server.loop")
    kernel = framed(f"{packages}/ipykernel/kernelbase.py", "ipykernel.kernelbase")
    mine = framed("/home/someone/app.py", "app")

    async def program() -> None:
        wait = asyncio.Event().wait
        made = {
            "server's": server(wait()),
            "mine in a server": server(mine(wait())),
            "mine in a package": mine(server(wait())),
            "a notebook's cell": kernel(mine(wait())),
            "nobody's": wait(),
        }
        tasks = [asyncio.create_task(made[name], name=name) for name in made]
        await asyncio.sleep(0)
        part_of(writer).look(1)
        for task in tasks:
            task.cancel()

    asyncio.run(program())
    found = {row["name"]: row["waits_at"] for row in recorded.rows("tasks")}
    mine_at = "call (/home/someone/app.py:2)"
    assert found["server's"] == f"call ({packages}/server/loop.py:2)"
    assert found["mine in a server"] == found["mine in a package"] == mine_at
    # What a person typed may last: it is known by the kernel's place.
    assert found["a notebook's cell"] == f"call ({packages}/ipykernel/kernelbase.py:2)"
    assert found["nobody's"].startswith("Event.wait (")


async def gathers(workers: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*workers)


async def waits(workers: list[asyncio.Task[None]]) -> None:
    await asyncio.wait(workers)


async def awaits(workers: list[asyncio.Task[None]]) -> None:
    await workers[0]


async def groups(work: Callable[[], Any]) -> None:
    async with asyncio.TaskGroup() as group:  # type: ignore[attr-defined]
        group.create_task(work(), name="worker of a group")


@pytest.mark.parametrize("stuck", [False, True])
def test_a_task_that_waits_for_others_gets_on_as_they_do(
    recorded: Any, writer: Any, stuck: bool
) -> None:
    """A supervisor of tasks that work is not stuck; one of stuck tasks is, as they are."""

    def work() -> Any:
        return inner(asyncio.Event()) if stuck else works()

    async def program() -> None:
        workers = [asyncio.create_task(work(), name=f"worker {n}") for n in range(2)]
        above = [gathers, waits, awaits]
        tasks = [asyncio.create_task(call(workers), name=call.__name__) for call in above]
        if hasattr(asyncio, "TaskGroup"):
            tasks.append(asyncio.create_task(groups(work), name="groups"))
        part = part_of(writer)
        for look in range(4):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            part.look(look)
        for task in (*tasks, *workers):
            task.cancel()
        await asyncio.gather(*tasks, *workers, return_exceptions=True)

    asyncio.run(program())
    last = {row["name"]: row["steps"] for row in recorded.rows("tasks") if row["t_ns"] == 3}
    supervisors = {name: last[name] for name in ("gathers", "waits", "awaits")}
    if hasattr(asyncio, "TaskGroup"):
        supervisors["groups"] = last["groups"]
    for name, steps in supervisors.items():
        assert (steps == 0) == stuck, name


def test_a_supervisor_of_tasks_that_are_not_looked_at_is_not_called_stuck(
    recorded: Any, writer: Any
) -> None:
    async def program() -> None:
        event = asyncio.Event()
        workers: list[asyncio.Task[None]] = []

        async def first() -> None:
            await asyncio.sleep(0)
            await gathers(workers)

        above = asyncio.create_task(first(), name="above")
        await asyncio.sleep(0)
        part = part_of(writer, most_rows=2)  # the main task, and this one
        part.look(1)
        workers += [asyncio.create_task(inner(event)) for _ in range(3)]
        for look in (2, 3, 4):
            await asyncio.sleep(0)
            part.look(look)
        event.set()
        await above

    asyncio.run(program())
    steps = [row["steps"] for row in recorded.rows("tasks") if row["name"] == "above"]
    assert steps[-1] > steps[-2]


def test_the_main_task_of_a_loop_is_told_though_others_were_made_before(
    recorded: Any, writer: Any
) -> None:
    async def main() -> None:
        await asyncio.sleep(0)
        part_of(writer).look(1)

    for make in loop_makers():
        loop = make()
        before = [loop.create_task(inner(asyncio.Event())) for _ in range(20)]
        loop.run_until_complete(main())
        for task in before:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*before, return_exceptions=True))
        loop.close()
        rows = recorded.rows("tasks")[-21:]
        assert rows[0]["task"] == 0
        assert {row["task"] == 0 for row in rows[1:]} == {False}
        # The others are numbered as they were made.
        made = sorted((row["task"], int(row["name"].removeprefix("Task-"))) for row in rows[1:])
        assert [number for number, _ in made] == list(range(1, 21))
        assert [name for _, name in made] == sorted(name for _, name in made)


def loop_makers() -> list[Callable[[], asyncio.AbstractEventLoop]]:
    """Return what makes loops of each kind that is installed."""
    found: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop]
    with contextlib.suppress(ImportError):
        found.append(importlib.import_module("uvloop").new_event_loop)
    return found

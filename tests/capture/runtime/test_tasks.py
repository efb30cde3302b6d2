"""Tasks: how old they are, where they wait, and whether they get on."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from vidlab.capture.runtime.parts import Pen
from vidlab.capture.runtime.tasks import Tasks, innermost, place


def part_of(writer: Any, most_rows: int = 100) -> Tasks:
    return Tasks(writer, Pen(writer), lambda loop: (1, 77), lambda: most_rows)


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
    function, _, where = stuck[-1]["waits_at"].partition(" ")
    assert function == "Event.wait"
    assert where.startswith("(/")
    assert (stuck[-1]["loop"], stuck[-1]["tid"]) == (1, 77)
    working = [row for row in rows if row["name"] == "working"]
    assert len({row["task"] for row in working}) == 1
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
    part_of(writer).look(1)
    go_on.set()
    thread.join()
    (row,) = recorded.rows("tasks")
    line = program.__code__.co_firstlineno + 2
    assert row["waits_at"].endswith(f"program ({__file__}:{line})")


def test_generators_are_followed_and_what_cannot_be_is_not() -> None:
    async def numbers() -> Any:
        yield 1

    coroutine = inner(asyncio.Event())
    frame = innermost(coroutine)
    assert frame is not None
    assert place(frame) == f"inner ({__file__}:{inner.__code__.co_firstlineno})"
    coroutine.close()
    assert innermost(coroutine) is None
    assert innermost(numbers()) is not None
    assert innermost(object()) is None

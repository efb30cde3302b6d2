"""The asyncio tasks of the process: how old each is, and where it waits.

They are looked at from the sampler's thread, so that no loop is held up, and so that a
task which blocks its loop is seen too. Nothing of the program's is called: tasks, their
coroutines and frames are read.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import re
import sys
import weakref
from asyncio import AbstractEventLoop, base_events
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from ...clock import now_ns
from ...runs.writer import RunWriter
from . import waiting
from .parts import Pen

#: Where asyncio has the tasks of all loops, by version of Python.
_WHERE = ("_all_tasks", "_scheduled_tasks", "_eager_tasks")

#: Of so many tasks it is looked which loop they are of, when loops are looked for.
_SOME = 256

#: The number of a loop's main task.
MAIN = 0

#: asyncio's own names tell which task was made first.
_USUAL_NAME = re.compile(r"Task-(\d+)")


def all_tasks() -> list[asyncio.Task[Any]]:
    """Return the tasks of all loops and threads, those that are done among them."""
    return [task for task in _references(None) if task is not None]


def loops_of_some() -> Iterator[AbstractEventLoop]:
    """Yield the loops of some tasks, each perhaps several times."""
    for task in _references(_SOME):
        loop = None if task is None else _loop_of(task)
        if loop is not None:
            yield loop


def _references(most: int | None) -> Iterator[Any]:
    module = sys.modules.get("asyncio.tasks")
    seen: set[int] = set()
    for where in _WHERE:
        known = getattr(module, where, None)
        if known is None or id(known) in seen:
            continue
        seen.add(id(known))
        # A WeakSet's own iterator fails if another thread adds a task meanwhile; taking its
        # references out is one step.
        data = getattr(known, "data", known)
        for reference in list(itertools.islice(data, most)):
            yield reference() if isinstance(reference, weakref.ref) else reference


def _loop_of(task: Any) -> AbstractEventLoop | None:
    loop: AbstractEventLoop | None = getattr(task, "_loop", None)
    return loop


class _Task:
    """What is known of one task."""

    __slots__ = ("below", "number", "position", "reference", "seen_ns", "steps", "waiter")

    def __init__(self, task: Any, number: int, t_ns: int) -> None:
        self.reference = weakref.ref(task)
        self.number = number
        self.seen_ns = t_ns
        self.position: object = None
        self.waiter: weakref.ref[Any] | None = None
        self.steps = 0
        #: What the tasks that it waits for have come to together.
        self.below = 0

    def note(self, waiter: Any, position: object) -> None:
        """Note where the task is now: it has moved if it waits for another thing than before.

        One that waits for nothing runs, or is about to.
        """
        before = None if self.waiter is None else self.waiter()
        same = waiter is not None and waiter is before and position == self.position
        if self.position is not None and not same:
            self.steps += 1
        self.position = position
        self.waiter = None if waiter is None else weakref.ref(waiter)


class Tasks:
    """Writes `tasks`, the oldest first, and `vidlab.asyncio.task.count`.

    Parameters
    ----------
    identify : callable
        Returns an event loop's number within the process, and its thread as the kernel
        numbers it; None for a loop that does not run in this process.
    most_rows : callable
        Returns how many tasks are written down at a time.
    """

    least_period_ns = 50_000_000

    def __init__(
        self,
        writer: RunWriter,
        pen: Pen,
        identify: Callable[[AbstractEventLoop], tuple[int, int] | None],
        most_rows: Callable[[], int],
    ) -> None:
        self._writer = writer
        self._pen = pen
        self._identify = identify
        self._most_rows = most_rows
        self._known: dict[int, _Task] = {}
        self._numbers = itertools.count(1)
        self._loops: set[int] = set()

    def look(self, t_ns: int) -> None:
        """Look at all tasks that are not done."""
        before, self._known = self._known, {}
        count: Counter[int] = Counter()
        here: list[tuple[AbstractEventLoop, Any, _Task]] = []
        unknown: list[tuple[float, AbstractEventLoop, Any]] = []
        for task in all_tasks():
            loop = _loop_of(task)
            if loop is None or task.done():
                continue
            identity = self._identify(loop)
            if identity is None:
                continue
            count[identity[0]] += 1
            known = before.get(id(task))
            if known is None or known.reference() is not task:
                unknown.append((_made(task), loop, task))
            else:
                self._known[id(task)] = known
                here.append((loop, task, known))
        for _, loop, task in sorted(unknown, key=lambda found: found[0]):
            number = MAIN if _is_main(task) else next(self._numbers)
            known = self._known[id(task)] = _Task(task, number, t_ns)
            here.append((loop, task, known))
        self._write_all(
            t_ns, heapq.nsmallest(self._most_rows(), here, key=lambda found: found[2].number)
        )
        self._loops |= count.keys()
        self._pen.write(
            t_ns,
            [("vidlab.asyncio.task.count", f"loop={n}", count[n]) for n in sorted(self._loops)],
        )

    def finish(self, t_ns: int) -> None:
        """Look for the last time."""
        self.look(t_ns)

    def close(self) -> None:
        """Nothing is kept open."""
        self._known.clear()

    def _write_all(self, t_ns: int, tasks: list[tuple[AbstractEventLoop, Any, _Task]]) -> None:
        """Write these tasks down, after it is known of all whether they have moved."""
        seen: list[tuple[AbstractEventLoop, Any, _Task, Any, list[FrameType]]] = []
        above: list[tuple[_Task, list[Any]]] = []
        for loop, task, known in tasks:
            coroutine = getattr(task, "_coro", None)
            if coroutine is None:
                coroutine = asyncio.Task.get_coro(task)
            frames = waiting.frames_of(coroutine)
            waiter = getattr(task, "_fut_waiter", None)
            position = (id(frames[-1].f_code), frames[-1].f_lasti) if frames else None
            known.note(waiter, position)
            if others := waiting.for_tasks(waiter, frames):
                above.append((known, others))
            seen.append((loop, task, known, coroutine, frames))
        written = {id(known) for _, _, known in tasks}
        for known, others in above:
            self._follow(known, others, written)
        for loop, task, known, coroutine, frames in seen:
            self._write(t_ns, loop, task, known, coroutine, frames)

    def _follow(self, above: _Task, others: list[Any], written: set[int]) -> None:
        """A task that waits for others gets on as these do."""
        below = 0
        for other in others:
            known = self._known.get(id(other))
            # Of those that are not looked at it cannot be said that they do not get on.
            below += above.below + 1 if known is None or id(known) not in written else known.steps
        if below > above.below:
            above.steps += 1
        above.below = below

    def _write(
        self,
        t_ns: int,
        loop: AbstractEventLoop,
        task: Any,
        known: _Task,
        coroutine: Any,
        frames: list[FrameType],
    ) -> None:
        number, tid = self._identify(loop) or (0, 0)
        self._writer.row(
            "tasks",
            t_ns=t_ns,
            tid=tid,
            labels=0,
            task=known.number,
            loop=number,
            name=task.get_name(),
            coroutine=getattr(coroutine, "__qualname__", type(coroutine).__qualname__),
            waits_at=waiting.place(frames),
            age_ns=now_ns() - known.seen_ns,
            steps=known.steps,
        )


def _is_main(task: Any) -> bool:
    """Return whether a loop runs until this task is done."""
    callbacks = getattr(task, "_callbacks", None)
    if type(callbacks) is not list:
        return False
    return any(_ends_loop(called[0] if type(called) is tuple else called) for called in callbacks)


def _ends_loop(callback: Any) -> bool:
    if callback is getattr(base_events, "_run_until_complete_cb", None):
        return True
    # uvloop's is a function of Cython, made anew each time.
    kind = type(callback)
    return kind.__name__ == "cython_function_or_method" and (
        callback.__qualname__.endswith("run_until_complete.<locals>.done_cb")
    )


def _made(task: Any) -> float:
    """Return which task of asyncio's this is, if its name tells: the others come last."""
    name = asyncio.Task.get_name(task)
    usual = _USUAL_NAME.fullmatch(name) if type(name) is str else None
    return int(usual[1]) if usual else float("inf")

"""The asyncio tasks of the process: how old each is, and where it waits.

They are looked at from the sampler's thread, so that no loop is held up, and so that a
task which blocks its loop is seen too. Nothing of the program's is called: tasks, their
coroutines and frames are read.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sys
import weakref
from asyncio import AbstractEventLoop
from collections import Counter
from collections.abc import Callable, Iterator
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

from ...clock import now_ns
from ...runs.writer import RunWriter
from .parts import Pen

#: Where asyncio has the tasks of all loops, by version of Python.
_WHERE = ("_all_tasks", "_scheduled_tasks", "_eager_tasks")

#: Of so many tasks it is looked which loop they are of, when loops are looked for.
_SOME = 256

#: The longest chain of coroutines that wait for one another that is followed.
_MOST_DEPTH = 64


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

    __slots__ = ("number", "position", "reference", "seen_ns", "steps", "waiter")

    def __init__(self, task: Any, number: int, t_ns: int) -> None:
        self.reference = weakref.ref(task)
        self.number = number
        self.seen_ns = t_ns
        self.position: object = None
        self.waiter: weakref.ref[Any] | None = None
        self.steps = 0

    def note(self, task: Any, position: object) -> None:
        """Note where the task is now: it has moved if it waits for another thing than before."""
        waiter = getattr(task, "_fut_waiter", None)
        before = None if self.waiter is None else self.waiter()
        if self.position is not None and (position != self.position or waiter is not before):
            self.steps += 1
        self.position = position
        self.waiter = None if waiter is None else weakref.ref(waiter)


class Tasks:
    """Writes `tasks`, the oldest first, and `vidlab.asyncio.task.count`.

    Parameters
    ----------
    identify : callable
        Returns an event loop's number within the process, and its thread as the kernel
        numbers it.
    most_rows : callable
        Returns how many tasks are written down at a time.
    """

    least_period_ns = 50_000_000

    def __init__(
        self,
        writer: RunWriter,
        pen: Pen,
        identify: Callable[[AbstractEventLoop], tuple[int, int]],
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
        here: list[tuple[int, AbstractEventLoop, Any, _Task]] = []
        for task in all_tasks():
            loop = _loop_of(task)
            if loop is None or task.done():
                continue
            known = before.get(id(task))
            if known is None or known.reference() is not task:
                known = _Task(task, next(self._numbers), t_ns)
            self._known[id(task)] = known
            count[self._identify(loop)[0]] += 1
            here.append((known.number, loop, task, known))
        for _, loop, task, known in heapq.nsmallest(
            self._most_rows(), here, key=lambda found: found[0]
        ):
            self._write(t_ns, loop, task, known)
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

    def _write(self, t_ns: int, loop: AbstractEventLoop, task: Any, known: _Task) -> None:
        coroutine = getattr(task, "_coro", None)
        if coroutine is None:
            coroutine = asyncio.Task.get_coro(task)
        frame = innermost(coroutine)
        where = None if frame is None else (id(frame.f_code), frame.f_lasti)
        known.note(task, where)
        number, tid = self._identify(loop)
        self._writer.row(
            "tasks",
            t_ns=t_ns,
            tid=tid,
            labels=0,
            task=known.number,
            loop=number,
            name=task.get_name(),
            coroutine=getattr(coroutine, "__qualname__", type(coroutine).__qualname__),
            waits_at=None if frame is None else place(frame),
            age_ns=now_ns() - known.seen_ns,
            steps=known.steps,
        )


def innermost(coroutine: Any) -> FrameType | None:
    """Return the frame in which a coroutine waits, through those that it waits for."""
    found: FrameType | None = None
    for _ in range(_MOST_DEPTH):
        if isinstance(coroutine, CoroutineType):
            frame, following = coroutine.cr_frame, coroutine.cr_await
        elif isinstance(coroutine, GeneratorType):
            frame, following = coroutine.gi_frame, coroutine.gi_yieldfrom
        elif isinstance(coroutine, AsyncGeneratorType):
            frame, following = coroutine.ag_frame, coroutine.ag_await
        else:
            break
        if frame is None:
            break
        found, coroutine = frame, following
    return found


def place(frame: FrameType) -> str:
    """Return where a frame is: function (file:line)."""
    code = frame.f_code
    return f"{code.co_qualname} ({code.co_filename}:{frame.f_lineno})"

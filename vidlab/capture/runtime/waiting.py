"""What an asyncio task waits for: its frames, the place to show, the tasks that it awaits.

Nothing of the program's is called: coroutines, frames and futures are read.
"""

from __future__ import annotations

import asyncio
import sysconfig
from asyncio import tasks
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

from .walking import is_installed

#: The longest chain of coroutines that wait for one another that is followed.
_MOST_DEPTH = 64

_LIBRARY = tuple({sysconfig.get_path(name).rstrip("/") + "/" for name in ("stdlib", "platstdlib")})
_PACKAGES = tuple({sysconfig.get_path(name).rstrip("/") + "/" for name in ("purelib", "platlib")})

#: Packages whose tasks run what a person types: however long that waits, they go on.
_HOSTS = ("IPython", "ipykernel")

#: What asyncio waits for several tasks with, and the local variable that knows them.
_WAIT = tasks._wait.__code__  # type: ignore[attr-defined]
_TASK_GROUP = getattr(asyncio, "TaskGroup", None)  # since Python 3.11
_LEAVING = {
    id(getattr(_TASK_GROUP, name).__code__)
    for name in ("__aexit__", "_aexit")
    if hasattr(_TASK_GROUP, name)
}


def frames_of(coroutine: Any) -> list[FrameType]:
    """Return the frames of a coroutine and of those that it waits for, the innermost last."""
    found: list[FrameType] = []
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
        found.append(frame)
        coroutine = following
    return found


def place(frames: list[FrameType]) -> str | None:
    """Return where a task waits: function (file:line).

    Of its frames it is the innermost of the program's own; where there is none, the innermost
    of an installed package, else of Python's library.
    """
    if not frames:
        return None
    own = [frame for frame in frames if not is_installed(frame.f_code.co_filename)]
    if not own or _is_host(frames[0]):
        own = [frame for frame in frames if not _is_librarys(frame.f_code.co_filename)]
        if _is_host(frames[0]):
            own = [frame for frame in own if is_installed(frame.f_code.co_filename)]
    frame = (own or frames)[-1]
    code = frame.f_code
    return f"{code.co_qualname} ({code.co_filename}:{frame.f_lineno})"


def for_tasks(waiter: Any, frames: list[FrameType]) -> list[Any]:
    """Return the tasks that a task waits for, which itself waits for this future."""
    kind = type(waiter)
    if issubclass(kind, asyncio.Task):
        return [waiter]
    if kind is getattr(tasks, "_GatheringFuture", None):
        return list(waiter._children)
    code = frames[-1].f_code if frames else None
    # Of these frames of asyncio's own the variables are taken: it keeps them anyway.
    if code is _WAIT:
        return _tasks_in(frames[-1].f_locals.get("fs"))
    if id(code) in _LEAVING:
        group = frames[-1].f_locals.get("self")
        if type(group) is _TASK_GROUP:
            return _tasks_in(getattr(group, "_tasks", None))
    return []


def _tasks_in(waited: Any) -> list[Any]:
    return list(waited) if type(waited) in (set, list, tuple, frozenset) else []


def _is_librarys(file: str) -> bool:
    return file.startswith(_LIBRARY) and not file.startswith(_PACKAGES)


def _is_host(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return type(name) is str and name.partition(".")[0] in _HOSTS

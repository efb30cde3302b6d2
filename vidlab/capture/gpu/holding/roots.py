"""Where chains of references end: what the interpreter itself keeps alive."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

from . import variables

#: Functions of these files are never holders: they are searching.
_OURS = {
    str(Path(__file__).with_name(name)) for name in ("roots.py", "references.py", "holders.py")
}


@dataclass(frozen=True)
class Globals:
    """A root: a module's namespace."""

    module: str
    namespace: dict[str, Any]


@dataclass(frozen=True)
class Running:
    """A root: a function that is running in a thread."""

    code: CodeType
    thread: str
    variables: tuple[variables.Variable, ...]
    depth: int  # 0 is the thread's outermost function


@dataclass(frozen=True)
class Handled:
    """A root: the error that a thread is handling."""

    thread: str


@dataclass(frozen=True)
class Unseen:
    """In place of a root: references that the collector can't see, this many of them."""

    references: int


@dataclass(frozen=True)
class Garbage:
    """In place of a root: a cycle, which only refers to itself."""


@dataclass(frozen=True)
class Unfinished:
    """In place of a root: the search ended before it found one, and why."""

    limit: str


Root = Globals | Running | Handled | Unseen | Garbage | Unfinished


def now() -> tuple[dict[int, str], list[tuple[Root, list[int]]]]:
    """Return the roots of this moment.

    First, the names of all modules by the address of their namespace. Then the roots that are
    no objects, each with the addresses of what it refers to.
    """
    namespaces: dict[int, str] = {}
    for name, module in list(sys.modules.items()):
        if issubclass(type(module), ModuleType):  # a proxy could lie to isinstance
            # The first of its names: `__main__` has others when processes are spawned.
            namespaces.setdefault(id(object.__getattribute__(module, "__dict__")), name)
    others: list[tuple[Root, list[int]]] = []
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    stacks = _stacks(namespaces)
    for ident in sorted(stacks, key=lambda ident: (ident != main, names.get(ident, "unknown"))):
        stack, thread = stacks[ident], names.get(ident, "unknown")
        for depth, found in enumerate(variables.of(stack)):
            held = [variable.address for variable in found if variable.address not in namespaces]
            others.append((Running(stack[depth].f_code, thread, tuple(found), depth), held))
        # A frame that is held as its function returns keeps the variables.
        stack.clear()
    for ident, error in sys._current_exceptions().items():
        # Up to 3.11 it is a triple of its class, itself and its traceback.
        value: Any = error[1] if isinstance(error, tuple) else error
        if value is not None:
            others.append((Handled(names.get(ident, "unknown")), [id(value)]))
    return namespaces, others


def _stacks(namespaces: dict[int, str]) -> dict[int, list[FrameType]]:
    """Return each thread's frames, outermost first, and note the modules that they run in."""
    stacks: dict[int, list[FrameType]] = {}
    frame: FrameType | None = None
    for ident, frame in sys._current_frames().items():
        stacks[ident] = stack = []
        while frame is not None:
            if frame.f_code.co_filename not in _OURS:
                stack.append(frame)
            namespaces.setdefault(id(frame.f_globals), str(frame.f_globals.get("__name__", "?")))
            frame = frame.f_back  # at last None: else this frame would refer to itself
        stack.reverse()
    return stacks

"""A chain of references in words: each link as a person would look for it in the program.

What lies between two links that a person knows (an instance's dict, a queue's deque, a
function's tuple of cells, a context's tree) is left out. Code of the program is never run: no
`repr`, no property, no comparison.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import functools
import queue
import threading
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import naming, variables
from .references import Reach
from .roots import Garbage, Globals, Handled, Running, Unfinished, Unseen

#: What a link is: see `holders.py`, which chooses among them.
GLOBAL, LOCAL, CLOSURE, QUEUE, CACHE, CONTEXT, TRACEBACK, CONTAINER, ATTRIBUTE, OTHER = range(10)


@dataclass(frozen=True)
class Link:
    """A link of a chain.

    `text` is for reading and may say what changes from run to run (a thread, how many items).
    `name` is the same in every run. `variable` is the bare name of what refers, if it has one.
    """

    role: int
    text: str
    name: str
    variable: str = ""


_QUEUES: tuple[type, ...] = (queue.Queue, queue.SimpleQueue, asyncio.Queue)
_LRU = type(functools.lru_cache(int))
_GENERATORS: tuple[tuple[type, str], ...] = (
    (types.GeneratorType, "gi_frame"),
    (types.CoroutineType, "cr_frame"),
    (types.AsyncGeneratorType, "ag_frame"),
)


def of(reach: Reach) -> list[Link]:
    """Return the links from the root to the object, which is itself not among them."""
    links = []
    objects: list[Any] = list(reach.objects)
    root = reach.root
    match root:
        case Globals():
            name = naming.key(root.namespace, objects[0])
            links.append(
                Link(GLOBAL, f"module {root.module}: `{name}`", f"{root.module}.{name}", name)
            )
        case Running():
            links.append(_local_of_running(root, objects))
        case Handled():
            links.append(Link(OTHER, f"handled in thread {root.thread}", "a handled error"))
        case Unseen() if type(objects[0]) is contextvars.Context:
            links.append(Link(OTHER, "the current context of a thread", "a thread's context"))
        case Unseen():
            count = "1 reference" if root.references == 1 else f"{root.references} references"
            what = "C code, or an expression that is being evaluated"
            links.append(Link(OTHER, f"{count} that Python can't see: {what}", what))
        case Garbage():
            what = "reference cycle, waiting for the garbage collector"
            links.append(Link(OTHER, what, what))
        case Unfinished():
            what = f"search ended after {root.limit}"
            links.append(Link(OTHER, what, "search ended"))
    place = 0
    while place < len(objects) - 1:
        link, taken = _link(objects, place)
        if link is not None:
            links.append(link)
        place += taken
    return links


def _local_of_running(root: Running, objects: list[Any]) -> Link:
    """Return the link of a running function's variable; leave its cell out, if it has one."""
    names = {variable.address: variable.name for variable in root.variables}
    name = names.get(id(objects[0]), "?")
    if type(objects[0]) is types.CellType and len(objects) > 1:
        del objects[0]
    if name == variables.SNAPSHOT and type(objects[0]) is dict and len(objects) > 1:
        name = naming.key(objects[0], objects[1])
        del objects[0]
    where = naming.function(root.code)
    return Link(
        LOCAL,
        f"local `{name}` of {where}, thread {root.thread}",
        f"local `{name}` of {where}",
        name,
    )


def _link(objects: Sequence[Any], place: int) -> tuple[Link | None, int]:
    """Return the link from the object in this place, and how many objects it takes up."""
    owner, rest = objects[place], objects[place + 1 :]
    kind = type(owner)
    for types_, describe in _DESCRIBED:
        if issubclass(kind, types_):
            return describe(owner, rest)
    if kind.__name__.endswith("Queue"):
        return _queue(owner, rest)
    if "cache" in kind.__name__.lower():
        return _cache(owner, rest)
    return _instance(owner, rest)


_Described = tuple[Link | None, int]


def _queue(owner: Any, rest: Sequence[Any]) -> _Described:
    """A queue, with the containers that it is made of."""
    taken, items = _inner(rest, (dict, list, collections.deque))
    text = naming.type_name(owner)
    return Link(QUEUE, text + (f" with {items} items" if items else ""), text), 1 + taken


def _cache(owner: Any, rest: Sequence[Any]) -> _Described:
    """An object whose class says that it is a cache."""
    taken, items = _inner(rest, (dict, list, collections.deque))
    text = naming.type_name(owner)
    return Link(CACHE, text + (f" with {items} items" if items else ""), text), 1 + taken


def _inner(rest: Sequence[Any], kinds: tuple[type, ...]) -> tuple[int, int]:
    """Return how many of these objects are containers inside of one, and the items of the last."""
    taken = 0
    while taken < len(rest) - 1 and issubclass(type(rest[taken]), kinds):
        taken += 1
    return taken, naming.length(rest[taken - 1]) if taken else 0


def _lru(owner: Any, rest: Sequence[Any]) -> _Described:
    wrapped = (naming.instance_dict(owner) or {}).get("__wrapped__")
    code = getattr(wrapped, "__code__", None) if type(wrapped) is types.FunctionType else None
    text = f"functools.lru_cache of {naming.function(code) if code else naming.type_name(wrapped)}"
    taken = 0
    while taken < len(rest) - 1 and type(rest[taken]).__name__ in ("dict", "_lru_list_elem"):
        taken += 1
    return Link(CACHE, text, text), 1 + taken


def _function(owner: Any, rest: Sequence[Any]) -> _Described:
    code, child = owner.__code__, rest[0]
    if child is owner.__closure__ and len(rest) > 2:
        names = zip(code.co_freevars, owner.__closure__, strict=False)
        name = next((name for name, cell in names if cell is rest[1]), "?")
        text = f"closure of {naming.function(code)}: `{name}`"
        return Link(CLOSURE, text, text, name), 3
    name = ""
    if child is owner.__defaults__ and len(rest) > 1:
        arguments = code.co_varnames[: code.co_argcount][-len(child) :]
        pairs = zip(arguments, child, strict=False)
        name = next((name for name, value in pairs if value is rest[1]), "?")
    elif child is owner.__kwdefaults__ and len(rest) > 1:
        name = naming.key(child, rest[1])
    if name:
        text = f"default argument `{name}` of {naming.function(code)}"
        return Link(ATTRIBUTE, text, text, name), 2
    text = f"function {naming.function(code)}"
    return Link(OTHER, text, text), 1


def _cell(owner: Any, rest: Sequence[Any]) -> _Described:
    return Link(CLOSURE, "closure", "closure"), 1


def _class(owner: Any, rest: Sequence[Any]) -> _Described:
    name = owner.__qualname__.rpartition("<locals>.")[2]
    if type(rest[0]) is dict and len(rest) > 1:
        attribute = naming.key(rest[0], rest[1])
        return Link(ATTRIBUTE, f"class {name}: `{attribute}`", f"{name}.{attribute}", attribute), 2
    return Link(OTHER, f"class {name}", name), 1


def _method(owner: Any, rest: Sequence[Any]) -> _Described:
    name = getattr(owner.__func__, "__qualname__", "?").rpartition("<locals>.")[2]
    return Link(OTHER, f"bound method {name}", f"bound method {name}"), 1


def _partial(owner: Any, rest: Sequence[Any]) -> _Described:
    wrapped = owner.func
    name = (
        naming.function(wrapped.__code__)
        if type(wrapped) is types.FunctionType
        else naming.type_name(wrapped)
    )
    inside = type(rest[0]) in (tuple, dict) and len(rest) > 1
    return Link(OTHER, f"functools.partial of {name}", "functools.partial"), 2 if inside else 1


def _context(owner: Any, rest: Sequence[Any]) -> _Described:
    """A context, with the tree that it is made of."""
    taken = 0
    while taken < len(rest) - 1 and type(rest[taken]).__name__.startswith("hamt"):
        taken += 1
    if not taken:
        return Link(OTHER, "context inside of another", "context"), 1
    name = next((v.name for v, value in owner.items() if value is rest[taken]), "?")
    text = f"context variable `{name}`"
    return Link(CONTEXT, text, text, name), 1 + taken


def _token(owner: Any, rest: Sequence[Any]) -> _Described:
    text = f"old value of context variable `{owner.var.name}`"
    return Link(CONTEXT, text, text, owner.var.name), 1


def _error(owner: Any, rest: Sequence[Any]) -> _Described:
    """An error, with its traceback down to the frame's variable."""
    name = naming.type_name(owner)
    if type(rest[0]) is types.TracebackType:
        link, taken = _traceback(rest[0], rest[1:], f"traceback of {name}")
        return link, 1 + taken
    for attribute in ("__cause__", "__context__"):
        if vars(BaseException)[attribute].__get__(owner) is rest[0]:
            return Link(OTHER, f"{name}.{attribute}", name), 1
    return _instance(owner, rest)


def _traceback(owner: Any, rest: Sequence[Any], label: str = "traceback") -> _Described:
    """A traceback, with the further ones down to the frame's variable."""
    place = 0
    while place < len(rest) - 1 and type(rest[place]) is types.TracebackType:
        place += 1
    if type(rest[place]) is types.FrameType and place < len(rest) - 1:
        link, taken = _frame(rest[place], rest[place + 1 :], label)
        return link, 1 + place + taken
    return Link(TRACEBACK, label, label), 1 + place


def _frame(owner: Any, rest: Sequence[Any], label: str = "frame") -> _Described:
    """A frame whose function has ended, or not begun: kept by a traceback or by itself."""
    if type(rest[0]) is types.FrameType:
        return None, 1
    name, cell = _variable(owner, rest)
    text = f"{label} in {naming.function(owner.f_code)}: `{name}`"
    return Link(TRACEBACK, text, text, name), 1 + cell


def _variable(frame: types.FrameType, rest: Sequence[Any]) -> tuple[str, int]:
    """Return the name of a frame's variable, and how many cells lie between (none or one)."""
    cell = int(type(rest[0]) is types.CellType and len(rest) > 1)
    names = {address: name for name, address in variables.of([frame])[0]}
    name = names.get(id(rest[0])) or names.get(id(rest[cell])) or "(an expression)"
    return name, cell


def _generator(owner: Any, rest: Sequence[Any]) -> _Described:
    frame = next((getattr(owner, a) for t, a in _GENERATORS if type(owner) is t), None)
    if frame is None:
        return Link(OTHER, naming.type_name(owner), naming.type_name(owner)), 1
    name, cell = _variable(frame, rest)
    text = f"local `{name}` of {naming.function(frame.f_code)}"
    return Link(LOCAL, f"{text}, suspended", text, name), 1 + cell


def _task(owner: Any, rest: Sequence[Any]) -> _Described:
    try:
        name = asyncio.Task.get_name(owner)
    except (TypeError, AttributeError):
        name = ""
    return Link(OTHER, f"task {name}", "a task"), 1


def _thread_local(owner: Any, rest: Sequence[Any]) -> _Described:
    place = 0
    while place < len(rest) - 1 and type(rest[place]) is dict:
        place += 1
    name = naming.key(rest[place - 1], rest[place]) if place else "?"
    return Link(ATTRIBUTE, f"thread-local `{name}`", f"thread-local `{name}`", name), 1 + place


def _container(owner: Any, rest: Sequence[Any]) -> _Described:
    kind = type(owner)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        fields = zip(kind._fields, owner, strict=False)
        field = next((f for f, value in fields if value is rest[0]), "?")
        return Link(OTHER, f"{kind.__name__}.{field}", f"{kind.__name__}.{field}"), 1
    name = naming.type_name(owner)
    if "cache" in kind.__name__.lower():
        return _cache(owner, rest)
    if issubclass(kind, dict) and len(rest) > 1 and type(rest[0]) is dict:
        return _instance(owner, rest)
    key = (
        f", [{key!r}]" if issubclass(kind, dict) and (key := naming.key(owner, rest[0], "")) else ""
    )
    count = naming.length(owner)
    return Link(CONTAINER, f"{name} ({count} item{'s' * (count != 1)}){key}", name), 1


def _instance(owner: Any, rest: Sequence[Any]) -> _Described:
    """Any other object: by which attribute."""
    name = naming.type_name(owner)
    attributes = naming.instance_dict(owner)
    if attributes is not None and rest[0] is attributes and len(rest) > 1:
        attribute, taken = naming.key(attributes, rest[1]), 2
    elif attributes is not None and (key := naming.key(attributes, rest[0], "")):
        attribute, taken = key, 1
    else:
        attribute, taken = naming.slot(owner, rest[0]), 1
    if not attribute:
        return Link(OTHER, name, name), taken
    return Link(ATTRIBUTE, f"{name}.{attribute}", f"{name}.{attribute}", attribute), taken


#: How to describe an object, by its class: the first that fits.
_DESCRIBED: list[tuple[type | tuple[type, ...], Callable[[Any, Sequence[Any]], _Described]]] = [
    (_QUEUES, _queue),
    (_LRU, _lru),
    (types.FunctionType, _function),
    (types.CellType, _cell),
    (type, _class),
    (types.MethodType, _method),
    (functools.partial, _partial),
    (contextvars.Context, _context),
    (contextvars.Token, _token),
    (BaseException, _error),
    (types.TracebackType, _traceback),
    (types.FrameType, _frame),
    (tuple(kind for kind, _ in _GENERATORS), _generator),
    (asyncio.Task, _task),
    (threading.local, _thread_local),
    (naming.CONTAINERS, _container),
]

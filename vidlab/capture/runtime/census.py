"""What holds many objects: globals and attributes, caches, context variables, queues.

A look goes through the program's modules (`walking`) and, for what hangs nowhere, through
all objects that the garbage collector knows. The latter holds the GIL for a tenth of a
second per million objects, so this is of the profile `debug` only, and left out where there
are very many. No code of the program's is called.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import queue
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, ContextVar
from functools import partial
from itertools import chain, compress
from operator import call
from typing import Any, NamedTuple

from ...runs.writer import RunWriter
from .sizing import Estimate, attributes, container_of, length
from .walking import QUEUES, Cache, Dull, is_ours, places

#: With more blocks of Python's memory in use than this, not all objects are gone through.
_MOST_BLOCKS = 3_000_000

#: What is installed counts only if it holds so many things; the program's own, if any.
_LEAST_ITEMS = 64

#: Objects looked at to measure one holder: more for the program's own.
_MOST_OBJECTS, _MOST_OWN_OBJECTS = 200, 2_000

#: Contexts that are looked into.
_MOST_CONTEXTS = 20_000

#: Where a queue has its bound and its content, by the class that it derives from.
_INSIDE: dict[type, tuple[str, str]] = {
    queue.Queue: ("maxsize", "queue"),
    asyncio.Queue: ("_maxsize", "_queue"),
}


class Holder(NamedTuple):
    """A row of `objects`, and whether it is the program's own."""

    holder: str
    name: str
    type: str
    items: int
    size_bytes: int
    own: bool


class Census:
    """Writes `objects`: what holds most, the program's own holders first.

    Parameters
    ----------
    most_rows : callable
        Returns how many holders are written down at a time.
    """

    least_period_ns = 200_000_000

    def __init__(self, writer: RunWriter, most_rows: Callable[[], int]) -> None:
        self._writer = writer
        self._most_rows = most_rows
        self._numbers = itertools.count(1)
        self._nameless: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._dull: Dull = {}
        #: What installed holders came to when they last had as many things: bytes, by id.
        self._sizes: dict[int, tuple[int, int]] = {}
        self._said_partial = False

    def look(self, t_ns: int) -> Iterator[None]:
        """Look at all holders."""
        found: list[Holder] = []
        names: dict[int, tuple[str, bool]] = {}
        seen: set[int] = set()
        sizes, self._sizes = self._sizes, {}
        for place in places(self._dull):
            if place is None:
                yield
                continue
            thing = place.thing
            names.setdefault(id(thing), (place.name, place.own))
            if id(thing) in seen:
                continue
            if type(thing) is Cache:
                seen.add(id(thing))
                found += _cache(place.name, thing, place.own)
            elif (kind := container_of(type(thing))) is not None and kind is not tuple:
                seen.add(id(thing))
                items = length(thing, kind)
                if items >= (1 if place.own else _LEAST_ITEMS):
                    known = None if place.own else sizes.get(id(thing))
                    if known is None or known[0] != items:
                        known = items, _size(thing, place.own)
                    self._sizes[id(thing)] = known
                    size = known[1]
                    found.append(
                        Holder(place.holder, place.name, _name(type(thing)), items, size, place.own)
                    )
        yield
        for holder in self._among_all(names, seen):
            found.append(holder)
            yield
        found.sort(key=lambda holder: (not holder.own, -holder.size_bytes))
        for row in found[: self._most_rows()]:
            columns = row._asdict()
            del columns["own"]
            self._writer.row("objects", t_ns=t_ns, tid=0, labels=0, **columns)

    def finish(self, t_ns: int) -> Iterator[None]:
        """Look for the last time."""
        return self.look(t_ns)

    def close(self) -> None:
        """Nothing is kept open."""
        self._nameless.clear()
        self._dull.clear()

    def _among_all(self, names: dict[int, tuple[str, bool]], seen: set[int]) -> Iterator[Holder]:
        """Yield the queues without bound, caches and context variables among all objects."""
        if sys.getallocatedblocks() > _MOST_BLOCKS:
            if not self._said_partial:
                self._said_partial = True
                self._writer.finding(
                    "census_partial",
                    "the program has so many objects that only those which hang on its modules "
                    "are looked at: queues, caches and context variables elsewhere are not seen",
                    severity="info",
                    labels=0,
                )
            return
        contexts: list[Context] = []
        for thing in _instances([*_with_subclasses(QUEUES), Cache, Context]):
            if type(thing) is Context:
                contexts.append(thing)
            elif type(thing) is Cache:
                if id(thing) not in seen:
                    name, own = names.get(id(thing)) or (_wrapped_name(thing), False)
                    yield from _cache(name, thing, own)
            else:
                yield from self._queue(thing, names)
        yield from _variables(contexts[:_MOST_CONTEXTS])

    def _queue(self, thing: Any, names: dict[int, tuple[str, bool]]) -> Iterator[Holder]:
        """Yield what a queue holds, if it has no bound."""
        base = next(base for base in QUEUES if issubclass(type(thing), base))
        if base is queue.SimpleQueue:
            items, content = queue.SimpleQueue.qsize(thing), thing
        else:
            bound, inside = _INSIDE[base]
            mine = attributes(thing)
            content, maxsize = mine.get(inside), mine.get(bound)
            kind = container_of(type(content))
            if kind is None or type(maxsize) is not int or maxsize > 0:
                return
            items = length(content, kind)
        known = names.get(id(thing))
        if known is None and items == 0:  # what hangs nowhere and is empty is no news
            return
        name = self._number(thing) if known is None else known[0]
        yield Holder("queue", name, _name(type(thing)), items, _size(content, True), True)

    def _number(self, thing: Any) -> str:
        """Return a name for a queue that hangs nowhere: the same every time."""
        known = self._nameless.get(id(thing))
        if known is None or known[0]() is not thing:
            known = self._nameless[id(thing)] = (weakref.ref(thing), next(self._numbers))
        return f"{_name(type(thing))} {known[1]}"


def _instances(kinds: list[type]) -> list[Any]:
    """Return the objects of just these types that the garbage collector knows.

    The list of all objects must not be there while another thread runs: whatever the
    program lets go of then would end here, in the wrong thread. So it is made, gone through
    and dropped within the one call of `list` below, by functions of C alone.
    """
    wanted = frozenset(map(id, kinds))
    everything: list[Any] = []
    found: list[Any] = []
    steps: tuple[Callable[[], object], ...] = (
        partial(everything.extend, chain.from_iterable(map(gc.get_objects, (None,)))),
        partial(
            found.extend,
            compress(everything, map(wanted.__contains__, map(id, map(type, everything)))),
        ),
        everything.clear,
    )
    list(map(call, steps))
    return found


def _with_subclasses(kinds: Iterable[type]) -> list[type]:
    found: list[type] = []
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        found.append(kind)
        waiting += type.__subclasses__(kind)
    return found


def _cache(name: str, cache: Any, own: bool) -> Iterator[Holder]:
    """Yield what a cache holds, if that is much."""
    info = Cache.cache_info(cache)
    if info.currsize < (1 if own else _LEAST_ITEMS) or is_ours(name):
        return
    bound = f"functools.lru_cache(maxsize={info.maxsize})"
    content = [held for held in gc.get_referents(cache) if type(held) is dict]
    size = sum(_size(held, own) for held in content)
    yield Holder("cache", name, bound, info.currsize, size, own)


def _wrapped_name(cache: Any) -> str:
    """Return the name of the function that a cache is of."""
    mine = attributes(cache)
    return f"{mine.get('__module__', '?')}.{mine.get('__qualname__', '?')}"


def _variables(contexts: Iterable[Context]) -> Iterator[Holder]:
    """Yield what context variables hold in all contexts together, by the variables' names."""
    values: dict[int, tuple[ContextVar[Any], dict[int, Any]]] = {}
    for context in contexts:
        for variable, value in list(Context.items(context)):
            values.setdefault(id(variable), (variable, {}))[1][id(value)] = value
    for variable, distinct in values.values():
        if variable.name.startswith("vidlab_"):
            continue
        held = list(distinct.values())
        size = _size(held, True)
        kind = _name(type(held[-1]))  # one of them is as good as another
        yield Holder("context_variable", variable.name, kind, len(held), size, True)


def _size(thing: Any, own: bool) -> int:
    with contextlib.suppress(RuntimeError):  # it changed just now
        return Estimate(_MOST_OWN_OBJECTS if own else _MOST_OBJECTS).of(thing)
    return 0


def _name(kind: type) -> str:
    """Return what a type is called, with its module unless that is Python's own."""
    module = type.__dict__["__module__"].__get__(kind)
    name: str = type.__dict__["__qualname__"].__get__(kind)
    return name if module == "builtins" else f"{module}.{name}"

"""Who refers to an object, back to what keeps it alive: one pass over the heap.

`gc.get_referrers` answers for one step, and looks at the whole heap for each. Here the heap is
read once: the addresses of all objects that each object refers to, as one array of integers
(some 0.6 s per million objects). Then the search goes backwards in that array, one step for
all objects that are asked for at once, until each is reached from a **root**:

- the globals of a module;
- the variables of a running function, of any thread (their addresses: see `variables.py`);
- the error that a thread is handling.

An object that none of these reaches is held by code that the collector can't see, if it has
more references than were found, or else is a cycle of garbage that waits for the collector.

What is found is the state of some moment within the search: other threads go on meanwhile.
The objects of the heap are held while it is read (else an address could change its meaning),
and nothing is held after: an object that is dropped meanwhile dies as the search ends.
"""

from __future__ import annotations

import gc
import heapq
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from . import roots
from .roots import Garbage, Globals, Root, Running, Unfinished, Unseen

#: How many objects are read between two chances for other threads: some 0.2 ms.
_CHUNK = 256
#: A search that has met so many objects between what is asked for and the roots gives up.
_MOST_OBJECTS = 50_000


@dataclass(frozen=True)
class Reach:
    """What keeps one object alive: all objects from the root to it, which is the last."""

    root: Root
    objects: tuple[Any, ...]


@dataclass
class _Graph:
    """The part of the heap that lies between what is asked for and the roots.

    Objects go by their addresses. Roots that are no objects have negative numbers.
    """

    objects: dict[int, Any]
    roots: dict[int, Root] = field(default_factory=dict)
    referrers: dict[int, list[int]] = field(default_factory=dict)
    referents: dict[int, list[int]] = field(default_factory=dict)
    limit: str = ""  # why the search ended early

    def order(self) -> dict[int, int]:
        """Return in what order all were met: unlike addresses, about the same in every run."""
        return {number: place for place, number in enumerate(chain(self.roots, self.objects))}


class _Deadline:
    """The end of a search: after so many seconds of work, which busy threads make longer."""

    def __init__(self, seconds: float) -> None:
        self._work = time.thread_time() + seconds
        self._all = time.monotonic() + 5 * seconds

    def is_over(self) -> bool:
        return time.thread_time() > self._work or time.monotonic() > self._all


#: For each object that a root leads to: how far it is, and the one before it.
_Steps = dict[int, tuple[float, int | None]]


def reaches(
    groups: Sequence[Sequence[Any]],
    heap: list[Any] | None = None,
    *,
    seconds: float = 2.0,
    most: int = 8,
) -> list[list[Reach]]:
    """Return, for each group of objects, what keeps it alive: at most so many reaches.

    The objects of a group stand and fall together (the views of one memory): references
    among them don't count. There is one reach for each object that refers to one of the group:
    the shortest, and from a module rather than from a function. A group that has none was let
    go meanwhile. `seconds` are of work: where other threads are busy it takes up to five times as
    long. `heap` is `gc.get_objects()`, if the caller has it already; it is emptied.

    Drop what is returned as soon as it is described: it holds what it names.
    """
    heap = gc.get_objects() if heap is None else heap
    ours = {id(groups), *map(id, groups)}
    graph = _backwards(groups, heap, ours, seconds)
    heap.clear()
    members = [{id(member) for member in group} for group in groups]
    inside = set().union(*members)
    order = graph.order()
    costs = {number: _cost(root) for number, root in graph.roots.items()}
    steps = _steps(graph, costs, inside, order)
    direct = [_direct(graph, group, order) for group in members]
    lost = [r for pairs in direct for r, _ in pairs if r not in steps]
    hidden: dict[int, int] = {}
    if lost and not graph.limit:
        hidden = _hidden(graph, [n for n in graph.objects if n not in steps and n not in inside])
    behind = _steps(graph, dict.fromkeys(hidden, 0.0), inside, order)
    found = []
    for group, pairs in zip(members, direct, strict=True):
        ways = sorted((pair for pair in pairs if pair[0] in steps), key=lambda p: steps[p[0]][0])
        reached = [_reach(graph, steps, r, m) for r, m in ways[:most]]
        for r, m in pairs:
            if r not in steps and r in behind:
                origin = _walk(behind, r)[0]
                graph.roots[origin] = Unseen(hidden[origin])
                reached.append(_reach(graph, behind, r, m, with_origin=True))
        found.append(reached[:most] or _rootless(graph, group))
    return found


def _direct(
    graph: _Graph, group: Collection[int], order: Mapping[int, int]
) -> list[tuple[int, int]]:
    """Return what refers to a member of a group from outside of it, and to which."""
    pairs = {(r, m) for m in group for r in graph.referrers.get(m, ()) if r not in group}
    return sorted(pairs, key=lambda pair: (order[pair[0]], order[pair[1]]))


def _rootless(graph: _Graph, group: Collection[int]) -> list[Reach]:
    """Return what can be said of a group that nothing visible reaches."""
    root: Root
    if graph.limit:
        root = Unfinished(graph.limit)
    elif hidden := _hidden(graph, group, held=2):
        root, group = Unseen(sum(hidden.values())), hidden
    elif any(graph.referrers.get(member) for member in group):
        root = Garbage()
    else:
        return []
    return [Reach(root, (graph.objects[next(iter(group))],))]


def _hidden(graph: _Graph, numbers: Collection[int], held: int = 1) -> dict[int, int]:
    """Return which of these objects have more references than were found, and how many more.

    `held`: how many references to each are our own.
    """
    excess = {}
    for number in numbers:
        found = len(graph.referrers.get(number, ()))
        more = sys.getrefcount(graph.objects[number]) - 1 - held - found
        if more > 0:
            excess[number] = more
    return excess


def _cost(root: Root) -> float:
    """Return how much further a root is than a module.

    What a module holds stays for longer than what a function does, and of the functions that
    hand an object on, the outermost is the one that keeps it.
    """
    return 1.0 + root.depth / 1000 if isinstance(root, Running) else 0.0


def _steps(
    graph: _Graph, origins: Mapping[int, float], inside: Collection[int], order: Mapping[int, int]
) -> _Steps:
    """Return the shortest ways from the origins, none of which leads on from inside a group."""
    steps: _Steps = {}
    waiting: list[tuple[float, int, int, int | None]]
    waiting = [(cost, order[number], number, None) for number, cost in origins.items()]
    heapq.heapify(waiting)
    while waiting:
        cost, _, number, before = heapq.heappop(waiting)
        if number in steps:
            continue
        steps[number] = cost, before
        if number not in inside:
            for referent in graph.referents.get(number, ()):
                if referent not in steps:
                    heapq.heappush(waiting, (cost + 1, order[referent], referent, number))
    return steps


def _walk(steps: _Steps, number: int) -> list[int]:
    """Return the way from an origin to an object, both included."""
    way = [number]
    while (before := steps[way[-1]][1]) is not None:
        way.append(before)
    return way[::-1]


def _reach(
    graph: _Graph, steps: _Steps, referrer: int, member: int, *, with_origin: bool = False
) -> Reach:
    origin, *rest = _walk(steps, referrer)
    numbers = [origin, *rest, member] if with_origin else [*rest, member]
    return Reach(graph.roots[origin], tuple(graph.objects[number] for number in numbers))


def _backwards(
    groups: Sequence[Sequence[Any]], heap: list[Any], ours: set[int], seconds: float
) -> _Graph:
    """Search from the groups back to the roots."""
    deadline = _Deadline(seconds)
    graph = _Graph({id(member): member for group in groups for member in group})
    inside = set(graph.objects)
    namespaces, others = roots.now()
    # A module is the end anyway. And to ask `_asyncio` of Python 3.12 what it refers to breaks
    # it: it names objects that are already dead, and the collector then never ends.
    for module in (each for each in heap if type(each) is ModuleType):
        namespace = object.__getattribute__(module, "__dict__")
        namespaces.setdefault(id(namespace), str(namespace.get("__name__", "?")))
    heap[:] = [each for each in heap if type(each) is not ModuleType]
    rooted: dict[int, list[int]] = {}
    for number, (root, addresses) in enumerate(others, 1):
        graph.roots[-number] = root
        for address in addresses:
            rooted.setdefault(address, []).append(-number)
    to, ends, read = _edges(heap, deadline)
    if read < len(heap):
        graph.limit = f"{seconds:g} s, after {read / len(heap):.0%} of the objects"
    frontier, last = set(inside), False
    while frontier:
        fresh = set[int]()
        for source, number in _referrers(to, ends, frontier):
            owner = heap[source]
            if id(owner) in ours:
                continue
            _join(graph, id(owner), number)
            if id(owner) not in graph.objects and id(owner) not in graph.roots:
                if id(owner) in namespaces:
                    graph.roots[id(owner)] = Globals(namespaces[id(owner)], owner)
                else:
                    graph.objects[id(owner)] = owner
                    fresh.add(id(owner))
        for number in frontier:
            for place in rooted.get(number, ()):
                _join(graph, place, number)
        if last:
            break
        # One step further, a module may hold what so far only a function does.
        last = _all_reached(graph, inside)
        frontier = fresh
        if len(graph.objects) > _MOST_OBJECTS or deadline.is_over():
            graph.limit = graph.limit or f"{len(graph.objects):,} objects"
            break
    return graph


def _join(graph: _Graph, owner: int, number: int) -> None:
    graph.referrers.setdefault(number, []).append(owner)
    graph.referents.setdefault(owner, []).append(number)


def _all_reached(graph: _Graph, inside: Collection[int]) -> bool:
    """Whether everything that refers to what is asked for is reached from a root."""
    reached = set(graph.roots)
    waiting = list(reached)
    while waiting:
        for number in graph.referents.get(waiting.pop(), ()):
            if number not in reached and number not in inside:
                reached.add(number)
                waiting.append(number)
    # What has no referrer at all is not waited for: the next step brings none.
    return all(r in reached or r in inside for m in inside for r in graph.referrers.get(m, ()))


def _edges(
    heap: list[Any], deadline: _Deadline
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Return the addresses that each object refers to, where each object's end, and how many
    objects were read before the deadline.
    """
    to, counts, read = [], [], 0
    for start in range(0, len(heap), _CHUNK):
        lists = list(map(gc.get_referents, heap[start : start + _CHUNK]))
        count = np.fromiter(map(len, lists), np.int64, len(lists))
        to.append(np.fromiter(map(id, chain.from_iterable(lists)), np.int64, int(count.sum())))
        counts.append(count)
        read += len(lists)
        if deadline.is_over():
            break
    if not to:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    return np.concatenate(to), np.cumsum(np.concatenate(counts)), read


def _referrers(
    to: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], numbers: Collection[int]
) -> list[tuple[int, int]]:
    """Return (place in the heap, address) of each reference to one of these addresses."""
    wanted = np.fromiter(numbers, np.int64, len(numbers))
    # A table of 16 bits of the address sorts out nearly all, at a few ns each.
    table = np.zeros(1 << 16, bool)
    table[(wanted >> 4) & 0xFFFF] = True
    places = np.flatnonzero(table[(to >> 4) & 0xFFFF])
    places = places[np.isin(to[places], wanted)]
    sources = np.searchsorted(ends, places, side="right")
    return list(zip(sources.tolist(), to[places].tolist(), strict=True))

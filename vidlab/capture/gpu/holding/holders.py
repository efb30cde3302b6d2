"""Who holds a block of GPU memory: which arrays view it, and what keeps each alive.

A holder is one place of the program that refers to an array (or a bare `MemoryPointer`) on the
block, with the chain of references from a root (a module, a running function, a handled error)
down to it. Views of a block count as one: that an array is the base of another is not told.

`kind` and `holder` name what a person has to change: **the nearest named owner**. The chain is
read from the array towards its root, and the first of these decides:

1. `queue`: a queue (by its class, or a class whose name ends with "Queue").
2. `cache`: a `functools.lru_cache`, an object whose class's name has "cache" in it, or a list,
   dict, … that is called so.
3. `closure`: a variable of a function that an inner function uses, and keeps.
4. `context variable`: a `contextvars.ContextVar`, in whatever context.
5. `traceback`: a local of a function that has ended with an error that somebody keeps.
6. `container`: an attribute (of an object, a class, a thread), a default argument, or a list,
   dict, … in a module: "list Decoder.kept". An attribute of an object that lies in a container
   itself is not enough, as such objects wrap what they carry: "list Packet.planes in list
   app.kept".
7. `local`: a local of a running function or a suspended generator, or a list, … in one.
8. `module`: a module's global itself.

`unknown` is what none of this finds: C code, an expression that is being evaluated, a cycle
that waits for the garbage collector, or the end of the search.

Nothing is kept alive: only texts are returned. Texts in `holder` are the same in every run
(lines are where a function begins); a chain also says threads, keys and how many items.
"""

from __future__ import annotations

import bisect
import gc
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ....schema import BORROWED, POOL
from . import links, references
from .roots import Garbage, Globals, Handled, Running, Unfinished, Unseen

if TYPE_CHECKING:
    from ..tracking.live import Block
    from ..tracking.tracker import Tracker

_ROOTS = {
    Globals: "module",
    Running: "function",
    Handled: "error",
    Unseen: "unseen",
    Garbage: "cycle",
    Unfinished: "unfinished",
}
#: What passes is told after what stays: a function is at work on an array that a list keeps.
_LAST = {"local": 1, "unknown": 2}
#: How many holders of one block are told.
_MOST = 8


@dataclass(frozen=True)
class Holder:
    """One place that keeps an array on a block alive.

    Attributes
    ----------
    kind : str
        module, local, closure, queue, cache, context variable, traceback, container, unknown.
    holder : str
        What a person has to change, in one line; the same in every run.
    chain : tuple of str
        The references from the root down to the array.
    array : str
        The array: its class, shape, dtype, and where it begins in its block.
    root_kind : str
        Where the chain ends: module, function, error; or unseen, cycle, unfinished.
    """

    kind: str
    holder: str
    chain: tuple[str, ...]
    array: str
    root_kind: str


class RowWriter(Protocol):
    """What is needed of `runs.writer.RunWriter`."""

    def row(self, table: str, /, **columns: Any) -> None: ...


def holders(address: int, *, seconds: float = 2.0) -> list[Holder]:
    """Return what keeps the memory at this address alive, the most telling first.

    Empty if no array views it.

    Parameters
    ----------
    address : int
        Any address inside a block: `array.data.ptr`.
    seconds : float
        After how much work the search gives up, and says so.

    Examples
    --------
    >>> holders(0)
    []
    """
    heap = gc.get_objects()
    (group,) = _views(heap, [], address)
    found = _found([group], heap, seconds)[0] if group else []
    return list(dict.fromkeys(found))


def store_survivors(
    tracker: Tracker, writer: RowWriter, limit: int = 200, seconds: float = 2.0
) -> int:
    """Write the holders of the blocks in use into the table `holders`; return of how many blocks.

    All are looked for in one search, which ends after so many seconds of work (0.5 s for 200
    blocks among 500,000 objects). If there are more than `limit` blocks, the oldest of each
    site and label set come first, then the oldest.
    """
    blocks = _chosen(tracker.live.blocks(POOL) + tracker.live.blocks(BORROWED), limit)
    if not blocks:
        return 0
    heap = gc.get_objects()
    groups = _views(heap, blocks)
    arrays = [sum(not _is_pointer(member) for member in group) for group in groups]
    found = _found(groups, heap, seconds)
    del groups
    for block, count, these in zip(blocks, arrays, found, strict=True):
        rows: dict[tuple[str, str], tuple[str, ...]] = {}
        for each in these:
            rows.setdefault((each.kind, each.holder), each.chain)
        if not rows:
            nobody = "no array on it that Python can see"
            rows["unknown", nobody] = (nobody,)
        for (kind, holder), chain in rows.items():
            writer.row(
                "holders",
                device=block.device,
                address=block.address,
                generation=block.generation,
                size_bytes=block.size_bytes,
                kind=kind,
                holder=holder,
                chain=json.dumps(chain),
                arrays=count,
            )
    return len(blocks)


def _chosen(blocks: Sequence[Block], limit: int) -> list[Block]:
    """Return the blocks to look for: first the oldest of each site and label set."""
    seen: set[tuple[int, int]] = set()
    order = []
    for block in sorted(blocks, key=lambda block: block.generation):
        if block.address:
            order.append(((block.stack, block.labels) in seen, block.generation, block))
            seen.add((block.stack, block.labels))
    return [block for *_, block in sorted(order)[:limit]]


def _found(groups: Sequence[Sequence[Any]], heap: list[Any], seconds: float) -> list[list[Holder]]:
    reaches = references.reaches(groups, heap, seconds=seconds, most=_MOST)
    found = [[_holder(reach) for reach in these] for these in reaches]
    return [sorted(these, key=lambda holder: _LAST.get(holder.kind, 0)) for these in found]


def _holder(reach: references.Reach) -> Holder:
    chain = links.of(reach)
    kind, holder = verdict(chain)
    array = _text(reach.objects[-1])
    texts = (*(link.text for link in chain), array)
    return Holder(kind, holder, texts, array, _ROOTS[type(reach.root)])


def verdict(chain: Sequence[links.Link]) -> tuple[str, str]:
    """Return kind and holder of a chain: see the top of this module."""
    container, inner = "", ""  # the outermost container so far; what lies in it
    for place in range(len(chain) - 1, -1, -1):
        link, outer = chain[place], chain[:place]
        match link.role:
            case links.QUEUE:
                return "queue", _placed(link, outer)
            case links.CACHE:
                return "cache", _placed(link, outer)
            case links.CLOSURE:
                return "closure", link.name if link.variable else _placed(link, outer)
            case links.CONTEXT:
                return "context variable", link.name
            case links.TRACEBACK:
                return "traceback", link.name
            case links.CONTAINER:
                container = link.name
            case links.ATTRIBUTE if outer and outer[-1].role in _CONTAINERS:
                inner, container = f"{container} {link.name}".strip(), ""
            case links.ATTRIBUTE | links.GLOBAL | links.LOCAL:
                between = (
                    " in " if container and link.role == links.LOCAL else " " * bool(container)
                )
                text = f"{container}{between}{link.name}"
                text = f"{inner} in {text}" if inner else text
                if container and "cache" in link.variable.lower():
                    return "cache", text
                if link.role == links.LOCAL:
                    return "local", text
                alone = link.role == links.GLOBAL and not container
                return "module" if alone else "container", text
    return "unknown", chain[0].name


_CONTAINERS = (links.CONTAINER, links.QUEUE, links.CACHE)


def _placed(link: links.Link, outer: Sequence[links.Link]) -> str:
    """Return the name of a link with the name of what refers to it."""
    if link.name.startswith("functools"):  # names its function itself
        return link.name
    for owner in reversed(outer):
        if owner.variable:
            return f"{link.name}{', ' if owner.role == links.LOCAL else ' '}{owner.name}"
    return link.name


# What is on a block.


class _Kinds(dict[type, int]):
    """Whether a class is one of CuPy's that view memory, asked once for each class."""

    def __init__(self) -> None:
        self._classes: list[tuple[type, int]] = []
        cupy = sys.modules.get("cupy")
        if cupy is not None and hasattr(cupy, "cuda"):
            self._classes = [
                (cupy.ndarray, _ARRAY),
                (cupy.cuda.MemoryPointer, _POINTER),
                (cupy.cuda.memory.BaseMemory, _MEMORY),
                (cupy.cuda.pinned_memory.PinnedMemoryPointer, _PINNED),
            ]

    def __missing__(self, kind: type) -> int:
        found = next((number for base, number in self._classes if issubclass(kind, base)), _NONE)
        self[kind] = found
        return found


_NONE, _ARRAY, _POINTER, _MEMORY, _PINNED = range(5)


def _is_pointer(value: Any) -> bool:
    return _Kinds()[type(value)] != _ARRAY


def _views(heap: list[Any], blocks: Sequence[Block], address: int | None = None) -> list[list[Any]]:
    """Return what views each block, or the memory at an address (then one group).

    All other arrays are taken out of the heap, so that the search does not hold them.
    """
    kinds = _Kinds()
    seen = [value for value in heap if kinds[type(value)]]
    heap[:] = [value for value in heap if not kinds[type(value)]]
    groups: list[list[Any]] = [[] for _ in blocks] if address is None else [[]]
    order = sorted(range(len(blocks)), key=lambda place: blocks[place].address)
    starts = [blocks[place].address for place in order]
    for value in seen:
        try:
            first, low, size = _extent(value, kinds[type(value)])
        except AttributeError:  # another thread is about to make it
            continue
        if address is not None:
            places = [0] if low <= address < low + max(size, 1) else []
        else:
            # Blocks of the two levels may lie at the same address, and nowhere else overlap.
            end = bisect.bisect_right(starts, first)
            near = [order[at] for at in range(max(0, end - 2), end)]
            places = [n for n in near if first < blocks[n].address + max(blocks[n].size_bytes, 1)]
        for place in places:
            groups[place].append(value)
        if places:
            heap.append(value)
    return groups


def _extent(value: Any, kind: int) -> tuple[int, int, int]:
    """Return where an array begins, and the memory it lies in: its begin and size."""
    if kind == _MEMORY:
        return value.ptr, value.ptr, value.size
    pointer = value.data if kind == _ARRAY else value
    memory = pointer.mem
    return pointer.ptr, memory.ptr, memory.size


def _text(value: Any) -> str:
    kind = _Kinds()[type(value)]
    name = type(value).__name__
    if kind == _NONE:
        return name
    first, low, _ = _extent(value, kind)
    text = f"cupy.{name}" if type(value).__module__.startswith("cupy") else name
    if kind == _ARRAY:
        text += f" {value.shape} {value.dtype}"
    return f"{text} at offset {first - low}" if first != low else text

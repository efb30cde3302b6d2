"""How much memory an object and what it holds take: an estimate, at a bounded cost.

No code of the program's is called (see `walking` for how types are told apart): sizes come
from the C types, and what an object holds from the collector's view of it. Of a large
container a few elements are measured, and the others taken to be like them.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import itertools
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

#: Objects that are looked at for one holder.
_MOST_OBJECTS = 2_000

#: Elements of a container that are measured, by how deep it lies in the holder.
_ELEMENTS = (128, 16, 8, 4)

#: What the collector keeps beside each object that it tracks.
_GC_HEAD = 16

#: What belongs to the program and not to whoever refers to it.
_SHARED = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.CodeType,
    types.FrameType,
    types.CoroutineType,
    types.GeneratorType,
)

#: What a type of C has its objects' `__dict__` by.
_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType)

_mro_of = type.__dict__["__mro__"].__get__
_dict_of = type.__dict__["__dict__"].__get__

#: How a type's objects are measured, by the type's id; the type is kept, so that the id is its.
_sizers: dict[int, tuple[type, Callable[[Any], int]]] = {}
_MOST_SIZERS = 4096


def mro(kind: type) -> tuple[type, ...]:
    """Return a type's bases, itself first, though its metaclass may say otherwise."""
    found: tuple[type, ...] = _mro_of(kind)
    return found


def namespace(kind: type) -> dict[str, Any]:
    """Return what a class itself defines, though its metaclass may say otherwise."""
    found: dict[str, Any] = _dict_of(kind).copy()
    return found


def attributes(thing: object) -> dict[str, Any]:
    """Return an object's own attributes; {} if it has none or makes them itself."""
    for kind in mro(type(thing)):
        entry = _dict_of(kind).get("__dict__")
        if entry is not None:
            if not issubclass(type(entry), _DESCRIPTORS):
                return {}
            break
    try:
        found = object.__getattribute__(thing, "__dict__")
    except (AttributeError, TypeError):
        return {}
    return found if type(found) is dict else {}


def container_of(kind: type) -> type | None:
    """Return which of Python's containers a type is or derives from; None if none."""
    found = _CONTAINERS.get(id(kind))
    if found is None:
        for base in _mro_of(kind):
            if id(base) in _CONTAINERS:
                return _CONTAINERS[id(base)]
    return found


def length(thing: Any, container: type) -> int:
    """Return how many elements a container holds, though a subclass may say otherwise."""
    return _LENGTHS[container](thing)


def some_of(thing: Any, container: type, most: int) -> list[Any]:
    """Return at most so many of a container's elements; of a dict, its values.

    Taken in one step of C, so that another thread cannot change the container meanwhile.
    """
    if container is list or container is tuple:
        step = max(1, _LENGTHS[container](thing) // most)
        found: Sequence[Any] = container.__getitem__(thing, slice(None, most * step, step))
        return list(found)
    if container is dict:
        return list(itertools.islice(dict.values(thing), most))
    return list(itertools.islice(_ITERATORS[container](thing), most))


_LENGTHS: dict[type, Callable[[Any], int]] = {
    kind: kind.__len__ for kind in (list, tuple, dict, set, frozenset, collections.deque)
}
_CONTAINERS = {id(kind): kind for kind in _LENGTHS}
_ITERATORS: dict[type, Callable[[Any], Iterator[Any]]] = {
    kind: kind.__iter__ for kind in (set, frozenset, collections.deque)
}


class Estimate:
    """Measures what one holder holds: each object once.

    Parameters
    ----------
    most_objects : int
        So many objects are looked at; those beyond count for what they are without content.
    """

    def __init__(self, most_objects: int = _MOST_OBJECTS) -> None:
        self._left = most_objects
        self._seen: set[int] = set()

    def of(self, thing: Any, depth: int = 0) -> int:
        """Return the bytes that an object and what it holds take, without what was measured."""
        if id(thing) in self._seen or issubclass(type(thing), _SHARED):
            return 0
        self._seen.add(id(thing))
        self._left -= 1
        if type(thing) is np.ndarray:
            return self._of_array(thing, depth)
        size = shallow(thing)
        if self._left <= 0 or depth >= len(_ELEMENTS):
            return size
        container = container_of(type(thing))
        if container is None:
            return size + sum(self.of(held, depth + 1) for held in _held_by(thing))
        count = length(thing, container)
        some = some_of(thing, container, _ELEMENTS[depth])
        if not some:
            return size
        measured = sum(self.of(element, depth + 1) for element in some)
        if container is dict:
            keys = list(itertools.islice(dict.keys(thing), len(some)))
            measured += sum(self.of(key, depth + 1) for key in keys)
        # Where the same object is in it again and again, the others are it, too.
        others_differ = len(set(map(id, some))) * 2 > len(some)
        return size + (measured * count // len(some) if others_differ else measured)

    def _of_array(self, array: np.ndarray[Any, Any], depth: int) -> int:
        owner: Any = array
        while type(owner.base) is np.ndarray:
            owner = owner.base
        if owner is not array:
            return shallow(array) + self.of(owner, depth)
        return shallow(array) + (0 if array.flags.owndata else array.nbytes)


def shallow(thing: Any) -> int:
    """Return the bytes of an object and the buffers that are its own, without what it holds."""
    kind = type(thing)
    known = _sizers.get(id(kind))
    if known is None:
        if len(_sizers) >= _MOST_SIZERS:
            _sizers.clear()
        known = _sizers[id(kind)] = (kind, _sizer(kind))
    size = 0
    with contextlib.suppress(Exception):  # a type of C may refuse
        size = known[1](thing)
    return size + _GC_HEAD if gc.is_tracked(thing) else size


def _sizer(kind: type) -> Callable[[Any], int]:
    """Return the first `__sizeof__` among a type's bases that is not written in Python."""
    for base in mro(kind):
        entry = _dict_of(base).get("__sizeof__")
        if type(entry) is types.MethodDescriptorType:
            return entry
    return object.__sizeof__


def _held_by(thing: object) -> list[Any]:
    """Return what an object holds, as the collector sees it."""
    return gc.get_referents(thing) if gc.is_tracked(thing) else []

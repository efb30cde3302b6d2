"""Names of what lies in memory, found without running any code of the program.

A class can say of its objects what it likes, by properties, `__len__`, `__eq__` or
`__getattr__`: none of these is asked.
"""

from __future__ import annotations

import collections
import types
from pathlib import Path
from typing import Any

CONTAINERS: tuple[type, ...] = (list, tuple, dict, set, frozenset, collections.deque)


def type_name(value: Any) -> str:
    """Return what a person calls the class of this object."""
    kind = type(value)
    name = kind.__qualname__.rpartition("<locals>.")[2]
    if kind.__module__ in ("queue", "_queue", "asyncio.queues", "collections", "multiprocessing"):
        return f"{kind.__module__.lstrip('_').partition('.')[0]}.{name}"
    return name


def function(code: types.CodeType) -> str:
    """Return how a function is called: name and where its definition begins."""
    name = code.co_qualname.rpartition("<locals>.")[2]
    return f"{name}() at {Path(code.co_filename).name}:{code.co_firstlineno}"


def key(namespace: dict[Any, Any], value: Any, otherwise: str = "?") -> str:
    """Return the name under which a dict holds this value."""
    # In one C call: another thread may change the dict at any time.
    for key, held in list(dict.items(namespace)):
        if held is value and type(key) is str:
            return key
    return otherwise


def length(container: Any) -> int:
    """Return how many items a container has, without its class's own `__len__`."""
    for base in CONTAINERS:
        if issubclass(type(container), base):
            return int(base.__len__(container))  # type: ignore[attr-defined]
    return 0


def instance_dict(owner: Any) -> dict[Any, Any] | None:
    """Return an object's own dict, whatever its class says that `__dict__` be."""
    for base in type(owner).__mro__:
        descriptor = type.__dict__["__dict__"].__get__(base).get("__dict__")
        if type(descriptor) in (types.GetSetDescriptorType, types.MemberDescriptorType):
            found = descriptor.__get__(owner)
            return found if type(found) is dict else None
    return None


def slot(owner: Any, value: Any) -> str:
    """Return the name of the slot in which an object holds this value."""
    for base in type(owner).__mro__:
        for name, descriptor in list(type.__dict__["__dict__"].__get__(base).items()):
            if type(descriptor) is types.MemberDescriptorType:
                try:
                    found = descriptor.__get__(owner)
                except AttributeError:  # not set
                    continue
                if found is value:
                    return str(name)
    return ""

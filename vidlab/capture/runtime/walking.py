"""What hangs on the program's modules: globals, attributes of classes and of objects, caches.

Nothing of the program's is called: namespaces are read as the dictionaries that they are.
Types are told apart by `is`, by `id` and by `issubclass`: `==`, a dictionary's look-up and
`isinstance` may ask a metaclass or an object of the program's.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import sys
import sysconfig
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

from .sizing import attributes, container_of, namespace

#: `functools.lru_cache` makes objects of this type.
Cache: Any = functools._lru_cache_wrapper

QUEUES: tuple[type, ...] = (queue.Queue, queue.SimpleQueue, asyncio.Queue)

#: Where Python and packages are installed: what is elsewhere is the program's own.
_INSTALLED = tuple(
    {
        sysconfig.get_path(name).rstrip("/") + "/"
        for name in ("stdlib", "platstdlib", "purelib", "platlib")
    }
)

#: Types of what holds nothing, or is looked at by itself.
_PLAIN = frozenset(
    id(kind)
    for kind in (
        *(str, bytes, int, float, complex, bool, type(None), type(Ellipsis), property),
        *(types.ModuleType, types.BuiltinFunctionType, types.GetSetDescriptorType),
        *(types.MemberDescriptorType, types.WrapperDescriptorType, types.MethodDescriptorType),
    )
)

_namespace_of = type.__dict__["__dict__"].__get__

#: What functions and the like hold is looked at only where they are the program's own.
_DULL_IF_INSTALLED = _PLAIN | {id(types.FunctionType), id(types.MethodType)}

_OURS = __name__.partition(".")[0]

#: The laboratory's services are programs like a user's.
_PROGRAMS = f"{_OURS}.lab"

#: Classes of what is installed that hold nothing, by id; kept, so that the id is theirs.
Dull = dict[int, type]


class Place(NamedTuple):
    """Something in the program, and where it is.

    `holder` is global, attribute or cache; `own` is whether the module that it hangs on is
    the program's own, not one that is installed.
    """

    holder: str
    name: str
    thing: Any
    own: bool


def is_ours(name: str) -> bool:
    """Return whether a module, or what is in it, is vidlab's own and no program's.

    >>> is_ours("vidlab.clock.now_ns"), is_ours("vidlab.lab.demo"), is_ours("vidlabel")
    (True, False, False)
    """
    return _is_in(name, _OURS) and not _is_in(name, _PROGRAMS)


def is_installed(file: str) -> bool:
    """Return whether a source file is Python's or an installed package's."""
    return file.startswith(_INSTALLED)


def places(dull: Dull) -> Iterator[Place | None]:
    """Yield the containers and caches that hang on modules, and the objects that hang there.

    Each may come several times, by several names. None comes after each module. Of what is
    installed only globals, attributes of classes and caches are yielded. `dull` is kept from
    one walk to the next: most of what is installed holds nothing, and never will.
    """
    for module_name, module in list(sys.modules.items()):
        if not issubclass(type(module), types.ModuleType) or is_ours(module_name):
            continue
        # Not by the module's own way of access, which may load it.
        globals_: dict[str, Any] = object.__getattribute__(module, "__dict__")
        own = _is_own(module_name, globals_)
        plain = _PLAIN if own else _DULL_IF_INSTALLED
        for key, value in list(globals_.items()):
            if id(type(value)) not in plain and id(value) not in dull and _is_name(key):
                yield from _of_global(module_name, f"{module_name}.{key}", value, own, dull)
        yield None


def _of_global(module: str, name: str, value: Any, own: bool, dull: Dull) -> Iterator[Place]:
    kind = type(value)
    if kind is Cache:
        yield Place("cache", name, value, own)
    elif kind is types.FunctionType:
        if own and value.__module__ == module:
            yield from _of_function(name, value, own)
    elif issubclass(kind, type):
        if _module_of(value) != module:  # it is met in its own
            return
        held = list(_of_class(name, value, own))
        if not held and not own:
            dull[id(value)] = value
        yield from held
    elif container_of(kind) is not None:
        yield Place("global", name, value, own)
    elif own and not _is_ours(kind):
        yield Place("object", name, value, own)
        if issubclass(kind, QUEUES):  # what is in it belongs to it
            return
        for key, held in list(attributes(value).items()):
            yield Place("attribute", f"{name}.{key}", held, own)


def _of_class(name: str, kind: type, own: bool) -> Iterator[Place]:
    for key, value in namespace(kind).items():
        if id(type(value)) in _PLAIN or not _is_name(key):
            continue
        if type(value) is staticmethod or type(value) is classmethod:
            value = value.__func__
        if type(value) is Cache:
            yield Place("cache", f"{name}.{key}", value, own)
        elif type(value) is types.FunctionType:
            if own:
                yield from _of_function(f"{name}.{key}", value, own)
        else:
            yield Place("attribute", f"{name}.{key}", value, own)


def _of_function(name: str, function: types.FunctionType, own: bool) -> Iterator[Place]:
    """Yield what a function keeps from call to call: closed-over variables and defaults."""
    for variable, cell in zip(
        function.__code__.co_freevars, function.__closure__ or (), strict=False
    ):
        try:
            held = cell.cell_contents
        except ValueError:  # not set yet
            continue
        holder = "cache" if type(held) is Cache else "attribute"
        yield Place(holder, f"{name}.{variable}", held, own)
    code = function.__code__
    defaults = function.__defaults__ or ()
    with_defaults = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    for variable, held in zip(with_defaults, defaults, strict=False):
        yield Place("attribute", f"{name}.{variable}", held, own)


def _is_own(module_name: str, globals_: dict[str, Any]) -> bool:
    """Return whether a module is the program's own."""
    if module_name == "__main__" or _is_in(module_name, _PROGRAMS):
        return True
    file = globals_.get("__file__")
    return type(file) is str and not is_installed(file)


def _module_of(kind: type) -> Any:
    """Return the module that a class says it is of."""
    return _namespace_of(kind).get("__module__")


def _is_ours(kind: type) -> bool:
    """Return whether a type is one of vidlab's."""
    module = type.__dict__["__module__"].__get__(kind)
    return type(module) is str and is_ours(module)


def _is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _is_name(key: object) -> bool:
    """Return whether a key of a namespace is one that the program chose."""
    return type(key) is str and not (key.startswith("__") and key.endswith("__"))

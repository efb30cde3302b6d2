"""Patching other packages' classes and modules in place, and undoing it exactly.

An unmodified program is recorded by replacing methods of the classes that it
uses. Everything that is replaced goes through one `Patches`, whose `restore`
leaves each class and module with the very objects that it had before.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import threading
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

#: Stands for "there was no such entry".
_ABSENT: Any = object()

Callback = Callable[[types.ModuleType], None]


class _Patch(NamedTuple):
    owner: Any
    name: str
    before: Any  #: the entry itself, a descriptor for instance; `_ABSENT` if it was inherited
    callable: Any  #: what `getattr` gave before
    value: Any


class Patches:
    """What a recording has replaced, to be put back in reverse order.

    Examples
    --------
    >>> class Camera:
    ...     def read(self):
    ...         return "image"
    >>> patches = Patches()
    >>> read = Camera.read
    >>> patches.set(Camera, "read", lambda self: "recorded " + read(self))
    True
    >>> Camera().read()
    'recorded image'
    >>> patches.restore()
    >>> Camera().read()
    'image'
    """

    def __init__(self) -> None:
        self._patches: list[_Patch] = []
        self._hook = _ImportHook()
        self._lock = threading.RLock()

    def set(self, owner: Any, name: str, value: Any) -> bool:
        """Replace `owner.name` (of a class, a module or any object) until `restore`.

        Returns whether it could be replaced: where the owner is immutable, a warning
        says so and all goes on without this patch.
        """
        with self._lock:
            before = vars(owner).get(name, _ABSENT)
            current = getattr(owner, name, _ABSENT)
            try:
                setattr(owner, name, value)
            except (TypeError, AttributeError) as error:
                warnings.warn(
                    f"vidlab cannot record {_called(owner)}.{name} ({error}); "
                    "a newer version of the package may allow it",
                    RuntimeWarning,
                    stacklevel=2,
                )
                return False
            # Read back: what a class keeps of `value` is what `restore` must find there.
            kept = vars(owner).get(name, value)
            self._patches.append(_Patch(owner, name, before, current, kept))
            return True

    def original(self, owner: Any, name: str) -> Any:
        """Return what `owner.name` was before the first patch, as `getattr` gave it."""
        with self._lock:
            for patch in self._patches:
                if patch.owner is owner and patch.name == name:
                    if patch.callable is _ABSENT:
                        raise AttributeError(f"{_called(owner)} had no attribute {name!r}")
                    return patch.callable
            return getattr(owner, name)

    def when_imported(self, module_name: str, callback: Callback) -> None:
        """Call `callback(module)` once the module has been imported: at once if it has been.

        A callback that fails is reported by a warning; the import succeeds.
        """
        module = sys.modules.get(module_name)
        if module is not None:
            if getattr(getattr(module, "__spec__", None), "_initializing", False):
                importlib.import_module(module_name)  # waits for the thread that imports it
            _call(callback, module)
            return
        self._hook.want(module_name, callback)

    def restore(self) -> None:
        """Put everything back. What another program has patched since is left to it."""
        with self._lock:
            self._hook.remove()
            while self._patches:
                patch = self._patches.pop()
                if vars(patch.owner).get(patch.name, _ABSENT) is not patch.value:
                    continue
                if patch.before is _ABSENT:
                    delattr(patch.owner, patch.name)
                else:
                    setattr(patch.owner, patch.name, patch.before)


class _ImportHook(importlib.abc.MetaPathFinder):
    """Finds nothing itself: lets the other finders find a module, and sees it executed."""

    def __init__(self) -> None:
        self._wanted: dict[str, list[Callback]] = {}

    def want(self, module_name: str, callback: Callback) -> None:
        self._wanted.setdefault(module_name, []).append(callback)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def remove(self) -> None:
        self._wanted.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._wanted:
            return None
        for finder in list(sys.meta_path):
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                self._watch(fullname, spec.loader)
                return spec
        return None

    def _watch(self, fullname: str, loader: Any) -> None:
        """Let the callbacks run after the loader has executed the module.

        Only this loader's own attribute is set, and taken away again: the module
        keeps the loader and the spec that it would have had.
        """
        if loader is None or isinstance(loader, type):  # a namespace, or a built-in module
            return
        execute = loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            del loader.exec_module
            execute(module)
            for callback in self._wanted.pop(fullname, ()):
                _call(callback, module)

        try:
            loader.exec_module = exec_module
        except AttributeError:
            warnings.warn(
                f"vidlab cannot see when {fullname} is imported", RuntimeWarning, stacklevel=2
            )


def _call(callback: Callback, module: types.ModuleType) -> None:
    try:
        callback(module)
    except Exception as error:
        warnings.warn(
            f"vidlab does not record {module.__name__}: {type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )


def _called(owner: Any) -> str:
    """What a message calls the owner of an attribute."""
    return getattr(owner, "__qualname__", None) or getattr(owner, "__name__", None) or repr(owner)

"""Sees the CuPy modules that reach for a GPU by themselves, as they are imported."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from .refusals import NotServedError
from .replacing import Bridge

LIBRARY_PACKAGE = "cupy_backends.cuda.libs"

#: Libraries that bring, or load, a CUDA runtime of their own: CuPy does without.
LIBRARIES = frozenset(
    f"{LIBRARY_PACKAGE}.{name}"
    for name in ("cublas", "curand", "cusolver", "cusparse", "cusparselt", "cutensor", "nccl")
) | {"cupy.cuda.cufft", "cupy.cuda.jitify"}


def guard(bridge: Bridge) -> None:
    """Keep CuPy from looking for a GPU behind our back, in what it imports from now on."""

    def refuse_functions(module: ModuleType) -> None:
        for replacement in bridge.replacements(module):
            replacement.put()

    def refuse_generators(module: ModuleType) -> None:
        refuse_functions(module)
        for kind in _classes(module):
            bridge.refuse_instances(kind)

    def refuse_reductions(module: ModuleType) -> None:
        for kind in _classes(module):
            bridge.refuse_calls(kind)

    sys.meta_path.insert(
        0,
        _Guard(
            {
                # Linked with a CUDA runtime of their own: without a device it fails, and what
                # comes back is what the result's memory held before.
                "cupy.cuda.cub": refuse_functions,
                "cupy.cuda.thrust": refuse_functions,
                "cupy.random._generator_api": refuse_generators,
                "cupy._core._reduction": refuse_reductions,
                "cupy.cuda": _refuse_attributes,
            }
        ),
    )
    _refuse_attributes(sys.modules[LIBRARY_PACKAGE])


def _classes(module: ModuleType) -> list[type]:
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
    ]


def _refuse_attributes(package: ModuleType) -> None:
    """Refuse the libraries that a package would load as its attributes are asked for."""
    load: Callable[[str], Any] | None = vars(package).get("__getattr__")
    if load is None:
        return

    def attribute(name: str) -> Any:
        whole = f"{package.__name__}.{name}"
        if whole in LIBRARIES:
            raise NotServedError(whole)
        return load(name)

    package.__dict__["__getattr__"] = attribute


class _Guard(importlib.abc.MetaPathFinder):
    """Refuses libraries, and changes some modules once they are loaded."""

    def __init__(self, changes: dict[str, Callable[[ModuleType], None]]) -> None:
        self._changes = changes

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name in LIBRARIES:
            raise NotServedError(name)
        change = self._changes.get(name)
        if change is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ChangingLoader(spec.loader, change)
        return spec


class _ChangingLoader(importlib.abc.Loader):
    """Loads a module as another loader does, then changes it."""

    def __init__(self, loader: Any, change: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._change = change

    def __getattr__(self, name: str) -> Any:
        # What others ask of a loader (is_package, get_source, …) is the real one's to answer.
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._change(module)

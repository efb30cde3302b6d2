"""CuPy's calls of the CUDA runtime, led to functions of ours, and led back.

CuPy's compiled modules call each other through function pointers. A module takes them, as it is
imported, from the capsules in the other module's ``__pyx_capi__`` and keeps them in variables
of its own: its import slots. While recording, each slot that holds one of the runtime module's
functions holds a trampoline of ours (driver.c) instead, and so do the capsules, for modules
that are imported later. That works after CuPy was imported, for each of its allocators and
pools, and leaves everything of CuPy's as it is.

A capsule's name is the C signature of its function. Only a function whose signature is the
one that its trampoline was written for is ever replaced.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ....errors import VidlabError
from .. import native

RUNTIME = "cupy_backends.cuda.api.runtime"
_STREAM = "cupy_backends.cuda.stream"

#: The packages whose modules call the runtime module.
_PACKAGES = ("cupy", "cupy_backends", "cupyx")

#: Without one of these, what is recorded could not add up.
_NEEDED = ("malloc", "free")

_python = ctypes.pythonapi
_name_of = _python.PyCapsule_GetName
_name_of.restype = ctypes.c_void_p
_name_of.argtypes = [ctypes.py_object]
_pointer_of = _python.PyCapsule_GetPointer
_pointer_of.restype = ctypes.c_void_p
_pointer_of.argtypes = [ctypes.py_object, ctypes.c_void_p]
_new_capsule = _python.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]


class SlotError(VidlabError):
    """CuPy's functions are not those that the trampolines stand in for."""


def extension() -> Any:
    """Build and return our extension.

    Raises
    ------
    MissingDependencyError
        If it cannot be built here; the message says what to install.
    VidlabError
        If it does not compile.
    """
    here = Path(__file__).parent
    sources = [here / name for name in ("driver.c", "records.c", "steps.c", "walker.c", "driver.h")]
    return native.extension("vidlab.capture.gpu._driver", sources)


class Slots:
    """The replaced import slots and capsules of CuPy's runtime module."""

    def __init__(self, extension: Any) -> None:
        self._extension = extension
        self._trampolines: dict[str, tuple[int, str]] = extension.trampolines()
        self._ours: dict[str, Any] = {}  #: our capsules, which are in place
        self._theirs: dict[str, Any] = {}  #: those that were there before
        self._originals: dict[str, int] = {}
        self._capsules: dict[str, Any] | None = None

    def install(self, runtime: ModuleType) -> None:
        """Lead CuPy's calls to our trampolines. Again: those that lead elsewhere since.

        Raises
        ------
        SlotError
            If a function has another signature than ours, or one that is needed is missing.
            Nothing is changed then.
        """
        capsules: dict[str, Any] = runtime.__pyx_capi__
        new = {}
        for name, (trampoline, signature) in self._trampolines.items():
            capsule = capsules.get(name)
            if capsule is None:
                if name in _NEEDED:
                    raise SlotError(f"CuPy {_version()} has no C function {name}")
                continue
            theirs = _text(capsule)
            if theirs != signature:
                raise SlotError(
                    f"CuPy {_version()} has another C function {name} than vidlab knows: "
                    f"{theirs}, not {signature}"
                )
            if _pointer(capsule) != trampoline:
                new[name] = capsule
        for name, capsule in new.items():
            self._originals[name] = _pointer(capsule)
            self._extension.original(name, self._originals[name])
        # The capsules first: a module that is imported meanwhile has its slots filled by them.
        self._capsules = capsules
        for name, capsule in new.items():
            self._theirs[name] = capsule
            ours = _new_capsule(self._trampolines[name][0], _name_of(capsule), None)
            self._ours[name] = capsules[name] = ours
        self._swap({self._originals[name]: self._trampolines[name][0] for name in self._originals})
        self._extension.current_stream_from(_current_stream_function())

    def uninstall(self) -> None:
        """Lead CuPy's calls back to where they led before."""
        if self._capsules is None:
            return
        for name, ours in self._ours.items():
            if self._capsules.get(name) is ours:  # else another program has replaced it since
                self._capsules[name] = self._theirs[name]
        self._swap({self._trampolines[name][0]: self._originals[name] for name in self._originals})
        self._capsules = None
        self._ours.clear()
        self._theirs.clear()
        self._originals.clear()  # the trampolines keep theirs: a thread may be in one

    def _swap(self, words: dict[int, int]) -> int:
        return int(self._extension.swap(_folders(), words))


def _folders() -> tuple[bytes, ...]:
    """What the file names of CuPy's compiled modules begin with."""
    paths = [
        path for package in _PACKAGES for path in getattr(sys.modules.get(package), "__path__", ())
    ]
    spellings = dict.fromkeys([*paths, *map(os.path.realpath, paths)])
    return tuple(os.fsencode(path.rstrip(os.sep) + os.sep) for path in spellings)


def _current_stream_function() -> int:
    """Where CuPy's C function is that returns the thread's current stream; 0 if unknown."""
    module = sys.modules.get(_STREAM)
    capsule = getattr(module, "__pyx_capi__", {}).get("get_current_stream_ptr")
    if capsule is None or _text(capsule) != "intptr_t (void)":
        return 0
    return _pointer(capsule)


def _text(capsule: Any) -> str:
    return ctypes.string_at(_name_of(capsule)).decode()


def _pointer(capsule: Any) -> int:
    return int(_pointer_of(capsule, _name_of(capsule)))


def _version() -> str:
    return str(getattr(sys.modules.get("cupy"), "__version__", "(unknown version)"))

"""Puts our functions in place of a CuPy module's, after comparing every signature."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from ....errors import VidlabError
from .. import native
from . import cudart
from .refusals import NotServedError, refusal

UNITS = (
    "bridge.h",
    "hostcuda.h",
    "bridge.c",
    "bridge_memory.c",
    "bridge_streams.c",
    "bridge_devices.c",
    "bridge_refused.c",
)

#: What stays CuPy's own: it computes, or reads a constant, and touches no device.
HARMLESS = {
    "runtime": {
        "runtimeGetVersion",
        "_getCUDAMajorVersion",
        "_getLocalRuntimeVersion",
        "_export_enum",
        "make_Extent",
        "make_PitchedPtr",
        "make_Pos",
        # These describe a texture or an array, and none can be made.
        "getChannelDesc",
        "getTextureObjectResourceDesc",
        "getTextureObjectTextureDesc",
    },
    "driver": {"get_build_version", "_is_cuda_python", "check_status"},
    "nvrtc": {"check_status"},
    "cub": {
        "get_build_version",
        "_get_cuda_build_version",
        "_preprocess_array",
        "_cub_device_segmented_reduce_axis_compatible",
    },
    "thrust": {"get_build_version"},
    "_generator_api": set(),
}

FUNCTION_TYPES = ("builtin_function_or_method", "cython_function_or_method")


class Replacement(NamedTuple):
    """One function of a CuPy module, and what comes in its place."""

    module: ModuleType
    name: str
    capsule: Any  # for C callers; None if the module offers them none
    python: Callable[..., Any]

    def put(self) -> None:
        """Put it in place: for the modules that are yet to be imported, and for Python."""
        if self.capsule is not None:
            self.module.__pyx_capi__[self.name] = self.capsule
        if hasattr(self.module, self.name):
            setattr(self.module, self.name, self.python)


def built() -> Any:
    """Return the extension module that serves CuPy, built if need be; it changes nothing yet.

    Raises
    ------
    MissingDependencyError
        If a C compiler or Python's headers are missing.
    """
    # RTLD_DEEPBIND: the bridge is to call our library, which is loaded already, and not
    # another CUDA runtime that some package has loaded for everybody to see.
    library = cudart.library()._name
    before = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_NOW | os.RTLD_LOCAL | os.RTLD_DEEPBIND)
    try:
        return native.extension(
            "vidlab.capture.gpu.hostcuda.bridge",
            [cudart.SOURCES / unit for unit in UNITS],
            [library],
        )
    finally:
        sys.setdlopenflags(before)


class Bridge:
    """The extension module that serves CuPy's functions by calls of the C library.

    Parameters
    ----------
    runtime : ModuleType
        CuPy's ``cupy_backends.cuda.api.runtime``, whose classes our functions raise and return.
    """

    def __init__(self, runtime: ModuleType) -> None:
        self._extension = built()
        self._extension.bind(
            runtime.CUDARuntimeError,
            NotServedError,
            runtime.PointerAttributes,
            runtime.MemPoolProps,
        )
        self._ours = {
            (module, name): (capsule, python)
            for module, name, capsule, python in self._extension.functions()
        }

    def replacements(self, module: ModuleType) -> list[Replacement]:
        """Return what comes in place of a module's functions; nothing is changed yet.

        Raises
        ------
        VidlabError
            If one has another signature than ours; the message names it and CuPy's version.
        """
        short = module.__name__.rpartition(".")[2]
        capsules: dict[str, Any] = getattr(module, "__pyx_capi__", {})
        names = {n for n, value in vars(module).items() if type(value).__name__ in FUNCTION_TYPES}
        names |= {n for n, value in capsules.items() if "(" in self._extension.signature(value)}
        return [
            self._replacement(module, short, name, capsules.get(name))
            for name in sorted(names - HARMLESS[short])
        ]

    def _replacement(self, module: ModuleType, short: str, name: str, theirs: Any) -> Replacement:
        own, python = self._ours.get((short, name), (None, None))
        capsule = None
        if theirs is not None:
            self._compare(module, name, own, theirs, refused=python is None)
            capsule = self._extension.renamed(own, theirs)
        return Replacement(module, name, capsule, python or refusal(f"{short}.{name}"))

    def _compare(
        self, module: ModuleType, name: str, ours: Any, theirs: Any, *, refused: bool
    ) -> None:
        want: str = self._extension.signature(theirs)
        have: str | None = None
        if ours is not None:
            # C's preprocessor can't leave out the blank that Cython leaves out after an asterisk.
            have = self._extension.signature(ours).replace("* (", "*(")
            # A refusal looks at no argument, so only what it returns has to be right.
            if want == have or (refused and want.startswith(have)):
                return
        raise VidlabError(
            f"{cupy_version()} is not a CuPy that hostcuda knows: the signature of "
            f"{module.__name__}.{name} is {want!r} there, and {have!r} here. "
            "Install CuPy 13.6 to 14"
        )

    def refuse_instances(self, kind: type) -> None:
        """Make it an error to make an instance of a CuPy type."""
        self._extension.refuse_instances(kind)

    def refuse_calls(self, kind: type) -> None:
        """Make calling the instances of a CuPy type an error, for C callers too."""
        self._extension.refuse_calls(kind)


def cupy_version() -> str:
    """Return which CuPy is installed, without importing it."""
    for package in ("cupy-cuda12x", "cupy-cuda13x", "cupy"):
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "this CuPy"

"""Makes CuPy run on host memory, before it is imported, here and in the children."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from types import ModuleType
from typing import TypedDict

from .... import sizes
from ....errors import InputError, VidlabError, missing_extra
from . import cudart, guarding
from .replacing import Bridge, built

#: What makes child processes, and programs that vidlab starts, install it too.
VARIABLE = "VIDLAB_HOSTCUDA"

DEFAULT_MEMORY_BYTES = 4 << 30
MAX_DEVICES = 16

#: The modules that the rest of CuPy takes its C functions from. The first imports neither of
#: the others, and none of them imports `cupy`.
MODULES = (
    "cupy_backends.cuda.api.runtime",
    "cupy_backends.cuda.api.driver",
    "cupy_backends.cuda.libs.nvrtc",
)

_installed = False


class Options(TypedDict, total=False):
    """The arguments of `install`."""

    devices: int
    memory_bytes: int
    force: bool


def installed() -> bool:
    """Return whether CuPy runs on host memory in this process."""
    return _installed


def install(devices: int = 1, memory_bytes: int | None = None, force: bool = False) -> None:
    """Make CuPy run on host memory, in this process and in the Python children it starts.

    Call it before CuPy is imported. It can't be undone. A second call does nothing.

    Parameters
    ----------
    devices : int
        How many devices CuPy shall find, 1 to 16.
    memory_bytes : int, optional
        What each device has: 4 GiB by default. It is taken from the machine only as it is used.
    force : bool
        Install it even though a GPU works here.

    Raises
    ------
    InputError
        If a number makes no sense.
    MissingDependencyError
        If CuPy, a C compiler or Python's headers are missing; the message says how to get them.
    VidlabError
        If CuPy is imported already, if a GPU works here, or if this CuPy's functions are not
        those that it was built for; the message names the function and CuPy's version.

    Examples
    --------
    >>> import vidlab as vl
    >>> vl.hostcuda.install(devices=2)
    >>> import cupy
    >>> cupy.cuda.runtime.getDeviceCount()
    2
    """
    global _installed
    if _installed:
        return
    memory = DEFAULT_MEMORY_BYTES if memory_bytes is None else memory_bytes
    _check_numbers(devices, memory)
    _check_here(force)
    runtime = _load(MODULES[0])
    bridge = Bridge(runtime)
    # All signatures are compared before anything is changed.
    replacements = [one for name in MODULES for one in bridge.replacements(_load(name))]
    if cudart.library().hostcuda_setup(devices, memory, runtime.runtimeGetVersion()) != 0:
        raise VidlabError("hostcuda's library was set up by somebody else in this process")
    for replacement in replacements:
        replacement.put()
    guarding.guard(bridge)
    # CuPy reads it at its import. Its accelerators bring a CUDA runtime of their own.
    os.environ["CUPY_ACCELERATORS"] = ""
    os.environ[VARIABLE] = f"devices={devices},memory={memory}" + (",force=1" if force else "")
    _installed = True


def _check_numbers(devices: int, memory: int) -> None:
    if not 1 <= devices <= MAX_DEVICES:
        raise InputError(f"hostcuda has 1 to {MAX_DEVICES} devices, not {devices}")
    if not 1 <= memory < 1 << 63:
        raise InputError(f"{memory} bytes are no size for a device's memory")


def _check_here(force: bool) -> None:
    if any(name == "cupy" or name.startswith("cupy.") for name in sys.modules):
        raise VidlabError(
            "CuPy is imported already, and host memory has to come first: call "
            "vl.hostcuda.install() before anything imports cupy, or run the program with "
            "'vidlab record --hostcuda'"
        )
    if not force and (found := working_gpu()) is not None:
        raise VidlabError(
            f"a GPU works here ({found}), and CuPy can have it: say install(force=True) if host "
            "memory is what you want"
        )


def for_children() -> dict[str, str]:
    """Return the environment variable that makes a child process install it.

    All that it takes is looked at, and built, here; in this process nothing changes.

    Raises
    ------
    InputError
        If the variable is set to something else than what `install_from_environment` reads.
    MissingDependencyError
        If CuPy, a C compiler or Python's headers are missing.
    VidlabError
        If a GPU works here.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if text in ("", "0"):
        text = "1"
    options = _parse(text)
    _check_numbers(options.get("devices", 1), options.get("memory_bytes", DEFAULT_MEMORY_BYTES))
    if not options.get("force") and (found := working_gpu()) is not None:
        raise VidlabError(
            f"a GPU works here ({found}), and CuPy can have it: leave --hostcuda out, or set "
            f"{VARIABLE}=force=1 if host memory is what you want"
        )
    if importlib.util.find_spec("cupy_backends") is None:
        raise missing_extra("cupy-cuda12x", "gpu")
    built()
    return {VARIABLE: text}


def install_from_environment() -> bool:
    """Install it if the environment variable ``VIDLAB_HOSTCUDA`` says so.

    Its value is ``1``, or what to install: ``devices=2,memory=4GiB`` and perhaps ``force=1``.
    Not set, empty or ``0`` mean no.

    Returns
    -------
    bool
        Whether CuPy runs on host memory now.

    Raises
    ------
    InputError
        If the variable says something else. And what `install` raises.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not _installed and text not in ("", "0"):
        install(**_parse(text))
    return _installed


def _parse(text: str) -> Options:
    options: Options = {}
    if text == "1":
        return options
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        size = _size(value)
        if name == "devices" and value.isdecimal():
            options["devices"] = int(value)
        elif name == "memory" and size is not None:
            options["memory_bytes"] = size
        elif name == "force" and value in ("0", "1"):
            options["force"] = value == "1"
        else:
            raise InputError(
                f"{VARIABLE} is {text!r}, where {part.strip()!r} is not understood: say 1, or "
                "devices=2,memory=4GiB"
            )
    return options


def _size(text: str) -> int | None:
    try:
        return sizes.parse(text)
    except ValueError:
        return None


def working_gpu() -> str | None:
    """Return the name of the first GPU that the CUDA driver offers, or None if it offers none.

    It asks the driver itself, without CuPy, and makes no context.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int()
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return None
        if count.value == 0:
            return None
        name = ctypes.create_string_buffer(256)
        driver.cuDeviceGetName(name, len(name), 0)
    except (OSError, AttributeError):
        return None
    return name.value.decode(errors="replace")


def _load(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == "cupy_backends":
            raise missing_extra("cupy-cuda12x", "gpu") from error
        raise VidlabError(f"CuPy's {name} is not there: install CuPy 13.6 to 14") from error

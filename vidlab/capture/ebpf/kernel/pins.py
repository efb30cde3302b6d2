"""Pins: names under the BPF file system, by which objects outlive the process that made them.

Nothing is pinned unless the user asks for it by ``pin="NAME"``. What is pinned lies in
``<bpffs>/vidlab/<NAME>/`` and stays until it is unpinned or the machine restarts.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno as errors
import os
import re
import stat
import struct
from pathlib import Path

from ....errors import InputError, RecordingError
from . import bpf, privileges
from .bpf import Command, KernelError
from .mounts import mounts

#: Our folder in the BPF file system.
FOLDER = "vidlab"

#: The file system has no dots in names.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")

_MOUNT = "'sudo mount -t bpf bpf /sys/fs/bpf'"


class PinError(RecordingError):
    """Something cannot be pinned or found; the message says what to do."""


def file_system() -> Path | None:
    """Return where a BPF file system is mounted: /sys/fs/bpf before others; None if nowhere."""
    usual = Path("/sys/fs/bpf")
    places = mounts("bpf")
    return usual if usual in places else next(iter(places), None)


def pin(fd: int, name: str, what: str) -> Path:
    """Pin a map, program or link, so that it outlives its descriptors.

    Parameters
    ----------
    fd : int
        The object's descriptor.
    name : str
        The user's word for all that belongs together.
    what : str
        Which part of it this is, such as ``"counts"``.

    Returns
    -------
    Path
        Where it is now.

    Raises
    ------
    PinError
        If no BPF file system is mounted, or something is pinned there already.
    PrivilegeError
        If this process may not.
    InputError
        If a name has other characters than letters, digits, ``_`` and ``-``.
    """
    place = folder(name, make=True) / _checked(what)
    try:
        _object(Command.OBJ_PIN, place, fd)
    except KernelError as error:
        if error.errno == errors.EEXIST:
            raise PinError(
                f"{place} is there already: take another name, or remove it by 'sudo rm {place}'"
            ) from error
        raise _error(error, f"pin {place}") from error
    return place


def get(name: str, what: str) -> int | None:
    """Return a new descriptor of what was pinned; None if nothing was.

    Raises
    ------
    PinError, PrivilegeError, InputError
        As `pin`.
    """
    place = folder(name) / _checked(what)
    try:
        return _object(Command.OBJ_GET, place)
    except KernelError as error:
        if error.errno == errors.ENOENT:
            return None
        raise _error(error, f"open {place}") from error


def pinned(name: str) -> list[str]:
    """Return what is pinned under a name, sorted. Raises as `get`."""
    place = folder(name)
    try:
        return sorted(os.listdir(place))  # noqa: PTH208 - the names alone
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _error(error, f"read {place}") from error


def unpin(name: str, what: str | None = None) -> None:
    """Remove a pin, or all under a name with their folder. What is not there is no error.

    The object itself goes when nobody else holds it.

    Raises
    ------
    PinError, PrivilegeError, InputError
        As `get`.
    """
    place = folder(name)
    parts = pinned(name) if what is None else [_checked(what)]
    try:
        for part in parts:
            (place / part).unlink(missing_ok=True)
        # With the last pin its folder goes, and with the last folder ours.
        for empty in (place, place.parent):
            with contextlib.suppress(FileNotFoundError):
                empty.rmdir()
    except OSError as error:
        if error.errno != errors.ENOTEMPTY:
            raise _error(error, f"remove {place}") from error


def folder(name: str, make: bool = False) -> Path:
    """Return the folder of what is pinned under a name, which need not be there.

    Parameters
    ----------
    name : str
    make : bool
        Make it if it is not there.

    Raises
    ------
    PinError, PrivilegeError, InputError
        As `pin`.
    """
    root = file_system()
    if root is None:
        raise PinError(
            f"pins live in a BPF file system, and none is mounted: {_MOUNT} (as the user's own: "
            "'-o uid=USER'), or record without pin="
        )
    ours = root / FOLDER
    inner = ours / _checked(name)
    for place in (ours, inner):
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    place.mkdir(mode=0o700)
            told = place.lstat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _error(error, f"use {place}") from error
        # The file system may be everybody's: a folder that another user made first is a trap.
        if not stat.S_ISDIR(told.st_mode) or told.st_uid != os.geteuid():
            raise PinError(
                f"{place} belongs to the user {told.st_uid}, not to this process's ({os.geteuid()})"
                ": remove it, or record as that user"
            )
    return inner


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot be a pin's name: it may have letters, digits, '_' and '-', up to 100"
        )
    return name


def _object(command: Command, place: Path, fd: int = 0) -> int:
    path = ctypes.c_char_p(os.fsencode(place))
    where = ctypes.cast(path, ctypes.c_void_p).value
    return bpf.bpf(command, struct.pack("<QII", where, fd, 0))


def _error(error: KernelError | OSError, doing: str) -> RecordingError:
    errno = error.errno or 0
    if privileges.is_refusal(errno):
        return privileges.refusal(errno, doing, ("cap_bpf",))
    return PinError(f"cannot {doing}: {bpf.words(errno)}")

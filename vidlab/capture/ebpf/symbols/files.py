"""Opens a file to be probed, which may be anybody's: only a regular one, and without waiting."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from ....errors import InputError


class ElfError(InputError):
    """A file is no ELF file that can be probed here: damaged, foreign, or not ELF at all."""


def identity(status: os.stat_result) -> tuple[int, ...]:
    """Return what stays the same while a file does, by whatever path it is reached."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_size,
    )


def file_status(path: str) -> os.stat_result:
    """Return what `os.stat` says of a file that can be probed: a regular one.

    Raises
    ------
    InputError
        If it is not there, may not be reached, or is no regular file.
    """
    with _reachable(path):
        status = os.stat(path)  # noqa: PTH116
    if not stat.S_ISREG(status.st_mode):
        raise ElfError(f"{path} is not a regular file: name a library or a program")
    return status


def open_file(path: str) -> int:
    """Return a descriptor to read a file by, which the caller closes; errors as `file_status`."""
    # A device is not even opened: that may have effects of its own. Nor do we wait for
    # somebody to write into a pipe that is put where the library was meanwhile.
    file_status(path)
    with _reachable(path):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


@contextlib.contextmanager
def _reachable(path: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        remedy = (
            "it is reached through the process that has it mapped, which takes CAP_SYS_ADMIN or "
            "CAP_CHECKPOINT_RESTORE"
            if "/map_files/" in path
            else "it must be readable to be probed"
        )
        raise InputError(f"{path} may not be read: {remedy}") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path} cannot be opened: {reason}") from error

"""What tracefs says of the kernel's tracepoints: their numbers, and where their fields lie.

Where tracefs is not mounted, and this process may, it is mounted on nothing: a mount that only a
descriptor of ours names, and that is gone when we close it.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ....errors import InputError, RecordingError
from . import privileges
from .mounts import mounts

_libc = ctypes.CDLL(None, use_errno=True)

#: System calls of the new mount interface: the same on every machine.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOSE_ON_EXEC = 1
_CREATE = 6

#: Read-only, no set-uid, no devices, no execution.
_MOUNT_FLAGS = 0x1 | 0x2 | 0x4 | 0x8

_FIELD = re.compile(
    r"^\s*field:(?P<text>.*?);\s*offset:(?P<offset>\d+);\s*size:(?P<size>\d+);"
    r"(?:\s*signed:(?P<signed>\d+);)?",
    re.MULTILINE,
)
_DECLARED = re.compile(r"^(?P<type>.*?)\s*\b(?P<name>\w+)(?:\[(?P<count>[^\]]*)\])?$")
_NAME = re.compile(r"[\w-]{1,100}", re.ASCII)
_LOCATION = re.compile(r"^__(data|rel)_loc\s+")

#: How many near names an error offers.
_NEAR = 3


class TracefsError(RecordingError):
    """tracefs cannot be read."""


class UnknownTracepointError(InputError):
    """This kernel has no such tracepoint; the message offers near names."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a tracepoint's record.

    Attributes
    ----------
    name : str
    type : str
        In C's words, without the count: ``"char"``.
    offset, size : int
        In bytes, in the record.
    signed : bool
    count : int or None
        How many elements an array has; None for a single value. 0 if that is not told, as
        for what has a `location`.
    location : str or None
        ``"data"`` or ``"rel"`` if the field holds where the value lies (offset in the lower 16
        bits, length in the upper ones), counted from the record's begin or from the field's end.
    """

    name: str
    type: str
    offset: int
    size: int
    signed: bool
    count: int | None = None
    location: str | None = None


@dataclass(frozen=True, slots=True)
class TracepointFormat:
    """A tracepoint: its number, and its fields by name, in the record's order."""

    id: int
    category: str
    event: str
    fields: dict[str, Field]


def tracepoint_format(category: str, event: str) -> TracepointFormat:
    """Return a tracepoint's number and fields.

    Raises
    ------
    UnknownTracepointError
        If this kernel has no such event (a driver that is not loaded has none).
    PrivilegeError
        If this process may not read tracefs, or mount it where it is not mounted.
    TracefsError
        If this kernel has no tracefs.
    """
    if not (_NAME.fullmatch(category) and _NAME.fullmatch(event)):
        raise UnknownTracepointError(f"{f'{category}:{event}'!r} is no tracepoint's name")
    with _opened() as root:
        try:
            text = _read(root, f"events/{category}/{event}/format")
        except (FileNotFoundError, NotADirectoryError):
            raise _unknown(_names(root), category, event) from None
        except PermissionError as error:
            raise _refused(error) from error
    return parse_format(text, category, event)


def tracepoints(category: str | None = None) -> list[str]:
    """Return the names of this kernel's tracepoints, as ``"category:event"``, sorted.

    Raises
    ------
    TracefsError, PrivilegeError
        As `tracepoint_format`.
    """
    with _opened() as root:
        try:
            return _names(root, category)
        except PermissionError as error:
            raise _refused(error) from error


def has_tracepoint(category: str, event: str) -> bool:
    """Return whether this kernel has a tracepoint. Raises as `tracepoints`."""
    return f"{category}:{event}" in tracepoints(category)


def mounted() -> Path | None:
    """Return where tracefs is mounted for this process; None if nowhere."""
    return next(iter(mounts("tracefs")), None)


def parse_format(text: str, category: str, event: str) -> TracepointFormat:
    """Return what a tracepoint's ``format`` file says.

    Raises
    ------
    TracefsError
        If it lacks the number.
    """
    number = re.search(r"^ID:\s*(\d+)", text, re.MULTILINE)
    if number is None:
        raise TracefsError(f"tracefs gives no ID for {category}:{event}")
    fields = {}
    for match in _FIELD.finditer(text):
        declared = match["text"].strip()
        location = _LOCATION.match(declared)
        if location:
            declared = declared[location.end() :].replace("[]", "", 1)
        parts = _DECLARED.match(declared)
        if parts is None:
            continue
        count: int | None = None
        if location:
            count = 0
        elif parts["count"] is not None:
            count = int(parts["count"]) if parts["count"].isdigit() else 0
            # Older kernels write the name of a constant there.
            if not count and parts["type"].strip() == "char":
                count = int(match["size"])
        fields[parts["name"]] = Field(
            name=parts["name"],
            type=parts["type"].strip(),
            offset=int(match["offset"]),
            size=int(match["size"]),
            signed=match["signed"] == "1",
            count=count,
            location=location[1] if location else None,
        )
    return TracepointFormat(int(number[1]), category, event, fields)


@contextlib.contextmanager
def _opened() -> Iterator[int]:
    """Give a descriptor of tracefs's root, closed at the end."""
    root = _open()
    try:
        yield root
    finally:
        os.close(root)


def _open() -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    refused: OSError | None = None
    for place in mounts("tracefs"):
        try:
            return os.open(place, flags)
        except OSError as error:
            refused = error
    try:
        return _mount_on_nothing()
    except OSError as error:
        if isinstance(refused, PermissionError):
            raise _refused(refused) from refused
        if isinstance(error, PermissionError):
            raise privileges.PrivilegeError(
                "tracepoints are described in tracefs, which is not mounted, and this process may "
                f"not mount it ({error})",
                "Either 'sudo mount -t tracefs tracefs /sys/kernel/tracing', or run "
                "'sudo vidlab ebpf-broker', which reads it without a mount.",
            ) from error
        raise TracefsError(
            f"this kernel does not give tracefs ({error}): it was built without CONFIG_TRACING, "
            "or is older than Linux 5.2"
        ) from error


def _mount_on_nothing() -> int:
    context = _call(_FSOPEN, b"tracefs", _CLOSE_ON_EXEC)
    try:
        _call(_FSCONFIG, context, _CREATE, None, None, 0)
        return _call(_FSMOUNT, context, _CLOSE_ON_EXEC, _MOUNT_FLAGS)
    finally:
        os.close(context)


def _call(number: int, *arguments: int | bytes | None) -> int:
    answer = int(_libc.syscall(number, *arguments))
    if answer < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return answer


def _read(root: int, path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
    with os.fdopen(fd, encoding="utf-8", errors="replace") as file:
        return file.read()


def _names(root: int, category: str | None = None) -> list[str]:
    categories = [category] if category is not None else _folders(root, "events")
    return sorted(
        f"{group}:{event}" for group in categories for event in _folders(root, f"events/{group}")
    )


def _folders(root: int, path: str) -> list[str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    finally:
        os.close(fd)


def _unknown(names: list[str], category: str, event: str) -> UnknownTracepointError:
    wanted = f"{category}:{event}"
    near = difflib.get_close_matches(wanted, names, _NEAR)
    # The right event under a wrong category comes first.
    near = [name for name in names if name.endswith(f":{event}")] + near
    offered = f": did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
    return UnknownTracepointError(f"this kernel has no tracepoint {wanted}{offered}")


def _refused(error: OSError) -> privileges.PrivilegeError:
    return privileges.PrivilegeError(
        f"tracepoints are described in tracefs, which this process may not read ({error})",
        "Either run 'sudo vidlab ebpf-broker', and the notebook stays unprivileged; or let its "
        "group read it: 'sudo mount -o remount,gid=GROUP,mode=750 /sys/kernel/tracing'.",
    )

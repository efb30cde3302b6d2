"""What a process has mapped, and the path by which the kernel finds each mapped file.

A library's path alone is not enough: since it was mapped it may have been deleted or replaced
(by an upgrade), and a process in a container sees other files under the same path. A probe
belongs to a file, not to a path; so the file that is really mapped is looked for by its inode.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import NamedTuple

from ....errors import InputError

_DELETED = " (deleted)"


class Mapping(NamedTuple):
    """One line of a process's map: addresses `start` to `end`, from `offset` of the file on."""

    start: int
    end: int
    offset: int
    device: int  #: as in `os.stat_result.st_dev`; 0 where no file is mapped
    inode: int  #: 0 where no file is mapped
    path: str  #: as its process sees it, or a name such as "[stack]"; empty if there is none
    deleted: bool  #: whether the kernel says that the path is no longer this file's
    executable: bool


@dataclass(frozen=True)
class Library:
    """A file from which a process runs code: a library, an extension module, the program.

    `pid` is None for this process; `start` and `end` are of the first mapping with code.
    """

    path: str
    inode: int
    device: int
    pid: int | None
    start: int
    end: int
    unlinked: bool  #: whether the kernel says that the path is gone

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.rpartition("/")[2]

    @property
    def deleted(self) -> bool:
        """Whether the file is no longer at its path: deleted, or replaced by another."""
        return self._place[1]

    @property
    def open_path(self) -> str:
        """The path that leads this process, and the kernel on its behalf, to the mapped file."""
        return self._place[0]

    @functools.cached_property
    def _place(self) -> tuple[str, bool]:
        # A file's name may really end in " (deleted)": only the inode tells.
        paths = [self.path, self.path + _DELETED] if self.unlinked else [self.path]
        for path in paths:
            for place in (path, f"/proc/{_number(self.pid)}/root{path}"):
                if path.startswith("/") and self.is_at(place):
                    return place, False
        return self._mapped_file, True

    @property
    def _mapped_file(self) -> str:
        return f"/proc/{_number(self.pid)}/map_files/{self.start:x}-{self.end:x}"

    def is_at(self, path: str) -> bool:
        """Whether this very file lies at a path of this process."""
        try:
            found = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):
            return False
        if found.st_ino != self.inode or found.st_dev == self.device:
            return found.st_ino == self.inode
        # Some file systems (btrfs, overlays) have two device numbers for one file.
        try:
            mapped = os.stat(self._mapped_file)  # noqa: PTH116
        except PermissionError:
            return True  # to look through the map takes a capability: the inode has to do
        except OSError:
            return False
        return (found.st_ino, found.st_dev) == (mapped.st_ino, mapped.st_dev)


def mappings(pid: int | None = None) -> list[Mapping]:
    """Return what a process has mapped, by address.

    Parameters
    ----------
    pid : int, optional
        The process; this one if None.

    Raises
    ------
    InputError
        If there is no such process, or its map may not be read.
    """
    return [_mapping(line.split(maxsplit=5)) for line in read_process(pid, "maps").splitlines()]


def _mapping(fields: list[bytes]) -> Mapping:
    start, _, end = fields[0].partition(b"-")
    major, _, minor = fields[3].partition(b":")
    inode = int(fields[4])
    path = os.fsdecode(fields[5].replace(rb"\012", b"\n")) if len(fields) == 6 else ""
    deleted = inode != 0 and path.endswith(_DELETED)
    return Mapping(
        int(start, 16),
        int(end, 16),
        int(fields[2], 16),
        os.makedev(int(major, 16), int(minor, 16)),
        inode,
        path.removesuffix(_DELETED) if deleted else path,
        deleted,
        b"x" in fields[1],
    )


def mapped_libraries(pid: int | None = None) -> list[Library]:
    """Return the files from which a process may run code, in the order of their addresses.

    A file that is mapped several times is there once.

    Raises
    ------
    InputError
        As `mappings`.
    """
    found: dict[tuple[int, int], Library] = {}
    for line in read_process(pid, "maps").splitlines():
        fields = line.split(maxsplit=5)
        # Of a thousand lines some hundred are code.
        if len(fields) < 6 or b"x" not in fields[1] or fields[4] == b"0":
            continue
        start, end, _, device, inode, path, deleted, _ = _mapping(fields)
        library = Library(path, inode, device, pid, start, end, unlinked=deleted)
        found.setdefault((device, inode), library)
    return list(found.values())


def read_process(pid: int | None, name: str) -> bytes:
    """Return a file that the kernel keeps about a process, such as "maps" or "environ".

    Raises
    ------
    InputError
        If there is no such process, or we may not know.
    """
    try:
        with open(f"/proc/{_number(pid)}/{name}", "rb") as file:  # noqa: PTH123
            return file.read()
    except PermissionError as error:
        raise InputError(
            f"what process {pid} has mapped may not be read: it is another user's, or protects "
            "itself; run as its user or as root"
        ) from error
    except (FileNotFoundError, ProcessLookupError) as error:
        raise InputError(f"there is no process {pid}: it may have ended") from error


def _number(pid: int | None) -> str:
    return "self" if pid is None else str(pid)

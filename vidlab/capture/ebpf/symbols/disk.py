"""Libraries that a process has not loaded yet, where it would find them.

Looked at are the folders of LD_LIBRARY_PATH, the loader's cache, and the folders in which
Python packages bring their libraries. A process in a container has files of its own: its paths
are followed under `/proc/PID/root`.
"""

from __future__ import annotations

import functools
import glob
import os
import re
import stat
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ....errors import InputError
from .mappings import read_process
from .matching import Pattern

_CACHE = "/etc/ld.so.cache"
_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER = struct.Struct("<20sII20x")  #: entries, bytes of text
_ENTRY = struct.Struct("<iIIIQ")
_MOST_CACHE_BYTES = 16 * 2**20

#: The cache's mark of libraries for this machine.
_ABIS = {"x86_64": 0x0300, "aarch64": 0x0A00}

#: Where packages have libraries, under the folder that they are installed in.
_PACKAGED = ("*.libs", "nvidia/*/lib", "*/lib")
_PACKAGES = re.compile(r"(.*/(?:site|dist)-packages)/")
_MOST_LINKS = 40


class Place(NamedTuple):
    """A file on disk: as its process sees it, and as we and the kernel reach it."""

    path: str
    open_path: str


class Disk:
    """The files that a process could load.

    Parameters
    ----------
    pid : int or None
        The process; None for this one.
    mapped : iterable of str
        The paths of what it has loaded: where its Python packages are can be seen from them.
    """

    def __init__(self, pid: int | None, mapped: Iterable[str]) -> None:
        self._pid = pid
        self._mapped = tuple(mapped)
        self._root = "" if pid is None or _same_root(pid) else f"/proc/{pid}/root"

    def find(self, pattern: Pattern) -> list[Place]:
        """Return the libraries that a pattern means, every file once."""
        if pattern.everything:
            return []
        found: dict[tuple[int, int], Place] = {}
        for path in self._paths(pattern):
            place = self._inside(path)
            try:
                status = os.stat(place)  # noqa: PTH116
            except (OSError, ValueError):
                continue
            if stat.S_ISREG(status.st_mode) and os.access(place, os.R_OK):
                found.setdefault((status.st_dev, status.st_ino), Place(path, place))
        return list(found.values())

    def names(self) -> list[str]:
        """Return the names of the libraries that there are, for near names."""
        folders = [name for folder in self._folders for name in self._listing(folder)]
        return [*(name for name, _ in self._cached), *folders]

    def _paths(self, pattern: Pattern) -> Iterator[str]:
        if pattern.is_path:
            folders = [""] if pattern.is_absolute else [f"{at}/" for at in self._packages]
            for folder in folders:
                if pattern.glob:
                    escaped = glob.escape(self._root + folder)
                    for path in sorted(glob.glob(escaped + pattern.text)):  # noqa: PTH207
                        yield path.removeprefix(self._root)
                else:
                    yield folder + pattern.text
            return
        for name, path in self._cached:
            if pattern.names(name):
                yield path
        for folder in self._folders:
            for name in self._listing(folder):
                if pattern.names(name):
                    yield f"{folder}/{name}"

    @functools.cached_property
    def _folders(self) -> list[str]:
        """The folders that have libraries in them."""
        folders = self._loader_path()
        for packages in self._packages:
            if not packages.endswith("-packages"):
                continue  # a program's own folder, which may hold anything
            for packaged in _PACKAGED:
                found = glob.glob(glob.escape(self._root + packages) + "/" + packaged)  # noqa: PTH207
                folders += [path.removeprefix(self._root) for path in sorted(found)]
        return list(dict.fromkeys(folders))

    @functools.cached_property
    def _packages(self) -> list[str]:
        """The folders in which Python packages are installed."""
        if self._pid is None:
            return list(dict.fromkeys(os.path.abspath(path) for path in sys.path))  # noqa: PTH100
        found = (_PACKAGES.match(path) for path in self._mapped)
        return list(dict.fromkeys(match[1] for match in found if match))

    def _loader_path(self) -> list[str]:
        try:
            environment = read_process(self._pid, "environ").split(b"\0")
        except InputError:  # it may be looked at less far than its map
            return []
        for entry in environment:
            name, _, value = entry.partition(b"=")
            if name == b"LD_LIBRARY_PATH":
                folders = re.split("[:;]", os.fsdecode(value))
                return [folder.rstrip("/") for folder in folders if folder.startswith("/")]
        return []

    def _listing(self, folder: str) -> list[str]:
        try:
            names = os.listdir(self._inside(folder))  # noqa: PTH208
        except (OSError, ValueError):
            return []
        return sorted(name for name in names if ".so" in name)

    @functools.cached_property
    def _cached(self) -> list[tuple[str, str]]:
        """The loader's cache: library names and their paths."""
        try:
            with open(self._inside(_CACHE), "rb") as file:  # noqa: PTH123
                return parse_cache(file.read(_MOST_CACHE_BYTES))
        except OSError:  # a system may have none: Alpine
            return []

    def _inside(self, path: str) -> str:
        """Return the path by which we reach a file; links lead where its process would go."""
        if not self._root:
            return path
        done, rest, links = "", path.split("/")[::-1], 0
        while rest and links <= _MOST_LINKS:
            name = rest.pop()
            if name in ("", "."):
                continue
            if name == "..":
                done = done.rpartition("/")[0]
                continue
            try:
                target = os.readlink(f"{self._root}{done}/{name}")  # noqa: PTH115
            except (OSError, ValueError):
                done = f"{done}/{name}"
                continue
            links += 1
            rest += target.split("/")[::-1]
            if target.startswith("/"):
                done = ""
        # Links that lead in a circle lead nowhere: as they are, the kernel refuses them.
        return self._root + (path if rest else done)


def parse_cache(data: bytes) -> list[tuple[str, str]]:
    """Return the names and paths of this machine's libraries in `ld.so.cache`.

    A cache that is damaged, or in a form older than glibc 2.2's, has none.
    """
    at = data.find(_MAGIC)
    if at < 0 or at + _HEADER.size > len(data):
        return []
    data = data[at:]
    _, count, _ = _HEADER.unpack_from(data)
    end = _HEADER.size + count * _ENTRY.size
    if end > len(data):
        return []
    abi = _ABIS.get(os.uname().machine)
    found = []
    for flags, name, path, _, _ in _ENTRY.iter_unpack(data[_HEADER.size : end]):
        if flags & 0xFF00 == abi:
            found.append((_text(data, name), _text(data, path)))
    return found


def _text(data: bytes, at: int) -> str:
    return os.fsdecode(data[at : max(data.find(b"\0", at, at + 4_096), at)])


def _same_root(pid: int) -> bool:
    """Whether a process sees our files under our paths."""
    try:
        ours, theirs = os.stat("/proc/self/root/"), os.stat(f"/proc/{pid}/root/")  # noqa: PTH116
    except OSError:
        return True
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)

"""The Arrow IPC streams of a process: appended to, rolled by size, let go when too old.

A stream that is cut off keeps every whole batch before the cut. Each batch is one
unbuffered write, so that it is in the page cache, and safe from SIGKILL, when
`append` returns. Files are named by process, table and a running number, and a
new one is begun when one is large enough.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from ..clock import now_ns
from ..schema import Table
from .encoding import END_OF_STREAM, Encoded, stream_head
from .segments import is_locked

SUFFIX = ".arrows"

#: Bytes after which an unbounded recording begins a new file.
ROLL_BYTES = 64 << 20

#: A bounded one has at least so many files to let go of one by one.
PARTS = 16

#: What may come before a bounded one is looked at again: a batch, its buffer and a spare.
ROOM_BYTES = 1 << 20

#: What the other tables are understood by: it is kept whatever its age, in one part.
KEPT = "streams"


#: In so many parts the kernel takes data in one call.
_MOST_PARTS = os.sysconf("SC_IOV_MAX")


@dataclass
class Stream:
    """One file: open if it has a descriptor, else only remembered."""

    path: Path
    table: Table
    file: int | None
    bytes: int = 0
    rows: int = 0
    begun_ns: int = field(default_factory=now_ns)
    newest_ns: int = 0


class Streams:
    """The streams of one process.

    Parameters
    ----------
    folder : Path
        The run's folder of segments.
    index : int
        The process's index in the run.
    max_bytes : int or None
        What all files of the folder may come to.
    keep_seconds : float or None
        How old rows may get.
    """

    def __init__(
        self, folder: Path, index: int, max_bytes: int | None, keep_seconds: float | None
    ) -> None:
        self._folder = folder
        self._index = index
        self._max_bytes = max_bytes
        self._keep_ns = None if keep_seconds is None else int(keep_seconds * 1e9)
        self._roll_bytes = ROLL_BYTES if max_bytes is None else max_bytes // PARTS
        self._roll_ns = None if self._keep_ns is None else self._keep_ns // PARTS
        self._declared: dict[str, Table] = {}
        self._open: dict[str, Stream] = {}
        self._closed: dict[str, Stream] = {}
        self._numbers = itertools.count()
        self._added_bytes = 0  # since it was last looked what to let go

    @property
    def bounded(self) -> bool:
        """Whether there are limits to keep."""
        return self._max_bytes is not None or self._keep_ns is not None

    @property
    def crowded(self) -> bool:
        """Whether so much has come that there is to be let go before more does."""
        return self._max_bytes is not None and self._added_bytes >= ROOM_BYTES // 4

    def declare(self, table: Table) -> None:
        """Have a file of a declared table at any time, be it without rows, or raise OSError.

        One that is declared anew, and in another way, begins a new file.
        """
        if self._declared.get(table.name) != table:
            before = self._open.get(table.name)
            if before is not None:
                self._end(table.name)
                if not before.rows:
                    before.path.unlink(missing_ok=True)
            self._begin(table)
            self._declared[table.name] = table

    def append(self, table: Table, batch: Encoded) -> None:
        """Write a batch, or raise OSError and leave what was written before as it was."""
        stream = self._open.get(table.name) or self._begin(table)
        try:
            _write_whole(stream, batch.message)
        except OSError:
            self._end(table.name)  # the next try may be luckier with a new file
            raise
        stream.rows += batch.rows
        self._added_bytes += sum(map(len, batch.message))
        stream.newest_ns = now_ns()
        age = stream.newest_ns - stream.begun_ns
        if stream.bytes >= self._roll_bytes or (self._roll_ns and age >= self._roll_ns):
            self._end(table.name)

    def close(self) -> None:
        """End all streams."""
        for table in list(self._open):
            self._end(table)

    def leave(self) -> None:
        """In a forked child: let go of the parent's files, without a word into them."""
        for stream in self._open.values():
            assert stream.file is not None
            os.close(stream.file)
        self._open.clear()

    def let_go(self) -> Counter[str]:
        """Delete what is beyond the limits, the oldest first; return the rows that went by table.

        Every process of the run does so for its own files. Those of processes that
        have ended fall to the living one with the lowest index.
        """
        gone: Counter[str] = Counter()
        self._added_bytes = 0
        if self._keep_ns is not None:
            self._let_go_old(gone)
        if self._max_bytes is not None:
            self._let_go_most(gone)
        self._keep_declarations(gone)
        return gone

    def _begin(self, table: Table) -> Stream:
        name = f"{self._index:04d}-{table.name}-{next(self._numbers):06d}{SUFFIX}"
        path = self._folder / name
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        stream = Stream(path, table, os.open(path, flags, 0o644))
        try:
            _write_whole(stream, [memoryview(stream_head(table))])
        except OSError:
            assert stream.file is not None
            os.close(stream.file)
            path.unlink(missing_ok=True)
            raise
        self._open[table.name] = stream
        return stream

    def _end(self, table: str) -> None:
        stream = self._open.pop(table)
        assert stream.file is not None
        with contextlib.suppress(OSError):  # without its end it is as readable
            _write_whole(stream, [memoryview(END_OF_STREAM)])
        os.close(stream.file)
        stream.file = None
        self._closed[stream.path.name] = stream

    def _let_go_old(self, gone: Counter[str]) -> None:
        assert self._keep_ns is not None
        oldest = now_ns() - self._keep_ns
        for stream in [*self._open.values(), *self._closed.values()]:
            if stream.newest_ns < oldest and stream.rows and stream.table.name != KEPT:
                self._delete(stream.path, gone)
        if not self._is_eldest():
            return
        for path, stat in self._files():
            age_ns = time.time_ns() - stat.st_mtime_ns
            if path.suffix != SUFFIX or _table(path.name) == KEPT or age_ns < self._keep_ns:
                continue
            if self._is_orphan(path.name):
                self._delete(path, gone)

    def _let_go_most(self, gone: Counter[str]) -> None:
        assert self._max_bytes is not None
        files = self._files()
        room = max(self._max_bytes // PARTS, ROOM_BYTES)
        excess = sum(stat.st_size for _, stat in files) + room - self._max_bytes
        streams = [file for file in files if file[0].suffix == SUFFIX]
        kept = [file for file in streams if _table(file[0].name) == KEPT]
        self._let_go_oldest([file for file in streams if file not in kept], excess, gone)
        excess = sum(stat.st_size for _, stat in kept) - self._max_bytes // PARTS
        self._let_go_oldest(kept, excess, gone)

    def _let_go_oldest(
        self, files: list[tuple[Path, os.stat_result]], excess: int, gone: Counter[str]
    ) -> None:
        eldest = excess > 0 and self._is_eldest()
        for path, stat in sorted(files, key=lambda file: (file[1].st_mtime_ns, file[0].name)):
            if excess <= 0:
                return
            excess -= stat.st_size  # another process's: that one will see to it
            if self._is_own(path.name) or (eldest and self._is_orphan(path.name)):
                self._delete(path, gone)

    def _delete(self, path: Path, gone: Counter[str]) -> None:
        table = _table(path.name)
        known = self._open.get(table)
        if known is not None and known.path == path:
            if not known.rows and table in self._declared:
                return  # all that it holds is what the table is
            self._end(table)
        stream = self._closed.pop(path.name, None)
        rows = _count_rows(path) if stream is None else stream.rows
        try:
            path.unlink()
        except FileNotFoundError:
            pass
        except OSError:
            if stream is not None:
                self._closed[path.name] = stream
            return
        gone[table] += rows

    def _keep_declarations(self, gone: Counter[str]) -> None:
        """Begin a file of each declared table of which all that there was has been let go."""
        for table in [self._declared[name] for name in gone if name in self._declared]:
            streams = (*self._open.values(), *self._closed.values())
            if not any(stream.table == table for stream in streams):
                with contextlib.suppress(OSError):
                    self._begin(table)

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """Return all files of the folder."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # another process has just deleted it
                    if entry.is_file():
                        found.append((Path(entry.path), entry.stat()))
        return found

    def _is_own(self, name: str) -> bool:
        return name.startswith(f"{self._index:04d}-")

    def _is_orphan(self, name: str) -> bool:
        index = name.partition("-")[0]
        return not self._is_own(name) and not is_locked(self._folder / f"{index}.process")

    def _is_eldest(self) -> bool:
        """Return whether no living process of the run has a lower index."""
        return not any(
            is_locked(self._folder / f"{index:04d}.process") for index in range(1, self._index)
        )


def _table(name: str) -> str:
    return name.split("-")[1]


def _write_whole(stream: Stream, parts: Sequence[memoryview]) -> None:
    """Append the data or, after an OSError, leave the file as it was."""
    assert stream.file is not None
    if len(parts) > _MOST_PARTS:
        parts = [memoryview(b"".join(parts))]
    try:
        if len(parts) == 1:
            written = os.write(stream.file, parts[0])
        else:
            written = os.writev(stream.file, parts)
        if written < sum(map(len, parts)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(stream.path))
    except OSError:
        with contextlib.suppress(OSError):  # else its last batch is cut short: readers see that
            os.ftruncate(stream.file, stream.bytes)
        raise
    stream.bytes += written


def _count_rows(path: Path) -> int:
    rows = 0
    with (
        contextlib.suppress(pa.ArrowException, OSError, StopIteration),
        pa.OSFile(str(path)) as source,
    ):
        stream = pa.ipc.open_stream(source)
        while True:
            rows += stream.read_next_batch().num_rows
    return rows

"""The segments of a run: what its processes wrote, whole or cut short, read as it is.

The folder `segments/` holds, for the process of index p (all numbers padded):

* `p.process`: pid and parent as JSON; the process keeps an exclusive flock on it
  while it lives;
* `p-labels.jsonl`, `p-names.jsonl` and `p-stacks.jsonl`: its label sets, names and
  call stacks, one a line;
* `p-thread-tid-table-n.buf`: a mapped buffer, records from offset 0; those whose
  commit mark is not zero are whole;
* `p-table-n.arrows`: an Arrow IPC stream. A batch that came from a buffer names it,
  and counts instead of it. A stream of a table that is not one of `vidlab.schema.TABLES`
  declares it, in its schema (see `vidlab.schema.kernel`);
* `p-losses.json`: what was lost or let go, per table.

Nothing here raises on what it finds in a file: what cannot be read is left out
and noted in words.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from ..schema import TABLES, Record, Table, declared, kernel, united

_FILE = re.compile(
    r"""(?P<process>\d{4,})
    (?: \.process
      | -(?P<side>labels|names|stacks)\.jsonl
      | -(?P<thread>\d{5,})-(?P<tid>\d+)-(?P<buffer>[a-z_]+)-\d{6,}\.buf
      | -(?P<arrows>[A-Za-z0-9_]+)-\d{6,}\.arrows
      | -losses\.json
    )""",
    re.VERBOSE,
)

#: A larger number of a label set, name or stack is nonsense: a damaged line.
_MOST_SETS = 1 << 24


@dataclass
class Process:
    """A process that recorded into the run.

    Attributes
    ----------
    index : int
        Its index p in the run, part of every frame and span id.
    pid : int or None
        None if its file cannot be read.
    alive : bool
        It still holds its lock: more may come.
    facts : dict
        All that it wrote about itself.
    label_lines, name_lines, stack_lines : list of dict
        Its label sets, names and stacks, as written down so far.
    """

    index: int
    pid: int | None = None
    alive: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    label_lines: list[dict[str, Any]] = field(default_factory=list)
    name_lines: list[dict[str, Any]] = field(default_factory=list)
    stack_lines: list[dict[str, Any]] = field(default_factory=list)

    def lines(self, side: str) -> list[dict[str, Any]]:
        """The lines of a side file: labels, names or stacks."""
        return {
            "labels": self.label_lines,
            "names": self.name_lines,
            "stacks": self.stack_lines,
        }[side]

    _offsets: dict[str, int] = field(default_factory=dict)


class Segments:
    """The segments of the run in the folder `path`.

    Attributes
    ----------
    processes : dict of int to Process
        By index, as of the last `refresh`.
    notes : list of str
        What could not be read, and why.
    """

    def __init__(self, path: Path) -> None:
        self.folder = path / "segments"
        self.processes: dict[int, Process] = {}
        self.notes: list[str] = []
        self._declarations: dict[str, Table] = {}  # by file
        self.refresh()

    def refresh(self) -> Self:
        """Take up new processes, label sets, names and stacks."""
        for name in self.files():
            found = _FILE.fullmatch(name)
            if found is None:
                self.note(f"segments/{name}: not a file of a run, left out")
                continue
            index = int(found["process"])
            process = self.processes.setdefault(index, Process(index))
            if name.endswith(".process"):
                self._read_process(name, process)
            elif found["side"]:
                process.lines(found["side"]).extend(self._new_lines(name, process))
        self.processes = dict(sorted(self.processes.items()))
        return self

    def files(self) -> list[str]:
        """Return the names of all files of the folder, sorted; none if there is no folder."""
        try:
            return sorted(entry.name for entry in os.scandir(self.folder) if entry.is_file())
        except FileNotFoundError:
            return []
        except OSError as error:
            self.note(f"segments: {error.strerror}")
            return []

    @property
    def live(self) -> bool:
        """Whether a process is still recording."""
        return any(process.alive for process in self.processes.values())

    @property
    def tables(self) -> list[str]:
        """The tables that have segments: in the schema's order, then those declared, by name."""
        found = {
            match["buffer"] or match["arrows"]
            for match in map(_FILE.fullmatch, self.files())
            if match
        }
        further = sorted(found - TABLES.keys() - {None})
        known = {name for name in further if self.table(name) is not None}
        self._note_unknown(set(further) - known)
        return [*(name for name in TABLES if name in found), *(n for n in further if n in known)]

    def table(self, name: str) -> Table | None:
        """Return the table of this name: the schema's, or the one that the files declare.

        None if there is none. Where files declare it in different ways it holds the rows of
        all, and what that means for a reader becomes a note.
        """
        if name in TABLES or not name.startswith(kernel.PREFIX):
            return TABLES.get(name)
        for file in self._streams(name):
            self._is_understood(file, name)
        tables = [known for _, known in sorted(self._declarations.items()) if known.name == name]
        if not tables:
            return None
        whole, notes = united(list(dict.fromkeys(tables)))
        for text in notes:
            self.note(text)
        return whole

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def losses(self) -> dict[str, dict[str, int]]:
        """Return for each table how many rows were `lost`, and `let_go` by a bounded recording."""
        sums: dict[str, dict[str, int]] = {}
        for name in self.files():
            if name.endswith("-losses.json"):
                for table, counts in self._json(name).items():
                    known = sums.setdefault(table, {"lost": 0, "let_go": 0})
                    for kind in known:
                        count = counts.get(kind, 0) if isinstance(counts, dict) else 0
                        known[kind] += count if isinstance(count, int) else 0
        return {table: counts for table, counts in sums.items() if any(counts.values())}

    def batches(self, name: str) -> Iterator[tuple[Process, pa.RecordBatch]]:
        """Yield what the processes wrote of a table, batch by batch.

        Of a table with a record, a batch has the record's fields without pads,
        and `thread` and `tid`; of any other the columns that were written.
        Nothing is left out or yielded twice while the run is being recorded: the
        buffers of living processes are read first, so that one which is written
        as a batch meanwhile is known by the batch's mark, or was read already.
        """
        buffers = self._buffers(name)
        held = {
            file: self._committed(file, name) for file in buffers if self._process_of(file).alive
        }
        written: set[str] = set()
        for file in self._streams(name):
            if not self._is_understood(file, name):
                continue
            process = self._process_of(file)
            for batch, buffer in self._whole_batches(file, process):
                if buffer is not None:
                    written.add(buffer)
                yield process, batch
        for file in buffers:
            if file in written:
                continue
            batch = held.pop(file) if file in held else self._committed(file, name)
            if batch is not None and batch.num_rows:
                yield self._process_of(file), batch

    def _process_of(self, file: str) -> Process:
        index = index_of(file)
        assert index is not None
        if index not in self.processes:  # it began to record after the last refresh
            self.refresh()
        return self.processes[index]

    def _buffers(self, table: str) -> list[str]:
        found = ((file, _FILE.fullmatch(file)) for file in self.files())
        return [file for file, match in found if match and match["buffer"] == table]

    def _streams(self, table: str) -> list[str]:
        found = ((file, _FILE.fullmatch(file)) for file in self.files())
        return [file for file, match in found if match and match["arrows"] == table]

    def _is_understood(self, file: str, name: str) -> bool:
        """Return whether this stream is of this table: where it must say so, that it does."""
        if name in TABLES:
            return True
        if file not in self._declarations:
            self._read_declaration(file, name)
        return file in self._declarations

    def _read_declaration(self, file: str, name: str) -> None:
        """Read what a stream's head says of its table; what never changes is read once."""
        try:
            with pa.OSFile(str(self.folder / file)) as source:
                self._declarations[file] = declared(name, pa.ipc.open_stream(source).schema)
        except FileNotFoundError:  # let go, or compacted meanwhile
            return
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            if not self._process_of(file).alive:  # else it is just being begun
                reason = str(error).splitlines()[0]
                self.note(f"segments/{file}: its declaration cannot be read ({reason})")

    def _committed(self, file: str, table: str) -> pa.RecordBatch | None:
        """Return a buffer's whole records, wherever in it they are; None if it is gone."""
        found = _FILE.fullmatch(file)
        record = TABLES[table].record if table in TABLES else None
        if record is None or found is None:
            return None
        path = self.folder / file
        try:
            content = path.read_bytes()
            path.stat()  # still of this name: its memory has not been used for others since
        except FileNotFoundError:  # written as a batch meanwhile
            return None
        except OSError as error:
            self.note(f"segments/{file}: {error.strerror}")
            return None
        return _whole_records(content, record, int(found["thread"]), int(found["tid"]))

    def _whole_batches(
        self, file: str, process: Process
    ) -> Iterator[tuple[pa.RecordBatch, str | None]]:
        """Yield a stream's batches up to its end or the first that is not whole."""
        count = 0
        try:
            with pa.OSFile(str(self.folder / file)) as source:
                reader = pa.ipc.open_stream(source)
                while True:
                    batch, metadata = reader.read_next_batch_with_custom_metadata()
                    batch.validate(full=True)  # nonsense must not crash the code that reads it
                    buffer = (metadata or {}).get("buffer")
                    yield batch, buffer.decode() if isinstance(buffer, bytes) else buffer
                    count += 1
        except StopIteration:
            return
        except FileNotFoundError:  # compacted meanwhile
            return
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            # While its process lives, the batch that is being written looks just so.
            if not process.alive:
                reason = str(error).splitlines()[0]
                self.note(f"segments/{file}: cut short or damaged after {count} batches ({reason})")

    def _read_process(self, name: str, process: Process) -> None:
        process.facts = self._json(name) or process.facts
        pid = process.facts.get("pid")
        process.pid = pid if isinstance(pid, int) else None
        process.alive = is_locked(self.folder / name)

    def _new_lines(self, name: str, process: Process) -> list[dict[str, Any]]:
        start = process._offsets.get(name, 0)
        try:
            with (self.folder / name).open("rb") as opened:
                opened.seek(start)
                text = opened.read()
        except OSError as error:
            self.note(f"segments/{name}: {error.strerror}")
            return []
        whole = text[: text.rfind(b"\n") + 1]
        process._offsets[name] = start + len(whole)
        lines = []
        for line in whole.splitlines():
            try:
                known = json.loads(line)
                if not (isinstance(known["id"], int) and 0 <= known["id"] < _MOST_SETS):
                    raise ValueError
            except (ValueError, TypeError, KeyError):
                self.note(f"segments/{name}: a line that is not JSON of the run format, left out")
            else:
                lines.append(known)
        return lines

    def _json(self, name: str) -> dict[str, Any]:
        try:
            known = json.loads((self.folder / name).read_bytes())
        except (OSError, ValueError) as error:
            self.note(f"segments/{name}: cannot be read ({error})")
            return {}
        return known if isinstance(known, dict) else {}

    def _note_unknown(self, tables: set[str | None]) -> None:
        for table in sorted(filter(None, tables)):
            self.note(f"segments: the table {table!r} is not one that this version knows, left out")


def is_locked(path: Path) -> bool:
    """Return whether a living process holds this file's lock."""
    try:
        with path.open("rb") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            fcntl.flock(opened, fcntl.LOCK_UN)
    except OSError:
        return False
    return False


def index_of(file: str) -> int | None:
    """Return the index of the process that wrote this file; None if it is no run's."""
    found = _FILE.fullmatch(file)
    return int(found["process"]) if found else None


def _whole_records(content: bytes, record: Record, thread: int, tid: int) -> pa.RecordBatch:
    count = len(content) // record.size  # a file cut short ends within a record
    records = np.frombuffer(content, record.dtype, count)
    whole = records[records[record.commit] != 0]
    columns = {
        name: np.ascontiguousarray(whole[name])
        for name, _ in record.fields
        if not name.startswith("pad")
    }
    return pa.record_batch(
        {
            "thread": np.full(len(whole), thread, np.uint32),
            "tid": np.full(len(whole), tid, np.int32),
            **columns,  # which may have a `thread` of their own
        }
    )

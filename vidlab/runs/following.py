"""A run that is being recorded, followed: each time the rows that were written since.

A stream of a table only grows, batch by batch, so that a reader which remembers how far it
came reads each batch once, however long the recording lasts.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import polars as pl
import pyarrow as pa

from ..errors import InputError, RunError
from ..schema import Table, kernel
from .decoding import Decoder, table_of
from .labelling import with_labels
from .run import Run
from .segments import Segments, index_of

#: The messages of a stream that hold rows.
_BATCH = "record batch"


class Following:
    """Reads tables of kernel events of a run while it is recorded.

    Parameters
    ----------
    path : path
        The run's folder.

    Raises
    ------
    RunError
        If there is no run at this path.
    SchemaError
        If a newer vidlab wrote it.

    Examples
    --------
    >>> import time
    >>> following = Following(vl.datasets.load("kernel_events").path)
    >>> while not following.finished:
    ...     print(following.new("kernel_offcpu").height, "waits more")
    ...     time.sleep(1)
    >>> following.whole("kernel_offcpu").height > 1000
    True
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._run = Run(Path(path))
        self._segments = Segments(self._run.path)
        self._decoder = Decoder(self._segments)
        self._streams: dict[str, _Stream] = {}

    @property
    def finished(self) -> bool:
        """Whether the run's tables are complete: it was finished, or its processes have ended."""
        return not self._run.live

    def whole(self, table: str) -> pl.DataFrame:
        """Return all rows, with the columns of `Run.scan`; none if the run has no such table."""
        if table not in self._run.tables():
            return self._empty(table)
        try:
            return self._run.scan(table).collect()
        except RunError:  # it was compacted meanwhile
            return self._run.scan(table).collect()

    def new(self, table: str) -> pl.DataFrame:
        """Return the rows that were written since the last call, with the columns of `Run.scan`.

        A run that is finished has no new rows: what was written at last is in the `whole`
        table. Rows that a bounded recording let go in between are left out.

        Raises
        ------
        InputError
            If it is no table of kernel events.
        """
        if not table.startswith(kernel.PREFIX):
            raise InputError(f"tables of kernel events can be followed, and not {table!r}")
        self._segments.refresh()
        self._decoder.refresh()
        known = self._segments.table(table)
        if known is None:
            return self._empty(table)
        batches = []
        for name in self._files(table):
            process = self._segments.processes[index_of(name) or 0]
            stream = self._streams.setdefault(name, _Stream(self._segments.folder / name))
            batches += [self._decoder.plain(known, process, batch) for batch in stream.new()]
        rows = self._decoder.finished(known, table_of(known, batches))
        return with_labels(pl.DataFrame(pl.from_arrow(rows)), self._decoder.labels, known)

    def _files(self, table: str) -> list[str]:
        stream = re.compile(rf"\d+-{table}-\d+\.arrows")
        found = filter(stream.fullmatch, self._segments.files())
        return [name for name in found if index_of(name) in self._segments.processes]

    def _empty(self, table: str) -> pl.DataFrame:
        known = self._segments.table(table) or Table(table, "", (), declared=True)
        rows = pl.DataFrame(pl.from_arrow(known.arrow_schema.empty_table()))
        return with_labels(rows, self._decoder.labels, known)


class _Stream:
    """An Arrow IPC stream that another process goes on writing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._schema: pa.Schema | None = None
        self._read = 0

    def new(self) -> list[pa.RecordBatch]:
        """Return the batches that are whole since the last call."""
        batches: list[pa.RecordBatch] = []
        try:
            with pa.OSFile(str(self._path)) as source:
                if self._schema is None:
                    self._schema = pa.ipc.read_schema(source)
                    self._read = source.tell()
                source.seek(self._read)
                while self._read < source.size():
                    message = pa.ipc.read_message(source)
                    if message is not None and message.type == _BATCH:
                        batch = pa.ipc.read_record_batch(message, self._schema)
                        batch.validate(full=True)  # nonsense must not crash who reads it
                        batches.append(batch)
                    self._read = source.tell()
        except (pa.ArrowException, OSError, EOFError, ValueError):
            pass  # it is being begun, or its last batch written; or it was let go
        return batches

"""A run, opened for reading: finished, killed, or still being recorded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.io.plugins import register_io_source

from ..errors import RunError
from ..schema import TABLES, Table, declared, kernel
from . import cube, derivation, fates
from .decoding import Decoder, table_of
from .interning import LabelTable
from .labelling import label_schema, with_labels
from .manifest import RECORDING, Manifest
from .segments import Segments

if TYPE_CHECKING:
    import pandas as pd

#: The state of a run that says it is being recorded while nobody records it.
KILLED = "killed"

#: What else to say where a table of kernel events is missing.
_NO_EVENTS = (
    "; tables kernel_… are there where the recording had the engine KernelEvents with a probe "
    "of that name"
)

#: Rows of segments that are handed on at a time.
_ROWS_AT_A_TIME = 1 << 17


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run for reading; nothing is read yet but its manifest.

    Raises
    ------
    SchemaError
        If a newer vidlab wrote the run.
    RunError
        If there is no run at this path, or its manifest is damaged.

    Examples
    --------
    >>> run = open_run(vl.datasets.load("clean").path)
    >>> run.state
    'complete'
    >>> run.scan("spans").filter(pl.col("kind") == "service").collect().height > 1000
    True
    """
    return Run(Path(path))


class Run:
    """A run on disk. A run that was killed or goes on is read from its segments as it is.

    Attributes
    ----------
    path : Path
    manifest : Manifest
        Read anew while the run is not compacted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = Manifest.read(path)
        self._segments = Segments(path)
        self._decoder = Decoder(self._segments)
        self._label_table: LabelTable | None = None
        self._declared: dict[str, Table] = {}

    def __repr__(self) -> str:
        return f"<Run {self.manifest.run_id}: {self.state}, {', '.join(self.tables()) or 'empty'}>"

    @property
    def live(self) -> bool:
        """Whether it is being recorded at this moment."""
        return not self.compacted and self._segments.refresh().live

    @property
    def state(self) -> str:
        """Its state: recording, killed, complete or recovered."""
        if self.live:
            return RECORDING
        return KILLED if self.manifest.state == RECORDING else self.manifest.state

    @property
    def compacted(self) -> bool:
        """Whether its tables are Parquet files, rather than segments."""
        if not self.manifest.tables:
            self.manifest = Manifest.read(self.path)
        return bool(self.manifest.tables)

    @property
    def notes(self) -> list[str]:
        """What a reader should know: what was cut short, left out or not understood."""
        if not self.compacted:
            return list(dict.fromkeys((*self.manifest.notes, *self._segments.notes)))
        late = self._segments.processes.keys() - {p.index for p in self.manifest.processes}
        return [
            *self.manifest.notes,
            *(
                f"process {index} began to record when the run was being finished: "
                "what it wrote is in segments/ and in no table"
                for index in sorted(late)
            ),
        ]

    @property
    def losses(self) -> dict[str, dict[str, int]]:
        """For each table that lacks rows: how many were `lost`, how many `let_go`.

        Rows are let go by a bounded recording, on purpose; all others are lost.
        """
        if not self.compacted:
            return self._segments.losses()
        return {
            name: {"lost": facts.lost, "let_go": facts.let_go}
            for name, facts in self.manifest.tables.items()
            if facts.lost or facts.let_go
        }

    def tables(self) -> list[str]:
        """Return the names of the tables that the run has."""
        if self.compacted:
            return [name for name in self.manifest.tables if self._file(name).exists()]
        found = set(self._segments.tables)
        if "frame_events" in found:
            found.add("frames")
        found.discard("gpu_times")
        self._labels()
        if len(self._decoder.stacks):
            found.add("stacks")
        found.add("labels")
        further = (name for name in self._segments.tables if name not in TABLES)
        return [*(name for name in TABLES if name in found), *further]

    def scan(self, table: str) -> pl.LazyFrame:
        """Return a table, read as far as a query needs it.

        The columns are the schema's in its order, then `sample_rate` and one for
        each further label key. A table that the run does not have is empty. Of a run
        that goes on, each `collect` sees what is there at that moment.

        Raises
        ------
        RunError
            If there is no such table.
        """
        known = self._table(table)
        if self.compacted and self._file(table).exists():
            return self._scan_file(table, known)
        if known is None:
            raise RunError(
                f"there is no table {table!r}; this run has {', '.join(self.tables())}, and "
                f"could have {', '.join(name for name in TABLES if name not in self.tables())}"
                + _NO_EVENTS
                * table.startswith(kernel.PREFIX)
            )
        if table == "labels":
            return _as_declared(_polars(self._labels().to_arrow()).lazy(), known)
        if table == "stacks" and not self.compacted:
            self._labels()
            return _as_declared(_polars(self._decoder.stacks.to_arrow()).lazy(), known)
        if self.compacted:
            return self._labelled(_empty(known).lazy(), known)
        return self._scan_segments(known)

    def pandas(self, table: str) -> pd.DataFrame:
        """Return a whole table as a pandas frame; text columns are categories."""
        return self.scan(table).collect().to_pandas()

    def cube(self) -> pl.DataFrame:
        """Return the run's cube (see `vidlab.runs.cube`), counted anew if it is not on disk."""
        path = self.path / cube.FILE_NAME
        known = cube.read(path) if self.compacted and path.exists() else None
        if known is not None:
            return known
        builder = cube.CubeBuilder()
        builder.add_spans(self.scan("spans"))
        builder.add_frames(self.scan("frames"))
        return builder.finish(self._labels())

    def _file(self, table: str) -> Path:
        return self.path / f"{table}.parquet"

    def _labels(self) -> LabelTable:
        if not self.compacted:
            self._segments.refresh()
            self._decoder.refresh()
            return self._decoder.labels
        if self._label_table is None:
            path = self._file("labels")
            known = LabelTable()
            self._label_table = (
                LabelTable.from_arrow(pq.ParquetFile(path).read()) if path.exists() else known
            )
        return self._label_table

    def _table(self, name: str) -> Table | None:
        """Return the table of this name: the schema's, or the one that the run declares."""
        if name in TABLES or not self.compacted:
            return self._segments.table(name)
        if name not in self._declared:
            # What declares nothing is of a later version, or does not exist.
            with contextlib.suppress(pa.ArrowException, OSError, ValueError):
                self._declared[name] = declared(name, pq.read_schema(self._file(name)))
        return self._declared.get(name)

    def _scan_file(self, name: str, table: Table | None) -> pl.LazyFrame:
        rows = pl.scan_parquet(self._file(name))
        return rows if table is None else self._labelled(_as_declared(rows, table), table)

    def _labelled(self, rows: pl.LazyFrame, table: Table) -> pl.LazyFrame:
        return with_labels(rows, self._labels(), table) if table.event else rows

    def _scan_segments(self, table: Table) -> pl.LazyFrame:
        schema = {**_empty(table).schema, **label_schema(self._labels(), table)}

        def read(
            with_columns: list[str] | None,
            predicate: pl.Expr | None,
            n_rows: int | None,
            batch_size: int | None,
        ) -> Iterator[pl.DataFrame]:
            left = n_rows
            compacted = self.compacted
            rest = self._collected(table) if compacted else self._segment_rows(table)
            for rows in rest:
                part = with_labels(rows, self._decoder.labels, table).select(*schema)
                if left is not None:
                    part = part.head(left)
                    left -= part.height
                if predicate is not None:
                    part = part.filter(predicate)
                yield part if with_columns is None else part.select(with_columns)
                if left == 0:
                    return
            if self.compacted != compacted:
                raise RunError(f"{self.path} was compacted while it was read: read it again")

        return register_io_source(read, schema=schema)

    def _collected(self, table: Table) -> Iterator[pl.DataFrame]:
        """Yield the rows of a table whose segments became a file after it was scanned."""
        yield _as_declared(self.scan(table.name), table).collect()

    def _segment_rows(self, table: Table) -> Iterator[pl.DataFrame]:
        """Yield the rows of the segments, many at a time, and those derived from others."""
        if table.name == "frames":
            yield self._frames()
            return
        gathered: list[pa.RecordBatch] = []
        count = 0
        self._labels()
        for process, batch in self._segments.batches(table.name):
            gathered.append(self._decoder.plain(table, process, batch))
            count += batch.num_rows
            if count >= _ROWS_AT_A_TIME:
                yield _polars(self._decoder.finished(table, table_of(table, gathered)))
                gathered, count = [], 0
        yield _polars(self._decoder.finished(table, table_of(table, gathered)))
        if table.name == "findings":
            found = fates.findings(self._frames().lazy(), self._decoder.thinning.streams)
            yield _as_declared(found.lazy(), table).collect()

    def _frames(self) -> pl.DataFrame:
        derived = derivation.frames(self.scan("frame_events"), self.scan("spans"))
        return _as_declared(derived.lazy(), TABLES["frames"]).collect()


def _polars(rows: pa.Table) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(rows))


def _empty(table: Table) -> pl.DataFrame:
    # Not `empty_table()`: pyarrow makes its dictionaries with pandas, which takes long to import.
    return _polars(pa.Table.from_batches([], table.arrow_schema))


def _as_declared(rows: pl.LazyFrame, table: Table) -> pl.LazyFrame:
    """Return rows with the schema's columns in its order: null if they are missing, as in
    older runs, and of the schema's types; what else there is comes after them."""
    found, declared = rows.collect_schema(), _empty(table).schema
    columns = []
    for name, type in declared.items():
        if name not in found:
            columns.append(pl.lit(None, type).alias(name))
        else:
            columns.append(pl.col(name) if found[name] == type else pl.col(name).cast(type))
    return rows.select(*columns, *(name for name in found if name not in declared))

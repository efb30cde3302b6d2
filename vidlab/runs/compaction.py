"""Compaction: the segments of a run become one Parquet file a table.

It may be ended at any moment, by a full disk or a kill, and started again:

1. everything is written into the folder `.compacting` of the run;
2. the finished files are renamed into the run, where nobody looks at them yet;
3. the manifest is replaced by one that lists the tables: **from here on the files
   count, before it the segments do**;
4. the segments are deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

from ..errors import RunError
from ..progress import Advance, progress
from ..schema import TABLES, Table, kernel
from . import cube
from .blocks import SPARES
from .decoding import Decoder, plain_schema
from .derivation import FrameCensus, derived
from .labelling import with_labels
from .manifest import RECORDING, SEGMENTS, Manifest, ProcessFacts, TableFacts, process
from .parquet import ROW_GROUP_BYTES, ROW_GROUP_ROWS, TableFile, rows_within
from .segments import Segments, index_of
from .sorting import RowSorter

#: Where the files are until they are whole.
SCRATCH = ".compacting"

#: Tables that a finished run has even if they are empty.
_ALWAYS = ("labels", "spans", "frames")


def compact(path: str | os.PathLike[str]) -> Manifest:
    """Turn the segments of a run into Parquet files, sorted by stream and time.

    Memory stays below 512 MB whatever the size of the run. A run that is compacted
    already is left as it is.

    Returns
    -------
    Manifest
        The run's new manifest.

    Raises
    ------
    RunError
        If the run is still being recorded or compacted, was killed, or the files
        cannot be written; the segments are then as they were.
    """
    run = Path(path)
    manifest = Manifest.read(run)
    if manifest.state == RECORDING and not Segments(run).live:
        raise RunError(f"the recording of {run} was killed; finish it with: vidlab recover {run}")
    return finish(run, manifest)


def finish(run: Path, manifest: Manifest) -> Manifest:
    """Compact a run to this manifest, which is completed with what the tables hold."""
    with _alone(run):
        segments = Segments(run)
        if segments.live:
            pids = ", ".join(str(p.pid) for p in segments.processes.values() if p.alive)
            raise RunError(
                f"{run} is still being recorded by process {pids}: end the recording first"
            )
        files = segments.files()
        known = Manifest.read(run)  # nobody else changes it now
        if known.tables:
            manifest = known
        else:
            try:
                manifest = _Compaction(run, manifest, segments).run()
            except OSError as error:
                raise RunError(
                    f"{run} cannot be compacted: {error}. Nothing is lost: make room, or make "
                    f"the directory writable, then do it again"
                ) from error
            finally:
                shutil.rmtree(run / SCRATCH, ignore_errors=True)
        _delete_segments(run, files, manifest)
        return manifest


class _Compaction:
    """One compaction of one run."""

    def __init__(self, run: Path, manifest: Manifest, segments: Segments) -> None:
        self._run = run
        self._scratch = run / SCRATCH
        self._manifest = manifest
        self._segments = segments
        self._decoder = Decoder(segments)
        self._cube = cube.CubeBuilder()
        self._census = FrameCensus()
        self._rows: dict[str, int] = {}

    def run(self) -> Manifest:
        """Write all tables and the manifest that makes them count."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir()
        with progress(f"compacting {self._run.name}", 2 * self._bytes(), "B") as advance:
            self._write_recorded("spans", advance)
            self._decoder.gpu_times.forget()
            self._write_recorded("frame_events", advance)
            findings = self._write_frames()
            for name in self._segments.tables:
                if name not in ("spans", "frame_events", "findings", "gpu_times"):
                    self._write_recorded(name, advance)
            table = TABLES["findings"]
            self._write(table, self._plain(table, advance, findings), advance)
        self._write_side_tables()
        cube.write(self._scratch / cube.FILE_NAME, self._cube.finish(self._decoder.labels))
        (self._scratch / "frame_events.parquet").unlink()
        del self._rows["frame_events"]
        return self._publish()

    def _bytes(self) -> int:
        folder = self._segments.folder
        return sum((folder / name).stat().st_size for name in self._segments.files())

    def _write_recorded(self, name: str, advance: Advance) -> None:
        table = self._segments.table(name)
        assert table is not None  # it is one of the segments' tables
        self._write(table, self._plain(table, advance), advance)

    def _plain(
        self, table: Table, advance: Advance, further: Iterable[pa.Table] = ()
    ) -> Iterator[pa.RecordBatch]:
        for process_, batch in self._segments.batches(table.name):
            advance(batch.nbytes)
            yield self._decoder.plain(table, process_, batch)
        for rows in further:
            yield from rows.to_batches()

    def _write(self, table: Table, batches: Iterable[pa.RecordBatch], advance: Advance) -> None:
        """Write a table, sorted by stream and time."""
        name = table.name
        ranks = self._decoder.labels.stream_ranks()
        spill = self._scratch / f"{name}.spilled"
        sorter = RowSorter(plain_schema(table), ranks, spill)
        for batch in batches:
            sorter.add(batch)
        # A file that says that there is nothing would say that somebody looked.
        if not sorter.rows and not table.declared and name not in (*_ALWAYS, "frame_events"):
            return
        schema = table.arrow_schema
        # One that a recording declares may be of any width, and memory is bounded.
        rows = rows_within(schema, ROW_GROUP_BYTES, ROW_GROUP_ROWS) if table.declared else None
        with TableFile(self._path(name), schema, group_rows=rows) as file:
            for block in sorter.sorted():
                finished = self._decoder.finished(table, block)
                file.write(finished)
                self._count(name, finished)
                advance(finished.nbytes)
                # Or Arrow would keep what it needs no more, to be had by nobody else.
                pa.default_memory_pool().release_unused()
        self._rows[name] = file.rows
        spill.unlink(missing_ok=True)

    def _count(self, name: str, rows: pa.Table) -> None:
        """Add a block of finished rows to the summaries."""
        if name in ("spans", "frame_events"):
            self._census.add(rows["frame"].fill_null(0).to_numpy())
        if name == "spans":
            self._cube.add_spans(_polars(rows, "labels", "stage", "kind", "duration_ns"))
        if name == "frames":
            self._cube.add_frames(_polars(rows, "labels", "fate", "t_demux_ns", "t_done_ns"))

    def _write_frames(self) -> list[pa.Table]:
        """Write the table `frames`; return the findings that follow from it, as plain rows."""
        labels = self._decoder.labels
        events, spans = (
            with_labels(pl.scan_parquet(self._path(name)), labels)
            for name in ("frame_events", "spans")
        )
        findings = []

        def plain() -> Iterator[pa.RecordBatch]:
            sampled = self._decoder.thinning.streams
            for known, found in derived(events, spans, self._census.stretches(), sampled):
                yield from self._decoder.plain_from_finished(
                    TABLES["frames"], known.to_arrow()
                ).to_batches()
                if found.height:
                    rows = self._decoder.plain_from_finished(TABLES["findings"], found.to_arrow())
                    findings.append(rows)

        self._write(TABLES["frames"], plain(), lambda steps: None)
        return findings

    def _write_side_tables(self) -> None:
        tables = {"labels": self._decoder.labels.to_arrow()}
        if len(self._decoder.stacks):
            tables["stacks"] = self._decoder.stacks.to_arrow()
        for name, table in tables.items():
            with TableFile(self._path(name), table.schema) as file:
                file.write(table)
            self._rows[name] = file.rows

    def _path(self, name: str) -> Path:
        return self._scratch / f"{name}.parquet"

    def _publish(self) -> Manifest:
        losses = self._segments.losses()
        further = {name for name in (*self._rows, *losses) if name.startswith(kernel.PREFIX)}
        tables = {
            name: TableFacts(
                rows=self._rows.get(name, 0),
                **losses.get(name, {}),
                bytes=self._path(name).stat().st_size if name in self._rows else 0,
            )
            for name in (*TABLES, *sorted(further - TABLES.keys()))
            if name in self._rows or name in losses
        }
        for name in (*(f"{table}.parquet" for table in self._rows), cube.FILE_NAME):
            (self._scratch / name).replace(self._run / name)
        _sync(self._run)
        known = self._manifest
        manifest = dataclasses.replace(
            known,
            tables=tables,
            processes=self._processes(),
            notes=(*known.notes, *(n for n in self._segments.notes if n not in known.notes)),
        )
        manifest.write(self._run)
        _sync(self._run)
        return manifest

    def _processes(self) -> tuple[ProcessFacts, ...]:
        unknown = {"pid": 0, "parent": 0, "argv": (), "started": vars(self._manifest.started)}
        known = []
        for found in self._segments.processes.values():
            try:
                facts = process({**found.facts, "index": found.index})
            except (KeyError, TypeError, ValueError):  # its file was cut short
                facts = process({**unknown, "index": found.index})
            known.append(facts)
        return tuple(known)


def _polars(rows: pa.Table, *names: str) -> pl.LazyFrame:
    return pl.DataFrame(pl.from_arrow(rows.select(names))).lazy()


@contextlib.contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Keep a second compaction of the run out."""
    try:
        folder = os.open(run, os.O_RDONLY)
    except OSError as error:
        raise RunError(f"{run} cannot be opened ({error.strerror}): give a run's path") from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{run} is being compacted by another process: let it finish") from None
        yield
    finally:
        os.close(folder)


def _delete_segments(run: Path, files: Iterable[str], manifest: Manifest) -> None:
    """Delete what the tables hold now.

    Not what a process wrote that came too late for them, nor what is no file of a run.
    """
    folder = run / SEGMENTS
    processes = {facts.index for facts in manifest.processes}
    for name in files:
        if index_of(name) in processes:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()
    shutil.rmtree(folder / SPARES, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _sync(folder: Path) -> None:
    """Make renames in a folder survive a power loss."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

"""Verification: is a run what it says it is?"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ..schema import COMMON, LABELS, RUN_SCHEMA, TABLES, declared, kernel
from . import cube
from .interning import LabelTable
from .manifest import RECORDING, Manifest
from .parquet import SCHEMA_KEY
from .run import KILLED, Run, open_run

#: The key of each table that has one.
_IDS = {"labels": "labels", "stacks": "stack", "spans": "span", "frames": "frame"}


@dataclass(frozen=True)
class Problem:
    """Something about a run that should not be: `where` is a table or a file of it."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def verify(path: str | os.PathLike[str]) -> list[Problem]:
    """Check a run against its manifest, its schema and itself; an empty list is a clean run.

    Of a finished run: rows as the manifest has them, columns and version as the
    schema has them, the order of rows, unique ids, label sets, frames and parents that
    are referred to. Of any other run, whether its segments can be read.

    Raises
    ------
    RunError
        If there is no run at this path, or a newer vidlab wrote it.
    """
    run = open_run(path)
    if run.compacted:
        return list(_problems(run))
    return list(_unfinished(run))


def _unfinished(run: Run) -> Iterator[Problem]:
    if run.state in (RECORDING, KILLED):
        how = "is still going on" if run.live else "was killed"
        todo = "verify it when it has ended" if run.live else f"run: vidlab recover {run.path}"
        yield Problem("manifest.json", f"the recording {how}: {todo}")
    else:
        yield Problem("segments", f"not compacted: run: vidlab compact {run.path}")
    for table in run.tables():
        run.scan(table).select(pl.len()).collect()  # what cannot be read becomes a note
    for note in run.notes:
        yield Problem("segments", note)


def _problems(run: Run) -> Iterator[Problem]:
    whole = []
    for name, facts in run.manifest.tables.items():
        path = run.path / f"{name}.parquet"
        if not path.exists():
            if facts.rows:
                yield Problem(name, f"{path.name} is missing: it had {facts.rows} rows")
            continue
        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            yield Problem(name, f"{path.name} cannot be read ({error})")
            continue
        with file:
            yield from _file_problems(name, file, run.manifest)
        whole.append(name)
    if "spans" in whole:
        yield from _cube_problems(run)
    if "labels" not in whole:
        return
    labels = LabelTable.from_arrow(pq.read_table(run.path / "labels.parquet"))
    for name in whole:
        if (name in TABLES and TABLES[name].event) or name.startswith(kernel.PREFIX):
            yield from _order_problems(run, name, labels)
    for name, key in _IDS.items():
        if name in whole:
            yield from _id_problems(run, name, key)
    if {"spans", "frames"}.issubset(whole):
        yield from _reference_problems(run)


def _file_problems(name: str, file: pq.ParquetFile, manifest: Manifest) -> Iterator[Problem]:
    rows = manifest.tables[name].rows
    if file.metadata.num_rows != rows:
        yield Problem(name, f"{file.metadata.num_rows} rows, the manifest says {rows}")
    version = (file.schema_arrow.metadata or {}).get(SCHEMA_KEY, b"").decode()
    if version != manifest.schema:
        yield Problem(name, f"its schema is {version or 'not stated'}, the run's {manifest.schema}")
    if name in TABLES:
        columns = TABLES[name].columns
    elif name.startswith(kernel.PREFIX):
        try:
            declared(name, file.schema_arrow)
        except ValueError as error:
            yield Problem(name, f"its declaration cannot be read ({error})")
        columns = (*COMMON, *kernel.BASE, *LABELS)
    else:
        return
    found = {field.name: field.type for field in file.schema_arrow}
    for column in columns:
        # An older run may lack columns that were added since.
        if column.name not in found and manifest.schema == RUN_SCHEMA:
            yield Problem(name, f"the column {column.name} is missing")
        elif found.get(column.name, column.type) != column.type:
            yield Problem(
                name, f"the column {column.name} is {found[column.name]}, not {column.type}"
            )


def _cube_problems(run: Run) -> Iterator[Problem]:
    path = run.path / cube.FILE_NAME
    if not path.exists():
        yield Problem(cube.FILE_NAME, "missing: percentiles are slower without it")
        return
    try:
        counted = run.cube().filter(pl.col("kind") != cube.FRAME_KIND)["count"].sum()
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError) as error:
        yield Problem(cube.FILE_NAME, f"cannot be read ({error})")
        return
    spans = run.scan("spans").select((1 / pl.col("sample_rate")).sum()).collect().item()
    if not math.isclose(float(counted), spans, rel_tol=1e-6):
        yield Problem(cube.FILE_NAME, f"counts {counted:g} spans, there are {spans:g}")


def _order_problems(run: Run, name: str, labels: LabelTable) -> Iterator[Problem]:
    """Check label sets and the order by stream and time, a row group at a time."""
    ranks = labels.stream_ranks()
    before = (-1, 0)
    unknown = 0
    sorted_so_far = True
    with pq.ParquetFile(run.path / f"{name}.parquet") as file:
        if not {"labels", "t_ns"}.issubset(file.schema_arrow.names):
            return
        for batch in file.iter_batches(1 << 19, columns=["labels", "t_ns"]):
            if not batch.num_rows:
                continue
            sets = batch["labels"].fill_null(0).to_numpy()
            times = batch["t_ns"].fill_null(0).to_numpy()
            unknown += int((sets >= len(ranks)).sum())
            streams = ranks[np.minimum(sets, len(ranks) - 1)]
            later = np.diff(streams, prepend=before[0])
            steps = np.diff(times, prepend=before[1])
            sorted_so_far &= not ((later < 0) | ((later == 0) & (steps < 0))).any()
            before = (int(streams[-1]), int(times[-1]))
    if unknown:
        yield Problem(name, f"{unknown} rows bear label sets that the table labels lacks")
    elif not sorted_so_far:
        yield Problem(name, "not sorted by stream and time")


def _id_problems(run: Run, name: str, key: str) -> Iterator[Problem]:
    ids = pl.col(key)
    counts = run.scan(name).select(distinct=ids.n_unique(), rows=pl.len(), missing=ids.null_count())
    (row,) = counts.collect().to_dicts()
    if row["missing"]:
        yield Problem(name, f"{row['missing']} rows without a {key}")
    elif row["distinct"] != row["rows"]:
        yield Problem(name, f"{row['rows'] - row['distinct']} of the numbers in {key} occur twice")


def _reference_problems(run: Run) -> Iterator[Problem]:
    spans = run.scan("spans")
    lost = run.losses
    named = spans.filter(pl.col("frame").is_not_null()).select("frame").unique()
    missing = named.join(run.scan("frames").select("frame"), on="frame", how="anti")
    count = missing.select(pl.len()).collect().item()
    if count and not lost.keys() & {"frames", "frame_events"}:
        yield Problem("spans", f"{count} frames have spans but no row in the table frames")
    # A parent that is missing was still open when its process ended, which may be long
    # after its last span. But it can't be one that began after its child.
    thread = pl.col("span") // (1 << 32)
    backwards = spans.filter(
        pl.col("parent") // (1 << 32) == thread, pl.col("parent") >= pl.col("span")
    )
    count = backwards.select(pl.len()).collect().item()
    if count:
        yield Problem("spans", f"{count} spans have a parent that began after them")
    processes = [facts.index for facts in run.manifest.processes]
    strangers = spans.filter(
        pl.col("parent").is_not_null(), ~(pl.col("parent") // (1 << 52)).is_in(processes)
    )
    count = strangers.select(pl.len()).collect().item()
    if count and processes:
        yield Problem("spans", f"{count} spans have a parent in a process that did not record")

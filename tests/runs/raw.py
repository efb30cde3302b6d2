"""Reads a run's segments as the format describes them, without the project's reader."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vidlab.schema import TABLES

BUFFER = re.compile(r"(\d{4})-(\d{5,})-(\d+)-([a-z_]+)-(\d{6,})\.buf")


def batches(run: Path, table: str) -> Iterator[tuple[pa.RecordBatch, str | None]]:
    """The whole batches of all streams of a table, with the buffer that each names."""
    for path in sorted((run / "segments").glob(f"*-{table}-*.arrows")):
        with pa.OSFile(str(path)) as source:
            try:
                stream = pa.ipc.open_stream(source)
                while True:
                    batch, metadata = stream.read_next_batch_with_custom_metadata()
                    batch.validate(full=True)
                    name = None if metadata is None else metadata.get("buffer")
                    yield batch, name.decode() if isinstance(name, bytes) else name
            except (StopIteration, pa.ArrowInvalid, OSError):
                continue


def records(run: Path, table: str, column: str) -> list[int]:
    """A column of all records of a table: of its streams, and of buffers not in them."""
    record = TABLES[table].record
    assert record is not None
    # Buffers first: one that is written meanwhile is then known by its batch, or gone already.
    buffers: dict[str | None, Any] = {}
    for path in (run / "segments").glob("*.buf"):
        if BUFFER.fullmatch(path.name)[4] == table:  # type: ignore[index]
            with contextlib.suppress(FileNotFoundError):
                data = path.read_bytes()
                count = len(data) // record.size
                buffers[path.name] = np.frombuffer(data, record.dtype, count)
    values: list[int] = []
    for batch, name in batches(run, table):
        values += batch[column].to_pylist()
        buffers.pop(name, None)
    for found in buffers.values():
        values += found[found[record.commit] != 0][column].tolist()
    return values


def rows(run: Path, table: str) -> list[dict[str, Any]]:
    """All rows of a table that is written by rows."""
    return [row for batch, _ in batches(run, table) for row in batch.to_pylist()]


def lines(run: Path, what: str) -> list[dict[str, Any]]:
    """The lines of the side files `labels` or `names`."""
    paths = sorted((run / "segments").glob(f"*-{what}.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def losses(run: Path, kind: str = "lost") -> dict[str, int]:
    """What was `lost`, or `let_go`, per table."""
    sums: dict[str, int] = {}
    for path in (run / "segments").glob("*-losses.json"):
        for table, counts in json.loads(path.read_text()).items():
            if counts[kind]:
                sums[table] = sums.get(table, 0) + counts[kind]
    return sums


def size(run: Path) -> int:
    """The bytes of all files in the folder of segments; some may go meanwhile."""
    total = 0
    for path in (run / "segments").glob("*.*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def names(run: Path) -> set[str]:
    """The files in the folder of segments."""
    return {path.name for path in (run / "segments").iterdir()}

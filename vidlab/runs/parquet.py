"""A finished table as a Parquet file: how it is encoded, and what its metadata say.

The encodings are chosen for size at rest, and are ones that polars, DuckDB and
pyarrow read. Times grow in small steps (delta); durations and span ids
share their high bytes but not the low ones (byte stream split, then zstd); text, and
numbers that come again and again such as addresses and sizes, are a dictionary. As the
rows are sorted by stream, its labels cost next to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from ..schema import RUN_SCHEMA

#: The key in a file's metadata under which it names the schema of its run.
SCHEMA_KEY = b"vidlab.schema"

#: Rows of a row group, but for the last: few enough that a query for one stream
#: reads little else.
ROW_GROUP_ROWS = 1 << 19

#: What they may come to in memory, of a table of any width.
ROW_GROUP_BYTES = 32 << 20

_DELTA = (
    *("t_ns", "frame", "seq", "pts", "dts", "t_demux_ns", "t_decoded_ns", "t_done_ns"),
    "generation",
)
_RECURRING = ("address", "size_bytes", "size_asked_bytes", "context", "cuda_stream")


class TableFile:
    """A Parquet file in the making: rows in, in blocks of any size.

    Parameters
    ----------
    path : Path
        Where to write it. On an error the file is left as it is, without a footer.
    schema : pyarrow.Schema
        The table's.
    metadata : mapping of str to str
        Added to the file's own.
    group_rows : int, optional
        Rows of a row group.

    Attributes
    ----------
    rows : int
        Rows written so far.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        metadata: Mapping[str, str] | None = None,
        group_rows: int | None = None,
    ) -> None:
        self._path = path
        self._group_rows = group_rows or ROW_GROUP_ROWS
        self.rows = 0
        texts = [f.name for f in schema if pa.types.is_dictionary(f.type)]
        small = [
            field.name
            for field in schema
            if field.name in _RECURRING or field.type in (pa.uint32(), pa.int32(), pa.int16())
        ]
        own = schema.metadata or {}
        known = {**own, SCHEMA_KEY: RUN_SCHEMA.encode(), **_encoded(metadata or {})}
        self._schema = schema.with_metadata(known)
        self._waiting = self._schema.empty_table()
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            version="2.6",
            compression="zstd",
            compression_level=3,
            use_dictionary=[*texts, *(name for name in small if name not in _DELTA)],
            column_encoding=_encodings(schema),
            write_page_index=True,
        )

    def write(self, rows: pa.Table) -> None:
        """Write these rows after those that were written before."""
        self._waiting = pa.concat_tables([self._waiting, rows.cast(self._schema)])
        self.rows += rows.num_rows
        while self._waiting.num_rows >= self._group_rows:
            self._write_group()

    def _write_group(self) -> None:
        rows = self._waiting.slice(0, self._group_rows)
        self._waiting = self._waiting.slice(self._group_rows)
        self._writer.write_table(rows, row_group_size=self._group_rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._write_group()
        self._writer.close()
        if error is None:
            with self._path.open("rb") as written:
                os.fsync(written.fileno())


def rows_within(schema: pa.Schema, size: int, most: int) -> int:
    """Return how many rows of these columns have this size in bytes in memory: `most` at most."""
    # A list or a text of its own counts as a number: a guess, but for few columns.
    fixed = (pa.types.is_primitive, pa.types.is_dictionary)
    bits = sum(f.type.bit_width if any(k(f.type) for k in fixed) else 64 for f in schema)
    return max(min(most, 8 * size // bits), 1)


def metadata(path: Path) -> dict[str, str]:
    """Return a file's own metadata, such as the schema of its run."""
    known: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
    return {key.decode(): value.decode() for key, value in known.items()}


def _encodings(schema: pa.Schema) -> dict[str, str]:
    encodings: dict[str, str] = {}
    for field in schema:
        if field.name in _DELTA:
            encodings[field.name] = "DELTA_BINARY_PACKED"
        elif field.name not in _RECURRING and field.type in (pa.int64(), pa.uint64(), pa.float64()):
            encodings[field.name] = "BYTE_STREAM_SPLIT"
    return encodings


def _encoded(values: Mapping[str, Any]) -> dict[bytes, bytes]:
    return {key.encode(): str(value).encode() for key, value in values.items()}

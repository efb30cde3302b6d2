"""Records and rows as Arrow: the batches of which a run's segments are made.

Batches of records carry raw numbers, as the threads packed them; those of rows
carry text. Both name label sets by the numbers of their process. `decoding` is
the way back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from ..schema import LABELS, TABLES, TEXT
from .blocks import Block

#: How a stream ends: a message of no length.
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


@dataclass(frozen=True)
class Encoded:
    """A batch as the bytes of an Arrow IPC message, for so many rows."""

    message: memoryview
    rows: int


@cache
def segment_schema(table: str) -> pa.Schema:
    """Return the Arrow schema of a table's segments."""
    known = TABLES[table]
    if known.record is not None:
        types = known.record.dtype
        fields = [(name, pa.from_numpy_dtype(types[name])) for name in record_columns(table)]
        return pa.schema([*fields, ("thread", pa.uint32()), ("tid", pa.int32())])
    own_labels = {column.name for column in LABELS} - {"labels"}
    return pa.schema(
        [
            (column.name, pa.string() if column.type == TEXT else column.type)
            for column in known.columns
            if column.name not in own_labels
        ]
    )


@cache
def stream_head(table: str) -> bytes:
    """Return how a table's streams begin, before the first batch."""
    return segment_schema(table).serialize().to_pybytes()  # type: ignore[no-any-return]


@cache
def record_columns(table: str) -> tuple[str, ...]:
    """Return the names of a record's fields, without those that only pad it."""
    record = TABLES[table].record
    assert record is not None
    return tuple(name for name, _ in record.fields if not name.startswith("pad"))


def count_holes(block: Block) -> int:
    """Return how many records of a full block have been begun and are not whole (yet)."""
    marks = _records(block)[_commit(block.table)]
    return len(marks) - int(np.count_nonzero(marks))


def encode_block(block: Block, options: pa.ipc.IpcWriteOptions) -> Encoded:
    """Return a block's whole records as a batch that bears the block's name."""
    records = _records(block)
    marks = records[_commit(block.table)]
    if not marks.all():
        records = records[marks != 0]
    schema = segment_schema(block.table)
    values = [
        *(np.ascontiguousarray(records[name]) for name in record_columns(block.table)),
        np.full(len(records), block.thread, np.uint32),
        np.full(len(records), block.tid, np.int32),
    ]
    columns = [_fixed(column, field.type) for column, field in zip(values, schema, strict=True)]
    batch = pa.RecordBatch.from_arrays(columns, schema=schema)
    return _encoded(block.table, batch, options, {"buffer": block.name})


def encode_rows(
    table: str, rows: Sequence[Mapping[str, Any]], options: pa.ipc.IpcWriteOptions
) -> Encoded:
    """Return rows as a batch; those that don't fit the table's types are left out."""
    try:
        batch = _batch(table, rows)
    except _UNFIT:
        batch = _batch(table, [row for row in rows if _fits(table, row)])
    return _encoded(table, batch, options)


#: What a value raises that is not of its column's type.
_UNFIT = (TypeError, ValueError, OverflowError, AttributeError)


def _fits(table: str, row: Mapping[str, Any]) -> bool:
    try:
        _batch(table, [row])
    except _UNFIT:
        return False
    return True


def _batch(table: str, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    schema = segment_schema(table)
    columns = [_column([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


# `pa.array` would import pandas, if it is installed, into the recorded program.


def _column(values: Sequence[Any], type: pa.DataType) -> pa.Array:
    """Return values, or None, as an Arrow column."""
    known = np.array([value is not None for value in values], np.bool_)
    if pa.types.is_string(type):
        texts = [b"" if value is None else _utf8(value) for value in values]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        buffers = [_bits(known), pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
        return pa.Array.from_buffers(type, len(values), buffers)
    if pa.types.is_boolean(type):
        bits = _bits(np.array([bool(value) for value in values], np.bool_))
        return pa.Array.from_buffers(type, len(values), [_bits(known), bits])
    plain = [0 if value is None else value for value in values]
    return _fixed(np.array(plain, type.to_pandas_dtype()), type, _bits(known))


def _fixed(
    values: np.ndarray[tuple[int], np.dtype[Any]], type: pa.DataType, known: pa.Buffer | None = None
) -> pa.Array:
    return pa.Array.from_buffers(type, len(values), [known, pa.py_buffer(values)])


def _bits(values: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))


def _utf8(value: str) -> bytes:
    return value.encode("utf-8", "replace")


def _records(block: Block) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    record = TABLES[block.table].record
    assert record is not None
    return np.frombuffer(block.view, record.dtype, block.used // record.size)


def _commit(table: str) -> str:
    record = TABLES[table].record
    assert record is not None
    return record.commit


def _encoded(
    table: str,
    batch: pa.RecordBatch,
    options: pa.ipc.IpcWriteOptions,
    metadata: Mapping[str, str] | None = None,
) -> Encoded:
    """Return the bytes that a stream has for a batch, without the stream around them."""
    sink = pa.BufferOutputStream()
    stream = pa.ipc.new_stream(sink, batch.schema, options=options)
    stream.write_batch(batch, custom_metadata=metadata)
    return Encoded(memoryview(sink.getvalue())[len(stream_head(table)) :], batch.num_rows)

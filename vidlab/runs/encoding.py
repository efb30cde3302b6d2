"""Records and rows as Arrow: the batches of which a run's segments are made.

Batches of records carry raw numbers, as the threads packed them; those of rows
carry text; those of declared tables (see `batches`) are columns, texts by number. All
name label sets by the numbers of their process. `decoding` is the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from ..schema import LABELS, TABLES, TEXT, Column, Table
from .blocks import Block

#: How a stream ends: a message of no length.
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


@dataclass(frozen=True)
class Encoded:
    """A batch as an Arrow IPC message, in one part or in several, for so many rows."""

    message: Sequence[memoryview]
    rows: int


@cache
def segment_schema(table: Table) -> pa.Schema:
    """Return the Arrow schema of a table's segments."""
    if table.record is not None:
        types = table.record.dtype
        fields = [(name, pa.from_numpy_dtype(types[name])) for name in record_columns(table)]
        of_block = [("thread", pa.uint32()), ("tid", pa.int32())]
        # A record may have a `thread` of its own. The block's is only for span numbers.
        return pa.schema([*fields, *(f for f in of_block if f[0] not in dict(fields))])
    own_labels = {column.name for column in LABELS} - {"labels"}
    text = pa.uint32() if table.declared else pa.string()

    def type_of(column: Column) -> pa.DataType:
        return text if column.type == TEXT else column.type

    return table.schema((c for c in table.columns if c.name not in own_labels), type_of)


@cache
def stream_head(table: Table) -> bytes:
    """Return how a table's streams begin, before the first batch."""
    return segment_schema(table).serialize().to_pybytes()  # type: ignore[no-any-return]


@cache
def record_columns(table: Table) -> tuple[str, ...]:
    """Return the names of a record's fields, without those that only pad it."""
    assert table.record is not None
    return tuple(name for name, _ in table.record.fields if not name.startswith("pad"))


def count_holes(block: Block) -> int:
    """Return how many records of a full block have been begun and are not whole (yet)."""
    marks = _records(block)[_commit(block.table)]
    return len(marks) - int(np.count_nonzero(marks))


#: Which records of a block are written: a mask, or None for all.
Choose = Callable[[Block, "np.ndarray[tuple[int], np.dtype[np.void]]"], Any]


def encode_block(
    block: Block, options: pa.ipc.IpcWriteOptions, choose: Choose | None = None
) -> Encoded:
    """Return a block's whole records, those that are chosen, as a batch with the block's name."""
    records = _records(block)
    marks = records[_commit(block.table)]
    if not marks.all():
        records = records[marks != 0]
    chosen = None if choose is None else choose(block, records)
    if chosen is not None:
        records = records[chosen]
    table = TABLES[block.table]
    schema = segment_schema(table)
    values = {
        "thread": np.full(len(records), block.thread, np.uint32),
        "tid": np.full(len(records), block.tid, np.int32),
        **{name: np.ascontiguousarray(records[name]) for name in record_columns(table)},
    }
    columns = [fixed(values[field.name], field.type) for field in schema]
    batch = pa.RecordBatch.from_arrays(columns, schema=schema)
    return encode(table, batch, options, {"buffer": block.name})


def encode_rows(
    table: Table, rows: Sequence[Mapping[str, Any]], options: pa.ipc.IpcWriteOptions
) -> Encoded:
    """Return rows as a batch; those that don't fit the table's types are left out."""
    try:
        batch = _batch(table, rows)
    except _UNFIT:
        batch = _batch(table, [row for row in rows if _fits(table, row)])
    return encode(table, batch, options)


#: What a value raises that is not of its column's type.
_UNFIT = (TypeError, ValueError, OverflowError, AttributeError)


def _fits(table: Table, row: Mapping[str, Any]) -> bool:
    try:
        _batch(table, [row])
    except _UNFIT:
        return False
    return True


def _batch(table: Table, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
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
        buffers = [bits(known), pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
        return pa.Array.from_buffers(type, len(values), buffers)
    if pa.types.is_boolean(type):
        truths = bits(np.array([bool(value) for value in values], np.bool_))
        return pa.Array.from_buffers(type, len(values), [bits(known), truths])
    plain = [0 if value is None else value for value in values]
    return fixed(np.array(plain, type.to_pandas_dtype()), type, bits(known))


def fixed(
    values: np.ndarray[tuple[int], np.dtype[Any]], type: pa.DataType, known: pa.Buffer | None = None
) -> pa.Array:
    """Return contiguous values of a type of fixed size as an Arrow column, without a copy."""
    return pa.Array.from_buffers(type, len(values), [known, pa.py_buffer(values)])


def bits(values: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> pa.Buffer:
    """Return truth values as Arrow has them, eight in a byte."""
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


def encode(
    table: Table,
    batch: pa.RecordBatch,
    options: pa.ipc.IpcWriteOptions,
    metadata: Mapping[str, str] | None = None,
) -> Encoded:
    """Return the bytes that a stream has for a batch, without the stream around them."""
    sink = pa.BufferOutputStream()
    stream = pa.ipc.new_stream(sink, batch.schema, options=options)
    stream.write_batch(batch, custom_metadata=metadata)
    return Encoded([memoryview(sink.getvalue())[len(stream_head(table)) :]], batch.num_rows)

"""Rows that come as columns, many at once: how declared tables are written.

Whoever appends them has NumPy arrays, and these are what is written: the batch is laid
around them, and the kernel takes it from where it lies, in one call. Only what is small,
or is to be compressed, is put together first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..schema import Table
from .encoding import Encoded, bits, encode, fixed, segment_schema, stream_head

#: What one column may be. Texts are numbers of the writer's `names`, 0 for none; of an
#: Arrow array, nulls stay null.
Columns = Mapping[str, npt.NDArray[Any] | pa.Array]

#: Bytes of a message: what is read at a time, and what a bounded recording has room for.
PIECE_BYTES, BOUNDED_PIECE_BYTES = 4 << 20, 512 << 10

#: From so many bytes on it is cheaper to write the columns from where they are.
_WORTHWHILE_BYTES = 128 << 10


def rows_of(columns: Columns) -> int:
    """Return how many rows these columns make: that of the longest, should they differ."""
    return max(map(len, columns.values()), default=0)


def batch_of(table: Table, columns: Columns) -> pa.RecordBatch:
    """Return these columns as a batch of a declared table; those that are missing are null.

    Nothing is copied that is contiguous and of its column's size already.

    Raises
    ------
    ValueError
        If a column is not of its type, not of the table, or not as long as the others.
    """
    rows = rows_of(columns)
    types = _types(table)
    if unknown := columns.keys() - types.keys():
        raise ValueError(f"no such column: {', '.join(sorted(unknown))}")
    arrays = []
    for name, (type, dtype) in types.items():
        values = columns.get(name)
        if values is None:
            array = pa.nulls(rows, type)
        elif isinstance(values, np.ndarray):
            array = _array(values, type, dtype)
        else:
            array = values if values.type == type else values.cast(type)
        if len(array) != rows:
            raise ValueError(f"{name} has {len(array)} rows of {rows}")
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=segment_schema(table))


def pieces(
    table: Table, batch: pa.RecordBatch, options: pa.ipc.IpcWriteOptions
) -> Iterator[Encoded]:
    """Yield a batch as messages of a few megabytes, or less in a recording that counts bytes.

    A message may refer to the batch's columns: it is to be written before they change.
    """
    whole = options.compression is None
    most = PIECE_BYTES if whole else BOUNDED_PIECE_BYTES
    size = pa.ipc.get_record_batch_size(batch)  # `batch.nbytes` is slower by far
    if not batch.num_rows:
        return
    if whole and size < _WORTHWHILE_BYTES:
        yield Encoded([memoryview(batch.serialize())], batch.num_rows)
        return
    width = max(size // batch.num_rows, 1)
    step = max(most // width // 64 * 64, 64)  # so that bits of nulls begin with a byte
    for start in range(0, batch.num_rows, step):
        piece = batch.slice(start, step)
        if whole and piece.num_rows * width >= _WORTHWHILE_BYTES:
            yield Encoded(_laid_around(table, piece, options), piece.num_rows)
        else:
            yield encode(table, piece, options)


@cache
def _types(table: Table) -> dict[str, tuple[pa.DataType, np.dtype[Any] | None]]:
    """Return the types of a table's columns, and what arrays have for them; of strings, None."""
    return {
        field.name: (
            field.type,
            None if pa.types.is_string(field.type) else np.dtype(field.type.to_pandas_dtype()),
        )
        for field in segment_schema(table)
    }


def _array(values: npt.NDArray[Any], type: pa.DataType, wanted: np.dtype[Any] | None) -> pa.Array:
    if wanted is None or values.ndim != 1 or values.dtype.kind not in "iufb":
        raise ValueError(f"an array of {values.dtype} is no column of {type}")
    if wanted.kind == "b":
        truths = bits(np.ascontiguousarray(values, np.bool_))
        return pa.Array.from_buffers(type, len(values), [None, truths])
    if values.dtype.kind == wanted.kind == "f" or values.dtype == wanted:
        plain = values.astype(wanted, copy=False)
    elif values.dtype.kind in "iu" and wanted.kind in "iu" and values.itemsize == wanted.itemsize:
        plain = values.view(wanted)  # a number of a thread or CPU: unsigned in the kernel
    else:
        plain = values.astype(wanted, casting="safe")
    return fixed(np.ascontiguousarray(plain), type)


class _Parts:
    """A file for pyarrow to write to, that keeps what is written in the parts that it comes in."""

    closed = False

    def __init__(self) -> None:
        self.parts: list[memoryview] = []

    def write(self, data: Any) -> int:
        part = memoryview(data)
        self.parts.append(part)
        return len(part)

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _laid_around(
    table: Table, batch: pa.RecordBatch, options: pa.ipc.IpcWriteOptions
) -> list[memoryview]:
    """Return the bytes that a stream has for a batch, in parts; most of them are its columns."""
    sink = _Parts()
    stream = pa.ipc.new_stream(pa.PythonFile(sink, "w"), batch.schema, options=options)
    stream.write_batch(batch)
    head = len(stream_head(table))  # which is written before the first batch
    for at, part in enumerate(sink.parts):
        if head <= 0:
            return sink.parts[at:]
        head -= len(part)
    return []

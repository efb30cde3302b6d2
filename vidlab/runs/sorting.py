"""Any number of rows in the order of (stream, time), within bounded memory.

An external merge sort. Rows are gathered up to some megabytes, sorted, and
spilled to a scratch file as a run of **pieces**: small Arrow batches, each of
which covers a short stretch of the order. To merge, the pieces of all runs are
taken in the order of their first rows; whatever comes before the first row of
the next piece can go out. So only pieces that overlap are in memory at one time,
and as threads write as time passes, few do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .parquet import rows_within

#: Rows gathered before they are sorted and spilled: their bytes.
GATHER_BYTES = 16 << 20

#: Rows of a piece: the unit of merging.
PIECE_ROWS = 8192

#: Rows of a block that `sorted` yields, more or less; of a wide table fewer.
BLOCK_ROWS = 1 << 17
BLOCK_BYTES = 14 << 20


@dataclass(frozen=True)
class _Piece:
    first: tuple[int, int]  # (rank, t_ns) of its first row
    offset: int  # in the scratch file
    size: int

    def read(self, source: BinaryIO) -> pa.Table:
        source.seek(self.offset)
        return pa.ipc.open_stream(source.read(self.size)).read_all()


class RowSorter:
    """Sorts plain rows by the rank of their stream, then by `t_ns`.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the rows; has `t_ns` and `labels`.
    ranks : ndarray of int32
        The place of each label set's stream in the order.
    scratch : Path
        The scratch file, made only if it is needed; whoever names it removes it.
    """

    def __init__(self, schema: pa.Schema, ranks: npt.NDArray[np.int32], scratch: Path) -> None:
        self._schema = schema
        self._ranks = ranks
        self._file = scratch
        self._gathered: list[pa.RecordBatch] = []
        self._bytes = 0
        self._pieces: list[_Piece] = []
        self._block_rows = rows_within(schema, BLOCK_BYTES, BLOCK_ROWS)
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take up a batch of rows in any order."""
        self._gathered.append(batch)
        self._bytes += batch.nbytes
        self.rows += batch.num_rows
        if self._bytes >= GATHER_BYTES:
            self._spill()

    def sorted(self) -> Iterator[pa.Table]:
        """Yield all rows in order, in blocks of some `BLOCK_ROWS`."""
        if not self._pieces:
            rows = self._table(self._gathered)
            self._gathered = []
            order, _, _ = self._order(rows)
            for start in range(0, len(order), self._block_rows):
                yield rows.take(order[start : start + self._block_rows])
            return
        self._spill()
        yield from self._merged()

    def _order(
        self, rows: pa.Table
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Return the order of these rows, and their keys in that order."""
        ranks = self._ranks[rows["labels"].to_numpy()]
        times = rows["t_ns"].fill_null(0).to_numpy()
        order = np.lexsort((times, ranks))
        return order, ranks[order], times[order]

    def _table(self, batches: list[pa.RecordBatch]) -> pa.Table:
        return pa.Table.from_batches(batches, schema=self._schema).combine_chunks()

    def _spill(self) -> None:
        rows = self._table(self._gathered)
        self._gathered, self._bytes = [], 0
        order, ranks, times = self._order(rows)
        with self._file.open("ab") as sink:
            for start, end in _pieces(ranks):
                piece = rows.take(order[start:end])
                first = (int(ranks[start]), int(times[start]))
                packed = _packed(piece)
                self._pieces.append(_Piece(first, sink.tell(), len(packed)))
                sink.write(packed)

    def _merged(self) -> Iterator[pa.Table]:
        """Yield stretches of rows in order, of any length."""
        pieces = sorted(self._pieces, key=lambda piece: piece.first)
        # As many pieces at a time as make a block: most of what is read goes out at once.
        step = max(self._block_rows // PIECE_ROWS, 1)
        held = self._table([])  # what was read but may not go out yet
        with self._file.open("rb") as source:
            for start in range(0, len(pieces), step):
                read = [piece.read(source) for piece in pieces[start : start + step]]
                rows = pa.concat_tables([held, *read]).combine_chunks()
                order, ranks, times = self._order(rows)
                following = pieces[start + step : start + step + 1]
                cut = _rows_before(ranks, times, following[0].first) if following else len(order)
                held = rows.take(order[cut:])
                yield rows.take(order[:cut])


def _pieces(ranks: npt.NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Yield where each piece of these rows begins and ends.

    It ends with a stream if it can: the first rows of the next one would be in memory
    from here until that one's turn comes, from every spill.
    """
    ends = np.append(np.flatnonzero(np.diff(ranks)) + 1, len(ranks))
    start = 0
    while start < len(ranks):
        end = start + PIECE_ROWS
        last = int(ends[np.searchsorted(ends, end, side="right") - 1]) if end >= ends[0] else 0
        if last - start >= max(PIECE_ROWS // 16, 1):
            end = last
        yield start, min(end, len(ranks))
        start = end


def _packed(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, rows.schema, options=options) as stream:
        stream.write_table(rows)
    return sink.getvalue()


def _rows_before(
    ranks: npt.NDArray[np.int32], times: npt.NDArray[np.int64], key: tuple[int, int]
) -> int:
    """Return how many rows of an order come before this key or are equal to it."""
    low, high = np.searchsorted(ranks, [key[0], key[0] + 1])
    return int(low + np.searchsorted(times[low:high], key[1], side="right"))

"""From a process's rows to the run's: one numbering, nulls for what is not known.

Rows pass through two forms. **Plain** rows (`Decoder.plain`) have a table's own
columns with every text as a number of that column's vocabulary and the label set
as its number: all fixed-size but for messages, so that they sort and spill fast.
**Finished** rows (`Decoder.finished`) are the table as it is read, with texts and
the labels' columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..schema import CHOICES, HOLDS, NAMED, NAMES, TEXT, UNKNOWN, Table
from .gputimes import GpuTimes
from .interning import COLUMN_KEYS, EMPTY, LabelTable, StackTable, Translation, Vocabulary
from .segments import Process, Segments
from .thinning import Thinning

#: Unsigned columns in which zero stands for "none".
_ZERO_IS_NULL = frozenset({"frame", "parent", "span", "context", "stack"})

#: The same, of a declared table: what it says of its own columns is its own affair.
_OF_SPANS = frozenset({"span", "frame"})

#: Above these bits of a span's number is the index of its process.
PROCESS_SHIFT = 52

#: Columns of names in which number zero stands for "none".
_MAY_LACK_NAME = frozenset({"task", "attribute", "thread"})


class Decoder:
    """Gives the rows of all processes of a run one numbering.

    Attributes
    ----------
    labels : LabelTable
        The run's label sets. It grows with `refresh`; numbers once given stay.
    stacks : StackTable
        The run's call stacks, likewise.
    gpu_times : GpuTimes
        The GPU times of spans.
    thinning : Thinning
        Which rows count, where a sample was chosen afterwards; the others are left out.
    """

    def __init__(self, segments: Segments) -> None:
        self.segments = segments
        self.labels = LabelTable()
        self.stacks = StackTable()
        self.gpu_times = GpuTimes()
        self.thinning = Thinning(segments)
        self._vocabularies: dict[tuple[str, str], Vocabulary] = {}
        self._sets: dict[int, Translation] = {}
        self._names: dict[tuple[int, str, str], Translation] = {}
        self._taken_up: dict[tuple[int, str], int] = {}
        self._stack_numbers: dict[int, Translation] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take up label sets, stacks and GPU times that were written down since."""
        self.gpu_times.refresh(self.segments)
        for index, process in self.segments.processes.items():
            stacks = self._stack_numbers.setdefault(index, _only_the_empty_set())
            for line in self._new_lines(process, "stacks"):
                try:
                    stacks.add(line["id"], self.stacks.number(line["frames"]))
                except (KeyError, TypeError, ValueError):
                    self.segments.note(f"a stack of process {index} cannot be read, left out")
            sets = self._sets.setdefault(index, _only_the_empty_set())
            for line in self._new_lines(process, "labels"):
                try:
                    values, rate = dict(line["values"]), float(line.get("sample_rate", 1.0))
                    sets.add(line["id"], self.labels.number(values, rate))
                except (KeyError, TypeError, ValueError):
                    self.segments.note(f"a label set of process {index} cannot be read, left out")
        self.thinning.refresh(self.segments, self.labels)

    def _new_lines(self, process: Process, side: str) -> list[dict[str, Any]]:
        lines = process.lines(side)
        done = self._taken_up.get((process.index, side), 0)
        self._taken_up[process.index, side] = len(lines)
        return lines[done:]

    def vocabulary(self, table: str, column: str) -> Vocabulary:
        """Return the texts of a table's text column."""
        return self._vocabularies.setdefault((table, column), Vocabulary())

    def plain(self, table: Table, process: Process, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a process's batch (as `Segments.batches` yields it) as plain rows."""
        labels_of = self._labels_of_spans if table.declared else self._labels
        labels = labels_of(process, batch)
        if self.thinning.wanted:
            chosen, labels = self.thinning.choose(table.name, batch, labels.to_numpy())
            if chosen is not None:
                batch, labels = batch.filter(pa.array(chosen)), labels[chosen]
            labels = pa.array(labels)
        decode = self._recorded if table.record else self._written
        decode = self._declared if table.declared else decode
        columns = {
            column.name: decode(table, column.name, process, batch)
            for column in table.columns
            if column.name not in COLUMN_KEYS
        }
        columns["labels"] = labels
        return pa.record_batch(columns, schema=plain_schema(table))

    def plain_from_finished(self, table: Table, rows: pa.Table) -> pa.Table:
        """Return rows with texts, such as derived ones, as plain rows."""
        schema = plain_schema(table)
        columns = []
        for field in schema:
            column = rows[field.name].combine_chunks()
            if table.arrow_schema.field(field.name).type == TEXT:
                column = self.vocabulary(table.name, field.name).numbers(column)
            columns.append(column.cast(field.type))
        return pa.Table.from_arrays(columns, schema=schema)

    def finished(self, table: Table, rows: pa.Table) -> pa.Table:
        """Return plain rows as the table is read: texts, and the labels' columns."""
        schema = table.arrow_schema
        rows = rows.combine_chunks()
        of_labels = dict(
            zip(COLUMN_KEYS, self.labels.columns(_single(rows["labels"])), strict=True)
        )
        columns = []
        for field in schema:
            if field.name in of_labels:
                column = of_labels[field.name]
            elif field.type == TEXT:
                column = self.vocabulary(table.name, field.name).column(_single(rows[field.name]))
            else:
                column = rows[field.name]
            columns.append(column)
        return pa.Table.from_arrays(columns, schema=schema)

    def _labels(self, process: Process, batch: pa.RecordBatch) -> pa.Array:
        sets = self._sets.setdefault(process.index, _only_the_empty_set())
        local = _numbers(batch, "labels", np.uint32)
        return pa.array(self._translated(sets, local, process, "label sets"))

    def _labels_of_spans(self, process: Process, batch: pa.RecordBatch) -> pa.Array:
        """The labels of events, which may be those of another process than the one that wrote.

        An event in a span has the number of its label set from the span's process.
        """
        owners = _numbers(batch, "span", np.uint64) >> np.uint64(PROCESS_SHIFT)
        if not ((owners != 0) & (owners != process.index)).any():
            return self._labels(process, batch)
        own = (owners == 0) | (owners == process.index)
        labels = np.zeros(batch.num_rows, np.uint32)
        labels[own] = self._labels(process, batch.filter(pa.array(own))).to_numpy()
        for index in set(np.unique(owners).tolist()) & self.segments.processes.keys():
            of_other = owners == index
            part = batch.filter(pa.array(of_other))
            labels[of_other] = self._labels(self.segments.processes[index], part).to_numpy()
        return pa.array(labels)

    def _translated(
        self,
        translation: Translation,
        local: npt.NDArray[np.integer],
        process: Process,
        what: str,
    ) -> npt.NDArray[np.uint32]:
        """The run's numbers for a process's own; 0 for those that were not written down."""
        known = translation.apply(local)
        if (known < 0).any():  # written down since, if the process is still recording
            self.segments.refresh()
            self.refresh()
            known = translation.apply(local)
        if (known < 0).any():
            self.segments.note(
                f"rows of process {process.index} bear {what} that were not written down"
            )
            known[known < 0] = EMPTY
        return known.astype(np.uint32)

    def _recorded(
        self, table: Table, name: str, process: Process, batch: pa.RecordBatch
    ) -> pa.Array:
        """A finished column from a record's fields."""
        type = plain_schema(table).field(name).type
        if name == "pid":
            return _pid(process, batch.num_rows)
        if name == "span" and table.name == "spans":
            return pa.array(_span_ids(process, batch))
        if name == "gpu_duration_ns" and table.name == "spans":
            return _with_nulls(name, self.gpu_times.of(_span_ids(process, batch)), type)
        if name not in batch.schema.names:
            return pa.nulls(batch.num_rows, type)
        values = batch[name].to_numpy(zero_copy_only=False)
        assert table.record is not None
        if name == table.record.commit:
            values = values - 1
        choices = CHOICES.get((table.name, name))
        if choices is not None:
            known = self.vocabulary(table.name, name)
            codes = np.array([known.number(choice) for choice in choices], np.int32)
            return pa.array(codes[np.minimum(values, len(codes) - 1)], mask=values >= len(codes))
        if (table.name, name) in NAMED:
            none = values == 0 if name in _MAY_LACK_NAME else None
            return pa.array(self._named(table, name, process, values), mask=none)
        if name == "stack":
            stacks = self._stack_numbers.setdefault(process.index, _only_the_empty_set())
            values = self._translated(stacks, values, process, "stacks")
        return _with_nulls(name, values, type)

    def _written(
        self, table: Table, name: str, process: Process, batch: pa.RecordBatch
    ) -> pa.Array:
        """A finished column from one that was written as text and numbers."""
        type = plain_schema(table).field(name).type
        if name not in batch.schema.names:
            return pa.nulls(batch.num_rows, type)
        column = batch[name]
        if table.arrow_schema.field(name).type == TEXT:
            return self.vocabulary(table.name, name).numbers(column)
        if name in _ZERO_IS_NULL:
            column = _zero_as_null(column)
        return column.cast(type)

    def _declared(
        self, table: Table, name: str, process: Process, batch: pa.RecordBatch
    ) -> pa.Array:
        """A finished column from one of a stream that declares what it is."""
        type = plain_schema(table).field(name).type
        if name not in batch.schema.names:
            return pa.nulls(batch.num_rows, type)
        column, is_text = batch[name], table.arrow_schema.field(name).type == TEXT
        if (batch.schema.field(name).metadata or {}).get(HOLDS.encode()) == NAMES.encode():
            numbers = _numbers(batch, name, np.uint32)
            known, none = np.zeros(len(numbers), np.int32), numbers == 0
            known[~none] = self._named(table, name, process, numbers[~none])
            column = pa.array(known, mask=none)
            if is_text:
                return column
            column = self.vocabulary(table.name, name).column(column).cast(pa.string())
        if name in _OF_SPANS:
            column = _zero_as_null(column)
        try:
            if is_text:  # another process declares it so
                return self.vocabulary(table.name, name).numbers(column.cast(pa.string()))
            return column.cast(type)
        except pa.ArrowException:  # declared otherwise since the table was asked for
            self.segments.note(f"values of {table.name}.{name} are not {type}: left out")
            return pa.nulls(batch.num_rows, type)

    def _named(
        self, table: Table, column: str, process: Process, numbers: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.int32]:
        names = self._names.setdefault((process.index, table.name, column), Translation())
        unknown = names.unknown(numbers)
        if unknown:
            self.segments.refresh()
            known = self.vocabulary(table.name, column)
            texts = {line["id"]: str(line.get("name")) for line in process.name_lines}
            for number in unknown:
                if number not in texts:
                    self.segments.note(f"a name of process {process.index} was not written down")
                names.add(number, known.number(texts.get(number, f"(name {number})")))
        return names.apply(numbers).astype(np.int32)


@cache
def plain_schema(table: Table) -> pa.Schema:
    """Return the Arrow schema of a table's plain rows."""
    return pa.schema(
        [
            (column.name, pa.int32() if column.type == TEXT else column.type)
            for column in table.columns
            if column.name not in COLUMN_KEYS
        ]
    )


def table_of(table: Table, batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """Return batches of plain rows as one table, which may be empty."""
    return pa.Table.from_batches(batches, schema=plain_schema(table))


def _only_the_empty_set() -> Translation:
    sets = Translation()
    sets.add(EMPTY, EMPTY)
    return sets


def _numbers(batch: pa.RecordBatch, name: str, type: type) -> npt.NDArray[np.integer]:
    if name not in batch.schema.names:
        return np.zeros(batch.num_rows, type)
    return np.asarray(batch[name].fill_null(0).to_numpy(zero_copy_only=False))


def _pid(process: Process, rows: int) -> pa.Array:
    if process.pid is None:
        return pa.nulls(rows, pa.int32())
    return pa.array(np.full(rows, process.pid, np.int32))


def _span_ids(process: Process, batch: pa.RecordBatch) -> npt.NDArray[np.uint64]:
    thread = _numbers(batch, "thread", np.uint32).astype(np.uint64)
    sequence = _numbers(batch, "sequence", np.uint32).astype(np.uint64)
    return np.uint64(process.index << PROCESS_SHIFT) | thread << np.uint64(32) | sequence


def _zero_as_null(column: pa.Array) -> pa.Array:
    import pyarrow.compute as pc  # slow to import, and few columns need it

    return pc.if_else(pc.equal(column, 0), pa.scalar(None, column.type), column)


def _with_nulls(name: str, values: npt.NDArray[Any], type: pa.DataType) -> pa.Array:
    """Make nulls of the values by which a record says "none" or "not known"."""
    if name in _ZERO_IS_NULL:
        missing = values == 0
    elif name == "capacity":
        missing = values < 0
    elif values.dtype == np.int64:
        missing = values == UNKNOWN
    else:
        return pa.array(values).cast(type)
    return pa.array(values, mask=missing if missing.any() else None).cast(type)


def _single(column: pa.ChunkedArray) -> pa.Array:
    """The one chunk of a column of a table with combined chunks; empty if it has none."""
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)

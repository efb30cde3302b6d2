"""Text and label sets as small numbers, the same in all of a run.

Each process numbers its label sets and names on its own. Reading a run gives
them one numbering: label sets in the order of the processes and of their own
numbers, 0 the empty set; the texts of a column in the order of appearance.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..labelsets import EMPTY, LabelValue
from ..schema import TABLES, TEXT

#: The labels that every table carries as columns of its own.
COLUMN_KEYS = ("stream_id", "codec", "gpu")


class Vocabulary:
    """The distinct texts of one column, numbered from 0 in the order of appearance."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """Return the number of this text, new or known."""
        known = self._numbers.get(text)
        if known is None:
            known = self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return known

    def numbers(self, texts: pa.Array) -> pa.Int32Array:
        """Return the numbers of a column of texts, strings or dictionary; nulls stay null."""
        encoded = texts if pa.types.is_dictionary(texts.type) else texts.dictionary_encode()
        known = [
            None if text is None else self.number(text) for text in encoded.dictionary.to_pylist()
        ]
        return pa.array(known, pa.int32()).take(encoded.indices)

    def column(self, numbers: pa.Int32Array) -> pa.DictionaryArray:
        """Return the texts of a column of numbers."""
        return pa.DictionaryArray.from_arrays(numbers, pa.array(self.texts, pa.string()))


#: A call stack, innermost first: function, file and line of each call.
Stack = tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class RunLabels:
    """A label set of a run."""

    values: Mapping[str, LabelValue]
    sample_rate: float


class LabelTable:
    """The label sets of a run, by number; row `n` of the table `labels` is set `n`."""

    def __init__(self, sets: Iterable[RunLabels] = ()) -> None:
        self.sets: list[RunLabels] = []
        self._numbers: dict[tuple[object, ...], int] = {}
        for known in (RunLabels({}, 1.0), *sets):
            self.number(known.values, known.sample_rate)

    @classmethod
    def from_arrow(cls, table: pa.Table) -> LabelTable:
        """Return the label sets that a finished run's table `labels` holds."""
        known = cls()
        known.sets = []
        for row in table.sort_by("labels").to_pylist():
            values = {key: row[key] for key in COLUMN_KEYS if row[key] is not None}
            known.sets.append(RunLabels({**values, **dict(row["other"] or ())}, row["sample_rate"]))
        return known

    def number(self, values: Mapping[str, LabelValue], sample_rate: float) -> int:
        """Return the number of this set, new or known."""
        key = (sample_rate, *sorted(values.items()))
        known = self._numbers.get(key)
        if known is None:
            known = self._numbers[key] = len(self.sets)
            self.sets.append(RunLabels(dict(sorted(values.items())), sample_rate))
        return known

    @property
    def other_keys(self) -> list[str]:
        """The keys that are not columns of every table, sorted."""
        keys = {key for known in self.sets for key in known.values}
        return sorted(keys.difference(COLUMN_KEYS))

    def values(self, key: str) -> list[LabelValue | None]:
        """Return the value of a key in each set, by number."""
        return [known.values.get(key) for known in self.sets]

    def stream_ranks(self) -> npt.NDArray[np.int32]:
        """Return for each set the place of its stream in the run's order; 0 if it has none."""
        streams = self.values("stream_id")
        order = {stream: n for n, stream in enumerate(sorted(filter(None, streams), key=str), 1)}
        return np.array([order.get(stream, 0) for stream in streams], np.int32)

    def columns(self, labels: pa.UInt32Array) -> list[pa.Array]:
        """Return the columns `stream_id`, `codec` and `gpu` for a column of numbers."""
        return [self._column(key).take(labels) for key in COLUMN_KEYS]

    def to_arrow(self) -> pa.Table:
        """Return the run's table `labels`."""
        other = [
            [(k, str(v)) for k, v in known.values.items() if k not in COLUMN_KEYS]
            for known in self.sets
        ]
        return pa.Table.from_arrays(
            [
                pa.array(range(len(self.sets)), pa.uint32()),
                *(self._column(key) for key in COLUMN_KEYS),
                pa.array([known.sample_rate for known in self.sets], pa.float64()),
                pa.array(other, pa.map_(pa.string(), pa.string())),
            ],
            schema=TABLES["labels"].arrow_schema,
        )

    def _column(self, key: str) -> pa.Array:
        if key == "gpu":
            return pa.array(self.values(key), pa.int16())
        return pa.array(self.values(key), pa.string()).cast(TEXT)


#: The greatest line number that the table `stacks` can hold.
_MOST_LINE = 2**31 - 1


class StackTable:
    """The call stacks of a run, numbered from 1; row `n - 1` of the table `stacks` is stack `n`.

    A call is in many stacks: each is kept once, and a stack is the numbers of its calls.
    """

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str, int], int] = {}
        self._stacks: dict[tuple[int, ...], int] = {}

    def __len__(self) -> int:
        return len(self._stacks)

    @property
    def stacks(self) -> list[Stack]:
        """Return the stacks, in the order of their numbers."""
        calls = list(self._calls)
        return [tuple(calls[call] for call in stack) for stack in self._stacks]

    def number(self, frames: Iterable[Sequence[object]]) -> int:
        """Return the number of this stack of (function, file, line), new or known."""
        calls = self._calls
        stack = tuple(
            [
                calls.setdefault((str(name), str(file), _line(line)), len(calls))
                for name, file, line in frames
            ]
        )
        return self._stacks.setdefault(stack, len(self._stacks) + 1)

    def to_arrow(self) -> pa.Table:
        """Return the run's table `stacks`."""
        schema = TABLES["stacks"].arrow_schema
        frames = schema.field("frames").type
        edges = np.cumsum([0, *map(len, self._stacks)], dtype=np.int32)
        flat = pa.array(np.fromiter(itertools.chain.from_iterable(self._stacks), np.int32))
        columns = zip(*self._calls, strict=True) if self._calls else ((), (), ())
        parts = [
            pa.array(values, field.type).take(flat)
            for field, values in zip(frames.value_type, columns, strict=True)
        ]
        calls = pa.StructArray.from_arrays(parts, fields=list(frames.value_type))
        numbers = pa.array(np.arange(1, len(self._stacks) + 1, dtype=np.uint32))
        lists = pa.ListArray.from_arrays(pa.array(edges), calls).cast(frames)
        return pa.Table.from_arrays([numbers, lists], schema=schema)


class Translation:
    """From the numbers that one process gave to the run's own, as an array look-up."""

    def __init__(self) -> None:
        self._known = np.full(64, -1, np.int64)

    def add(self, local: int, number: int) -> None:
        """Note that the process's `local` is `number` in the run."""
        if local >= len(self._known):
            grown = np.full(max(2 * len(self._known), local + 1), -1, np.int64)
            grown[: len(self._known)] = self._known
            self._known = grown
        self._known[local] = number

    def unknown(self, locals: npt.NDArray[np.integer]) -> Sequence[int]:
        """Return which of these numbers are not known yet."""
        distinct = np.unique(locals)
        inside = distinct[distinct < len(self._known)]
        return [
            *inside[self._known[inside] < 0].tolist(),
            *distinct[distinct >= len(self._known)].tolist(),
        ]

    def apply(self, locals: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Return the run's numbers; -1 where a number is not known."""
        inside = np.minimum(locals, len(self._known) - 1)
        return np.where(locals < len(self._known), self._known[inside], -1)


__all__ = [
    "COLUMN_KEYS",
    "EMPTY",
    "LabelTable",
    "RunLabels",
    "StackTable",
    "Translation",
    "Vocabulary",
]


def _line(told: object) -> int:
    """Return a line number as the table has them; 0, unknown, for what can be none.

    A sampler that reads a stack while it changes takes whatever lies there for a line.
    """
    line = int(str(told))
    return line if 0 <= line <= _MOST_LINE else 0

"""The record of a table of kernel events, and how records become columns.

All probes of one table write records of one size into one ring. After the ring's own
header of 8 bytes a record has, little-endian:

    t_ns i8 | tid u4 | pid u4 | span u8 | frame u8 | labels u4 | cpu u2 | probe u2
    | duration_ns i8, if rows are calls | the fields, the largest first | up to 8 bytes

What is the same for all hits of a probe (a constant, the symbol) is not in the record:
`probe` says which probe it was. A field that a probe of the table does not have is null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ....errors import InputError
from ....runs.encoding import bits, fixed
from ....schema import TEXT, Column, Table
from ....schema.kernel import kernel_table
from .checks import MOST_RECORD
from .kinds import ADDRESS, HALVES, address_of, aligned, numpy_type, size_of, text_of
from .operations import Constant, Expression
from .probes import Declaration
from .record import HEADER, RING_HEADER
from .values import SIZES, Choice
from .written import Written

#: Different texts of a column that are told apart; what comes after them is one text.
MOST_TEXTS = 1 << 16
TOO_MANY = "(too many to tell apart)"

Source = Declaration | Written


class Records(Protocol):
    """Records, or their fields as arrays: of the same length."""

    def __len__(self) -> int: ...

    def __getitem__(self, field: str, /) -> npt.NDArray[Any]: ...


@dataclass(frozen=True)
class _Batch:
    """Records that become columns, of which probes they are, and who gives texts numbers."""

    records: Records
    probes: npt.NDArray[np.uint16]
    hit: set[int]
    number: Callable[[str], int]


class Layout:
    """The record of one table, for the probes that share it.

    Parameters
    ----------
    members : Mapping[int, Declaration or Written]
        By the number by which records name them. All are of one table.

    Attributes
    ----------
    dtype : numpy.dtype
        Of a record without the ring's header; its size is a multiple of 8.
    stride : int
        From one record to the next, in bytes.
    returns : bool
        Whether records have a duration.

    Raises
    ------
    InputError
        If the probes disagree about a column.
    """

    def __init__(self, members: Mapping[int, Source]) -> None:
        self.members = dict(members)
        sources = list(self.members.values())
        (self.name,) = {source.table for source in sources}
        self.returns = any(source.returns for source in sources)
        self._stored: dict[str, str] = {}
        self._text_columns: dict[str, Mapping[int, str] | None] = {}
        self._constants: dict[str, dict[int, int | str]] = {}
        self._has: dict[str, set[int]] = {}
        self._meanings: dict[str, str] = {}
        self._zero_is_null: set[str] = set()
        self._seen: dict[str, set[str]] = {}
        for number, source in self.members.items():
            if isinstance(source, Written):
                self._add_written(number, source)
            else:
                self._add(number, source)
        self._check_constants()
        duration = [("duration_ns", "<i8")] if self.returns else []
        packed: list[tuple[str, str]] = [*HEADER, *duration]
        packed += [(name, numpy_type(kind)) for name, kind in aligned(self._stored)]
        size = np.dtype(packed).itemsize
        if size % 8:
            packed.append(("_pad", f"V{-size % 8}"))
        self.dtype = np.dtype(packed)
        if self.dtype.itemsize > MOST_RECORD:
            raise InputError(
                f"a record of {self.name} would take {self.dtype.itemsize} bytes, and may "
                f"{MOST_RECORD}: leave out fields, or shorten strings"
            )
        self.stride = self.dtype.itemsize + RING_HEADER

    def offset(self, field: str) -> int:
        """Return where a field is in the record, in bytes after the ring's header."""
        fields = self.dtype.fields
        assert fields is not None
        return int(fields[field][1])

    def stored(self, field: str) -> str | None:
        """Return the type by which a field is in the record ("u32", "s64"); None if it is not."""
        return self._stored.get(field)

    def takes(self, number: int, source: Declaration) -> bool:
        """Return whether this declaration can stand for a member, in the same records."""
        other = Layout({**self.members, number: source})
        return (
            other.dtype == self.dtype
            and other._constants == self._constants
            and other._text_columns == self._text_columns
            and other._has == self._has
        )

    @cached_property
    def table(self) -> Table:
        """The table that these records become."""
        columns = [Column("symbol", TEXT, "what was hit")]
        if self.returns:
            columns.append(Column("duration_ns", pa.int64(), "how long the call took", "ns"))
        columns += [
            Column(name, self._type(name), meaning, _unit(name))
            for name, meaning in self._meanings.items()
        ]
        meaning = next(
            (source.meaning for source in self.members.values() if isinstance(source, Written)),
            "a hit of " + ", ".join(dict.fromkeys(map(_label, self.members.values()))),
        )
        return kernel_table(self.name, tuple(columns), meaning)

    def columns(
        self, records: Records, number: Callable[[str], int]
    ) -> dict[str, npt.NDArray[Any] | pa.Array]:
        """Return records as the columns of the table.

        Parameters
        ----------
        records : ndarray of `dtype`, or what has its fields as arrays
            Any stride. What is in one piece already is returned as it is, not as a copy.
        number : callable
            Gives a text's number; texts are returned as numbers (uint32), 0 for null.
        """
        probes = np.ascontiguousarray(records["probe"])
        columns: dict[str, Any] = {
            name: np.ascontiguousarray(records[name]) for name, _ in HEADER if name != "probe"
        }
        batch = _Batch(records, probes, self._hit(probes), number)
        columns["symbol"] = self._texts_by_probe(
            batch, {probe: _label(of) for probe, of in self.members.items()}
        )
        if self.returns:
            columns["duration_ns"] = self._masked("duration_ns", records["duration_ns"], probes)
        for name in self._meanings:
            columns[name] = self._column(name, batch)
        return columns

    # --- what the members declare -----------------------------------------------------

    def _add(self, number: int, source: Declaration) -> None:
        if source.returns:
            self._has.setdefault("duration_ns", set()).add(number)
        for name, value in source.values.items():
            text = isinstance(value, str | Choice) or value.is_text
            self._note(number, name, text)
            if name not in self._meanings:
                self._meanings[name] = _meaning(value)
            if isinstance(value, str):
                self._constants.setdefault(name, {})[number] = value
            elif isinstance(value, Constant):
                self._constants.setdefault(name, {})[number] = value.value
            else:
                self._store(name, value.dtype)
            if isinstance(value, Choice):
                self._add_texts(name, value.texts)

    def _add_written(self, number: int, source: Written) -> None:
        self._zero_is_null |= source.zero_is_null
        if source.returns:
            self._has.setdefault("duration_ns", set()).add(number)
        for name, kind in source.fields.items():
            text = name in source.texts or kind not in SIZES
            self._note(number, name, text)
            self._meanings.setdefault(name, source.meaning)
            self._store(name, kind)
            if name in source.texts:
                self._add_texts(name, source.texts[name])

    def _note(self, number: int, name: str, text: bool) -> None:
        """Note that a probe has a column, and whether it is of text."""
        if name in self._has and text != (name in self._text_columns):
            raise InputError(f"{name} of {self.name} is a text for one probe, a number for another")
        if text:
            self._text_columns.setdefault(name, None)
        self._has.setdefault(name, set()).add(number)

    def _add_texts(self, name: str, texts: Mapping[int, str]) -> None:
        """Note the texts that numbers stand for: in one column, a number stands for one."""
        known = self._text_columns[name] or {}
        for code in known.keys() & texts.keys():
            if known[code] != texts[code]:
                raise InputError(
                    f"{code} stands for {known[code]!r} in {name} of {self.name} for one probe, "
                    f"for {texts[code]!r} for another"
                )
        self._text_columns[name] = {**known, **texts}

    def _store(self, name: str, kind: str) -> None:
        """Note the type of a field; of two integer types, one that holds both."""
        known = self._stored.setdefault(name, kind)
        if known == kind:
            return
        if not {known, kind} <= SIZES.keys():
            raise InputError(f"{name} of {self.name} is {known} for one probe, {kind} for another")
        size = max(size_of(known), size_of(kind))
        one_sign = known[0] == kind[0]
        self._stored[name] = f"{known[0]}{size * 8}" if one_sign else f"i{min(2 * size, 8) * 8}"

    def _check_constants(self) -> None:
        for name, constants in self._constants.items():
            if name in self._text_columns:
                continue
            limits = np.iinfo(np.dtype(self._number_type(name)))
            for value in constants.values():
                if not limits.min <= int(value) <= limits.max:
                    raise InputError(f"{name} of {self.name} cannot hold {value} and be negative")

    # --- columns ----------------------------------------------------------------------

    def _type(self, name: str) -> pa.DataType:
        if name in self._text_columns:
            return TEXT
        return pa.from_numpy_dtype(np.dtype(self._number_type(name)))

    def _number_type(self, name: str) -> str:
        constants = self._constants.get(name, {})
        stored = self._stored.get(name)
        if stored is None:
            return "u8" if all(int(value) >= 0 for value in constants.values()) else "i8"
        if any(int(value) < 0 for value in constants.values()):
            return "i8"
        return numpy_type(stored)[1:] if not constants else f"{stored[0]}8"

    def _column(self, name: str, batch: _Batch) -> npt.NDArray[Any] | pa.Array:
        probes = batch.probes
        constants = self._constants.get(name)
        stored = self._stored.get(name)
        if name in self._text_columns:
            numbers = np.zeros(len(probes), np.uint32)
            if stored is not None:
                numbers = self._texts(name, stored, batch)
            if constants:
                texts = {probe: str(value) for probe, value in constants.items()}
                known = self._texts_by_probe(batch, texts)
                numbers = known if stored is None else np.where(known > 0, known, numbers)
            return numbers
        if stored is None:
            assert constants is not None
            values = self._by_probe(probes, {p: int(v) for p, v in constants.items()})
            return self._masked(name, values.astype(self._number_type(name)), probes)
        values = batch.records[name]
        if constants:
            values = values.astype(self._number_type(name))
            for probe, value in constants.items():
                values[probes == probe] = value
        return self._masked(name, values, probes)

    def _texts(self, name: str, stored: str, batch: _Batch) -> npt.NDArray[np.uint32]:
        """Return the numbers of the texts of a stored field; 0 where there is none."""
        values, number = np.ascontiguousarray(batch.records[name]), batch.number
        texts = self._text_columns[name]
        if stored in SIZES:
            numbers = np.zeros(len(values), np.uint32)
            limits = np.iinfo(values.dtype)
            for code, text in (texts or {}).items():
                if limits.min <= code <= limits.max:
                    (where,) = np.nonzero(values == code)
                    if len(where):
                        numbers[where] = number(text)
        else:
            if stored == ADDRESS:
                values = values.view(HALVES).reshape(-1)
            different, where = np.unique(values, return_inverse=True)
            if stored == ADDRESS:
                known = [number(address_of(v)) if any(v) else 0 for v in different]
            else:
                known = [number(self._text_of(name, v)) if v else 0 for v in different]
            numbers = np.array(known or [0], np.uint32)[where].reshape(-1)
        has = self._has[name]
        if len(has) < len(self.members):
            numbers[~self._defined(name)[batch.probes]] = 0
        return numbers

    def _text_of(self, name: str, value: bytes) -> str:
        """Return a string that was read, or after too many different ones, one for the rest."""
        text = text_of(value)
        seen = self._seen.setdefault(name, set())
        if len(seen) < MOST_TEXTS:
            seen.add(text)
        return text if text in seen else TOO_MANY

    def _masked(
        self, name: str, values: npt.NDArray[Any], probes: npt.NDArray[np.uint16]
    ) -> npt.NDArray[Any] | pa.Array:
        """Return values as a column: null where the probe does not have it."""
        values = np.ascontiguousarray(values)
        everywhere = len(self._has[name]) == len(self.members)
        if name not in self._zero_is_null and everywhere:
            return values
        missing = ~self._defined(name)[probes]
        if name in self._zero_is_null:
            missing |= values == 0
        if not missing.any():
            return values
        # Not `pa.array`: it would import pandas, where it is installed, into this process.
        return fixed(values, pa.from_numpy_dtype(values.dtype), bits(~missing))

    def _defined(self, name: str) -> npt.NDArray[np.bool_]:
        defined = np.zeros(max(self.members) + 1, np.bool_)
        defined[list(self._has[name])] = True
        return defined

    def _hit(self, probes: npt.NDArray[np.uint16]) -> set[int]:
        """Return the probes of these records: a table may have many that are never hit."""
        if len(self.members) == 1:
            return set(self.members)
        return set(np.flatnonzero(np.bincount(probes)).tolist())

    def _texts_by_probe(self, batch: _Batch, texts: Mapping[int, str]) -> npt.NDArray[np.uint32]:
        """Return the numbers of texts that all records of a probe have in common."""
        known = {probe: batch.number(text) for probe, text in texts.items() if probe in batch.hit}
        return np.asarray(self._by_probe(batch.probes, known), np.uint32)

    def _by_probe(self, probes: npt.NDArray[np.uint16], values: Mapping[int, int]) -> Any:
        if len(self.members) == 1:
            return np.full(len(probes), next(iter(values.values())), _fitting(values.values()))
        known: npt.NDArray[Any] = np.zeros(max(self.members) + 1, _fitting(values.values()))
        for probe, value in values.items():
            known[probe] = value
        return known[probes]


def _fitting(values: Any) -> type:
    known = list(values)
    if any(value < 0 for value in known):
        return np.int64
    return np.uint32 if all(value < 1 << 32 for value in known) else np.uint64


def _label(source: Source) -> str:
    return source.name if isinstance(source, Written) else source.label


def _meaning(value: Expression | str) -> str:
    return f"always {value}" if isinstance(value, str | Constant) else repr(value)


def _unit(name: str) -> str:
    for suffix, unit in (("_ns", "ns"), ("_us", "µs"), ("_bytes", "bytes")):
        if name.endswith(suffix):
            return unit
    return ""

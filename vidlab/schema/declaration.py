"""What a table's declaration is made of: columns, records, tables."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

#: The value in a record's signed column that stands for "not known".
UNKNOWN = -(1 << 63)

TEXT = pa.dictionary(pa.int32(), pa.string())

#: What the Arrow schema of a declared table, and its fields, have in their metadata: the
#: table's name, meanings, units, and that a column's numbers are those of interned names.
TABLE, MEANING, UNIT, HOLDS = "vidlab.table", "vidlab.meaning", "vidlab.unit", "vidlab.holds"
NAMES = "names"


@dataclass(frozen=True)
class Column:
    """A column of a finished table: Arrow type, unit ('' if none) and meaning."""

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""


@dataclass(frozen=True)
class Record:
    """The fixed-size record of a table that is written from a hot path.

    `fields` are (name, `struct` character) in the order in which they are
    packed, little-endian and without padding. The **last field is the commit
    mark**: it is never zero in a whole record and, as `struct.pack_into` writes
    the fields in order, it is written last. A reader takes the records whose
    mark is not zero, so that a process killed half-way through a record leaves
    nothing false behind.
    """

    fields: tuple[tuple[str, str], ...]

    @cached_property
    def struct(self) -> struct.Struct:
        """Packs and unpacks one record."""
        return struct.Struct("<" + "".join(code for _, code in self.fields))

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        """The same record as a NumPy structured type."""
        return np.dtype([(name, "<" + _NUMPY_CODES[code]) for name, code in self.fields])

    @property
    def commit(self) -> str:
        """The name of the commit mark."""
        return self.fields[-1][0]

    @property
    def size(self) -> int:
        """Bytes of one record."""
        return self.struct.size


_NUMPY_CODES = {
    "b": "i1",
    "B": "u1",
    "h": "i2",
    "H": "u2",
    "i": "i4",
    "I": "u4",
    "q": "i8",
    "Q": "u8",
    "f": "f4",
    "d": "f8",
}


@dataclass(frozen=True)
class Table:
    """A table of a run.

    Every table but the side tables has the common columns `t_ns`, `pid`, `tid`
    and the labels. `record` is set where a hot path writes the table. A table that is
    `declared` is of one recording (see `kernel`): its files say what it is.
    """

    name: str
    meaning: str
    own: tuple[Column, ...]
    record: Record | None = None
    event: bool = True
    declared: bool = False
    columns: tuple[Column, ...] = field(init=False)

    def __post_init__(self) -> None:
        columns = (*COMMON, *self.own, *LABELS) if self.event else self.own
        object.__setattr__(self, "columns", columns)

    def __hash__(self) -> int:
        return hash(self.name)  # schemas are looked up by table: this is cheap, and enough

    @cached_property
    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema of the finished table."""
        return self.schema(self.columns, lambda column: column.type)

    def schema(
        self, columns: Iterable[Column], type_of: Callable[[Column], pa.DataType]
    ) -> pa.Schema:
        """Return an Arrow schema of these columns; that of a declared table says what they mean."""
        if not self.declared:
            return pa.schema([pa.field(c.name, type_of(c)) for c in columns])
        fields = []
        for column in columns:
            said = {MEANING: column.meaning, UNIT: column.unit}
            type = type_of(column)
            if column.type == TEXT and pa.types.is_integer(type):
                said[HOLDS] = NAMES
            known = {key: text for key, text in said.items() if text}
            fields.append(pa.field(column.name, type, metadata=known))
        return pa.schema(fields, metadata={TABLE: self.name, MEANING: self.meaning})


COMMON = (
    Column("t_ns", pa.int64(), "when it happened, or began", "ns"),
    Column("pid", pa.int32(), "the process"),
    Column("tid", pa.int32(), "the thread, as the kernel numbers it"),
)

LABELS = (
    Column("labels", pa.uint32(), "the label set, a row of the table `labels`; 0 is the empty set"),
    Column("stream_id", TEXT, "the video stream"),
    Column("codec", TEXT, "the input's codec, normalised: h264, hevc, av1, vp9, …"),
    Column("gpu", pa.int16(), "the index of the device that works on it; null if none does"),
)

FRAME = Column("frame", pa.uint64(), "the video frame, a row of the table `frames`")

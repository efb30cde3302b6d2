"""Tables of kernel and driver events, and of what was counted of them.

What a probe records is declared by whoever records it, so these tables are not known
beforehand: `kernel_table` makes one, the run's files carry its declaration (in the
metadata of their Arrow schema), and `declared` reads it from there. Processes of one
run may declare a table each in its own way; `united` is what holds the rows of all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import reduce

import pyarrow as pa

from ..errors import InputError
from .declaration import (
    COMMON,
    FRAME,
    HOLDS,
    LABELS,
    MEANING,
    NAMES,
    TABLE,
    TEXT,
    UNIT,
    Column,
    Table,
)

#: How the name of every table begins that a recording declares.
PREFIX = "kernel_"

#: What kernel_table puts between the common columns and a probe's own.
BASE = (
    Column("cpu", pa.uint16(), "the CPU, as the kernel numbers it"),
    Column("span", pa.uint64(), "the thread's innermost open span, a row of the table `spans`"),
    FRAME,
)

TABLES = (
    Table(
        "kernel_metrics",
        "what was counted in the kernel: a counter's, or a histogram bucket's, growth",
        (
            Column("metric", TEXT, "its name"),
            Column("kind", TEXT, "counter or histogram"),
            Column("low", pa.float64(), "the bucket's least value, in `unit`; null of a counter"),
            Column("high", pa.float64(), "where the bucket ends, in `unit`; null of a counter"),
            Column("count", pa.int64(), "how many events since the row before"),
            Column("unit", TEXT, "of the values; null of a counter"),
        ),
    ),
    Table(
        "kernel_probes",
        "a place that a probe was attached to, and what came of it",
        (
            Column("into", TEXT, "the table that its events are in, or its metric"),
            Column("probe", TEXT, "the probe's name"),
            Column("library", TEXT, "the file that it was attached in, or the event's category"),
            Column("symbol", TEXT, "the function, or the event"),
            Column("how", TEXT, "session, entry and return, entry, tracepoint, usdt, …"),
            Column("hits", pa.int64(), "how often it fired"),
            Column("emitted", pa.int64(), "of these: written as events, or counted"),
            Column("filtered", pa.int64(), "of these: left out by the probe's condition"),
            Column("sampled_out", pa.int64(), "of these: left out by sampling"),
            Column("lost", pa.int64(), "of these: lost, as a buffer of the kernel was full"),
            Column("misses", pa.int64(), "further ones that the kernel did not run the probe for"),
        ),
    ),
)

_NAME = re.compile(r"[A-Za-z0-9_]{1,180}")
_RESERVED = frozenset({column.name for column in (*COMMON, *BASE, *LABELS)} | {"sample_rate"})


def kernel_table(name: str, own: Iterable[Column] = (), meaning: str = "") -> Table:
    """Return the table of a probe's events: `kernel_` and this name, which may have it already.

    It has the common columns, `cpu`, `span`, `frame`, the probe's own and the labels.

    Parameters
    ----------
    name : str
        Letters, digits and underscores, such as the symbol's name; its case is kept.
    own : iterable of Column
        Numbers, booleans, `pa.string()`, or `TEXT` for texts that come again and again.
    meaning : str, optional
        What one of its rows is.

    Raises
    ------
    InputError
        If the name or a column's is not one that a table can have, or of a type that it can't.
    """
    plain = name.removeprefix(PREFIX)
    if not _NAME.fullmatch(plain) or PREFIX + plain in {table.name for table in TABLES}:
        raise InputError(
            f"a table of kernel events cannot be called {name!r}: give the probe a name of "
            "letters, digits and underscores, at most 180, other than metrics and probes"
        )
    own = tuple(own)
    seen = set(_RESERVED)
    for column in own:
        if not column.name.isidentifier() or column.name in seen:
            raise InputError(
                f"the table {PREFIX}{plain} cannot have the field {column.name!r}: it must be "
                "an identifier, used once, and none of those that every event has "
                f"({', '.join(sorted(_RESERVED))})"
            )
        if not _is_usable(column.type):
            raise InputError(
                f"the field {column.name!r} of the table {PREFIX}{plain} is {column.type}; "
                "fields are numbers, booleans or text"
            )
        seen.add(column.name)
    return Table(PREFIX + plain, meaning, (*BASE, *own), declared=True)


def declared(name: str, schema: pa.Schema) -> Table:
    """Return the table that a file of a run declares.

    Parameters
    ----------
    name : str
        The table's, as the file is named.
    schema : pyarrow.Schema
        The file's; of segments or of a finished table.

    Raises
    ------
    ValueError
        If that is no declaration of this table: the file is damaged, or somebody else's.
    """
    said = _said(schema)
    if said.get(TABLE) != name or not name.startswith(PREFIX):
        raise ValueError(f"it does not declare {name}")
    if len(set(schema.names)) != len(schema.names):
        raise ValueError("two of its columns have one name")
    common = {column.name: column.type for column in (*COMMON, *BASE, LABELS[0])}
    apart = {column.name for column in (*COMMON, *LABELS)}
    own = []
    for field in schema:
        about = _said(field)
        type = TEXT if about.get(HOLDS) == NAMES else field.type
        is_named = type != TEXT or field.type in (TEXT, pa.uint32())
        if type != common.get(field.name, type) or not is_named or not _is_usable(type):
            raise ValueError(f"its column {field.name} is {field.type}")
        if field.name not in apart:
            own.append(Column(field.name, type, about.get(MEANING, ""), about.get(UNIT, "")))
    return Table(name, said.get(MEANING, ""), tuple(own), declared=True)


def united(tables: Sequence[Table]) -> tuple[Table, list[str]]:
    """Return one table that holds the rows of all these, and what a reader should know of it.

    The tables have one name. Where they differ in a column's type it has one that holds
    the values of both: the wider, or text.
    """
    if len(tables) == 1:
        return tables[0], []
    notes: list[str] = []
    columns: dict[str, Column] = {}
    for table in tables:
        for column in table.own:
            known = columns.setdefault(column.name, column)
            where = f"the table {table.name} has the column {column.name}"
            if known.unit != column.unit:
                notes.append(f"{where} both in {known.unit or '1'} and in {column.unit or '1'}")
            if known.type != column.type:
                type = _wider(known.type, column.type)
                notes.append(
                    f"{where} both as {_word(known.type)} and as {_word(column.type)}: "
                    f"it is read as {_word(type)}"
                )
                columns[column.name] = Column(known.name, type, known.meaning, known.unit)
    meaning = reduce(lambda known, table: known or table.meaning, tables, "")
    whole = Table(tables[0].name, meaning, tuple(columns.values()), declared=True)
    return whole, list(dict.fromkeys(notes))


def _said(schema: pa.Schema | pa.Field) -> dict[str, str]:
    """Return what a schema or field has in its metadata."""
    known = schema.metadata or {}
    return {key.decode("utf-8", "replace"): text.decode("utf-8", "replace")
            for key, text in known.items()}  # fmt: skip


def _is_usable(type: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string)
    return type == TEXT or any(is_kind(type) for is_kind in kinds)


def _wider(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    """Return a type for the values of both."""
    both = (a, b)
    if pa.string() in both and TEXT in both:
        return pa.string()
    if TEXT in both or pa.string() in both:
        return TEXT
    if any(pa.types.is_boolean(type) for type in both):
        return a if pa.types.is_boolean(b) else b
    if any(pa.types.is_floating(type) for type in both):
        return pa.float64()
    bits = max(type.bit_width for type in both)
    if pa.types.is_signed_integer(a) == pa.types.is_signed_integer(b):
        return a if a.bit_width == bits else b
    unsigned = max(type.bit_width for type in both if pa.types.is_unsigned_integer(type))
    if unsigned == 64:  # no integer holds both
        return TEXT
    return {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}[unsigned] if unsigned >= bits else (
        a if pa.types.is_signed_integer(a) else b
    )  # fmt: skip


def _word(type: pa.DataType) -> str:
    return "text" if type == TEXT else str(type)

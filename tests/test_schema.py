"""Tables that a recording declares: what they may be, and that their files say it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from vidlab.errors import InputError
from vidlab.schema import (
    COMMON,
    LABELS,
    TABLES,
    TEXT,
    Column,
    Table,
    declared,
    kernel,
    kernel_table,
    united,
)

OWN = (
    Column("size_bytes", pa.int64(), "what was asked for", "bytes"),
    Column("symbol", TEXT, "the function"),
    Column("asynchronous", pa.bool_(), "it did not wait"),
    Column("ratio", pa.float32(), ""),
    Column("message", pa.string(), "größer"),
)


def test_a_kernel_table_has_what_every_event_has_and_its_own() -> None:
    table = kernel_table("cuMemAlloc_v2", OWN, "an allocation")
    assert (table.name, table.meaning) == ("kernel_cuMemAlloc_v2", "an allocation")
    names = [column.name for column in table.columns]
    assert names[:6] == ["t_ns", "pid", "tid", "cpu", "span", "frame"]
    assert names[6:11] == [column.name for column in OWN]
    assert names[11:] == [column.name for column in LABELS]
    assert table.columns[:3] == COMMON
    assert kernel_table("kernel_cuMemAlloc_v2", OWN, "an allocation") == table


@pytest.mark.parametrize(
    "name", ["", "kernel_", "a-b", "a/b", "ä", "metrics", "kernel_probes", "x" * 181, "a\n"]
)
def test_names_that_a_table_cannot_have(name: str) -> None:
    with pytest.raises(InputError, match="letters, digits"):
        kernel_table(name)


@pytest.mark.parametrize(
    "name", ["t_ns", "cpu", "span", "frame", "labels", "gpu", "sample_rate", "two words", "", "9a"]
)
def test_fields_that_a_table_cannot_have(name: str) -> None:
    with pytest.raises(InputError, match="cannot have the field"):
        kernel_table("x", [Column(name, pa.int64(), "")])


def test_a_field_is_there_once_and_of_a_plain_type() -> None:
    with pytest.raises(InputError, match="used once"):
        kernel_table("x", [OWN[0], OWN[0]])
    with pytest.raises(InputError, match="numbers, booleans or text"):
        kernel_table("x", [Column("a", pa.list_(pa.int8()), "")])


def test_the_arrow_schema_says_what_the_table_is() -> None:
    table = kernel_table("x", OWN, "a hit")
    assert declared("kernel_x", table.arrow_schema) == table
    again = pa.ipc.read_schema(pa.py_buffer(table.arrow_schema.serialize()))
    assert declared("kernel_x", again) == table
    assert again.field("size_bytes").metadata == {
        b"vidlab.meaning": b"what was asked for",
        b"vidlab.unit": b"bytes",
    }
    assert TABLES["spans"].arrow_schema.metadata is None


def changed(**types: pa.DataType) -> pa.Schema:
    schema = kernel_table("x", OWN).arrow_schema
    for name, type in types.items():
        at = schema.get_field_index(name)
        schema = schema.set(at, schema.field(at).with_type(type))
    return schema


NOT_A_DECLARATION = {
    "nothing said": kernel_table("x").arrow_schema.remove_metadata(),
    "another table": kernel_table("y").arrow_schema,
    "times are no numbers": changed(t_ns=pa.string()),
    "spans of another size": changed(span=pa.uint32()),
    "labels of another size": changed(labels=pa.int64()),
    "a nested column": changed(size_bytes=pa.list_(pa.int8())),
    "names that are no numbers of names": kernel_table("x").arrow_schema.append(
        pa.field("symbol", pa.float64(), metadata={"vidlab.holds": "names"})
    ),
    "two of a name": kernel_table("x").arrow_schema.append(pa.field("cpu", pa.uint16())),
    "bytes that are no text": kernel_table("x").arrow_schema.with_metadata(
        {b"vidlab.table": b"\xff\xfe"}
    ),
}


@pytest.mark.parametrize("what", NOT_A_DECLARATION)
def test_what_is_no_declaration(what: str) -> None:
    with pytest.raises(ValueError, match=r"declare|column"):
        declared("kernel_x", NOT_A_DECLARATION[what])


def test_a_static_table_is_never_declared() -> None:
    spans = Table("spans", "", TABLES["spans"].own, declared=True)
    with pytest.raises(ValueError, match="spans"):
        declared("spans", spans.arrow_schema)


def with_field(type: pa.DataType, unit: str = "", name: str = "value") -> Table:
    return kernel_table("x", [Column(name, type, "", unit)])


@pytest.mark.parametrize(
    ("a", "b", "both"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.uint16(), pa.uint16()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.uint16(), pa.int8(), pa.int32()),
        (pa.uint32(), pa.int32(), pa.int64()),
        (pa.uint32(), pa.int64(), pa.int64()),
        (pa.uint64(), pa.int8(), TEXT),
        (pa.bool_(), pa.uint8(), pa.uint8()),
        (pa.bool_(), TEXT, TEXT),
        (pa.float32(), pa.int8(), pa.float64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (TEXT, pa.int64(), TEXT),
        (pa.string(), pa.int64(), TEXT),
        (pa.string(), TEXT, pa.string()),
    ],
)
def test_a_type_for_both(a: pa.DataType, b: pa.DataType, both: pa.DataType) -> None:
    for first, second in ((a, b), (b, a)):
        table, (note,) = united([with_field(first), with_field(second)])
        assert table == with_field(both)
        assert "value both as" in note
        assert note.endswith(f"read as {'text' if both == TEXT else both}")


def test_tables_are_united_by_column() -> None:
    first, second = with_field(pa.int8(), "ns"), with_field(pa.int8(), "µs", "other")
    table, notes = united([first, second, first])
    assert [column.name for column in table.own[-2:]] == ["value", "other"]
    assert notes == []
    _, (note,) = united([first, with_field(pa.int8(), "µs")])
    assert note == "the table kernel_x has the column value both in ns and in µs"
    assert united([first]) == (first, [])


def test_tables_of_what_was_counted_and_attached() -> None:
    for name in ("kernel_metrics", "kernel_probes"):
        assert TABLES[name].event
        assert TABLES[name].record is None
        assert not TABLES[name].declared
    assert kernel.PREFIX == "kernel_"

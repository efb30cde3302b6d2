"""The wire format, against its documentation's examples and one message at a time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidlab.formats import protobuf
from vidlab.formats.protobuf import Buffer, Field, ProtobufError, Rows

SIGNED = st.integers(-(1 << 63), (1 << 63) - 1)
NUMBERS = st.one_of(st.integers(1, 15), st.integers(1, (1 << 29) - 1))


@st.composite
def a_field(draw: st.DrawFn) -> bytes:
    number, kind = draw(NUMBERS), draw(st.sampled_from([0, 0, 1, 2, 2, 5]))
    out = bytearray(protobuf.varint(number << 3 | kind))
    if kind == 0:
        out += protobuf.varint(draw(st.integers(0, (1 << 64) - 1)))
    elif kind == 2:
        value = draw(st.binary(max_size=200))
        out += protobuf.varint(len(value)) + value
    else:
        size = 8 if kind == 1 else 4
        out += draw(st.binary(min_size=size, max_size=size))
    return bytes(out)


MESSAGES = st.lists(a_field(), max_size=6).map(b"".join)


def one_by_one(messages: list[tuple[int, int]], data: bytes) -> list[tuple[int, ...]] | None:
    """What `scan` is to find, by `fields`; None if a message is not whole."""
    found = []
    try:
        for index, (start, stop) in enumerate(messages):
            for field in protobuf.fields(data, start, stop):
                value = protobuf.signed(field.value) if field.type in (0, 2) else 0
                found.append((index, *field._replace(value=value)))
    except ProtobufError:
        return None
    return found


def listed(rows: Rows) -> list[tuple[int, ...]]:
    rows = rows.grouped()
    columns = (rows.message, rows.number, rows.type, rows.value, rows.begin, rows.start, rows.stop)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def scanned(messages: list[tuple[int, int]], data: bytes) -> list[tuple[int, ...]] | None:
    starts, stops = np.array(messages, np.int64).reshape(-1, 2).T
    try:
        return listed(Buffer(data, 1_000_000).scan(starts, stops))
    except ProtobufError:
        return None


def test_the_documentation_s_examples() -> None:
    # https://protobuf.dev/programming-guides/encoding/
    assert list(protobuf.fields(bytes.fromhex("089601"))) == [Field(1, 0, 150, 0, 3, 3)]
    text = b"\x12\x07testing"
    assert list(protobuf.fields(text)) == [Field(2, 2, 7, 0, 2, 9)]
    packed = bytes.fromhex("32068e029ea705")[2:]
    values, counts = Buffer(packed, 9).packed(np.array([0]), np.array([len(packed)]))
    assert (values.tolist(), counts.tolist()) == ([270, 86942], [2])
    out = bytearray()
    protobuf.put_varint(out, 1, 150)
    protobuf.put_bytes(out, 2, b"testing")
    protobuf.put_packed(out, 6, [3, 270, 86942])
    assert out == bytes.fromhex("089601") + text + bytes.fromhex("3206038e029ea705")


@settings(max_examples=100, deadline=None)
@given(SIGNED)
def test_a_number_is_read_as_it_was_written(value: int) -> None:
    data = protobuf.varint(value)
    read, after = protobuf.read_varint(data, 0, len(data))
    assert (protobuf.signed(read), after) == (value, len(data))
    assert len(data) <= 10


@settings(max_examples=40, deadline=None)
@given(st.lists(MESSAGES, max_size=40))
def test_many_messages_are_read_as_one_by_one(messages: list[bytes]) -> None:
    data = b"".join(messages)
    stops = np.cumsum([0, *map(len, messages)]).tolist()
    ranges = list(pairwise(stops))
    assert scanned(ranges, data) == one_by_one(ranges, data)


@settings(max_examples=60, deadline=None)
@given(MESSAGES, st.data())
def test_damaged_messages_are_refused_together_as_they_are_alone(
    message: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(message + b"\0")
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(damaged)))
    many = bytes(damaged[:length]) * 20
    ranges = [(at, at + length) for at in range(0, 20 * length, length)] if length else []
    assert scanned(ranges, many) == one_by_one(ranges, many)


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(max_size=60), MESSAGES))
def test_a_whole_message_is_read_as_its_fields(data: bytes) -> None:
    expected = one_by_one([(0, len(data))], data)
    try:
        found = listed(Buffer(data, 1000).top())
    except ProtobufError:
        assert expected is None
    else:
        assert found == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(SIGNED, max_size=5), max_size=12))
def test_packed_numbers_are_read_as_they_were_written(lists: list[list[int]]) -> None:
    parts = [b"".join(map(protobuf.varint, values)) for values in lists]
    stops = np.cumsum([0, *map(len, parts)])
    values, counts = Buffer(b"".join(parts), 1000).packed(stops[:-1], stops[1:])
    assert values.tolist() == [value for values in lists for value in values]
    assert counts.tolist() == [len(values) for values in lists]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x12\x07test", "cut off"),
        (b"\x08", "cut off"),
        (b"\x09\0\0", "cut off"),
        (b"\x08" + b"\xff" * 10, "more than 64 bits"),
        (b"\x00\x00", "number 0"),
        (b"\x0b", "wire type 3"),
        (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "cut off"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ProtobufError, match=message):
        list(protobuf.fields(data))
    count = 12
    starts = np.arange(count) * len(data)
    with pytest.raises(ProtobufError, match=message):
        Buffer(data * count, 1000).scan(starts, starts + len(data))
    with pytest.raises(ProtobufError, match=message):
        Buffer(data, 1000).top()


@pytest.mark.parametrize(
    ("data", "message"), [(b"\x01\x80", "cut off"), (b"\xff" * 10 + b"\x01", "64 bits")]
)
def test_packed_numbers_that_are_not_whole_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ProtobufError, match=message):
        Buffer(b"\x05" + data, 1000).packed(np.array([0, 1, 1]), np.array([1, 1, 1 + len(data)]))


def test_fields_beyond_the_limit_are_not_read() -> None:
    data = b"\x08\x01" * 100
    begin, end = np.array([0]), np.array([200])
    assert len(Buffer(data, 100).top()) == len(Buffer(data, 100).scan(begin, end)) == 100
    assert len(Buffer(data, 200).packed(begin, end)[0]) == 200
    for read in (
        lambda: Buffer(data, 99).top(),
        lambda: Buffer(data, 99).scan(begin, end),
        lambda: Buffer(data, 99).scan(np.arange(0, 200, 2), np.arange(2, 201, 2)),
        lambda: Buffer(data, 199).packed(begin, end),
    ):
        with pytest.raises(ProtobufError, match="more fields"):
            read()

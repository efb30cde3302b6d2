"""The protobuf wire format: reading one message or many at once, and writing.

Only the encoding is known here, no schema: a message is a sequence of fields, each a
number, a wire type and a value (https://protobuf.dev/programming-guides/encoding/).
Groups, which proto3 does not have, are refused.

`fields` walks through one message. `scan` reads thousands of small messages of the same kind
together with NumPy, a field of each at a time: a few µs a message instead of a µs a byte.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError

#: The wire types.
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5

Ints = npt.NDArray[np.int64]

_MASK = (1 << 64) - 1
#: The longest varint: ten groups of seven bits.
_LONGEST = 10
#: The greatest field number.
_GREATEST = (1 << 29) - 1
#: So few messages are read one by one: NumPy's calls would cost more.
_FEW = 8

#: What follows the tag, per wire type: bytes; 0 for a varint, -1 for types not in use.
_SIZES = np.array([0, 8, 0, -1, -1, 4, -1, -1], np.int64)


class ProtobufError(InputError):
    """Bytes that are no protobuf message."""


class Field(NamedTuple):
    """A field of a message.

    `value` is its number, or the length of its bytes, which are `[start, stop)`. The
    field as a whole, with its tag, is `[begin, stop)`.
    """

    number: int
    type: int
    value: int
    begin: int
    start: int
    stop: int


def read_varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """Return the varint at this position, modulo 2^64, and the position after it.

    Raises
    ------
    ProtobufError
        If it goes on beyond `stop`, or for more than ten bytes.
    """
    value = shift = 0
    for place in range(at, min(at + _LONGEST, stop)):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK, place + 1
        shift += 7
    raise _cut_off(at) if stop - at < _LONGEST else _too_long(at)


def fields(data: bytes, start: int = 0, stop: int | None = None) -> Iterator[Field]:
    """Yield the fields of the message `data[start:stop]`, in their order.

    Raises
    ------
    ProtobufError
        If it is not a whole message.
    """
    at, end = start, len(data) if stop is None else stop
    while at < end:
        begin = at
        tag, at = read_varint(data, at, end)
        number, type = tag >> 3, tag & 7
        value, after = 0, at
        if type in (VARINT, LENGTH):
            value, at = read_varint(data, at, end)
            after = at + value if type == LENGTH else at
        elif type in (FIXED64, FIXED32):
            after = at + (8 if type == FIXED64 else 4)
            value = int.from_bytes(data[at:after], "little")
        else:
            raise _bad_type(type, begin)
        if not 1 <= number <= _GREATEST:
            raise _bad_number(number, begin)
        if after > end:
            raise _cut_off(begin)
        yield Field(number, type, value, begin, at, after)
        at = after


@dataclass(frozen=True, slots=True)
class Rows:
    """Fields of many messages, as columns of equal length.

    `message` is the index of the message that a field belongs to; the others are as in
    `Field`, but values above 2^63 are negative: in two's complement, and those of a fixed
    size are 0. Fields of one message are in their order, those of different ones mixed.
    """

    message: Ints
    number: Ints
    type: Ints
    value: Ints
    begin: Ints
    start: Ints
    stop: Ints

    def __len__(self) -> int:
        return len(self.message)

    def where(self, mask: npt.NDArray[np.bool_]) -> Rows:
        """Return the rows that the mask marks."""
        return self._take(np.flatnonzero(mask))

    def grouped(self) -> Rows:
        """Return the rows sorted by message, those of one message in their order."""
        if (self.message[1:] >= self.message[:-1]).all():
            return self
        return self._take(np.argsort(self.message, kind="stable"))

    def _take(self, index: Ints) -> Rows:
        return Rows(*[getattr(self, name)[index] for name in self.__slots__])


#: Of no message at all.
NO_ROWS = Rows(*[np.empty(0, np.int64)] * 7)


class Buffer:
    """Bytes to be scanned, and how many fields may still be found in them.

    Parameters
    ----------
    data : bytes
    most : int
        The fields that all scans together may find: each takes some 60 bytes of memory,
        while two bytes of input make one.
    """

    def __init__(self, data: bytes, most: int) -> None:
        self.data = data
        # A varint is read without looking whether the data ends in it: see `_varints`.
        self._bytes = np.frombuffer(data + bytes(_LONGEST), np.uint8)
        self._left = most

    def top(self) -> Rows:
        """Return the fields of the whole buffer, as one message.

        Raises
        ------
        ProtobufError
            If it is not a whole message, or of too many fields.
        """
        data, end, at = self.data, len(self.data), 0
        room = end - 1
        begins = array("q")
        note = begins.append
        for _ in range(self._left + 1):
            if at >= end:
                break
            note(at)
            # Nearly all fields of a large message: a tag of a byte, a length of a byte.
            if data[at] & 0x87 == LENGTH and at < room and (size := data[at + 1]) < 0x80:
                at += 2 + size
            else:
                at = next(fields(data, at, end)).stop
        self._spend(len(begins))
        if not begins:
            return NO_ROWS
        at_all = np.frombuffer(begins, np.int64)
        return Rows(np.zeros_like(at_all), *self._step(at_all, np.full_like(at_all, end)))

    def scan(self, starts: Ints, stops: Ints) -> Rows:
        """Return the fields of the messages `[start, stop)`, all of them together.

        Raises
        ------
        ProtobufError
            If one is not a whole message, or there are too many fields.
        """
        parts: list[tuple[Ints, ...]] = []
        message = np.flatnonzero(starts < stops)
        at, end = starts[message], stops[message]
        while len(message) > _FEW:
            self._spend(len(message))
            part = self._step(at, end)
            parts.append((message, *part))
            at = part[-1]
            more = at < end
            if not more.all():
                message, at, end = message[more], at[more], end[more]
        rest = array("q")
        for index, start, stop in zip(message.tolist(), at.tolist(), end.tolist(), strict=True):
            for field in fields(self.data, start, stop):
                self._spend(1)
                counted = field.type in (VARINT, LENGTH)
                rest.extend((index, *field._replace(value=counted and signed(field.value))))
        parts.append(tuple(np.array(rest, np.int64).reshape(-1, 7).T))
        return Rows(*[np.concatenate(column) for column in zip(*parts, strict=True)])

    def packed(self, starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
        """Return the varints in the ranges `[start, stop)`, one after the other, and how many
        there are in each.

        Raises
        ------
        ProtobufError
            If a varint is not whole, or too long.
        """
        ranges = zip(starts.tolist(), stops.tolist(), strict=True)
        data = np.frombuffer(b"".join([self.data[a:b] for a, b in ranges]), np.uint8)
        edges = np.cumsum(stops - starts)
        whole = data < 0x80
        self._spend(int(np.count_nonzero(whole)))
        # The last byte of each range, unless there is none, ends a number.
        cut = ~whole[edges[stops > starts] - 1]
        if cut.any():
            raise _cut_off(int(starts[stops > starts][cut][0]))
        ends = np.flatnonzero(whole)
        if not len(ends):
            return np.empty(0, np.int64), np.zeros(len(starts), np.int64)
        begins = np.concatenate(([0], ends[:-1] + 1))
        further = ends - begins
        longest = int(further.max())
        counts = np.diff(np.searchsorted(ends, edges), prepend=0)
        if longest >= _LONGEST:
            raise _too_long(int(starts[np.searchsorted(edges, ends[further.argmax()], "right")]))
        values = (data[begins] & 0x7F).astype(np.int64)
        for place in range(1, longest + 1):
            more = np.flatnonzero(further >= place)
            part = (data[begins[more] + place] & 0x7F).astype(np.int64)
            values[more] |= part << 7 * place
        return values, counts

    def _step(self, at: Ints, end: Ints) -> tuple[Ints, ...]:
        """Return the field at each position: its columns, in the order of `Field`."""
        tag, start = self._varints(at, end)
        # A tag of 64 bits is negative, and then shifted it still is.
        number, type = tag >> 3, tag & 7
        wrong = (number < 1) | (number > _GREATEST)
        if wrong.any():
            raise _bad_number(int(number[wrong][0]), int(at[wrong][0]))
        size = _SIZES[type]
        if (size < 0).any():
            raise _bad_type(int(type[size < 0][0]), int(at[size < 0][0]))
        counted = size == 0
        if counted.all():
            value, start = self._varints(start, end)
        else:
            value, start = np.zeros_like(at), start.copy()
            value[counted], start[counted] = self._varints(start[counted], end[counted])
        size += np.where(type == LENGTH, value, 0)
        beyond = (size < 0) | (size > end - start)
        if beyond.any():
            raise _cut_off(int(at[beyond][0]))
        return number, type, value, at, start, start + size

    def _varints(self, at: Ints, end: Ints) -> tuple[Ints, Ints]:
        """Return the varint at each position, modulo 2^64, and the position after it.

        It begins before its end; whether it ends there too is for the caller to see.
        """
        if (at >= end).any():
            raise _cut_off(int(at[at >= end][0]))
        byte = self._bytes[at]
        more = np.flatnonzero(byte >= 0x80)
        after = at + 1
        if not len(more):
            return byte.astype(np.int64), after
        value = (byte & 0x7F).astype(np.int64)
        for place in range(1, _LONGEST + 1):
            if place == _LONGEST:
                raise _too_long(int(at[more[0]]))
            byte = self._bytes[at[more] + place]
            value[more] |= (byte & 0x7F).astype(np.int64) << 7 * place
            after[more] += 1
            more = more[byte >= 0x80]
            if not len(more):
                break
        return value, after

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise _too_many()


def signed(value: int) -> int:
    """Return a number of 64 bits without a sign as the one of the same bits with a sign."""
    return value - (value >> 63 << 64)


def varint(value: int) -> bytes:
    """Return a number of at most 64 bits as a varint; a negative one in two's complement."""
    value &= _MASK
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def put_varint(out: bytearray, number: int, value: int) -> None:
    """Append a field of a number. Zero, the default of proto3, is left out."""
    if value:
        out += varint(number << 3 | VARINT)
        out += varint(value)


def put_bytes(out: bytearray, number: int, value: bytes | bytearray) -> None:
    """Append a field of bytes, text or a message: also if it is empty."""
    out += varint(number << 3 | LENGTH)
    out += varint(len(value))
    out += value


def put_packed(out: bytearray, number: int, values: Iterable[int]) -> None:
    """Append a repeated field of numbers, packed; nothing if there are none."""
    packed = b"".join(map(varint, values))
    if packed:
        put_bytes(out, number, packed)


def _cut_off(at: int) -> ProtobufError:
    return ProtobufError(f"the field at byte {at} is cut off")


def _too_long(at: int) -> ProtobufError:
    return ProtobufError(f"the number at byte {at} has more than 64 bits")


def _bad_number(number: int, at: int) -> ProtobufError:
    return ProtobufError(f"byte {at} begins a field of the number {number}, which there is not")


def _bad_type(type: int, at: int) -> ProtobufError:
    return ProtobufError(f"byte {at} begins a field of the wire type {type}, which is not in use")


def _too_many() -> ProtobufError:
    return ProtobufError("it has more fields than are read of one file or message")

"""The messages of a pprof file as columns of numbers, references checked.

What both readers (`reading`, `extracting`) begin with. Numbers into the string table, and of
mappings, locations and functions, become indices; -1 is "none".
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .. import protobuf
from ..protobuf import NO_ROWS, Buffer, Ints, Rows
from .model import Limits, PprofError

#: How a field is to be read: a number; a number of the string table; a message; many
#: numbers; text.
INT, TEXT, MESSAGE, INTS, BYTES = range(5)

Message = Mapping[int, tuple[str, int]]

VALUE_TYPE: Message = {1: ("type", TEXT), 2: ("unit", TEXT)}
LABEL: Message = {1: ("key", TEXT), 2: ("text", TEXT), 3: ("number", INT), 4: ("unit", TEXT)}
MAPPING: Message = {
    1: ("id", INT),
    2: ("memory_start", INT),
    3: ("memory_limit", INT),
    4: ("file_offset", INT),
    5: ("filename", TEXT),
    6: ("build_id", TEXT),
    7: ("has_functions", INT),
    8: ("has_filenames", INT),
    9: ("has_line_numbers", INT),
    10: ("has_inline_frames", INT),
}
FUNCTION: Message = {
    1: ("id", INT),
    2: ("name", TEXT),
    3: ("system_name", TEXT),
    4: ("filename", TEXT),
    5: ("start_line", INT),
}
LINE: Message = {1: ("function", INT), 2: ("line", INT), 3: ("column", INT)}
LOCATION: Message = {
    1: ("id", INT),
    2: ("mapping", INT),
    3: ("address", INT),
    4: ("lines", MESSAGE),
    5: ("is_folded", INT),
}
SAMPLE: Message = {1: ("locations", INTS), 2: ("values", INTS), 3: ("labels", MESSAGE)}
PROFILE: Message = {
    1: ("sample_types", MESSAGE),
    2: ("samples", MESSAGE),
    3: ("mappings", MESSAGE),
    4: ("locations", MESSAGE),
    5: ("functions", MESSAGE),
    6: ("strings", BYTES),
    7: ("drop_frames", TEXT),
    8: ("keep_frames", TEXT),
    9: ("time_nanos", INT),
    10: ("duration_nanos", INT),
    11: ("period_type", MESSAGE),
    12: ("period", INT),
    13: ("comments", INTS),
    14: ("default_sample_type", TEXT),
    15: ("doc_url", TEXT),
}

_GZIP = b"\x1f\x8b"

_WIRE_TYPES = {
    INT: (protobuf.VARINT,),
    TEXT: (protobuf.VARINT,),
    MESSAGE: (protobuf.LENGTH,),
    INTS: (protobuf.VARINT, protobuf.LENGTH),
    BYTES: (protobuf.LENGTH,),
}


@dataclass(frozen=True, slots=True)
class Many:
    """Values of which each message has several: those of message `i` are
    `values[edges[i]:edges[i + 1]]`."""

    values: Ints
    edges: Ints

    @property
    def counts(self) -> Ints:
        """Return how many there are of each message."""
        return np.diff(self.edges)


class Messages:
    """Messages of one kind, in the order of the file.

    Parameters
    ----------
    file : File
        What they are in.
    kind : Message
        Their fields.
    owner : ndarray of int64
        The index of the message that each is part of, ascending.
    owners : int
        How many of these there are.
    rows : Rows
        All their fields.

    Attributes
    ----------
    owner : ndarray of int64
    count : int
        How many they are.
    """

    def __init__(self, file: File, kind: Message, owner: Ints, owners: int, rows: Rows) -> None:
        self._file = file
        self.owner, self._owners = owner, owners
        self.count = len(owner)
        self._columns: dict[str, Ints] = {}
        self._rows: dict[str, Rows] = {}
        known = np.zeros(len(rows), np.bool_)
        for number, (name, how) in kind.items():
            mask = rows.number == number
            if not mask.any():
                continue
            known |= mask
            mine = rows.where(mask)
            if not np.logical_or.reduce([mine.type == type for type in _WIRE_TYPES[how]]).all():
                raise PprofError(f"not a pprof profile: its {name} are of another type")
            self._rows[name] = mine
        self._unknown = None if known.all() else rows.where(~known).grouped()

    def numbers(self, name: str) -> Ints:
        """Return a number of each message, 0 where it has none; the last if it has several."""
        if name not in self._columns:
            column = np.zeros(self.count, np.int64)
            rows = self._rows.get(name)
            if rows is not None:
                # Of a field that comes twice the last one counts: NumPy assigns in order.
                column[rows.message] = rows.value
            self._columns[name] = column
        return self._columns[name]

    def texts(self, name: str) -> Ints:
        """Return the same, checked to be indices of the string table."""
        return self._file.checked(self.numbers(name), name)

    def many(self, name: str) -> Many:
        """Return the numbers of each message, packed or not."""
        rows = self._rows.get(name)
        if rows is None:
            return Many(np.empty(0, np.int64), np.zeros(self.count + 1, np.int64))
        rows = rows.grouped()
        packed = rows.type == protobuf.LENGTH
        values, counts = self._file.buffer.packed(rows.start[packed], rows.stop[packed])
        if not packed.all():
            each = np.ones(len(rows), np.int64)
            each[packed] = counts
            single = np.cumsum(each)[~packed] - 1
            flat = np.empty(int(each.sum()), np.int64)
            rest = np.ones(len(flat), np.bool_)
            rest[single] = False
            flat[single], flat[rest] = rows.value[~packed], values
            values, counts = flat, each
        ends = np.concatenate(([0], np.cumsum(counts)))
        edges = ends[np.searchsorted(rows.message, np.arange(self.count + 1))]
        return Many(values, edges)

    def parts(self, name: str, kind: Message) -> Messages:
        """Return the messages that these contain, sorted by what contains them."""
        found = self._rows.get(name, NO_ROWS).grouped()
        rows = self._file.buffer.scan(found.start, found.stop)
        return Messages(self._file, kind, found.message, self.count, rows)

    def unknown(self) -> dict[int, bytes]:
        """Return the fields of each message that are not known here, if it has any."""
        if self._unknown is None:
            return {}
        found: dict[int, bytearray] = {}
        data, rows = self._file.buffer.data, self._unknown
        ranges = (rows.message.tolist(), rows.begin.tolist(), rows.stop.tolist())
        for message, begin, stop in zip(*ranges, strict=True):
            found.setdefault(message, bytearray()).extend(data[begin:stop])
        return {message: bytes(fields) for message, fields in found.items()}

    @property
    def edges(self) -> Ints:
        """Return where the messages of each owner begin among these; then their number."""
        return np.searchsorted(self.owner, np.arange(self._owners + 1))

    def indices(self, name: str, of: Messages) -> Ints:
        """Return the index, among the messages `of`, of the id that each refers to; -1 for 0."""
        return of.find(self.numbers(name), name)

    def find(self, ids: Ints, what: str) -> Ints:
        """Return the index of the message of each of these ids; -1 for the id 0.

        Raises
        ------
        PprofError
            If there is none, or two have the same id, or one has 0.
        """
        own = self.numbers("id")
        if np.array_equal(own, np.arange(1, self.count + 1)):
            wrong = (ids < 0) | (ids > self.count)
            index = ids - 1
        else:
            order = np.argsort(own, kind="stable")
            ranked = own[order]
            if (ranked[1:] == ranked[:-1]).any() or (own == 0).any():
                raise PprofError("not a pprof profile: two messages have one id, or one has none")
            place = np.searchsorted(ranked, ids)
            if self.count:
                place = np.minimum(place, self.count - 1)
                found = ranked[place] == ids
                index = np.where(ids == 0, -1, order[place])
                wrong = ~found & (ids != 0)
            else:
                index, wrong = np.full(len(ids), -1, np.int64), ids != 0
        if wrong.any():
            raise PprofError(
                f"not a pprof profile: it refers to the {what} "
                f"{int(ids[wrong][0])}, which is not in it"
            )
        return index


class File(Messages):
    """A pprof file's messages.

    Attributes
    ----------
    buffer : Buffer
    strings : list[bytes]
        The string table, as it is in the file.
    """

    def __init__(self, data: bytes, limits: Limits) -> None:
        plain = decompressed(data, limits)
        if not plain:
            raise PprofError("not a pprof profile: it is empty")
        self.buffer = Buffer(plain, limits.fields)
        super().__init__(self, PROFILE, np.zeros(1, np.int64), 1, self.buffer.top())
        table = self._rows.get("strings", NO_ROWS)
        ranges = zip(table.start.tolist(), table.stop.tolist(), strict=True)
        self.strings = [plain[start:stop] for start, stop in ranges]
        if self.strings and self.strings[0]:
            raise PprofError("not a pprof profile: its first string is not empty")

    def samples(self) -> tuple[Messages, Many]:
        """Return the samples, and their values: one of each sample type."""
        samples = self.parts("samples", SAMPLE)
        values = samples.many("values")
        types = self._rows.get("sample_types", NO_ROWS)
        if (values.counts != len(types)).any():
            raise PprofError(
                f"not a pprof profile: a sample has another number of values than {len(types)}, "
                "the number of sample types"
            )
        return samples, values

    def checked(self, numbers: Ints, name: str) -> Ints:
        """Return these indices if the string table has them all; the empty one has index 0."""
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < max(len(self.strings), 1):
            raise PprofError(f"not a pprof profile: its {name} refer to a string that is not in it")
        return numbers

    def decoded(self, errors: str) -> list[str]:
        """Return the string table as text; `errors` is what to do where it is not UTF-8."""
        return [known.decode("utf-8", errors) for known in self.strings] or [""]


def decompressed(data: bytes, limits: Limits) -> bytes:
    """Return the bytes of a profile, decompressed if they are gzip.

    Raises
    ------
    PprofError
        If they are too many, before or after, or are no whole gzip file.
    """
    if len(data) > limits.compressed_bytes:
        raise PprofError(
            f"the profile has {len(data):,} bytes; at most {limits.compressed_bytes:,} are read"
        )
    if data[:2] != _GZIP:
        plain = data
    else:
        unpack = zlib.decompressobj(wbits=31)
        try:
            plain = unpack.decompress(data, limits.plain_bytes + 1)
        except zlib.error as error:
            raise PprofError(f"the profile is damaged gzip data: {error}") from error
        if not unpack.eof and len(plain) <= limits.plain_bytes:
            raise PprofError("the profile is cut off: its gzip data has no end")
        if unpack.unused_data:
            raise PprofError("not a pprof profile: something follows its gzip data")
    if len(plain) > limits.plain_bytes:
        raise PprofError(
            f"the profile has more than {limits.plain_bytes:,} bytes, decompressed: "
            "so many are not read"
        )
    return plain

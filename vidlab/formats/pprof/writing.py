"""Writing a pprof profile."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence

from ..protobuf import put_bytes, put_packed, put_varint, varint
from .model import (
    Function,
    Label,
    Line,
    Location,
    Mapping,
    PprofError,
    Profile,
    Sample,
    ValueType,
)


def write(profile: Profile, compress: bool = True) -> bytes:
    """Return the profile as a pprof file, gzip if `compress`.

    The same profile gives the same bytes: they hold no time of writing.

    Raises
    ------
    PprofError
        If it has no meaning as a file: ids that are 0 or not distinct, references to what is
        not part of it, other numbers of values than of sample types, numbers beyond 64 bits.
    """
    plain = bytes(_Writer(profile).profile())
    return gzip.compress(plain, compresslevel=6, mtime=0) if compress else plain


class _Writer:
    """Encodes one profile. Methods return a message's bytes."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._strings: dict[str, int] = {}
        self._ids: dict[int, bytes] = {}  # by the location's identity: it is in many stacks
        self._labels: dict[Label, bytes] = {}
        # The file's own table has its empty text first, and may have a text twice.
        self._table = list(profile.strings) or [""]
        for index, text in enumerate(self._table):
            self._strings.setdefault(text, index)

    def profile(self) -> bytearray:
        """Return all of it."""
        profile = self._profile
        self._check()
        out = bytearray()
        for type in profile.sample_types:
            put_bytes(out, 1, self._value_type(type))
        for sample in profile.samples:
            put_bytes(out, 2, self._sample(sample))
        for mapping in profile.mappings:
            put_bytes(out, 3, self._mapping(mapping))
        for location in profile.locations:
            put_bytes(out, 4, self._location(location))
        for function in profile.functions:
            put_bytes(out, 5, self._function(function))
        rest = bytearray()
        put_varint(rest, 7, self._text(profile.drop_frames))
        put_varint(rest, 8, self._text(profile.keep_frames))
        put_varint(rest, 9, _signed(profile.time_nanos))
        put_varint(rest, 10, _signed(profile.duration_nanos))
        if profile.period_type is not None:
            put_bytes(rest, 11, self._value_type(profile.period_type))
        put_varint(rest, 12, _signed(profile.period))
        put_packed(rest, 13, [self._text(comment) for comment in profile.comments])
        put_varint(rest, 14, self._text(profile.default_sample_type))
        put_varint(rest, 15, self._text(profile.doc_url))
        for text in self._table:  # all of them are known by now
            put_bytes(out, 6, _encoded(text))
        return out + rest + profile.unknown

    def _value_type(self, type: ValueType) -> bytearray:
        return self._message((self._text(type.type), self._text(type.unit)), type.unknown)

    def _mapping(self, mapping: Mapping) -> bytearray:
        numbers = (
            mapping.id,
            _unsigned(mapping.memory_start),
            _unsigned(mapping.memory_limit),
            _unsigned(mapping.file_offset),
            self._text(mapping.filename),
            self._text(mapping.build_id),
            mapping.has_functions,
            mapping.has_filenames,
            mapping.has_line_numbers,
            mapping.has_inline_frames,
        )
        return self._message(numbers, mapping.unknown)

    def _function(self, function: Function) -> bytearray:
        numbers = (
            function.id,
            self._text(function.name),
            self._text(function.system_name),
            self._text(function.filename),
            _signed(function.start_line),
        )
        return self._message(numbers, function.unknown)

    def _location(self, location: Location) -> bytearray:
        mapping = 0 if location.mapping is None else location.mapping.id
        out = self._message((location.id, mapping, _unsigned(location.address)))
        for line in location.lines:
            put_bytes(out, 4, self._line(line))
        put_varint(out, 5, location.is_folded)
        return out + location.unknown

    def _line(self, line: Line) -> bytearray:
        function = 0 if line.function is None else line.function.id
        return self._message((function, _signed(line.line), _signed(line.column)), line.unknown)

    def _sample(self, sample: Sample) -> bytearray:
        out = bytearray()
        if sample.locations:
            put_bytes(out, 1, b"".join([self._ids[id(each)] for each in sample.locations]))
        put_packed(out, 2, map(_signed, sample.values))
        for label in sample.labels:
            if label not in self._labels:
                self._labels[label] = bytes(self._label(label))
            put_bytes(out, 3, self._labels[label])
        return out + sample.unknown

    def _label(self, label: Label) -> bytearray:
        numbers = (
            self._text(label.key),
            self._text(label.text),
            _signed(label.number),
            self._text(label.unit),
        )
        return self._message(numbers, label.unknown)

    def _message(self, numbers: Sequence[int], unknown: bytes = b"") -> bytearray:
        """Return a message of numbers: the first is field 1."""
        out = bytearray()
        for field, number in enumerate(numbers, 1):
            put_varint(out, field, number)
        return out + unknown

    def _text(self, text: str) -> int:
        """Return the text's index in the string table."""
        index = self._strings.get(text)
        if index is None:
            index = self._strings[text] = len(self._table)
            self._table.append(text)
        return index

    def _check(self) -> None:
        profile = self._profile
        if self._table[0]:
            raise PprofError("the first of a profile's strings is the empty one")
        mappings = _by_id(profile.mappings, "mapping")
        functions = _by_id(profile.functions, "function")
        locations = _by_id(profile.locations, "location")
        for location in profile.locations:
            _check_part(location.mapping, mappings, "mapping")
            for line in location.lines:
                _check_part(line.function, functions, "function")
        for sample in profile.samples:
            if len(sample.values) != len(profile.sample_types):
                raise PprofError(
                    f"a sample has {len(sample.values)} values, "
                    f"and the profile {len(profile.sample_types)} sample types: give one of each"
                )
            for each in sample.locations:
                if id(each) not in self._ids:
                    _check_part(each, locations, "location")
                    self._ids[id(each)] = varint(each.id)


def _by_id(parts: Iterable[Mapping | Function | Location], what: str) -> dict[int, object]:
    known: dict[int, object] = {}
    for part in parts:
        if not 0 < part.id < 1 << 64 or part.id in known:
            raise PprofError(
                f"the {what} {part.id} cannot be written: "
                "ids are distinct numbers of 64 bits, from 1"
            )
        known[part.id] = part
    return known


def _check_part(
    part: Mapping | Function | Location | None, known: dict[int, object], what: str
) -> None:
    if part is None:
        return
    # Mostly it is the very object; equality of a location compares all that is in it.
    own = known.get(part.id)
    if own is not part and own != part:
        raise PprofError(f"the {what} {part.id} is not among the profile's {what}s: add it")


def _signed(value: int) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise PprofError(f"{value} cannot be written: it has more than 64 bits")
    return value


def _unsigned(value: int) -> int:
    if not 0 <= value < 1 << 64:
        raise PprofError(f"{value} cannot be written: it has more than 64 bits, or a sign")
    return value


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise PprofError(f"{text!r} cannot be written: it is not Unicode") from error

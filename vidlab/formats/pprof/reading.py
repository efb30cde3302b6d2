"""Reading a pprof file whole: every message of it as an object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

from ..protobuf import ProtobufError
from .columns import FUNCTION, LABEL, LINE, LOCATION, MAPPING, VALUE_TYPE, File, Messages
from .model import (
    LIMITS,
    Function,
    Label,
    Limits,
    Line,
    Location,
    Mapping,
    PprofError,
    Profile,
    Sample,
    ValueType,
)

T = TypeVar("T")


def read(data: bytes, limits: Limits = LIMITS) -> Profile:
    """Return the pprof profile in these bytes, gzip or plain.

    What `write` makes of it reads back equal. Fields that are not known here are kept.
    Bytes of a text that are not UTF-8 are kept too, as Python's surrogate escapes.

    Raises
    ------
    PprofError
        If the bytes are no pprof profile, or it is beyond the limits.
    """
    try:
        return _Reader(File(data, limits)).profile()
    except ProtobufError as error:
        raise PprofError(f"not a pprof profile: {error}") from error


class _Reader:
    """Makes objects of a file's columns."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._texts = file.decoded("surrogateescape")
        self._any_unknown = False

    def profile(self) -> Profile:
        """Return the whole."""
        file = self._file
        mappings = self._mappings()
        functions = self._functions()
        locations, all_locations = self._locations(*mappings, *functions)
        samples = self._samples(locations, all_locations)
        types = self._value_types("sample_types")
        period = self._value_types("period_type")
        unknown = self._unknown(file)[0]
        comments = file.checked(file.many("comments").values, "comments").tolist()
        return Profile(
            sample_types=tuple(types),
            samples=tuple(samples),
            mappings=tuple(mappings[1]),
            locations=tuple(all_locations),
            functions=tuple(functions[1]),
            drop_frames=self._named(file, "drop_frames")[0],
            keep_frames=self._named(file, "keep_frames")[0],
            time_nanos=int(file.numbers("time_nanos")[0]),
            duration_nanos=int(file.numbers("duration_nanos")[0]),
            period_type=period[-1] if period else None,
            period=int(file.numbers("period")[0]),
            comments=tuple(self._texts[index] for index in comments),
            default_sample_type=self._named(file, "default_sample_type")[0],
            doc_url=self._named(file, "doc_url")[0],
            unknown=unknown,
            strings=tuple(self._texts) if self._any_unknown else (),
        )

    def _value_types(self, name: str) -> list[ValueType]:
        rows = self._file.parts(name, VALUE_TYPE)
        return _made(
            ValueType, self._named(rows, "type"), self._named(rows, "unit"), self._unknown(rows)
        )

    def _mappings(self) -> tuple[Messages, list[Mapping]]:
        rows = self._file.parts("mappings", MAPPING)
        flags = ("has_functions", "has_filenames", "has_line_numbers", "has_inline_frames")
        made = _made(
            Mapping,
            _unsigned(rows, "id"),
            _unsigned(rows, "memory_start"),
            _unsigned(rows, "memory_limit"),
            _unsigned(rows, "file_offset"),
            self._named(rows, "filename"),
            self._named(rows, "build_id"),
            *((rows.numbers(name) != 0).tolist() for name in flags),
            self._unknown(rows),
        )
        return rows, made

    def _functions(self) -> tuple[Messages, list[Function]]:
        rows = self._file.parts("functions", FUNCTION)
        made = _made(
            Function,
            _unsigned(rows, "id"),
            self._named(rows, "name"),
            self._named(rows, "system_name"),
            self._named(rows, "filename"),
            rows.numbers("start_line").tolist(),
            self._unknown(rows),
        )
        return rows, made

    def _locations(
        self,
        mapping_rows: Messages,
        mappings: list[Mapping],
        function_rows: Messages,
        functions: list[Function],
    ) -> tuple[Messages, list[Location]]:
        rows = self._file.parts("locations", LOCATION)
        lines = rows.parts("lines", LINE)
        made_lines = _made(
            Line,
            _objects(lines.indices("function", function_rows).tolist(), functions),
            lines.numbers("line").tolist(),
            lines.numbers("column").tolist(),
            self._unknown(lines),
        )
        made = _made(
            Location,
            _unsigned(rows, "id"),
            _objects(rows.indices("mapping", mapping_rows).tolist(), mappings),
            _unsigned(rows, "address"),
            _shared(made_lines, lines.edges.tolist()),
            (rows.numbers("is_folded") != 0).tolist(),
            self._unknown(rows),
        )
        return rows, made

    def _samples(self, rows: Messages, locations: list[Location]) -> list[Sample]:
        samples, values = self._file.samples()
        wanted = samples.many("locations")
        where = rows.find(wanted.values, "location")
        if (where < 0).any():
            raise PprofError("not a pprof profile: a sample refers to the location 0")
        labels = samples.parts("labels", LABEL)
        made_labels = _made(
            Label,
            self._named(labels, "key"),
            self._named(labels, "text"),
            labels.numbers("number").tolist(),
            self._named(labels, "unit"),
            self._unknown(labels),
        )
        return _made(
            Sample,
            _shared([locations[index] for index in where.tolist()], wanted.edges.tolist()),
            _shared(values.values.tolist(), values.edges.tolist()),
            _shared(made_labels, labels.edges.tolist()),
            self._unknown(samples),
        )

    def _named(self, rows: Messages, name: str) -> list[str]:
        return [self._texts[index] for index in rows.texts(name).tolist()]

    def _unknown(self, rows: Messages) -> list[bytes]:
        found = rows.unknown()
        self._any_unknown |= bool(found)
        return [found.get(index, b"") for index in range(rows.count)]


def _made(kind: Callable[..., T], *columns: Iterable[object]) -> list[T]:
    """Return an object of each row of these columns."""
    return [kind(*row) for row in zip(*columns, strict=True)]


def _unsigned(rows: Messages, name: str) -> list[int]:
    """Return a number of 64 bits without a sign of each message."""
    return [value & (1 << 64) - 1 for value in rows.numbers(name).tolist()]


def _objects(index: list[int], objects: Sequence[T]) -> list[T | None]:
    """Return the object of each index, None for -1."""
    return [None if place < 0 else objects[place] for place in index]


def _shared(values: list[T], edges: list[int]) -> list[tuple[T, ...]]:
    """Return `values[edges[i]:edges[i + 1]]` for each message."""
    return [tuple(values[start:stop]) for start, stop in pairwise(edges)]

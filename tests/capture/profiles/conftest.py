"""Pushes as the agent makes them, and a writer that keeps what is stored."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from tests.capture.conftest import MemoryWriter, Recorded
from vidlab.formats import pprof, protobuf

#: Innermost call first.
Stack = Sequence[tuple[str, str, int]]


def profile(
    samples: Iterable[tuple[Stack, Sequence[int], Mapping[str, str]]],
    types: Sequence[tuple[str, str]] = (("cpu", "nanoseconds"),),
    time_nanos: int = 0,
    duration_nanos: int = 1_000_000_000,
) -> bytes:
    """A pprof profile: of each sample its stack, its values and its labels."""
    functions: dict[tuple[str, str], pprof.Function] = {}
    locations: dict[tuple[str, str, int], pprof.Location] = {}

    def location(call: tuple[str, str, int]) -> pprof.Location:
        name, file, line = call
        function = functions.setdefault(
            (name, file), pprof.Function(len(functions) + 1, name, name, file)
        )
        made = pprof.Location(len(locations) + 1, lines=(pprof.Line(function, line),))
        return locations.setdefault(call, made)

    found = tuple(
        pprof.Sample(
            tuple(map(location, stack)),
            tuple(values),
            tuple(pprof.Label(key, text) for key, text in labels.items()),
        )
        for stack, values, labels in samples
    )
    return pprof.write(
        pprof.Profile(
            tuple(pprof.ValueType(*each) for each in types),
            found,
            locations=tuple(locations.values()),
            functions=tuple(functions.values()),
            time_nanos=time_nanos,
            duration_nanos=duration_nanos,
            period_type=pprof.ValueType("cpu", "nanoseconds"),
            period=10_000_000,
        ),
        compress=False,
    )


def push(profile: bytes, name: str = "process_cpu", compress: bool = True) -> bytes:
    """The body of a push of one profile."""
    series, labels, sample, body = bytearray(), bytearray(), bytearray(), bytearray()
    protobuf.put_bytes(labels, 1, b"__name__")
    protobuf.put_bytes(labels, 2, name.encode())
    protobuf.put_bytes(sample, 1, profile)
    protobuf.put_bytes(sample, 2, b"an id")
    protobuf.put_bytes(series, 1, labels)
    protobuf.put_bytes(series, 2, sample)
    protobuf.put_bytes(body, 1, series)
    return gzip.compress(bytes(body), 1, mtime=0) if compress else bytes(body)


class Writer(MemoryWriter):
    """A writer into memory that takes stacks, too."""

    def __init__(self) -> None:
        super().__init__()
        self.defined: list[Stack] = []

    def stacks(self, many: Sequence[Stack]) -> list[int]:
        begin = len(self.defined) + 1
        self.defined += many
        return list(range(begin, len(self.defined) + 1))

    def samples(self) -> list[dict[str, Any]]:
        """The rows of `profile_samples`, with the calls of their stacks."""
        known = Recorded.__new__(Recorded)
        known.writer = self
        rows = known.records("profile_samples")
        for row in rows:
            row["stack"] = self.defined[row["stack"] - 1] if row["stack"] else ()
        return rows


@pytest.fixture
def writer() -> Writer:
    return Writer()

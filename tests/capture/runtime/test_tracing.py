"""tracemalloc: its largest lines, and that the program keeps what it makes of it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from vidlab.capture.runtime.parts import Pen
from vidlab.capture.runtime.tracing import Tracing


@pytest.fixture(autouse=True)
def untraced() -> Iterator[None]:
    functions = tracemalloc.start, tracemalloc.stop
    assert not tracemalloc.is_tracing()
    yield
    assert (tracemalloc.start, tracemalloc.stop) == functions
    tracemalloc.stop()


def part_of(writer: Any, most_rows: int = 10) -> Tracing:
    return Tracing(writer, Pen(writer), lambda: most_rows)


def look(part: Tracing) -> None:
    for _ in part.look(5):
        pass


def test_the_largest_lines_are_written(recorded: Any, writer: Any) -> None:
    part = part_of(writer)
    kept = [bytes(100_000) for _ in range(10)]
    line = look.__code__.co_firstlineno + 7
    look(part)
    rows = recorded.rows("host_allocations")
    assert 1 <= len(rows) <= 10
    first = rows[0]
    assert (first["file"], first["line"]) == (__file__, line)
    assert first["blocks"] in (10, 11)  # the list is of this line, too
    assert 1_000_000 < first["size_bytes"] < 1_010_000
    assert not [row for row in rows if "vidlab/capture" in row["file"]]
    metrics = {row["metric"]: row["value"] for row in recorded.records("runtime_metrics")}
    assert metrics["vidlab.tracemalloc.used"] > 1_000_000
    assert metrics["vidlab.tracemalloc.overhead"] > 0
    part.close()
    assert not tracemalloc.is_tracing()
    del kept


def test_a_program_that_traces_already_goes_on_to(recorded: Any, writer: Any) -> None:
    tracemalloc.start(7)
    part = part_of(writer)
    kept = bytes(1_000_000)
    look(part)
    assert recorded.rows("host_allocations")[0]["file"] == __file__
    part.close()
    assert tracemalloc.get_traceback_limit() == 7
    del kept


def test_a_program_that_begins_to_trace_meanwhile_goes_on_to(writer: Any) -> None:
    part = part_of(writer)
    tracemalloc.start(25)
    kept = bytes(1_000_000)
    part.close()
    assert tracemalloc.is_tracing()
    assert tracemalloc.get_traceback_limit() == 25
    (trace, *_) = tracemalloc.take_snapshot().statistics("lineno")
    assert trace.size > 900_000
    del kept


def test_a_program_that_stops_tracing_is_not_traced_again(recorded: Any, writer: Any) -> None:
    part = part_of(writer)
    tracemalloc.stop()
    look(part)
    assert recorded.rows("host_allocations") == []
    assert not tracemalloc.is_tracing()
    part.close()

"""A recording into memory: what the capture tests read back without a run on disk."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from vidlab import labelsets
from vidlab.capture.frames import stages
from vidlab.capture.frames.recorder import SpanRecorder, frame_here
from vidlab.capture.frames.refs import FrameRef, frame_ref
from vidlab.capture.patching import Patches
from vidlab.clock import now_ns
from vidlab.schema import CHOICES, NAMED, TABLES


class MemoryBuffer:
    """What a thread packs records into; like the real one it rolls over at its end."""

    def __init__(self, table: str, thread: int) -> None:
        record = TABLES[table].record
        assert record is not None
        self.record = record
        self.full: list[bytearray] = []
        self.span = 1 << 52 | thread << 32
        self.end = record.size * 64
        self.view = bytearray(self.end)
        self.position = 0

    def roll(self) -> int:
        self.full.append(self.view)
        self.view = bytearray(self.end)
        self.position = 0
        return 0


class MemoryWriter:
    """The part of a run's writer that engines use."""

    index = 1

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        self.names = labelsets.Names(self.texts.__setitem__)
        self.buffers: list[tuple[str, MemoryBuffer]] = []
        self.all_rows: list[tuple[str, dict[str, Any]]] = []
        self.losses: dict[str, int] = {}
        self._threads = itertools.count(1)
        self._local = threading.local()

    def buffer(self, table: str) -> MemoryBuffer:
        mine = self._local.__dict__
        if table not in mine:
            number = mine.setdefault("number", next(self._threads))
            mine[table] = MemoryBuffer(table, number)
            self.buffers.append((table, mine[table]))
        buffer: MemoryBuffer = mine[table]
        return buffer

    def row(self, table: str, /, **columns: Any) -> None:
        assert not columns.keys() - {column.name for column in TABLES[table].columns}, columns
        self.all_rows.append((table, columns))

    def lost(self, table: str, count: int) -> None:
        self.losses[table] = self.losses.get(table, 0) + count

    def finding(self, kind: str, message: str, severity: str = "warning", **other: Any) -> None:
        assert "recorder_failed" not in kind, (message, other)
        self.all_rows.append(
            ("findings", {"kind": kind, "message": message, "severity": severity, **other})
        )


class Recorded:
    """A recording that runs, and what it holds so far."""

    def __init__(self) -> None:
        self.writer = MemoryWriter()
        self.patches = Patches()
        self.recorder = SpanRecorder(self.writer, "never")
        stages.activate(self.patches, self.recorder)
        self._seq = itertools.count()

    def stop(self) -> None:
        self.patches.restore()

    def rows(self, table: str) -> list[dict[str, Any]]:
        return [columns for name, columns in list(self.writer.all_rows) if name == table]

    def records(self, table: str) -> list[dict[str, Any]]:
        """The records of a table by time, with texts for numbers."""
        found = []
        for name, buffer in list(self.writer.buffers):
            if name != table:
                continue
            for view in (*buffer.full, buffer.view):
                records = np.frombuffer(bytes(view), buffer.record.dtype)
                records = records[records[buffer.record.commit] != 0]
                found += [
                    dict(zip(records.dtype.names or (), row.tolist(), strict=True))
                    for row in records
                ]
        for row in found:
            for column, value in row.items():
                if (table, column) in NAMED:
                    row[column] = self.writer.texts[value]
                elif (table, column) in CHOICES:
                    committed = column == list(row)[-1]
                    row[column] = CHOICES[table, column][value - committed]
        return sorted(found, key=lambda row: row["t_ns"])

    def new_ref(self, **labels: Any) -> FrameRef:
        """A frame that was just read."""
        seq = next(self._seq)
        known = labelsets.intern(labels)
        frame = 1 << 52 | 1 << 32 | seq + 1
        return frame_ref(frame=frame, seq=seq, labels=known, t_demux_ns=now_ns())


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    """A recording into memory, stopped at the end of the test."""
    frame_here.set(None)
    recording = Recorded()
    try:
        yield recording
    finally:
        recording.stop()
        frame_here.set(None)
        assert recording.recorder.failures == 0

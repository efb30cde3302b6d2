"""A thread's state, asked for while it is being made."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from vidlab.capture.frames.engine import Frames
from vidlab.capture.gpu.tracking.threads import Local
from vidlab.schema import POOL

from ..conftest import GpuRecording

pytestmark = pytest.mark.needs("hostcuda")


@pytest.mark.parametrize("table_asked", ["allocations", "spans"])
def test_memory_is_taken_and_freed_while_a_thread_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table_asked: str
) -> None:
    """As by a garbage collection, which can come at any moment of it."""
    import cupy

    recording = GpuRecording(tmp_path / "run", Frames(), holders=False)
    writer = recording.tracker.writer
    buffer, begun = writer.buffer, threading.Event()
    garbage = [cupy.empty(300, "u1")]

    def collecting(table: str) -> Any:
        if threading.current_thread() is thread and table == table_asked and not begun.is_set():
            begun.set()
            garbage.clear()
            cupy.empty(500, "u1")
        return buffer(table)

    monkeypatch.setattr(writer, "buffer", collecting)
    thread = threading.Thread(target=lambda: cupy.empty(700, "u1"))
    thread.start()
    thread.join()
    assert begun.is_set()
    assert recording.tracker.failures == 0
    assert recording.tracker.live.blocks(POOL) == []
    rows = recording.rows(level="pool")
    assert sorted(row["size_asked_bytes"] for row in rows if row["op"] == "alloc") == [
        300,
        500,
        700,
    ]
    assert sum(row["op"] == "free" for row in rows) == 3


def test_each_thread_has_one_state(recorded: Any) -> None:
    local = Local(recorded.writer)
    mine = local.state
    assert local.state is mine
    others: list[Any] = []
    thread = threading.Thread(target=lambda: others.extend([local.state, local.state]))
    thread.start()
    thread.join()
    assert others[0] is others[1] is not mine

"""Many call stacks defined at once: the same lines as one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vidlab.runs import sidefiles
from vidlab.runs.writer import RunWriter

STACKS = [
    [("f", "a.py", 1), ("main", "a.py", 9)],
    [("g", "a.py", 2), ("main", "a.py", 9)],
    [],
    [('with "quotes"', "path\\with\\backslash.py", 0), ("ünïcode\n\x01\u2028", "\ud800.py", -1)],
]


@pytest.mark.parametrize("most_texts", [1, 1 << 16])
def test_stacks_are_written_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_texts: int
) -> None:
    monkeypatch.setattr(sidefiles, "_MOST_CALL_TEXTS", most_texts)
    writer = RunWriter(tmp_path)
    first = writer.stacks(STACKS)
    assert writer.stacks([]) == []
    alone = writer.stack([["f", "a.py", 1], ["h", "a.py", 3]])  # type: ignore[list-item]
    assert [*first, alone] == [1, 2, 3, 4, 5]
    writer.close()
    (file,) = tmp_path.glob("segments/*-stacks.jsonl")
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    expected = json.loads(json.dumps([*STACKS, [("f", "a.py", 1), ("h", "a.py", 3)]]))
    expected[3][1][1] = "?.py"  # a half of a character has no bytes
    assert lines == [{"id": id, "frames": frames} for id, frames in enumerate(expected, 1)]

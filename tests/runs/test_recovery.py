from __future__ import annotations

import json

import pytest

from vidlab.errors import RunError
from vidlab.runs.manifest import Manifest
from vidlab.runs.recovery import NOTE, recover
from vidlab.runs.run import open_run
from vidlab.runs.verification import verify

from .builders import small_run


def test_a_run_without_rows(empty):
    manifest = recover(empty.path)
    assert manifest.state == "recovered"
    assert manifest.tables["spans"].rows == 0
    assert verify(empty.path) == []


def test_a_killed_run(small):
    (small.path / ".manifest.json.4711").write_text("{")  # one was being written
    manifest = recover(small.path)
    assert manifest == Manifest.read(small.path)
    assert (manifest.state, manifest.ended) == ("recovered", None)
    assert [(facts.index, facts.pid) for facts in manifest.processes] == [(1, 1001), (2, 1002)]
    assert NOTE in manifest.notes
    assert manifest.tables["spans"].rows == 1805
    assert not list(small.path.glob(".*"))
    run = open_run(small.path)
    assert (run.state, run.live, run.losses) == (
        "recovered", False, {"spans": {"lost": 3, "let_go": 0}}
    )  # fmt: skip
    assert verify(small.path) == []


def test_recovering_again_changes_nothing(small):
    first = recover(small.path)
    assert recover(small.path) == first


def test_a_run_that_ended_keeps_its_state(tmp_path):
    path = small_run(tmp_path / "run", "complete").path
    manifest = recover(path)
    assert (manifest.state, manifest.notes) == ("complete", ())
    assert manifest.tables["spans"].rows == 1805


def test_not_while_it_is_recorded(small):
    with small.process(1).alive(), pytest.raises(RunError, match="still being recorded"):
        recover(small.path)
    assert Manifest.read(small.path).state == "recording"


def test_what_was_cut_short_is_noted(small):
    path = next(small.segments.glob("0002-spans-*.arrows"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    (small.segments / "0001.process").write_text("{")
    manifest = recover(small.path)
    assert any(path.name in note for note in manifest.notes)
    assert any("0001.process" in note for note in manifest.notes)
    assert 1205 <= manifest.tables["spans"].rows < 1805
    assert [facts.index for facts in manifest.processes] == [1, 2]
    assert verify(small.path) == []
    assert not small.segments.exists()


def test_a_full_disk_leaves_the_run_as_it_was(small, monkeypatch):
    before = json.loads((small.path / "manifest.json").read_text())

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", full)
        with pytest.raises(RunError, match="make room"):
            recover(small.path)
    assert json.loads((small.path / "manifest.json").read_text()) == before
    assert open_run(small.path).state == "killed"
    assert recover(small.path).tables["spans"].rows == 1805

"""The manifest: written whole, read back as it was, refused with a reason."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from vidlab.clock import Anchor
from vidlab.errors import RunError, SchemaError
from vidlab.runs import manifest as manifests
from vidlab.runs.manifest import EngineFacts, Manifest, ProcessFacts, TableFacts

FULL = Manifest(
    run_id="night-1",
    started=Anchor(1, 2),
    ended=Anchor(3, 4),
    state="complete",
    host={"name": "box", "cpus": 2},
    versions={"python": "3.11.7"},
    engines=(EngineFacts("frames", {"sampling": {"playback": 0.01}}), EngineFacts("runtime")),
    parameters={"deadline_ms": 40},
    limits={"max_bytes": 123 << 20},
    derive={"region": "site:region_of"},
    tables={"spans": TableFacts(rows=10, lost=1, let_go=2, bytes=300)},
    processes=(ProcessFacts(1, 4242, 1, ("run.py", "-v"), Anchor(5, 6)),),
    notes=("übrigens",),
)


def test_the_least_manifest_is_read_back(tmp_path: Path) -> None:
    least = Manifest(run_id="r", started=Anchor(1, 2))
    least.write(tmp_path)
    assert Manifest.read(tmp_path) == least
    assert least.state == "recording"


def test_a_full_manifest_is_read_back(tmp_path: Path) -> None:
    FULL.write(tmp_path)
    assert Manifest.read(tmp_path) == FULL
    assert json.loads((tmp_path / "manifest.json").read_text())["schema"] == "vidlab.run/1"


def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FULL.write(tmp_path)

    def full_disk(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        dataclasses.replace(FULL, run_id="other").write(tmp_path)
    assert Manifest.read(tmp_path) == FULL
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("schema", ["vidlab.run/2", "vidlab.run/10.1"])
def test_a_newer_schema_is_refused_with_a_hint(tmp_path: Path, schema: str) -> None:
    dataclasses.replace(FULL, schema=schema).write(tmp_path)
    with pytest.raises(SchemaError, match=r"newer.*upgrade"):
        Manifest.read(tmp_path)
    assert manifests.is_run(tmp_path)


@pytest.mark.parametrize("schema", ["vidlab.run/0", "vidlab.run/1.7"])
def test_an_older_schema_and_a_newer_minor_one_are_read(tmp_path: Path, schema: str) -> None:
    dataclasses.replace(FULL, schema=schema).write(tmp_path)
    assert Manifest.read(tmp_path).run_id == "night-1"


def test_what_a_newer_minor_version_added_is_left_out(tmp_path: Path) -> None:
    FULL.write(tmp_path)
    path = tmp_path / "manifest.json"
    values = json.loads(path.read_text())
    values["weather"] = "fine"
    values["tables"]["spans"]["colour"] = "red"
    path.write_text(json.dumps(values))
    assert Manifest.read(tmp_path) == FULL


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x00" * 100,
        b"\xff\xfe",
        b"[]",
        b"42",
        b"{}",
        b'{"schema": "vidlab.run/1"}',
        b'{"schema": "vidlab.run/1", "run_id": "r", "started": 5}',
        b'{"schema": "vidlab.run/1", "run_id": "r", "started": {"when": 1}}',
        b'{"schema": "vidlab.run/x", "run_id": "r"}',
        b'{"schema": "other/1"}',
        b'{"schema": ["vidlab.run/1"]}',
    ],
)
def test_nonsense_is_an_error_that_says_what_it_is(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(RunError, match=r"manifest\.json"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("state", "sleeping"),
        ("engines", [{"parameters": {}}]),
        ("engines", 3),
        ("tables", {"spans": 7}),
        ("tables", {"spans": {"lost": 1}}),
        ("processes", [{"index": 1}]),
        ("parameters", 1),
        ("limits", [1]),
        ("notes", 1),
        ("started", None),
    ],
)
def test_a_wrong_value_is_an_error(tmp_path: Path, key: str, value: object) -> None:
    FULL.write(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(RunError, match="not a run's manifest"):
        Manifest.read(tmp_path)


def test_a_manifest_cut_at_any_byte_is_an_error(tmp_path: Path) -> None:
    FULL.write(tmp_path)
    path = tmp_path / "manifest.json"
    text = path.read_bytes().rstrip()
    for length in range(len(text)):
        path.write_bytes(text[:length])
        with pytest.raises(RunError):
            Manifest.read(tmp_path)


def test_no_run_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no manifest\.json.*directory of a run"):
        Manifest.read(tmp_path)
    with pytest.raises(RunError, match="does not exist"):
        Manifest.read(tmp_path / "nowhere")
    assert not manifests.is_run(tmp_path)

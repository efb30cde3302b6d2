"""What each label key costs, of runs that are known by heart."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidlab.analysis import labelcosts
from vidlab.labelrules import LabelRules
from vidlab.labelsets import labels
from vidlab.recording import record
from vidlab.runs.compaction import compact
from vidlab.runs.run import Run, open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two cameras, each with sessions of its own; 30 rows with sessions, 10 without."""
    path: Path = tmp_path_factory.mktemp("costs") / "run"
    rules = LabelRules(budgets={"session": 10}, redact=["viewer"], drop=["token"])
    with record(path, engines=[], label_rules=rules) as recording:
        for n in range(30):
            with labels(stream_id=f"cam-{n % 2}", session=f"s{n}", token=n, viewer=n % 3, gpu=0):
                recording.writer.row("ffmpeg_frames", frame_number=n)
        with labels(stream_id="cam-0"):
            for n in range(10):
                recording.writer.row("ffmpeg_frames", frame_number=n)
            recording.writer.row("ffmpeg_progress", fps=25.0)
    return open_run(path)


def by_key(run: Run) -> dict[str, dict[str, object]]:
    return labelcosts.costs(run).rows_by_key("key", named=True, unique=True)


def test_values_sets_and_rows_of_each_key(run: Run) -> None:
    keys = by_key(run)
    buckets = int(keys["session"]["values"]) - 10  # type: ignore[call-overload]
    assert 1 < buckets <= 20
    stream, viewer = keys["stream_id"], keys["viewer"]
    assert (stream["values"], stream["rows"], stream["folded"]) == (2, 41, 0)
    assert (viewer["values"], viewer["rows"], viewer["rules"]) == (1, 30, "redact")
    assert (viewer["folded"], viewer["sets_added"], viewer["memory_bytes"]) == (3, 0, 0)
    assert keys["session"]["rows"] == 30
    assert keys["session"]["folded"] == 20
    # Without sessions there are only the two cameras' sets, and that of the rest.
    session_sets = int(keys["session"]["sets"])  # type: ignore[call-overload]
    assert keys["session"]["sets_added"] == session_sets - 2
    assert keys["session"]["memory_bytes"] == (session_sets - 2) * labelcosts.SET_BYTES
    token = keys["token"]
    assert (token["values"], token["sets"], token["rules"]) == (0, 0, "drop")
    assert (token["rows"], token["bytes"], token["folded"]) == (0, 0, 30)
    assert labelcosts.costs(run)["key"][0] == "session"


def test_rows_and_bytes_by_table(run: Run) -> None:
    tables = labelcosts.by_table(run).rows_by_key(["key", "table"], named=True, unique=True)
    frames = run.manifest.tables["ffmpeg_frames"].bytes
    assert tables["stream_id", "ffmpeg_frames"]["rows"] == 40
    assert tables["stream_id", "ffmpeg_frames"]["bytes"] == frames
    assert tables["stream_id", "ffmpeg_progress"]["rows"] == 1
    session = tables["session", "ffmpeg_frames"]
    assert (session["rows"], session["share"], session["bytes"]) == (30, 0.75, round(frames * 0.75))
    # Findings and the rules' own rows are about a key, and bear none.
    assert {table for _, table in tables} == {"ffmpeg_frames", "ffmpeg_progress"}
    assert by_key(run)["session"]["bytes"] == session["bytes"]


def test_a_run_that_is_not_compacted_has_no_bytes_yet(tmp_path: Path) -> None:
    with record(tmp_path / "run", engines=[]) as recording, labels(codec="vp9"):
        recording.writer.row("ffmpeg_frames", frame_number=1)
        recording.writer._write_what_there_is()
        (codec,) = labelcosts.costs(open_run(tmp_path / "run")).filter(key="codec").to_dicts()
        assert (codec["rows"], codec["bytes"], codec["values"]) == (1, None, 1)
    compact(tmp_path / "run")
    assert by_key(open_run(tmp_path / "run"))["codec"]["bytes"] is not None


def test_labels_that_no_row_has_cost_nothing(tmp_path: Path) -> None:
    with record(tmp_path / "run", engines=[]) as recording:
        with labels(codec="vp9", session="unused"):
            pass
        recording.writer.row("ffmpeg_frames", frame_number=1)
    run = open_run(tmp_path / "run")
    assert labelcosts.costs(run).height == 0
    assert labelcosts.by_table(run).height == 0
    assert labelcosts.rules(run).height == 0

"""The demo's lines say what held frames up as `vidlab explain` says it, and say it once."""

from __future__ import annotations

from pathlib import Path

import pytest

import vidlab as vl
from vidlab.lab.diagnosis import Cause
from vidlab.lab.summary import summary
from vidlab.lab.synthetic import write_run
from vidlab.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder: Path = tmp_path_factory.mktemp("summary")
    return vl.open_run(write_run(folder / "run", frames=2_000, streams=3, seed=5))


def test_it_says_what_explain_says(run: Run) -> None:
    lines = summary(run, [Cause("slow_stage", "filter takes long")])
    told = vl.explain_late(run)
    assert lines[0] == told.headline()
    assert told.sentences()
    said = [line.split(maxsplit=1) for line in lines[2 : 2 + len(told.told)]]
    assert said == [[share, sentence] for share, sentence in told.sentences()]
    assert lines[2 + len(told.told)].strip() == told.rest()
    assert lines[3 + len(told.told) :][:2] == ["why, by the analyses:", "  - filter takes long"]
    assert len(lines) == len(set(lines)) <= 16


def test_without_late_frames_it_tells_of_lost_ones_only(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(run.manifest.parameters, "deadline_ms", 1e6)
    lines = summary(run, [])
    assert lines[0].startswith("None of ")
    assert not [line for line in lines if line.startswith("why")]
    told = [told.causes for told in vl.explain_late(run).told]
    assert told == [{"corrupt_input"}]  # which were lost at any deadline

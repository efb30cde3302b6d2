"""Whatever is asked for is checked before it is looked for."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import vidlab as vl
from vidlab.analysis import latency
from vidlab.errors import InputError, RunError
from vidlab.runs.run import Run
from vidlab.workbench import arguments
from vidlab.workbench.explain import answers
from vidlab.workbench.explain.frame import Explanation
from vidlab.workbench.explain.lateness import LEAST_FACT, MOST_FACTS, LateExplanation


def test_the_facade_explains_a_run_by_its_path(run: Run, run_path: Path) -> None:
    told = vl.explain_late(run_path, deadline_ms=80)
    known = latency.late_summary(latency.late(run.scan("frames"), deadline_ms=80))
    assert (told.delivered, told.late) == (known["delivered"].sum(), known["late"].sum())
    facts = told.facts()
    assert facts["causes"]
    assert all(c["share"] >= LEAST_FACT for c in facts["causes"])
    assert len(facts["causes"]) <= MOST_FACTS
    worst = vl.explain(run, deadline_ms=80)
    assert worst.end_to_end_ns == latency.slowest(run.scan("frames"), 1)["end_to_end_ns"][0]
    assert worst.end_to_end_ns == worst.parts["duration_ns"].sum()
    assert vl.explain(run, frame=worst.name).frame == worst.frame
    assert vl.explain(str(run_path), frame=worst.frame).name == worst.name
    assert str(worst)


@pytest.mark.parametrize("deadline_ms", [0, -5.0, float("nan"), float("inf")])
def test_a_deadline_is_above_zero(run: Run, deadline_ms: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        vl.explain_late(run, deadline_ms=deadline_ms)


def test_a_label_that_no_frame_has_is_told_with_those_that_some_have(run: Run) -> None:
    with pytest.raises(InputError, match="no frame of codec av2: it has av1, h264"):
        vl.explain_late(run, codec="av2")
    with pytest.raises(InputError, match="no frame of stream_id cam-77"):
        vl.explain(run, stream_id="cam-77")
    with pytest.raises(RunError, match="does not exist"):
        vl.explain_late("runs/nothing-here")


def test_options_say_which_of_the_two_is_asked_for(run: Run) -> None:
    parser = argparse.ArgumentParser()
    arguments.add_explain(parser)

    def asked(*options: str) -> Explanation | LateExplanation:
        return answers.as_asked(run, parser.parse_args(options))

    assert isinstance(asked("--deadline-ms", "80"), LateExplanation)
    worst = asked("--worst", "--codec", "av1")
    assert isinstance(worst, Explanation)
    assert worst.row["codec"] == "av1"
    assert isinstance(asked("--frame", worst.name), Explanation)
    with pytest.raises(SystemExit):
        asked("--worst", "--frame", "cam:1")

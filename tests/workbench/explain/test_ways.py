"""One slow stage fills all queues before it: it is named, and its waits are told as one."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.workbench.made_pipelines import LIMIT, Stage, pipeline
from tests.workbench.made_runs import CAM_1, CAM_3, MS, Story, made_run
from vidlab.workbench.explain.lateness import LateExplanation
from vidlab.workbench.slices import Slice

#: Frames of which something is slow.
SLOW = range(30, 50)

DECODE, FILTER, ENCODE = Stage("decode", 2), Stage("filter", 5), Stage("encode", 5)
SLEEPY = Stage("filter", 5, dict.fromkeys(SLOW, 50), cpu_ms=5)
ABSENT = Stage("encode", 5, away_ms={30: 1_000})


def story(*stages: Stage, streams: int = 1) -> Story:
    made = Story()
    for number in range(streams):
        first = CAM_3 + (number << 33)
        made.stream(first, f"cam-{3 + number}", "av1", 3 + number)
        pipeline(made, first, 3 + number, stages)
    return made


def late(made: Story, **more: Any) -> LateExplanation:
    return LateExplanation(Slice(made_run(made, **more)))


def waits(told: LateExplanation) -> dict[str, dict[str, Any]]:
    """The causes in JSON that are waits in queues, by queue."""
    causes = told.facts()["causes"]
    return {cause["stage"]: cause for cause in causes if cause["cause"] == "queue_wait"}


def test_a_stage_that_is_held_up_is_told_with_the_one_that_holds_it_up() -> None:
    told = late(story(DECODE, SLEEPY, ENCODE))
    [(share, sentence)] = told.sentences()
    assert share == "100%"
    assert sentence.startswith("stream cam-3 (av1): filter and waits for it, ")
    assert f"before filter (depth at its limit of {LIMIT})" in sentence
    assert "before decode (held up by it)" in sentence
    assert re.search(r"filter was at work \d+% of that time, asleep \d+% of it, \d+ ms", sentence)
    assert told.advice() == [
        "filter: find what it sleeps for: its stacks show where it is off the CPU"
    ]
    found = waits(told)
    assert {cause["bottleneck"] for cause in found.values()} == {"filter"}
    decode = found["before decode"]["evidence"]["stage_did"]
    assert (decode["stage"], decode["did"]) == ("decode", "held up")
    assert decode["held_up_by"] == "before filter"
    assert decode["held_up_share"] > 0.9
    filtered = found["before decode"]["evidence"]["bottleneck_did"]
    assert (filtered["stage"], filtered["did"]) == ("filter", "at work")
    assert list(filtered["spent_ms"]) == ["asleep", "work"]
    assert filtered["spent_ms"]["work"] == 5
    assert 10 < filtered["spent_ms"]["asleep"] < 45  # not all late frames were slow ones
    shares = [filtered[f"{name}_share"] for name in ("at_work", "held_up", "elsewhere", "away")]
    assert sum(shares) == pytest.approx(1, abs=1e-3)


def test_the_bottleneck_may_be_several_queues_further_down() -> None:
    stages = (DECODE, FILTER, Stage("encode", 5, dict.fromkeys(SLOW, 60)))
    told = late(story(*stages))
    [(_, sentence)] = told.sentences()
    assert "encode and waits for it" in sentence
    assert "before decode and before filter (held up by it)" in sentence
    assert "on the CPU 100% of it" in sentence
    assert waits(told)["before decode"]["bottleneck"] == "encode"
    assert waits(told)["before decode"]["evidence"]["stage_did"]["held_up_by"] == "before filter"


def test_a_stage_that_takes_nothing_is_told_from_one_that_is_slow() -> None:
    told = late(story(DECODE, FILTER, ABSENT))
    first = told.sentences()[0][1]
    assert "waits for encode" in first
    assert "and took nothing otherwise" in first
    assert told.advice()[0].startswith("encode: see what its thread does between frames")
    did = waits(told)["before encode"]["evidence"]["stage_did"]
    assert did["did"] == "away"
    assert did["away_share"] > 0.5


def test_a_stage_whose_thread_works_on_other_frames_is_not_called_idle() -> None:
    made = story(DECODE, FILTER, Stage("encode", 5, away_ms={30: 1_000}, tid=7))
    made.stream(CAM_1, "cam-1", "h264", 1)
    begin = made.frame(CAM_1, 6, [("encode", "service", 1_100)])
    made.tables["spans"][-1]["tid"] = 7
    found = waits(late(made))["before encode"]["evidence"]["stage_did"]
    assert found["did"] == "elsewhere"
    assert found["elsewhere_share"] > 0.5
    sentence = next(said for _, said in late(made).sentences() if "waits for encode" in said)
    assert "encode's thread was at work elsewhere" in sentence
    made.tables["spans"][-1] |= {"t_ns": begin + 20_000 * MS}
    assert waits(late(made))["before encode"]["evidence"]["stage_did"]["did"] == "away"


def test_one_queue_that_nothing_else_waits_behind_is_told_by_itself() -> None:
    made = story(DECODE, Stage("filter", 5, away_ms={30: 130}))
    [(share, sentence)] = late(made).sentences()
    assert share == "100%"
    assert sentence.startswith("stream cam-3 (av1): queue wait before filter, ")
    assert f"depth at its limit of {LIMIT} (filter was at work " in sentence


def test_without_depths_it_is_not_said_who_held_whom_up() -> None:
    made = story(DECODE, FILTER, Stage("encode", 5, dict.fromkeys(SLOW, 60)))
    del made.tables["queue_depths"]
    told = late(made)
    causes = waits(told)
    assert causes["before decode"]["bottleneck"] is None
    assert causes["before decode"]["evidence"]["stage_did"]["did"] == "unknown"
    assert "took nothing" not in str(told)
    assert "full" not in str(told)


def test_streams_with_the_same_bottleneck_are_one() -> None:
    told = late(story(DECODE, SLEEPY, ENCODE, streams=3))
    [(share, sentence)] = told.sentences()
    assert share == "100%"
    assert sentence.startswith("streams cam-3, cam-4, cam-5: filter and waits for it, ")
    assert {cause["bottleneck"] for cause in told.facts()["causes"]} == {"filter"}


def test_what_is_within_a_stage_is_told_of_that_stage() -> None:
    made = story(DECODE, SLEEPY, ENCODE)
    outer = [row for row in made.tables["spans"] if row["stage"] == "filter"]
    for row in outer:
        made.tables["spans"].append(
            {**row, "span": row["span"] + 10**6, "stage": "blur", "parent": row["span"]}
        )
    told = late(made)
    assert {cause["stage"] for cause in told.facts()["causes"]} >= {"blur"}
    [(share, sentence)] = told.sentences()
    assert share == "100%"
    assert "filter and waits for it" in sentence
    assert "asleep" in sentence
    evidence = waits(told)["before filter"]["evidence"]
    assert evidence["stage_did"]["stages"] == ["blur", "filter"]


def reordered(made: Story) -> Story:
    """Let the decoder keep frames for the first half of the time they wait for the filter."""
    kept = {row["frame"]: row for row in made.tables["spans"] if row["stage"] == "decode done"}
    for row in made.tables["spans"]:
        if row["stage"] == "before filter":
            half = row["duration_ns"] // 2
            kept[row["frame"]] |= {"kind": "reorder", "stage": "decode", "duration_ns": half}
            row |= {"t_ns": row["t_ns"] + half, "duration_ns": row["duration_ns"] - half}
    for row in made.tables["frames"]:
        row["picture_type"] = "P"
    return made


def test_reordering_in_a_decoder_that_is_held_up_is_part_of_that_wait() -> None:
    made = story(DECODE, SLEEPY, ENCODE)
    told = late(reordered(made))
    [cause] = [one for one in told.facts()["causes"] if one["cause"] == "reordering"]
    assert cause["bottleneck"] == "filter"
    assert cause["evidence"]["stage_did"]["did"] == "held up"
    assert "reordering in decode" in told.sentences()[0][1]
    assert "B-frames" not in str(told)


def test_the_text_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for stages in ((DECODE, SLEEPY, ENCODE), (DECODE, FILTER, ABSENT)):
        lines = str(late(story(*stages))).splitlines()
        assert len(lines) <= 14
        assert max(map(len, lines)) <= 80

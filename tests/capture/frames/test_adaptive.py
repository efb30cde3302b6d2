"""The share of frames follows the machine and the errors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vidlab import labelsets
from vidlab.capture.frames import adaptive
from vidlab.capture.frames.adaptive import (
    Adaptive,
    AdaptiveSampling,
    Controller,
    Governor,
    machine_cpu,
)
from vidlab.capture.frames.engine import Frames
from vidlab.capture.frames.recorder import SpanRecorder
from vidlab.capture.frames.sources import Source
from vidlab.errors import InputError

SECOND = 1_000_000_000


def decisions(readings: list[tuple[float | None, float | None]]) -> dict[int, tuple[float, str]]:
    """What a controller decides, by the second; a reading is (CPU, share of errors)."""
    controller = Controller(Adaptive())
    found = {}
    for second, (cpu, errors) in enumerate(readings):
        decision = controller.read((100 + second) * SECOND, cpu, errors)
        if decision is not None:
            found[second] = decision.rate, decision.reason
    return found


def test_one_in_fifty_while_the_machine_has_been_busy_for_thirty_seconds() -> None:
    readings = [(0.5, 0.0)] * 3 + [(0.86, 0.0)] * 40 + [(0.85, 0.0)] * 5
    assert decisions(readings) == {33: (0.02, "cpu"), 43: (0.1, "calm")}


def test_a_moment_of_calm_begins_the_thirty_seconds_anew() -> None:
    readings = [(0.9, 0.0)] * 30 + [(0.2, 0.0)] + [(0.9, 0.0)] * 30
    assert decisions(readings) == {}
    assert decisions([(0.9, 0.0)] * 25 + [(None, 0.0)] + [(0.9, 0.0)] * 30) == {}


def test_everything_while_errors_have_been_many_for_ten_seconds() -> None:
    readings = [(0.1, 0.06)] * 15 + [(0.1, 0.05)] * 3
    assert decisions(readings) == {10: (1.0, "errors"), 15: (0.1, "calm")}


def test_errors_come_before_the_load() -> None:
    readings = [(0.99, 0.5)] * 35 + [(0.99, 0.0)] * 2
    assert decisions(readings) == {10: (1.0, "errors"), 35: (0.02, "cpu")}


def test_seconds_without_frames_change_nothing_for_a_while() -> None:
    readings = [(0.1, 0.9), (0.1, None)] * 6
    assert decisions(readings) == {10: (1.0, "errors")}
    assert decisions([*readings, *[(0.1, None)] * 12]) == {10: (1.0, "errors"), 21: (0.1, "calm")}


@pytest.mark.parametrize(
    "wrong",
    [
        {"base": 0},
        {"base": 1.5},
        {"busy": 0},
        {"base": 0.01},  # less than busy
        {"cpu": -0.1},
        {"cpu_seconds": -1},
        {"error_rate": 2},
        {"lookback_seconds": 0.1},
        {"lookback_seconds": 61},
        {"base": "0.1"},
        {"base": float("nan")},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Adaptive(**wrong)


def test_a_child_process_makes_another_one_like_it() -> None:
    settings = Adaptive(base=0.25, lookback_seconds=2)
    told = json.loads(json.dumps(Frames(settings).parameters()))
    assert Frames(**told).parameters() == Frames(settings).parameters()
    assert told["sampling"] == {"adaptive": vars(settings)}
    with pytest.raises(InputError, match="no setting bass"):
        Frames({"adaptive": {"bass": 0.1}})


class Machine:
    """A machine whose CPU time is told."""

    def __init__(self) -> None:
        self.used = self.all = 0

    def __call__(self) -> tuple[int, int]:
        return self.used, self.all

    def run(self, share: float) -> None:
        self.used += round(100 * share)
        self.all += 100


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    known = Machine()
    monkeypatch.setattr(adaptive, "machine_cpu", known)
    return known


def test_new_frames_bear_the_new_share_and_the_change_is_recorded(recorded, machine) -> None:
    sampling = AdaptiveSampling(0.1)
    settings = Adaptive(cpu_seconds=0, error_seconds=0)
    governor = Governor(recorded.writer, settings, sampling)
    source = Source(SpanRecorder(recorded.writer, "never", sampling), "cam", "h264")

    def share_of_next() -> tuple[float, bool]:
        ref = source.born(0, 0, 0)
        return labelsets.get(ref.labels).sample_rate, ref.sampled

    governor._stopped = False
    assert share_of_next() == (0.1, True)
    machine.run(0.9)
    governor.round()
    assert share_of_next() == (0.02, True)
    machine.run(0.9)
    governor.births, governor.errors = 10, 1
    governor.round()
    assert share_of_next() == (1.0, True)
    machine.run(0.2)
    governor.births += 10
    governor.round()
    assert share_of_next() == (0.1, True)
    rows = recorded.rows("sampling_decisions")
    kept = ("rate_before", "rate", "reason", "cpu", "error_rate")
    assert [tuple(row[key] for key in kept) for row in rows] == [
        (0.1, 0.02, "cpu", 0.9, None),
        (0.02, 1.0, "errors", 0.9, 0.1),
        (1.0, 0.1, "calm", 0.2, 0.0),
    ]


def test_it_is_said_once_that_nearly_all_frames_are_kept(recorded, machine) -> None:
    governor = Governor(recorded.writer, Adaptive(), AdaptiveSampling(0.1))
    governor._stopped = False
    governor.births, governor.kept = 2000, 1000
    governor.round()
    assert recorded.rows("findings") == []
    governor.kept = 1001
    governor.round()
    governor.round()
    (finding,) = recorded.rows("findings")
    assert finding["kind"] == "sampling_keeps_most"
    assert "deadline_ms" in finding["message"]


def test_a_forked_child_decides_only_if_frames_are_born_in_it(recorded, machine) -> None:
    governor = Governor(recorded.writer, Adaptive(), AdaptiveSampling(0.1))
    governor.start()
    try:
        assert governor._background.thread != 0
        governor.before_fork()
        governor.after_fork_in_child()
        assert governor._background.thread == 0
        governor.born()
        assert governor._background.thread != 0
    finally:
        governor.stop()
    assert governor._background.thread == 0
    (row,) = recorded.rows("sampling_decisions")
    assert (row["rate"], row["rate_before"], row["reason"]) == (0.1, None, "start")


def test_a_failure_of_its_own_is_reported_once(recorded, monkeypatch) -> None:
    said = []
    monkeypatch.setattr(adaptive.failures, "report", lambda writer, missing: said.append(missing))
    governor = Governor(recorded.writer, Adaptive(), AdaptiveSampling(0.1))
    governor._stopped = False
    monkeypatch.setattr(adaptive, "machine_cpu", lambda: 1 / 0)
    governor.round()
    governor.round()
    assert len(said) == 1


def test_the_kernel_tells_the_machines_cpu_time(tmp_path: Path, monkeypatch) -> None:
    told = machine_cpu()
    assert told is not None
    used, whole = told
    assert 0 < used <= whole
    assert whole <= 1.01 * os.cpu_count() * 100 * float(Path("/proc/uptime").read_text().split()[0])
    monkeypatch.setattr(adaptive, "_STAT", tmp_path / "none")
    assert machine_cpu() is None
    (tmp_path / "none").write_text("cpu  10 1 5 100 50 2 3 4 7 7\ncpu0 1\n")
    assert machine_cpu() == (25, 175)

"""The probe: how late it wakes, and what of that it waited for a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vidlab.capture.runtime.wakeups import Probe
from vidlab.schema import UNKNOWN

MS = 1_000_000


@pytest.fixture
def probe(writer: Any, clock: Any, monkeypatch: pytest.MonkeyPatch) -> Probe:
    made = Probe(writer)
    runqueue = iter((5 * MS, 7 * MS, 7 * MS, 500 * MS))
    monkeypatch.setattr(made, "_read", lambda: next(runqueue))
    monkeypatch.setattr(made, "_close", lambda: None)
    return made


def test_lateness_is_split_into_run_queue_and_the_rest(
    recorded: Any, probe: Probe, clock: Any
) -> None:
    probe.period_ns = 10 * MS
    probe._begin()
    assert probe._woken() == 0.01
    began_ns = clock.t_ns
    clock.pass_s(0.015)  # 5 ms late, 2 of them for want of a CPU
    probe._woken()
    clock.pass_s(0.01)
    probe._woken()
    clock.pass_s(0.011)  # waits before it fell asleep are no part of its lateness
    probe._woken()
    rows = recorded.records("wakeups")
    known = ("asked_ns", "late_ns", "runqueue_ns", "gil_ns")
    assert [tuple(row[c] // MS for c in known) for row in rows] == [
        (10, 5, 2, 3),
        (10, 0, 0, 0),
        (10, 1, 1, 0),
    ]
    assert rows[0]["t_ns"] == began_ns + 10 * MS


def test_a_probe_that_is_woken_before_its_time_measures_nothing(
    recorded: Any, probe: Probe, clock: Any
) -> None:
    probe.period_ns = 10 * MS
    probe._begin()
    probe._woken()
    clock.pass_s(0.004)
    assert probe._woken() == 0.01
    probe.period_ns = 0
    clock.pass_s(0.02)
    assert probe._woken() == 3600  # what it slept for still counts
    clock.pass_s(7200)
    probe._woken()
    assert len(recorded.records("wakeups")) == 1


def test_where_the_kernel_does_not_tell_the_estimate_is_unknown(
    recorded: Any, writer: Any, clock: Any, tmp_path: Path
) -> None:
    probe = Probe(writer)
    probe.period_ns = 10 * MS
    probe._woken()
    clock.pass_s(0.013)
    probe._woken()
    (row,) = recorded.records("wakeups")
    assert (row["late_ns"], row["runqueue_ns"], row["gil_ns"]) == (3 * MS, UNKNOWN, UNKNOWN)

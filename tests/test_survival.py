"""SIGKILL at random moments: no span that was completed is missing."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import vidlab as vl
from vidlab.runs.recovery import recover
from vidlab.runs.verification import verify

pytestmark = pytest.mark.timeout(900)  # the first test waits for all recordings

LAUNCHER = Path(__file__).with_name("survival_launcher.py")
KILLS = 50


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "PYTHONPATH": str(LAUNCHER.parent)}
    subprocess.run(
        [sys.executable, LAUNCHER, folder, str(KILLS), "20261120"], check=True, env=environment
    )
    return folder


@pytest.mark.parametrize("number", range(KILLS))
def test_no_completed_span_is_missing(killed: Path, number: int) -> None:
    folder = killed / f"{number:02}"
    counters = struct.iter_unpack("<Q", (folder / "witness").read_bytes())
    completed = {f"worker-{worker}": count for worker, (count,) in enumerate(counters) if count}
    assert completed

    run = vl.open_run(folder / "run")
    assert run.state == "killed"
    assert not run.live
    check(run, completed)

    recover(folder / "run")
    recovered = vl.open_run(folder / "run")
    assert recovered.state == "recovered"
    check(recovered, completed)
    assert verify(folder / "run") == []


def check(run: vl.Run, completed: dict[str, int]) -> None:
    """Hold the run's spans against the witness: it may hold the one span more that was
    completed but not yet witnessed."""
    spans = run.scan("spans").select("stage", "stream_id").collect()
    recorded = Counter(spans["stage"].cast(str).to_list())
    missing = {name: count - recorded[name] for name, count in completed.items()}
    assert {name: n for name, n in missing.items() if n > 0} == {}
    assert {name: n for name, n in missing.items() if n < -1} == {}
    expected = {name.replace("worker", "cam") for name in recorded}
    assert set(spans["stream_id"].cast(str)) == expected

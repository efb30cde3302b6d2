"""The report on leaks: for people, for machines, and as a gate."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from vidlab import sizes
from vidlab.analysis import leaks
from vidlab.capture.frames.engine import Frames
from vidlab.capture.frames.stages import stage
from vidlab.errors import InputError, RunError
from vidlab.lab.leak_scenarios import Scenario, scenario
from vidlab.recording import record
from vidlab.runs.run import open_run
from vidlab.workbench.leaks import leak_report, slope


class Recorded:
    """A run of these tables."""

    path = Path("runs/made-up")

    def __init__(self, made: Scenario, lost: int = 0, **more: pl.DataFrame) -> None:
        self._tables = {
            "allocations": made.allocations, "frames": made.frames, "stacks": made.stacks, **more,
        }  # fmt: skip
        self.losses = {"allocations": {"lost": lost, "let_go": lost}} if lost else {}

    def tables(self) -> list[str]:
        return list(self._tables)

    def scan(self, table: str) -> pl.LazyFrame:
        return self._tables[table].lazy()


@pytest.fixture(scope="module")
def leaky() -> Scenario:
    return scenario(6, leak=True)


def holders(made: Scenario) -> pl.DataFrame:
    own = made.allocations.filter(pl.col("stack") == made.culprit)
    return own.select(
        "pid", "generation", kind=pl.lit("list"), holder=pl.lit("list app.kept"), chain=pl.lit("[]")
    )


def test_a_leak_for_people(leaky: Scenario) -> None:
    report = leak_report(Recorded(leaky, holders=holders(leaky)))  # type: ignore[arg-type]
    lines = str(report).splitlines()
    assert "1 leaking" in lines[0]
    row = report.found.row(0, named=True)
    assert lines[2].startswith(f"leaking: stages.site_{leaky.culprit} /app/stages.py:")
    assert f"[stream_id={row['stream_id']}, codec={row['codec']}]" in lines[2]
    assert lines[3].strip() == slope(row["bytes_per_1000_frames"], row["low"], row["high"])
    assert f"{row['live_blocks']} blocks of {sizes.say(row['live_bytes'])}" in lines[4]
    assert lines[5].strip() == "held by list app.kept"
    assert "more that are steady" in lines[-1]


def test_a_leak_for_machines(leaky: Scenario) -> None:
    report = leak_report(Recorded(leaky, holders=holders(leaky)))  # type: ignore[arg-type]
    facts = json.loads(json.dumps(report.facts()))
    assert len(facts) == report.found.height
    assert facts[0]["verdict"] == "leaking"
    assert facts[0]["site"].startswith(f"stages.site_{leaky.culprit} ")
    assert set(facts[0]["labels"]) == {"stream_id", "codec"}
    assert facts[0]["low"] < facts[0]["bytes_per_1000_frames"] < facts[0]["high"]
    assert facts[0]["holder"] == "list app.kept"
    assert facts[-1]["holder"] is None


@pytest.mark.parametrize(
    ("options", "leaking", "growing", "clean"),
    [
        ({}, False, False, False),
        ({"fail_on": "leaking"}, True, False, False),
        ({"fail_on": "growing"}, True, True, False),
    ],
)
def test_the_gate(
    leaky: Scenario, options: dict[str, str], leaking: bool, growing: bool, clean: bool
) -> None:
    for made, expected in (
        (leaky, leaking),
        (scenario(3, filling=True), growing),
        (scenario(3), clean),
    ):
        assert leak_report(Recorded(made), **options).failed is expected  # type: ignore[arg-type]


def test_by_other_labels(leaky: Scenario) -> None:
    report = leak_report(Recorded(leaky), by=["codec"])  # type: ignore[arg-type]
    assert set(report.facts()[0]["labels"]) == {"codec"}
    report = leak_report(Recorded(leaky), by=[])  # type: ignore[arg-type]
    assert report.facts()[0]["labels"] == {}
    assert "[" not in str(report)


def test_what_was_lost_is_said(leaky: Scenario) -> None:
    text = str(leak_report(Recorded(leaky, lost=1_200)))  # type: ignore[arg-type]
    assert "! 1,200 allocations and frees were lost" in text
    assert "! 1,200 allocations and frees were let go" in text


def test_a_run_without_frames(leaky: Scenario) -> None:
    run = Recorded(leaky)
    run._tables["allocations"] = leaky.allocations.with_columns(frame=pl.lit(None, pl.UInt64))
    del run._tables["frames"]
    report = leak_report(run)  # type: ignore[arg-type]
    assert set(report.found["verdict"]) == {leaks.UNDECIDED}
    assert report.facts()[0]["bytes_per_1000_frames"] is None
    assert "! no frame was recorded" in str(report)


def test_a_run_without_gpu_memory_says_how_to_record_it(tmp_path: Path) -> None:
    with record(tmp_path, engines=[Frames()]), stage("work"):
        pass
    run = open_run(tmp_path)
    with pytest.raises(RunError, match="GpuMemory"):
        leak_report(run)


def test_no_such_verdict(leaky: Scenario) -> None:
    with pytest.raises(InputError, match="leaking or growing, not on 'steady'"):
        leak_report(Recorded(leaky), fail_on="steady")  # type: ignore[arg-type]


def test_slopes_for_people() -> None:
    assert slope(1.94e6, 1.61e6, 2.2e6) == "1.85 MiB per 1,000 frames (1.54 to 2.1)"
    assert slope(12, -3.2e3, 3.2e3) == "0.0117 KiB per 1,000 frames (-3.12 to 3.12)"
    assert slope(0, 0, 0) == "0 B per 1,000 frames (0 to 0)"

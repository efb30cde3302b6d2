"""The notebooks on frames and their latency, and the report, run from top to bottom."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vidlab as vl
from vidlab.lab.synthetic import write_run

from .conftest import Execute, Executed

CommandLine = Callable[..., str]


# --- 01 -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(execute: Execute, tmp_path_factory: pytest.TempPathFactory) -> list[Executed]:
    """The quickstart, as it is and with a label of one's own."""
    folder = tmp_path_factory.mktemp("quickstart")
    mine = {"stream_id": "mine", "codec": "x", "gpu": 1, "deadline_ms": 1.0}
    return [
        execute("01_quickstart", run=str(folder / "plain")),
        execute("01_quickstart", run=str(folder / "mine"), **mine),
    ]


def test_quickstart_records_and_answers(recorded: list[Executed]) -> None:
    for executed, stream in zip(recorded, ("quickstart", "mine"), strict=True):
        run = vl.open_run(executed.parameters["run"])
        assert run.manifest.tables["frames"].rows == 100
        streams = run.scan("frames").select("stream_id").collect()["stream_id"].unique().to_list()
        assert streams == [stream]
        assert "motion" in executed.text
        assert executed.table("What became of the frames")[0][0] == stream
        assert "delivered" in executed.shown[-1]
    # Where the machine pauses some are late; that is for the verdict's own tests.
    assert re.search(r"\b(None|\d+) of 100 delivered frames w(as|ere) late", recorded[0].shown[-1])
    assert "of mine (x)" in recorded[1].shown[-1]


def test_the_command_line_says_the_same_of_labels(
    recorded: list[Executed], command_line: CommandLine
) -> None:
    for executed in recorded:
        costs = json.loads(command_line("labels", executed.parameters["run"], "--json"))
        shown = executed.table("What each label costs")
        assert [row[:3] for row in shown] == [
            [cost["key"], f"{cost['values']:,}", f"{cost['rows']:,}"] for cost in costs
        ]
        assert {row[0] for row in shown} >= {"stream_id", "codec"}


# --- 02 -----------------------------------------------------------------------------


def test_frame_latency_closes_and_names_who_was_late(execute: Execute) -> None:
    executed = execute("02_frame_latency")
    assert executed.charts == 6
    frames, within = executed.table("How well the latency closes")[0]
    assert int(frames) > 500
    assert within.endswith("%")
    late = executed.table("Late frames by stream")
    assert {row[0] for row in late} == {"cam-1", "cam-2", "cam-3"}
    way = executed.table("The way of the slowest frame")
    assert {"demux", "decode", "filter", "motion"} <= {row[2] for row in way}
    assert "headline" in executed.shown[-1]
    assert "cam-1: 3 of 200 frames were corrupt" in executed.shown[-1]


def test_frame_latency_of_one_codec_under_a_deadline(execute: Execute) -> None:
    executed = execute("02_frame_latency", run="slow_stage", codec="av1", deadline_ms=60.0)
    [late] = executed.table("Late frames by stream")
    assert late[:2] == ["cam-3", "av1"]
    assert "60.0" in late
    assert "filter takes" in executed.shown[-1]


# --- 07 -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [{}, {"run": "queue_backs_up", "stream_id": "cam-2", "deadline_ms": 150.0}],
    ids=["everything", "queue_backs_up"],
)
def test_late_frames_are_explained_as_the_command_line_explains_them(
    execute: Execute, command_line: CommandLine, parameters: dict[str, Any]
) -> None:
    executed = execute("07_late_frames", **parameters)
    chosen = {"--stream-id": "stream_id", "--deadline-ms": "deadline_ms"}
    options = [
        word
        for option, name in chosen.items()
        if name in parameters
        for word in (option, str(parameters[name]))
    ]
    name = parameters.get("run", "everything")
    assert executed.printed == command_line("explain", name, *options)
    facts = json.loads(command_line("explain", name, *options, "--json"))
    late = executed.table("Late frames by stream")
    assert facts["late"] == sum(int(row[3].replace(",", "")) for row in late) > 0
    assert executed.charts >= 2


def test_the_planted_fault_is_to_blame(execute: Execute, command_line: CommandLine) -> None:
    facts = json.loads(command_line("explain", "queue_backs_up", "--json"))
    first = facts["causes"][0]
    assert (first["cause"], first["stream_id"]) == ("queue_wait", "cam-2")


# --- report -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of frames only, four streams of four codecs."""
    folder = tmp_path_factory.mktemp("report")
    return str(write_run(folder / "run", frames=1_200, streams=4, seed=1))


def test_the_report_of_everything(execute: Execute, command_line: CommandLine) -> None:
    executed = execute("report")
    assert executed.charts > 30
    [verdict] = [html for html in executed.shown if "headline" in html]
    for stream in ("cam-1", "cam-2", "cam-3"):
        assert stream in verdict
    for heading in ("Kernel events", "Profiles", "What the runtime did"):
        [place] = [n for n, text in enumerate(executed.shown) if f"<h2>{heading}</h2>" in text]
        rest = " ".join(executed.shown[place:])
        assert "vidlab-chart" in rest
    assert "Time off the CPU" in executed.text
    # What it says of the run is what the command line says.
    facts = json.loads(command_line("info", "everything", "--json"))
    told = dict(executed.table("This run"))
    assert told["run"] == facts["run_id"]
    assert told["host: name"] == "lab"
    counted = {f"rows of {name}": f"{known['rows']:,}" for name, known in facts["tables"].items()}
    shown = {fact: value for fact, value in told.items() if fact.startswith("rows of ")}
    assert len(shown) > 5
    assert shown.items() <= counted.items()


def test_the_report_of_a_slice_is_silent_about_what_was_not_recorded(
    execute: Execute, synthetic: str
) -> None:
    executed = execute("report", run=synthetic, stream_id="cam-02", codec="av1", deadline_ms=40.0)
    assert executed.charts > 15
    [verdict] = [html for html in executed.shown if "headline" in html]
    assert "cam-02" in verdict
    assert "cam-03" not in verdict
    assert "ernel events" not in executed.text
    of_kernel = [cell for cell in executed.notebook.cells if cell.source.startswith("kernel")]
    assert len(of_kernel) >= 10
    assert not any(cell.outputs for cell in of_kernel)
    assert sum("No GPU memory was recorded" in text for text in executed.shown) == 1
    assert "What holds the memory that is in use" not in executed.text


def test_a_run_that_is_not_there_is_told_by_the_notebook(execute: Execute, tmp_path: Path) -> None:
    with pytest.raises(vl.VidlabError, match=r"cell 3 of 02_frame_latency\.ipynb failed: InputErr"):
        execute("02_frame_latency", run=str(tmp_path / "none"))

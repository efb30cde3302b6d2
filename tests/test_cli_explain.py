"""`vidlab explain`: one verb for one frame and for all late ones, for people and machines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vidlab import cli
from vidlab.lab.synthetic import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("explain") / "my run", frames=800, streams=2, seed=3)


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main(["explain", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def wrong(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main(["explain", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_help_shows_examples_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["explain", "--help"])
    lines = capsys.readouterr().out.splitlines()
    examples = [line.split()[1:] for line in lines if line.startswith("  vidlab explain")]
    assert len(examples) == 4
    for example in examples:
        assert cli._parser().parse_args(example).name == "explain"


def test_it_tells_of_late_frames_and_its_json_of_the_same(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = output(capsys, run, "--deadline-ms", 60)
    facts = json.loads(output(capsys, run, "--deadline-ms", 60, "--json"))
    assert f"{facts['late']:,} of {facts['frames']:,} delivered frames were late" in text
    assert facts["deadline_ms"] == 60
    first = facts["causes"][0]
    assert {"cause", "share", "seconds", "stream_id", "codec", "gpu", "stage"} < set(first)
    assert first["evidence"]["frames"]


def test_what_it_prints_can_be_pasted_back(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, run, "--deadline-ms", 60)
    hint = next(line for line in text.splitlines() if line.startswith("one frame: "))
    verb = hint.partition("vidlab ")[2]
    told = subprocess.run(
        ["bash", "-c", f"exec {sys.executable} -m vidlab.cli {verb} --json --deadline-ms 60"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    facts = json.loads(told.stdout)
    assert facts["late"] == 1
    assert hint.endswith(facts["frame"])


def test_the_worst_frame_is_the_latest_of_those_that_are_asked_for(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worst = json.loads(output(capsys, run, "--worst", "--stream-id", "cam-01", "--json"))
    assert worst["frame"].startswith("cam-01:")
    again = output(capsys, run, "--frame", worst["number"])
    assert again.startswith(worst["frame"])
    assert "spent on" in again


def test_what_is_wrong_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "does not exist" in wrong(capsys, tmp_path / "nothing")
    assert "there is no frame cam-00:123456" in wrong(capsys, run, "--frame", "cam-00:123456")
    assert "above 0" in wrong(capsys, run, "--deadline-ms", "-3")
    assert "no frame of gpu 7" in wrong(capsys, run, "--gpu", "7")
    assert "its streams are cam-01" in wrong(
        capsys, run, "--stream-id", "cam-01", "--frame", "cam-00:1"
    )


def test_it_draws_without_what_only_a_notebook_needs(run: Path) -> None:
    program = (
        "import sys; from vidlab import cli; cli.main(sys.argv[1:])\n"
        "print({'altair', 'IPython', 'cv2', 'av'} & set(sys.modules))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, "explain", str(run), "--worst"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.splitlines()[-1] == "set()"

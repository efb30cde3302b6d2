"""The command line: every verb has an example, says what is wrong, and speaks JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import vidlab as vl
from vidlab import cli
from vidlab.workbench import doctor

VERBS = ["record", "report", "demo", "doctor", "recover", "compact", "verify", "info"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    with (
        vl.record(path, parameters={"deadline_ms": 50}),
        vl.labels(stream_id="cam"),
        vl.stage("filter"),
    ):
        pass
    return path


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example_that_parses(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    help = capsys.readouterr().out
    examples = [line.split() for line in help.splitlines() if line.startswith(f"  vidlab {verb}")]
    assert examples
    for _, *arguments in examples:
        assert cli._parser().parse_args(arguments).name == verb


def test_all_verbs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    help = capsys.readouterr().out
    assert all(f"    {verb} " in help for verb in VERBS)


@pytest.mark.parametrize("verb", ["report", "recover", "compact", "verify", "info"])
def test_what_is_wrong_is_one_line_and_exit_code_2(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([verb, str(tmp_path / "nothing")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"vidlab {verb}: ")
    assert "does not exist" in captured.err
    assert captured.err.count("\n") == 1


def test_a_missing_package_is_told_with_its_extra(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_polars(path: object) -> None:
        raise ModuleNotFoundError("No module named 'polars'", name="polars")

    monkeypatch.setattr(vl, "open_run", without_polars)
    assert cli.main(["info", str(run)]) == 2
    assert "pip install 'vidlab[workbench]'" in capsys.readouterr().err


def test_info_tells_what_a_run_holds(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "info", run)
    assert "complete" in text
    assert "deadline_ms: 50" in text
    assert "spans                      1 rows" in text
    facts = json.loads(output(capsys, "info", "--json", run))
    assert facts["state"] == "complete"
    assert facts["tables"]["spans"]["rows"] == 1
    assert facts["losses"] == {}


@pytest.mark.parametrize("verb", ["recover", "compact"])
def test_finishing_a_finished_run_changes_nothing(
    verb: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads(output(capsys, verb, "--json", run))["state"] == "complete"


def test_verify_says_what_is_damaged(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing wrong" in output(capsys, "verify", run)
    assert json.loads(output(capsys, "verify", "--json", run)) == []
    (run / "spans.parquet").write_bytes(b"PAR1")
    assert cli.main(["verify", str(run)]) == 1
    assert "spans" in capsys.readouterr().out
    assert cli.main(["verify", "--json", str(run)]) == 1
    assert json.loads(capsys.readouterr().out)[0]["where"].startswith("spans")


def test_doctor_names_what_is_missing_and_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setitem(doctor.EXTRAS, "video", {"no_such_module": "no-such-package"})
    findings = {
        finding["what"]: finding for finding in json.loads(output(capsys, "doctor", "--json"))
    }
    assert findings["Python"]["works"]
    assert findings["packages for recording"]["works"]
    assert not findings["packages for video"]["works"]
    assert findings["packages for video"]["remedy"] == "pip install 'vidlab[video]'"
    assert findings["FFmpeg as a child process"]["remedy"] == "sudo apt install ffmpeg"
    text = output(capsys, "doctor")
    assert "missing  packages for video: missing: no-such-package" in text
    assert "pip install 'vidlab[video]'" in text


def test_doctor_finds_every_module_that_it_looks_for() -> None:
    works = {finding.what: finding.works for finding in doctor.examine()}
    assert works["packages for video"]
    assert works["packages for workbench"]
    assert works["PyAV's encoders"]
    assert works["PyAV's decoders"]


@pytest.mark.parametrize(
    ("text", "size"), [("500M", 500 << 20), ("2G", 2 << 30), ("1.5k", 1536), ("64MiB", 64 << 20)]
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert cli._parser().parse_args(["record", "--max-bytes", text, "x.py"]).max_bytes == size


def test_what_follows_the_script_is_the_script_s(capsys: pytest.CaptureFixture[str]) -> None:
    options = cli._parser().parse_args(
        ["record", "-v", "--label", "a=b", "x.py", "-o", "out", "--help", "-m", "y"]
    )
    assert options.command == ["x.py", "-o", "out", "--help", "-m", "y"]
    assert options.output is None
    options = cli._parser().parse_args(["record", "-o", "r", "-m", "module", "-o", "out"])
    assert (str(options.output), options.module) == ("r", ["module", "-o", "out"])

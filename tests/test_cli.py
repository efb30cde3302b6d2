"""The command line: every verb has an example, says what is wrong, and speaks JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import vidlab as vl
from vidlab import cli
from vidlab.capture.gpu import engine
from vidlab.lab.clips import Clip, make_clips
from vidlab.workbench import doctor

VERBS = ["record", "report", "demo", "leaks", "doctor", "recover", "compact", "verify", "info"]
VERBS += ["health", "labels", "metrics", "import-pprof", "attach", "probes"]
VERBS += ["explain", "experiment"]


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
    listed = [line.split()[0] for line in help.splitlines() if line.startswith("    ")]
    assert {*VERBS} <= {*listed}


@pytest.mark.parametrize("verb", ["report", "leaks", "recover", "compact", "verify", "info"])
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
    assert ["spans", "1", "rows"] in [line.split()[:3] for line in text.splitlines()]
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
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setitem(doctor.EXTRAS, "video", {"no_such_module": "no-such-package"})
    findings = {
        finding["what"]: finding for finding in json.loads(output(capsys, "doctor", "--json"))
    }
    assert findings["Python"]["works"]
    assert findings["packages for recording"]["works"]
    assert not findings["packages for video"]["works"]
    assert findings["packages for video"]["remedy"] == "pip install 'vidlab[video]'"
    assert findings["FFmpeg as a child process"]["remedy"] == "sudo apt install ffmpeg"
    assert findings["a C compiler"]["remedy"] == "sudo apt install gcc"
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


# --- leaks ------------------------------------------------------------------------


def keep_one_in_four(clip: Path, stream_id: str, kept: list[object]) -> None:
    """What a user's program does: it uploads each picture, and never forgets some."""
    import cupy

    with vl.open_video(clip, stream_id=stream_id) as video:
        for number, frame in enumerate(video.frames()):
            with vl.stage("upload", frame):
                picture = cupy.empty(123 * 512, "u1")
            if stream_id == "cam-2" and number % 4 == 0:
                kept.append(picture)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = Clip("small", "libx264", {"preset": "ultrafast"}, 64, 36, rate=100, seconds=3.0)
    (path,) = make_clips([small], tmp_path_factory.mktemp("clips"))
    return path


@pytest.fixture(scope="module")
def leaky(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("leaks") / "run"
    kept: list[object] = []
    with vl.record(path, engines=[vl.Frames(), vl.GpuMemory()]):
        for stream_id in ("cam-1", "cam-2"):
            keep_one_in_four(clip, stream_id, kept)
    return path


@pytest.mark.needs("hostcuda")
def test_leaks_for_machines(leaky: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(output(capsys, "leaks", leaky, "--json"))
    documented = {
        "verdict", "site", "labels", "bytes_per_1000_frames", "low", "high", "holder",
    }  # fmt: skip
    for site in facts:
        assert set(site) == documented | {"live_bytes", "live_blocks"}
    assert [site["verdict"] for site in facts] == ["leaking", "steady"]
    leak, steady = facts
    function, _, line = leak["site"].rpartition(" ")
    assert function.rpartition(".")[2] == "keep_one_in_four"
    assert line.startswith(f"{__file__}:")
    assert leak["labels"] == {"stream_id": "cam-2", "codec": "h264"}
    assert leak["low"] <= leak["bytes_per_1000_frames"] <= leak["high"]
    assert leak["bytes_per_1000_frames"] == pytest.approx(123 * 512 * 250, rel=0.05)
    assert "kept" in leak["holder"]
    assert "list" in leak["holder"]
    assert leak["live_blocks"] in (75, 76)  # the last picture lives on, kept or not
    assert steady["labels"] == {"stream_id": "cam-1", "codec": "h264"}


@pytest.mark.needs("hostcuda")
def test_leaks_for_people(leaky: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "leaks", leaky)
    assert text.startswith("2 allocation sites: 1 leaking, 1 steady\n")
    assert f"keep_one_in_four {__file__}:" in text
    assert "[stream_id=cam-2, codec=h264]" in text
    assert "per 1,000 frames" in text
    assert "held by " in text
    assert "!" not in text


@pytest.mark.needs("hostcuda")
def test_leaks_as_a_gate(
    leaky: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = tmp_path / "clean"
    with vl.record(clean, engines=[vl.Frames(), vl.GpuMemory()]):
        keep_one_in_four(clip, "cam-1", [])
    for verdict in ("leaking", "growing"):
        for options in ([], ["--json"]):
            gate = ["--fail-on", verdict, *options]
            assert cli.main(["leaks", str(leaky), *gate]) == 1
            assert cli.main(["leaks", str(clean), *gate]) == 0
    assert cli.main(["leaks", str(leaky)]) == 0
    with pytest.raises(SystemExit) as ended:
        cli.main(["leaks", str(leaky), "--fail-on", "steady"])
    assert ended.value.code == 2
    assert "leaking" in capsys.readouterr().err


@pytest.mark.needs("hostcuda")
def test_leaks_by_other_labels(leaky: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site,) = json.loads(output(capsys, "leaks", leaky, "--json", "--by", "codec"))
    assert site["labels"] == {"codec": "h264"}
    (site,) = json.loads(output(capsys, "leaks", leaky, "--json", "--by", ""))
    assert site["labels"] == {}
    assert cli.main(["leaks", str(leaky), "--by", "codec,nonsense"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("vidlab leaks: ")
    assert "nonsense" in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_leaks_of_a_run_without_gpu_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with vl.record(tmp_path / "frames", engines=[vl.Frames()]), vl.stage("work"):
        pass
    assert cli.main(["leaks", str(tmp_path / "frames")]) == 2
    assert "GpuMemory" in capsys.readouterr().err


@pytest.mark.needs("hostcuda")
def test_leaks_of_a_run_that_took_no_gpu_memory(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert output(capsys, "leaks", run, "--fail-on", "growing").startswith("0 allocation sites")
    assert json.loads(output(capsys, "leaks", run, "--json")) == []


def test_leaks_of_a_run_that_could_not_record_gpu_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_what_is_missing", lambda: "there is no driver")
    with vl.record(tmp_path / "run"), vl.stage("work"):
        pass
    assert cli.main(["leaks", str(tmp_path / "run"), "--fail-on", "leaking"]) == 2
    assert "GPU memory is not recorded: there is no driver" in capsys.readouterr().err

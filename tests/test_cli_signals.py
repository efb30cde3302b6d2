"""The verbs `health`, `metrics`, `import-pprof` and `labels`, and what `record` reads."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import vidlab as vl
from vidlab import cli, recording
from vidlab.analysis.thresholds import Thresholds
from vidlab.capture.frames.adaptive import Adaptive
from vidlab.formats import pprof
from vidlab.formats.pprof import Function, Label, Line, Location, Profile, Sample, ValueType
from vidlab.schema.metrics import METRICS
from vidlab.workbench import arguments, child

VERBS = ("health", "metrics", "import-pprof", "labels")
SECOND = 1_000_000_000

#: What is imported.
FUNCTION = Function(1, "decode", filename="video.py")
DECODE = Location(1, lines=(Line(FUNCTION, 12),))
CPU = Profile(
    sample_types=(ValueType("cpu", "nanoseconds"),),
    samples=(Sample((DECODE,), (30_000_000,), (Label("stream_id", text="cam-1"),)),),
    locations=(DECODE,),
    functions=(FUNCTION,),
    duration_nanos=2 * SECOND,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that grows by 20 items a second, and 20 viewers, of whom 10 are too many."""
    path: Path = tmp_path_factory.mktemp("signals") / "run"
    rules = vl.LabelRules(budgets={"viewer": 10}, redact=("name",), drop=("token",))
    with vl.record(path, engines=[], label_rules=rules) as recording:
        write = recording.writer.row
        for n in range(20):
            size = {"items": n * 20, "size_bytes": n * 2_000}
            write("objects", t_ns=n * SECOND, holder="cache", name="app.find", type="cache", **size)
            with vl.labels(stream_id="cam-1", viewer=f"v{n}", name="Ada", token=f"t{n}"):
                write("ffmpeg_frames", frame_number=n)
    return path


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with nothing in it."""
    path: Path = tmp_path_factory.mktemp("without") / "run"
    with vl.record(path, engines=[]):
        pass
    return path


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def wrong(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What is said about a mistake: in one line, and nothing else is."""
    try:
        code: object = cli.main([str(argument) for argument in arguments])
    except SystemExit as ended:  # of argparse, which shows the usage too
        code = ended.code
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith(f"vidlab {arguments[0]}: ")
    return last


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_examples_that_parse(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    lines = capsys.readouterr().out.splitlines()
    examples = [shlex.split(line) for line in lines if line.startswith(f"  vidlab {verb}")]
    assert examples
    for _, *given in examples:
        options = cli._parser().parse_args(given)
        if verb == "health":
            arguments.thresholds(options)


@pytest.mark.parametrize("verb", ["health", "labels"])
def test_what_is_no_run_is_told(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "does not exist" in wrong(capsys, verb, tmp_path / "nothing")
    assert "has no manifest.json" in wrong(capsys, verb, tmp_path)
    (tmp_path / "file").write_text("a file")
    assert str(tmp_path / "file") in wrong(capsys, verb, tmp_path / "file")
    assert "required: RUN" in wrong(capsys, verb)


# --- health -----------------------------------------------------------------------


def test_health_names_what_grows_and_what_it_looked_at(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict, _, looked_at, not_seen = output(capsys, "health", run).splitlines()
    assert verdict.startswith("warning  cache_growth: ")
    assert "app.find" in verdict
    assert looked_at == "looked at: caches and context variables"
    assert "garbage collections" in not_seen
    assert "caches" not in not_seen


def test_health_for_machines(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (verdict,) = json.loads(output(capsys, "health", "--json", run))
    assert (verdict["kind"], verdict["subject"]) == ("cache_growth", "app.find")
    assert (verdict["value"], verdict["threshold"]) == (380, Thresholds.item_growth)
    assert isinstance(verdict["evidence"], dict)


def test_thresholds_change_what_is_worth_a_word(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--threshold", "item_growth=400", "--threshold", "byte_growth=1M"]
    assert "nothing that is worth a word" in output(capsys, "health", run, *more)
    assert json.loads(output(capsys, "health", run, "--json", *more)) == []
    less = [*more, "--threshold", "byte_growth=16k"]  # the last one of a name holds
    (verdict,) = json.loads(output(capsys, "health", run, "--json", *less))
    assert (verdict["threshold"], verdict["unit"]) == (16 << 10, "bytes")


@pytest.mark.parametrize(
    ("threshold", "message"),
    [
        ("nonsense=1", "there are pause_growth_ms=50.0, pauses_in_a_row=3, "),
        ("delay_p99_ms", "'delay_p99_ms' is not of the form name=value"),
        ("delay_p99_ms=soon", "delay_p99_ms is a number such as 10.0, not 'soon'"),
        ("delay_p99_ms=-1", "a number above zero"),
        ("delay_p99_ms=nan", "a number above zero"),
        ("pauses_in_a_row=2.5", "a whole number such as 3, not '2.5'"),
        ("context_bytes=much", "not 'much'"),
    ],
)
def test_a_threshold_that_is_none_is_told(
    threshold: str, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in wrong(capsys, "health", run, "--threshold", threshold)


def test_a_run_that_cannot_be_judged_is_not_called_healthy(
    without: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ([], ["--json"]):
        assert "record it with the engine Runtime" in wrong(capsys, "health", without, *options)


# --- metrics ----------------------------------------------------------------------


def test_every_metric_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    head, *lines = output(capsys, "metrics").splitlines()
    for metric, line in zip(METRICS, lines, strict=True):
        name, kind, unit, meaning = line.split(maxsplit=3)
        assert (name, kind, unit) == (metric.name, metric.kind, metric.unit)
        assert meaning == metric.meaning
        assert line.index(meaning) == head.index("meaning")
    listed = json.loads(output(capsys, "metrics", "--json"))
    assert [metric["name"] for metric in listed] == [metric.name for metric in METRICS]
    assert {"kind", "unit", "meaning", "attribute", "table", "column"} <= listed[0].keys()


# --- labels -----------------------------------------------------------------------


def test_labels_tell_what_each_key_costs_and_what_rules_did(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, *lines = output(capsys, "labels", run).splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert next(iter(rows)) == "viewer"  # the dearest first
    assert rows["stream_id"].split()[1:3] == ["1", "20"]
    assert rows["viewer"].endswith("10 by budget")
    assert rows["name"].endswith("1 by redact")
    assert rows["token"].endswith("20 by drop")
    facts = {row["key"]: row for row in json.loads(output(capsys, "labels", "--json", run))}
    assert facts.keys() == rows.keys()
    assert (facts["viewer"]["folded"], facts["viewer"]["rules"]) == (10, "budget")
    assert facts["viewer"]["bytes"] > 0


def test_labels_of_runs_without_any_and_without_tables(
    without: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert output(capsys, "labels", without) == f"{without}: no row has a label\n"
    assert json.loads(output(capsys, "labels", without, "--json")) == []
    monkeypatch.setattr(recording, "_can_compact", lambda: False)
    with vl.record(tmp_path / "run", engines=[]) as going_on, vl.labels(site="north"):
        going_on.writer.row("ffmpeg_frames", frame_number=1)
    assert "not compacted yet" in output(capsys, "labels", tmp_path / "run")


# --- import-pprof -----------------------------------------------------------------


def test_import_pprof_makes_a_run_of_the_files_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cpu.pb.gz").write_bytes(pprof.write(CPU))
    told = output(capsys, "import-pprof", "cpu.pb.gz")
    (path,) = Path("runs").iterdir()
    assert path.name.startswith("cpu-")
    assert told.startswith("imported cpu.pb.gz, 1 sample of cpu (nanoseconds) in 2.0 s")
    assert told.endswith(f": vidlab report {path.absolute()}\n")
    (row,) = vl.open_run(path).scan("profile_samples").collect().rows(named=True)
    assert (row["value"], row["stream_id"]) == (30_000_000, "cam-1")


def test_import_pprof_replaces_a_run_only_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, path = tmp_path / "cpu.pprof", tmp_path / "run"
    file.write_bytes(pprof.write(CPU, compress=False))
    output(capsys, "import-pprof", file, "-o", path)
    assert "holds a run" in wrong(capsys, "import-pprof", file, "-o", path)
    output(capsys, "import-pprof", file, "-o", path, "--overwrite")
    assert "is not empty" in wrong(capsys, "import-pprof", file, "-o", tmp_path, "--overwrite")
    assert "is a file" in wrong(capsys, "import-pprof", file, "-o", file, "--overwrite")
    assert file.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"#!/usr/bin/env python\n", "not a pprof profile"),
        (pprof.write(CPU)[:-9], "is cut off"),
        (pprof.write(Profile(sample_types=CPU.sample_types)), "without samples"),
    ],
)
def test_what_is_no_pprof_is_told_and_leaves_nothing(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(content)
    path = tmp_path / "run"
    assert message in wrong(capsys, "import-pprof", tmp_path / "file", "-o", path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("missing.pprof", "does not exist"),
        (".", "is a folder"),
        ("/proc/self/mem", "cannot be read"),  # by nobody, not even by root
    ],
)
def test_a_file_that_cannot_be_read_is_told(
    file: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    assert message in wrong(capsys, "import-pprof", tmp_path / file, "-o", path)
    assert not path.exists()


# --- record -----------------------------------------------------------------------


def test_options_of_a_recording_come_to_what_they_say() -> None:
    chosen = cli._parser().parse_args(
        shlex.split("record --adaptive 0.01 --redact a --redact b --redact a --drop-label c x.py")
    )
    rules = arguments.label_rules(chosen)
    assert (rules.budget, rules.redact, rules.drop) == (500, ("a", "b"), ("c",))
    # The share is never raised because the machine is busy.
    assert arguments.sampling(chosen) == Adaptive(base=0.01, busy=0.01)
    chosen = cli._parser().parse_args(
        shlex.split("record --adaptive 0.5 --label-budget 0 --runtime debug --profiles x.py")
    )
    assert arguments.sampling(chosen) == Adaptive(base=0.5)
    assert arguments.label_rules(chosen).budget == 0
    assert (chosen.runtime, chosen.profiles, chosen.command) == ("debug", True, ["x.py"])
    assert arguments.sampling(cli._parser().parse_args(["record", "x.py"])) == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--adaptive 0", "'0' is no share above 0 and at most 1"),
        ("--adaptive 1.5", "'1.5' is no share"),
        ("--adaptive nan", "'nan' is no share"),
        ("--adaptive 0.1 --sampling playback=0.1", "not allowed with argument --adaptive"),
        ("--runtime fast", "invalid choice: 'fast'"),
        ("--label-budget -1", "'-1' is no whole number"),
        ("--label-budget many", "'many' is no whole number"),
        ("--redact site --label site=north", "the label site is to be kept out of the run"),
        ("--drop-label site --label site=north", "the label site is to be kept out of the run"),
        ("--redact site --drop-label site", "the label 'site' has two rules"),
        ("--redact gpu", "device index"),
        ("--redact 'a b'", "not 'a b'"),
    ],
)
def test_a_mistake_is_told_before_anything_is_recorded(
    given: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ran(*_: object) -> int:
        raise AssertionError("it was run")

    monkeypatch.setattr(child, "run_child", ran)
    monkeypatch.setattr(child, "leave_like", ran)
    path = tmp_path / "run"
    assert message in wrong(capsys, "record", "-o", path, *shlex.split(given), __file__)
    assert not path.exists()


def test_without_polars_all_but_the_analyses_works(tmp_path: Path) -> None:
    program = """
        import sys
        sys.modules["polars"] = None  # as if it were not installed
        from vidlab import cli
        print(cli.main(["metrics"]))
        for verb in (["health", "--threshold", "fragmentation=0.2"], ["labels"]):
            print(cli.main([*verb, "run"]))
        print(cli.main(["record", "-v", "-o", "run", "program.py"]))
    """
    (tmp_path / "program.py").write_text("print('ran')")
    result = subprocess.run(
        [sys.executable, "-c", "if 1:" + program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout.splitlines()[len(METRICS) + 1 :] == ["0", "2", "2", "ran", "0"]
    assert result.returncode == 0
    assert result.stderr.count("pip install 'vidlab[workbench]'") == 2
    assert result.stderr.splitlines()[-1].endswith("vidlab compact run")
    assert "Traceback" not in result.stderr

"""`vidlab record`: a program runs as it does without, and what it does is in the run."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import vidlab as vl
from vidlab.lab.clips import CLIPS, make_clips

SCRIPTS = Path(__file__).parents[1] / "scripts"
RECORD = [sys.executable, "-m", "vidlab.cli", "record"]

#: How long a program may take in all, in seconds: only one that hangs takes longer.
PATIENCE_S = 140


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = make_clips([replace(CLIPS[0], seconds=2.0)], tmp_path_factory.mktemp("clips"))
    return path


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "script.py"


def both(
    script: Path, *arguments: str, program: str | None = None, **options: object
) -> tuple[subprocess.CompletedProcess[bytes], subprocess.CompletedProcess[bytes]]:
    """Run a script without vidlab and recorded, and return how each ended."""
    if program is not None:
        script.write_text(textwrap.dedent(program))
    command = [str(script), *arguments]
    defaults = {"capture_output": True, "cwd": script.parent, "timeout": PATIENCE_S}
    plain = subprocess.run([sys.executable, *command], **{**defaults, **options})  # type: ignore[call-overload]
    recorded = subprocess.run(
        [*RECORD, "-o", str(script.parent / "run"), *command],
        **{**defaults, **options},  # type: ignore[call-overload]
    )
    return plain, recorded


def same(
    pair: tuple[subprocess.CompletedProcess[bytes], ...],
) -> subprocess.CompletedProcess[bytes]:
    plain, recorded = pair
    assert recorded.stdout == plain.stdout
    assert recorded.stderr == plain.stderr
    assert recorded.returncode == plain.returncode
    return recorded


def top_stages(run: vl.Run) -> set[tuple[str, str]]:
    spans = run.scan("spans").filter(pl.col("parent").is_null() & (pl.col("frame") > 0))
    columns = pl.col("stage", "kind").cast(pl.String)
    return set(spans.select(columns).unique().collect().rows())


# --- what the program sees ------------------------------------------------------


def test_it_sees_what_it_would_see(script: Path) -> None:
    result = same(
        both(
            script,
            "--flag",
            "two words",
            "--output=x",
            program="""
                import os, sys
                print(__name__, __file__, sys.argv, sys.orig_argv)
                print(sys.path, sys.flags, sys.executable, os.getcwd())
                print("sitecustomize" in sys.modules, sorted(vars()))
                print(sys.stdin.read())
                print("on stderr", file=sys.stderr)
            """,
            input=b"from stdin",
        )
    )
    assert b"__main__" in result.stdout
    assert b"two words" in result.stdout
    assert b"from stdin" in result.stdout


def test_the_environment_s_own_sitecustomize_runs(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import builtins; builtins.customised = __file__")
    monkeypatch.setenv("PYTHONPATH", str(own))
    result = same(
        both(
            script,
            program="""
                import sys, sitecustomize
                print(customised, sitecustomize.__file__, sys.modules["sitecustomize"].__name__)
                print(sys.path)
            """,
        )
    )
    assert bytes(own) in result.stdout


@pytest.mark.parametrize(
    "ending",
    [
        "sys.exit(7)",
        "sys.exit('a message')",
        "raise ValueError('wrong') from KeyError('because')",
        "os._exit(9)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os.abort()",
        "raise KeyboardInterrupt",
    ],
)
def test_it_ends_as_it_would_end(script: Path, ending: str) -> None:
    program = f"import os, signal, sys\nprint('out', flush=True)\n{ending}\n"
    result = same(both(script, program=program))
    assert result.stdout == b"out\n"
    run = vl.open_run(script.parent / "run")
    assert run.compacted
    killed = result.returncode < 0
    assert [note for note in run.notes if "was ended by SIG" in note] == (
        [f"the program was ended by {signal.Signals(-result.returncode).name}"] if killed else []
    )
    assert vl.verify(run.path) == []


def test_tracebacks_through_recorded_methods_are_unchanged(script: Path, clip: Path) -> None:
    result = same(
        both(
            script,
            str(clip),
            program="""
                import sys, threading, av, cv2, numpy
                def in_thread():
                    cv2.resize(numpy.zeros((4, 4, 3)), (0, 0))
                thread = threading.Thread(target=in_thread, name="worker")
                thread.start()
                thread.join()
                with av.open(sys.argv[1]) as container:
                    for frame in container.decode(video=0):
                        try:
                            frame.reformat(format="no such format")
                        finally:
                            av.open("missing.mp4")
            """,
        )
    )
    assert result.stderr.count(b"Traceback") >= 2
    assert b"vidlab" not in result.stderr


@pytest.mark.parametrize(
    ("number", "handled"),
    [
        (signal.SIGTERM, True),
        (signal.SIGUSR1, True),
        (signal.SIGTERM, False),
        (signal.SIGINT, False),
        (signal.SIGHUP, False),
    ],
)
def test_signals_reach_it(script: Path, number: signal.Signals, handled: bool) -> None:
    handler = "lambda number, _: (print('got', number), sys.exit(3))" if handled else None
    script.write_text(
        "import signal, sys, time\n"
        + (f"signal.signal({int(number)}, {handler})\n" if handler else "")
        + "print('ready', flush=True)\ntime.sleep(200)\n"
    )
    outcomes = []
    for command in ([sys.executable], [*RECORD, "-o", str(script.parent / "run")]):
        with subprocess.Popen(
            [*command, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE_S)
            # Without the traceback's lines: where it was when the signal came is chance.
            outcomes.append((out, err.splitlines()[-1:], process.returncode))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][-1] == (3 if handled else -number)


def test_ctrl_c_in_a_terminal_reaches_it_once(script: Path) -> None:
    script.write_text(
        "import os, select, signal, time\n"
        "end, fd = os.pipe()\n"
        "os.set_blocking(fd, False)\n"
        "signal.set_wakeup_fd(fd)\n"  # a byte a signal, however fast they come
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "print('ready', flush=True)\n"
        "select.select([end], [], [])\n"
        "time.sleep(1)\n"  # in which another one would come
        "print('interrupted', len(os.read(end, 9)), flush=True)\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*RECORD, "-o", str(script.parent / "run"), str(script)])
    seen = b""
    try:
        while b"interrupted" not in seen:
            before, seen = seen, seen + os.read(terminal, 1024)
            if b"ready" in seen and b"ready" not in before:
                os.write(terminal, b"\x03")
        while chunk := _read(terminal):
            seen += chunk
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert b"interrupted 1" in seen
    assert os.waitstatus_to_exitcode(status) == 0
    # On a terminal there is a closing line.
    assert b"vidlab report" in seen


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1024)
    except OSError:  # the other side is closed
        return b""


# --- what is recorded -----------------------------------------------------------


def test_a_pyav_program_is_recorded_from_demux_to_mux(tmp_path: Path, clip: Path) -> None:
    target, run_path = tmp_path / "out.mp4", tmp_path / "run"
    subprocess.run(
        [*RECORD, "-o", run_path, SCRIPTS / "transcode.py", clip, target],
        check=True,
        timeout=PATIENCE_S,
    )
    run = vl.open_run(run_path)
    assert {
        ("demux", "service"),
        ("decode", "service"),
        ("decode", "reorder"),
        ("encode", "service"),
        ("mux", "service"),
    } <= top_stages(run)
    assert len([stage for stage, kind in top_stages(run) if kind == "queue"]) >= 2
    fates = vl.analysis.losses.fates(run.scan("frames"))
    assert fates.select("codec", "frames", "delivered").rows() == [("h264", 50, 50)]
    assert vl.verify(run_path) == []


def test_an_opencv_program_is_recorded(tmp_path: Path, clip: Path) -> None:
    run_path = tmp_path / "run"
    subprocess.run(
        [*RECORD, "-o", run_path, SCRIPTS / "resize.py", clip, tmp_path / "out.mp4"],
        check=True,
        timeout=PATIENCE_S,
    )
    run = vl.open_run(run_path)
    stages = {stage for stage, _ in top_stages(run)}
    assert any("resize" in stage for stage in stages)
    assert any("cvtColor" in stage for stage in stages)
    fates = vl.analysis.losses.fates(run.scan("frames"))
    assert fates.select("frames", "delivered").rows() == [(50, 50)]


@pytest.mark.parametrize("name", ["transcode.py", "resize.py"])
def test_it_writes_the_same_file_byte_by_byte(tmp_path: Path, clip: Path, name: str) -> None:
    def written(command: list[object], target: Path) -> bytes:
        subprocess.run(
            [*map(str, command), SCRIPTS / name, clip, target], check=True, timeout=PATIENCE_S
        )
        return target.read_bytes()

    plain = {written([sys.executable], tmp_path / f"{n}.mp4") for n in range(3)}
    if len(plain) > 1:
        pytest.skip("the encoder does not do the same twice here")
    assert {written([*RECORD, "-o", tmp_path / "run"], tmp_path / "recorded.mp4")} == plain


def test_its_own_python_children_join(tmp_path: Path, clip: Path, script: Path) -> None:
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing, subprocess, sys, av

            def decode(path):
                with av.open(path) as container:
                    return sum(1 for _ in container.decode(video=0))

            if __name__ == "__main__":
                path = sys.argv[1]
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    print(pool.apply(decode, [path]))
                code = "import sys, script; print(script.decode(sys.argv[1]))"
                subprocess.run([sys.executable, "-c", code, path], check=True)
                print(decode(path))
            """
        )
    )
    result = same(both(script, str(clip)))
    assert result.stdout.split() == [b"50"] * 3
    frames = vl.open_run(tmp_path / "run").scan("frames").collect()
    assert frames.height == 150
    assert frames["pid"].n_unique() == 3


def test_a_module_and_a_command_are_recorded(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(
        "import sys, av\nprint(sys.argv[1:], sum(1 for _ in av.open(sys.argv[1]).decode(video=0)))"
    )
    for name, command in (
        ("module", ["-m", "package", str(clip), "-o", "x"]),
        ("command", ["sh", "-c", f"exec {sys.executable} package '{clip}' -o x"]),
    ):
        result = subprocess.run(
            [*RECORD, "-o", name, *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        assert result.stdout == f"{[str(clip), '-o', 'x']} 50\n"
        assert vl.open_run(tmp_path / name).scan("frames").collect().height == 50


def test_options_reach_the_run(tmp_path: Path, clip: Path) -> None:
    options = ["--label", "site=north", "--deadline-ms", "80", "--max-bytes", "64M"]
    subprocess.run(
        [*RECORD, "-o", tmp_path / "run", *options, SCRIPTS / "transcode.py", clip, "out.mp4"],
        cwd=tmp_path,
        check=True,
        timeout=PATIENCE_S,
    )
    run = vl.open_run(tmp_path / "run")
    assert run.manifest.parameters["deadline_ms"] == 80
    assert run.manifest.parameters["command"] == [
        str(SCRIPTS / "transcode.py"),
        str(clip),
        "out.mp4",
    ]
    assert run.manifest.limits == {"max_bytes": 64 << 20}
    assert set(run.scan("frames").collect()["site"].cast(pl.String)) == {"north"}


def test_options_for_profiles_labels_and_shares_reach_the_run(script: Path, clip: Path) -> None:
    script.write_text(
        textwrap.dedent(
            """
            import sys, av
            import vidlab as vl
            for number in range(3):
                with vl.labels(viewer=f"Ada {number}", token="secret", room=number):
                    with av.open(sys.argv[1]) as container:
                        print(sum(f.to_ndarray().any() for f in container.decode(video=0)))
            """
        )
    )
    run_path = script.parent / "run"
    chosen = "--profiles --runtime staging --adaptive 0.01 --deadline-ms 60000 --redact viewer"
    more = ["--drop-label", "token", "--label-budget", "2", "-v", "-o", str(run_path)]
    result = subprocess.run(
        [*RECORD, *chosen.split(), *more, script, clip],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert result.stdout == "50\n" * 3
    assert "samples of the CPU: the notebook 05_profiles" in result.stderr
    run = vl.open_run(run_path)
    assert run.scan("runtime_profiles").collect()["profile"].to_list() == ["staging"]
    assert run.scan("profile_samples").filter(pl.col("type") == "cpu").collect().height
    texts = str(run.scan("labels").collect()["other"].to_list())
    assert "(redacted)" in texts
    assert "(bucket " in texts
    assert "Ada" not in texts
    assert "secret" not in texts
    (engine,) = [engine for engine in run.manifest.engines if engine.name == "frames"]
    assert engine.parameters["sampling"]["adaptive"]["base"] == 0.01
    # All was well, in time: what is recorded is the share, and stands for the rest.
    frames = run.scan("frames").collect()
    assert frames.height < 20
    assert set(frames["sample_rate"]) <= {0.01}
    assert vl.verify(run_path) == []


def test_a_python_without_profiler_and_polars_is_recorded_and_told_of(
    script: Path, clip: Path
) -> None:
    broken = script.parent / "broken"
    broken.mkdir()
    for name in ("pyroscope", "polars"):
        (broken / f"{name}.py").write_text("raise ImportError('not for this Python')")
    script.write_text("import sys, av\nprint(sum(1 for _ in av.open(sys.argv[1]).decode(video=0)))")
    run = f"PYTHONPATH=$PYTHONPATH:'{broken}' exec '{sys.executable}' '{script}' '{clip}'"
    result = subprocess.run(
        [*RECORD, "--profiles", "-v", "-o", script.parent / "run", "sh", "-c", run],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert result.stdout == "50\n"
    recorded, why = result.stderr.splitlines()
    assert "50 frames" in recorded
    assert why.startswith("no profiles were recorded: ")
    assert "pip install 'vidlab[profile]'" in why


# --- what cannot be recorded ----------------------------------------------------


def test_a_program_that_takes_no_part_is_told_of(tmp_path: Path) -> None:
    result = subprocess.run(
        [*RECORD, "-o", tmp_path / "run", "echo", "hello"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert result.stdout == "hello\n"
    assert "nothing was recorded" in result.stderr
    assert result.returncode == 0


def test_a_python_that_cannot_record_runs_as_without(script: Path) -> None:
    broken = script.parent / "broken"
    broken.mkdir()
    (broken / "numpy.py").write_text("raise ImportError('not for this Python')")
    script.write_text("import sys\nprint('ran', [m for m in sys.modules if 'vidlab' in m])")
    command = f"PYTHONPATH=$PYTHONPATH:'{broken}' exec '{sys.executable}' '{script}'"
    result = subprocess.run(
        [*RECORD, "-o", script.parent / "run", "sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert result.stdout == "ran []\n"
    assert result.stderr.count("\n") == 1
    assert "nothing was recorded" in result.stderr


def test_a_program_that_deletes_the_run_ends_as_without(script: Path) -> None:
    # Again and again, since a file may be made in a directory that is about to be deleted.
    script.write_text(
        textwrap.dedent(
            """
            import os, shutil, sys
            while os.path.exists("run"):
                shutil.rmtree("run", ignore_errors=True)
            sys.exit(5)
            """
        )
    )
    result = subprocess.run(
        [*RECORD, "-o", "run", script],
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert result.returncode == 5
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "gpu=x", "script.py"], "the label gpu is a device index"),
        (["missing.py"], "no script and no program 'missing.py'"),
        ([], "what is to be recorded?"),
        (["-m"], "what is to be recorded?"),
        (["-o", ".", "script.py"], "is not empty, and not a run"),
        (["--max-bytes", "7", "script.py"], "max_bytes is 7"),
        (["--label", "north", "script.py"], "not of the form key=value"),
        (["--sampling", "playback=2", "script.py"], "shares above 0"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    script: Path, arguments: list[str], message: str
) -> None:
    script.write_text("print('ran')")
    result = subprocess.run(
        [*RECORD, *arguments], cwd=script.parent, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert result.returncode == 2

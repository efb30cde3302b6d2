"""The verbs of kernel events: `attach`, `probes`, `ebpf-broker`, and `record --probes`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import vidlab as vl
from vidlab import cli
from vidlab.capture.ebpf.engine import DEFAULT_PROBES
from vidlab.capture.ebpf.kernel import privileges
from vidlab.cli import kernel_events
from vidlab.errors import InputError
from vidlab.workbench import brokering

VIDLAB = [sys.executable, "-m", "vidlab.cli"]

#: A program with a child that is a Python program too; each waits for a while.
FAMILY = """
import os, subprocess, sys, time
print(os.getpid(), flush=True)
for _ in range(50):
    time.sleep(0.002)
if len(sys.argv) == 1:
    subprocess.run([sys.executable, __file__, "child"], check=True)
"""


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def without_privileges(*command: str) -> list[str]:
    if os.geteuid() == 0 and shutil.which("setpriv"):
        return ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *command]
    return list(command)


@pytest.mark.parametrize("verb", ["attach", "probes", "ebpf-broker"])
def test_help_shows_an_example_that_parses(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    lines = (line.strip().removeprefix("sudo ") for line in capsys.readouterr().out.splitlines())
    examples = [line.split() for line in lines if line.startswith(f"vidlab {verb}")]
    assert examples
    for _, *arguments in examples:
        assert cli._parser().parse_args(arguments).name == verb


def test_the_verbs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    help = capsys.readouterr().out
    for verb in ("attach", "probes", "ebpf-broker"):
        assert re.search(f"^    {verb}$|^    {verb} ", help, re.MULTILINE)


def test_attach_records_by_default_what_the_engine_does() -> None:
    assert kernel_events.DEFAULT_PROBES == DEFAULT_PROBES
    assert cli._parser().parse_args(["attach", "1"]).probes == DEFAULT_PROBES


# --- probes -----------------------------------------------------------------------


def test_probes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cuda: " in output(capsys, "probes")
    assert output(capsys, "probes", "faults").startswith("faults: ")
    assert "cuda: " not in output(capsys, "probes", "faults")
    shown = output(capsys, "probes", "show", "cuda", "--symbol", "cuMemAlloc_v2")
    assert shown.startswith("; kernel_cuda_memory cuMemAlloc_v2, ")
    assert "bpf_session" not in output(
        capsys, "probes", "show", "libav", "--symbol", "av_read_frame", "--pairs"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show"], "vidlab probes show SET"),
        (["cuda", "--symbol", "cuMemAlloc_v2"], "vidlab probes show SET"),
        (["show", "cudda"], "did you mean cuda?"),
        (["cudda"], "did you mean cuda?"),
        (["show", "cuda", "--symbol", "cuMemAloc"], "did you mean cuMemAlloc"),
    ],
)
def test_probes_that_there_are_not(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["probes", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_names_of_probes_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    parse = cli._parser().parse_args
    assert parse(["attach", "1", "--probes", "cuda, sched,,cuda"]).probes == ("cuda", "sched")
    assert parse(["record", "x.py"]).probes == ()
    with pytest.raises(SystemExit):
        parse(["attach", "1", "--probes", ","])
    assert "names no probes: give some" in capsys.readouterr().err


def test_attach_tells_a_mistake(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert cli.main(["attach", "0", "-o", str(run)]) == 2
    assert capsys.readouterr().err.startswith("vidlab attach: there is no process 0: see 'ps -e'")
    assert cli.main(["attach", str(os.getppid()), "-o", str(run), "--probes", "x:y"]) == 2
    assert "give MODULE:ATTRIBUTE" in capsys.readouterr().err
    assert cli.main(["attach", str(os.getppid()), "-o", str(run), "--broker", "/nowhere"]) == 2
    assert "no broker answers at /nowhere" in capsys.readouterr().err
    assert not run.exists()


# --- record -----------------------------------------------------------------------


@pytest.mark.needs("ebpf")
def test_record_takes_the_kernel_events_of_all_processes(tmp_path: Path) -> None:
    (tmp_path / "family.py").write_text(FAMILY)
    command = [*VIDLAB, "record", "-v", "-o", "run", "--probes", "sched", "family.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    run = vl.open_run(tmp_path / "run")
    by_process = run.scan("kernel_offcpu").group_by("pid").len().collect()
    assert set(by_process["pid"]) == {int(pid) for pid in done.stdout.split()}
    assert by_process["len"].min() >= 50
    assert f"\n{by_process['len'].sum():,} kernel events: " in done.stderr


def test_record_without_privileges_goes_on_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "family.py").write_text(FAMILY)
    record = [*VIDLAB, "record", "-v", "-o", "run", "--probes", "sched", "family.py"]
    environment = {key: word for key, word in os.environ.items() if "BROKER" not in key}
    done = subprocess.run(
        without_privileges(*record),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2
    assert "no kernel events were recorded: kernel events need cap_bpf" in done.stderr
    assert "sudo vidlab ebpf-broker" in done.stderr
    assert vl.verify(tmp_path / "run") == []


def test_record_tells_of_a_wrong_set_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "family.py").write_text(FAMILY)
    done = subprocess.run(
        [*VIDLAB, "record", "--probes", "cudda", "family.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean cuda?" in done.stderr


# --- ebpf-broker ------------------------------------------------------------------


@pytest.mark.needs("ebpf")
def test_a_broker_says_how_to_use_it_and_ends_by_ctrl_c(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    socket, log, run = tmp_path / "socket", tmp_path / "log", tmp_path / "run"
    command = [*VIDLAB, "ebpf-broker", "--socket", str(socket), "--audit-log", str(log)]
    with subprocess.Popen(
        [*command, "--uid", str(os.geteuid())], stdout=subprocess.PIPE, text=True
    ) as broker:
        assert broker.stdout is not None
        told = [broker.stdout.readline() for _ in range(5)]
        assert told[0].startswith(f"serving processes of user {os.geteuid()} ")
        assert "Ctrl-C" in told[0]
        assert f"export VIDLAB_EBPF_BROKER={socket}\n" in told[1]
        assert f"broker={str(socket)!r}" in told[2]
        assert f"--broker {socket}" in told[3]
        assert str(log) in told[4]

        target = subprocess.Popen(["sleep", "600"])
        try:
            attach = [*VIDLAB, "attach", str(target.pid), "-o", str(run), "--probes", "sched"]
            attached = subprocess.run(
                [*attach, "--duration", "0.2", "--broker", str(socket)],
                capture_output=True,
                text=True,
                timeout=120,
            )
        finally:
            target.kill()
            target.wait()
        assert attached.returncode == 0, attached.stderr
        assert "kernel_offcpu" in attached.stdout

        broker.send_signal(signal.SIGINT)
        assert broker.communicate(timeout=60)[0] == ""
    assert broker.returncode == 0
    assert not socket.exists()
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events[:2] == ["started", "attached"]
    assert events[-1] == "stopped"


def test_a_broker_for_a_user_who_is_not_there() -> None:
    for uid in (4_000_000_000, -1):
        with pytest.raises(InputError, match=f"there is no user {uid}: give --uid"):
            brokering.run_broker(uid=uid)


@pytest.mark.needs("ebpf")
def test_a_broker_s_socket_in_a_folder_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--socket", str(tmp_path / "no" / "x"), "--audit-log", str(tmp_path / "log")]
    assert cli.main(["ebpf-broker", *arguments, "--uid", str(os.geteuid())]) == 2
    assert "cannot be used" in capsys.readouterr().err


@pytest.mark.needs("ebpf")
def test_a_broker_makes_the_folder_that_it_is_looked_for_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / "cache" / "vidlab" / "socket"
    monkeypatch.setattr(brokering, "default_socket", lambda uid: where)
    monkeypatch.setattr(brokering, "default_audit_log", lambda uid: where.with_name("log"))
    said: list[str] = []

    def end(text: str) -> None:
        said.append(text)
        os.kill(os.getpid(), signal.SIGINT)

    brokering.run_broker(uid=os.geteuid(), say=end)
    assert f"VIDLAB_EBPF_BROKER={where}" in said[0]
    assert where.parent.stat().st_mode & 0o777 == 0o700
    assert not where.exists()
    assert where.with_name("log").exists()


def test_a_broker_needs_the_privileges_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = privileges.PrivilegeError("kernel events need cap_bpf", "do this", ["cap_bpf"])
    monkeypatch.setattr(privileges, "check", lambda: refused)
    monkeypatch.setattr(brokering, "default_socket", lambda uid: tmp_path / "socket")
    assert cli.main(["ebpf-broker", "--audit-log", str(tmp_path / "log")]) == 2
    assert capsys.readouterr().err == "vidlab ebpf-broker: kernel events need cap_bpf. do this\n"
    assert not (tmp_path / "socket").exists()


# --- info -------------------------------------------------------------------------


@pytest.mark.needs("ebpf")
def test_a_run_of_attach_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-c", "print('ready', flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as target:
        assert target.stdout is not None
        assert target.stdout.readline() == b"ready\n"
        vl.attach(target.pid, tmp_path / "run", probes=["sched"], duration_s=0.05)
        target.kill()
    assert f"'pid': {target.pid}" in output(capsys, "info", tmp_path / "run")
    assert "nothing wrong" in output(capsys, "verify", tmp_path / "run")
    facts = json.loads(output(capsys, "info", "--json", tmp_path / "run"))
    assert facts["parameters"]["attached_to"]["command"][1:] == command[1:]
    known = vl.open_run(tmp_path / "run").scan("kernel_probes").collect()
    assert set(known["probe"].cast(pl.String)) == {"sched"}

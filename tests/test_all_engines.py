"""Every engine on at once, the profiler too: the program does what it does without."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import vidlab as vl
from vidlab.lab.clips import CLIPS, make_clips
from vidlab.runs.recovery import recover

LAUNCHER = Path(__file__).with_name("all_engines_launcher.py")
SCRIPT = Path(__file__).parent / "scripts" / "everything.py"

pytestmark = pytest.mark.needs("hostcuda")

#: How a program ends: its last argument, the signal that it gets, its exit code.
ENDINGS = {
    "return": ("return", None, 0),
    "exception": ("exception", None, 1),
    "interrupt": ("wait", signal.SIGINT, -signal.SIGINT),
    "kill": ("wait", signal.SIGTERM, -signal.SIGTERM),
    "kill that is handled": ("handler", signal.SIGTERM, 3),
}


#: Tables that have rows however the program ends.
FILLED = ("allocations", "gc_pauses", "runtime_metrics", "threads", "wakeups")

#: What the launcher says at the end.
NOTHING_LEFT = "{}\n"

#: How long a program may take to be ready, and to end, in seconds.
PATIENCE_S = 120


class Program:
    """The script, run in a process of its own."""

    def __init__(self, run: Path | None, clip: Path, ending: str) -> None:
        argument, self._signal, self.exit_code = ENDINGS[ending]
        command = [sys.executable, LAUNCHER, run or "-", SCRIPT, clip, argument]
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(self, ready: Callable[[], bool] = lambda: True) -> tuple[str, str]:
        """Let it end, and return what it wrote. A signal waits until the program is ready."""
        assert self.process.stdout is not None
        written = ""
        try:
            if self._signal is not None:
                for line in self.process.stdout:
                    written += line
                    if line == "waiting\n":
                        break
                until_s = time.monotonic() + PATIENCE_S
                while not ready():
                    assert time.monotonic() < until_s
                    time.sleep(0.1)
                self.process.send_signal(self._signal)
            rest, errors = self.process.communicate(timeout=PATIENCE_S)
        finally:
            self.process.kill()
        return written + rest, errors


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = make_clips([replace(CLIPS[0], seconds=1.0)], tmp_path_factory.mktemp("clips"))
    return path


@pytest.fixture(scope="module")
def without(clip: Path) -> dict[str, tuple[str, str]]:
    """What the program writes without vidlab, for each ending that tells of itself."""
    programs = {ending: Program(None, clip, ending) for ending in ("exception", "interrupt")}
    return {ending: program.finish() for ending, program in programs.items()}


def _told(errors: str) -> list[str]:
    """What was printed, without the places in a traceback: where a signal comes is chance.

    It may also come just before the event is waited for, and so outside `threading`.
    """
    places = (line for line in errors.splitlines() if not line.startswith("    "))
    files = (line.partition(", line ")[0] for line in places)
    return [file for file in files if not file.endswith('/threading.py"')]


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_program_does_and_ends_as_without(
    ending: str, clip: Path, without: dict[str, tuple[str, str]], tmp_path: Path
) -> None:
    program = Program(tmp_path / "run", clip, ending)

    def recorded() -> bool:
        going_on = vl.open_run(tmp_path / "run")
        return all(going_on.scan(table).collect().height for table in FILLED)

    output, errors = program.finish(recorded)
    killed = ending == "kill"
    assert output == without["interrupt" if ENDINGS[ending][1] else "exception"][0]
    expected = "" if killed else without.get(ending, ("", NOTHING_LEFT))[1]
    assert _told(errors) == _told(expected)
    assert program.process.returncode == program.exit_code

    run = vl.open_run(tmp_path / "run")
    assert run.state == ("killed" if killed else "complete")
    if killed:
        recover(run.path)
        run = vl.open_run(run.path)
    assert vl.verify(run.path) == []
    failed = run.scan("findings").filter(pl.col("kind") == "engine_failed").collect()
    assert failed["message"].to_list() == []
    decoded = run.scan("spans").filter(pl.col("stage") == "decode").collect()
    assert decoded.height >= CLIPS[0].rate
    for table in FILLED:
        assert run.scan(table).collect().height, table
    assert killed or run.scan("profile_samples").collect().height

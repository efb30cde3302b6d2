"""Processes that end, fork or execute others while they are probed; recorders that are killed."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from vidlab.capture.ebpf import Probe, arg, retval
from vidlab.capture.ebpf.kernel import links
from vidlab.capture.ebpf.plan import Plan
from vidlab.capture.ebpf.session import Session
from vidlab.errors import VidlabError

from .lab import Watch, accounted, build, wait_until

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

TWICE = Probe("libcalls.so", "twice", {"x": arg(0, "i32")}, {"result": retval()})

#: A process that does what it is told, line by line, and answers each line.
CODE = """
import ctypes, os, sys
library = ctypes.CDLL(sys.argv[1])
library.many.argtypes = [ctypes.c_long]
print("ready", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("calls"))


@pytest.fixture(params=["session", "pair"])
def sessions(request: pytest.FixtureRequest) -> bool:
    if request.param == "session" and not links.has_sessions():
        pytest.skip("sessions came with Linux 6.13")
    return bool(request.param == "session")


class Target:
    """A process that runs lines of Python when it is told to."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.expect("ready")

    def expect(self, answer: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == answer

    def tell(self, line: str, answer: str = "done") -> None:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)
        if answer:
            self.expect(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def target(path: Path) -> Iterator[Target]:
    with Target(path) as target:
        yield target


# --- targets --------------------------------------------------------------------------


def test_another_process_is_recorded(target: Target, sessions: bool) -> None:
    with Watch([TWICE], target.pid, sessions=sessions) as watch:
        target.tell("library.many(300)")
        watch.stop()
        rows = watch.rows("kernel_twice")
        assert [row["x"] for row in rows] == list(range(300))
        assert {row["pid"] for row in rows} == {target.pid}
        assert {row["span"] for row in rows} == {0}


def test_one_of_two_processes_with_the_same_library(path: Path, target: Target) -> None:
    with Target(path) as other, Watch([TWICE], target.pid) as watch:
        other.tell("library.many(100)")
        target.tell("library.many(10)")
        watch.stop()
        assert watch.counts()["hits"] == 10


def test_a_target_that_ends(target: Target, sessions: bool) -> None:
    with Watch([TWICE, "sched"], target.pid, sessions=sessions) as watch:
        target.tell("library.many(100)")
        target.tell("os._exit(0)", answer="")
        target.process.wait()
        watch.session.attach_pending()
        watch.stop()
        assert watch.counts()["hits"] == accounted(watch.counts()) == 100
        assert len(watch.rows("kernel_twice")) == 100


def test_a_target_that_is_killed_in_a_call(target: Target, sessions: bool) -> None:
    probe = Probe("libcalls.so", "wait_for", exit={})
    with Watch([probe, TWICE], target.pid, sessions=sessions) as watch:
        target.tell("library.many(5)")
        target.tell("library.wait_for(ctypes.byref(ctypes.c_int(0)))", answer="")
        wait_until(lambda: watch.counts(0)["hits"])
        target.process.kill()
        target.process.wait()
        watch.stop()
        assert watch.counts(0)["hits"] - accounted(watch.counts(0)) == 1
        assert len(watch.rows("kernel_twice")) == 5


def test_a_target_that_has_ended_before(path: Path) -> None:
    with Target(path) as target:
        pass
    with pytest.raises(VidlabError, match=f"process {target.pid}"):
        Session(Plan([TWICE]), target.pid)


def test_a_target_that_forks(target: Target, sessions: bool) -> None:
    with Watch([TWICE], target.pid, sessions=sessions) as watch:
        target.tell(
            "child = os.fork(); library.many(50 if child else 70); "
            "child or os._exit(0); os.waitpid(child, 0)"
        )
        watch.stop()
        rows = watch.rows("kernel_twice")
        assert len(rows) == watch.counts()["hits"] == 50
        assert {row["pid"] for row in rows} == {target.pid}


def test_a_target_that_forks_in_a_call(target: Target, sessions: bool) -> None:
    probe = Probe("libc.so.6", "fork", exit={"child": retval()})
    with Watch([probe, TWICE], target.pid, sessions=sessions) as watch:
        target.tell("child = os.fork(); child or os._exit(0); os.waitpid(child, 0)")
        target.tell("library.many(3)")
        watch.stop()
        [row] = watch.rows("kernel_fork")
        assert row["child"] > 0
        assert len(watch.rows("kernel_twice")) == 3


def test_a_target_that_executes_another_program(path: Path, target: Target, sessions: bool) -> None:
    with Watch([TWICE], target.pid, sessions=sessions) as watch:
        target.tell("library.many(5)")
        again = f"os.execv(sys.executable, [sys.executable, '-c', {CODE!r}, {str(path)!r}])"
        target.tell(again, answer="ready")
        target.tell("library.many(7)")  # the same process, which is still meant
        watch.stop()
        assert len(watch.rows("kernel_twice")) == watch.counts()["hits"] == 12


def test_a_target_that_loads_the_library_later(
    path: Path, tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidlab.capture.ebpf import loads

    late = build(tmp_path, "liblater.so")
    probe = Probe("liblater.so", "twice", {"x": arg(0, "i32")})
    monkeypatch.setattr(loads, "OTHERS_S", math.inf)
    with Watch([probe], target.pid) as watch:
        assert watch.session.pending
        target.tell(f"late = ctypes.CDLL({str(late)!r})")
        assert watch.session.attach_pending() == []  # it is not looked at so often
        monkeypatch.setattr(loads, "OTHERS_S", 0.0)
        assert len(watch.session.attach_pending()) == 1
        target.tell("late.twice(2)")
        watch.stop()
        assert [row["x"] for row in watch.rows("kernel_twice")] == [2]


def test_a_second_library_of_the_name_is_probed_as_it_comes(tmp_path: Path) -> None:
    from .lab import load

    one = load(build(tmp_path / "one", "libtwin-one.so"))
    with Watch([Probe("libtwin-*.so", "twice", {"x": arg(0, "i32")})]) as watch:
        two = load(build(tmp_path / "two", "libtwin-two.so"))
        assert len(watch.session.attach_pending()) == 1
        one.twice(1)
        two.twice(2)
        watch.stop()
        assert [row["x"] for row in watch.rows("kernel_twice")] == [1, 2]
        assert watch.counts()["hits"] == 2


# --- recorders ------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_recorder_that_is_killed_leaves_nothing(
    path: Path, tmp_path: Path, how: signal.Signals, nothing_left: Callable[[], None]
) -> None:
    code = f"""
import ctypes, sys, time
import vidlab as vl
from vidlab.capture.ebpf import Counter, Probe, arg
library = ctypes.CDLL({str(path)!r})
asked = [Probe("libcalls.so", "twice", {{"x": arg(0, "i32")}}, {{}}), "sched",
         Counter("calls_total", Probe("libcalls.so", "twice"))]
with vl.record({str(tmp_path / "run")!r}, engines=[vl.KernelEvents(asked)]):
    print("ready", flush=True)
    while True:
        library.many(ctypes.c_long(1000))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as recorder:
        assert recorder.stdout is not None
        assert recorder.stdout.readline() == "ready\n"
        time.sleep(0.3)
        os.kill(recorder.pid, how)
        assert recorder.wait() == -how
    nothing_left()


def test_sessions_come_and_go_without_a_trace(nothing_left: Callable[[], None]) -> None:
    plan = Plan(["libav", "sched", "tcp", "cpython", "faults", "nvcodec"])
    for _ in range(3):
        with Session(plan, os.getpid(), ring_bytes=1 << 16):
            pass
        session = Session(plan, os.getpid(), ring_bytes=1 << 16)
        session.detach()
        session.close()
        session.close()
    nothing_left()


def test_no_step_of_a_session_that_fails_leaves_anything(
    path: Path, monkeypatch: pytest.MonkeyPatch, nothing_left: Callable[[], None]
) -> None:
    """Whichever call of bpf(2) is refused: what was made before it goes."""
    import ctypes
    import errno

    from vidlab.capture.ebpf.kernel import bpf
    from vidlab.capture.ebpf.kernel.bpf import Command

    library = ctypes.CDLL(str(path))
    plan = Plan([TWICE, Probe("libcalls.so", "give"), "faults"])
    real = bpf._errno_of
    made = left = 0

    def count(number: int, command: int, attributes: object) -> int:
        nonlocal made
        if command in (Command.MAP_CREATE, Command.PROG_LOAD, Command.LINK_CREATE):
            made += 1
            if made == left:
                return errno.ENOMEM
        return real(number, command, attributes)  # type: ignore[arg-type]

    Session(plan, os.getpid()).close()
    monkeypatch.setattr(bpf, "_errno_of", count)
    Session(plan, os.getpid()).close()
    whole, refused = made, 0
    assert whole > 12
    for turn in range(1, whole + 1):
        made, left = 0, turn
        try:
            Session(plan, os.getpid()).close()
        except VidlabError:
            refused += 1
    assert refused >= whole - 2  # sets go without what they can do without
    library.twice(1)
    monkeypatch.undo()
    nothing_left()

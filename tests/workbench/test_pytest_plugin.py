"""The marker `gpu_leak_limit`, in pytest runs of its own on real CuPy over host memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vidlab.workbench.pytest_plugin import Limit, parse

#: How long a program may take in all, in seconds: only one that hangs takes longer.
PATIENCE_S = 140

#: Other plugins that may be installed cost seconds to load; ours is found as it is installed.
OTHERS = [f"-pno:{name}" for name in ("hypothesispytest", "anyio", "timeout", "cacheprovider")]


class Session:
    """Runs pytest on one file and keeps what it says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, source: str, *options: str, **environment: str) -> tuple[int, str]:
        (self.folder / "test_it.py").write_text("import pytest, threading\n" + source)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("VIDLAB_")}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *OTHERS, "-rs", "-q", *options, "test_it.py"],
            cwd=self.folder,
            env={**clean, "PYTEST_ADDOPTS": "", **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def session(tmp_path: Path) -> Session:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    return Session(tmp_path)


MANY = """
import cupy

calls = []
kept = []
made = []
first = []

@pytest.fixture
def frame():
    made.append(1)
    return cupy.zeros(1000, "u1")

@pytest.mark.gpu_leak_limit("0 B", frames=20, warmup=3)
def test_gives_all_back(frame):
    calls.append(1)
    cupy.zeros(1 << 20, "u1")

def test_was_called_that_often():
    assert (len(calls), len(made)) == (23, 1)

@pytest.mark.gpu_leak_limit("1 MB", frames=20, warmup=0)
def test_keeps_each():
    kept.append(cupy.zeros(1 << 20, "u1"))

@pytest.mark.gpu_leak_limit("1 MB", frames=20, warmup=2)
class TestInAClass:
    @pytest.mark.parametrize("many", [2])
    def test_keeps_in_a_thread(self, many, tmp_path):
        def work():
            kept.append([cupy.zeros(1 << 20, "u1") for _ in range(many)])
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

@pytest.mark.gpu_leak_limit("11 MB", frames=10)
def test_within_the_limit():
    kept.append(cupy.zeros(1 << 20, "u1"))

@pytest.mark.gpu_leak_limit("10 MB", frames=10)
def test_just_beyond_the_limit():
    kept.append(cupy.zeros(1 << 20, "u1"))

@pytest.mark.gpu_leak_limit(0, frames=5, warmup=8)
def test_warms_up():
    if len(first) < 8:
        first.append(cupy.zeros(1 << 20, "u1"))

@pytest.mark.gpu_leak_limit(0, frames=5, warmup=1)
def test_is_warm_too_late():
    if len(first) < 10:
        first.append(cupy.zeros(1 << 20, "u1"))

@pytest.mark.gpu_leak_limit(0, frames=10)
def test_leaves_cycles_to_the_collector():
    cycle = [cupy.zeros(1 << 20, "u1")]
    cycle.append(cycle)

@pytest.mark.gpu_leak_limit(0, frames=10)
def test_raises():
    raise ValueError("its own error")
"""


@pytest.mark.needs("hostcuda")
def test_what_fails_and_what_passes(session: Session) -> None:
    code, said = session(MANY, "--hostcuda", "-rA")
    assert code == pytest.ExitCode.TESTS_FAILED
    outcome = {
        line.split(" ", 1)[1].split("::")[-1].split(" ")[0]: line.split(" ", 1)[0]
        for line in said.splitlines()
        if line.startswith(("PASSED", "FAILED", "ERROR", "SKIPPED"))
    }
    assert outcome == {
        "test_gives_all_back": "PASSED",
        "test_was_called_that_often": "PASSED",
        "test_keeps_each": "FAILED",
        "test_keeps_in_a_thread[2]": "FAILED",
        "test_within_the_limit": "PASSED",
        "test_just_beyond_the_limit": "FAILED",
        "test_warms_up": "PASSED",
        "test_is_warm_too_late": "FAILED",
        "test_leaves_cycles_to_the_collector": "PASSED",
        "test_raises": "FAILED",
    }
    assert "grew by 20 MiB in 20 calls, after 0 to warm up; allowed are 1,000,000 bytes" in said
    assert "20 MiB in +20 blocks, taken in test_keeps_each" in said
    assert "test_it.py:" in said
    assert "grew by 40 MiB in 20 calls" in said
    assert "in +40 blocks, taken in TestInAClass.test_keeps_in_a_thread.<locals>.work" in said
    assert "grew by 10 MiB in 10 calls, after 10" in said
    assert "held by container: list test_it.kept" in said
    assert "ValueError: its own error" in said


@pytest.mark.needs("hostcuda")
def test_it_joins_a_recording_that_runs_and_the_ini_option(session: Session) -> None:
    with (session.folder / "pytest.ini").open("a") as ini:
        ini.write("vidlab_hostcuda = true\n")
    code, said = session(
        """
import cupy
import vidlab as vl
from vidlab.capture.gpu.engine import GpuMemory

@pytest.fixture
def run(tmp_path):
    with vl.record(tmp_path / "run", engines=[GpuMemory()]):
        yield
    assert vl.open_run(tmp_path / "run").scan("allocations").collect().height >= 26

kept = []
@pytest.mark.gpu_leak_limit("1 MB", frames=10, warmup=3)
def test_gives_back(run):
    cupy.zeros(1 << 20, "u1")

@pytest.mark.gpu_leak_limit("1 MB", frames=10, warmup=3)
def test_keeps(run):
    kept.append(cupy.zeros(1 << 20, "u1"))
"""
    )
    assert (code, "1 failed, 1 passed" in said) == (1, True), said


SIMPLE = """
@pytest.mark.gpu_leak_limit({})
def test_it():
    import cupy
    cupy.zeros(1000, "u1")
"""


#: Where the marker cannot be, and what is said of it.
WRONG = {
    "limit": (SIMPLE.format("'many'"), "gpu_leak_limit: 'many' is not a size"),
    "nothing": (SIMPLE.format(""), "missing 1 required positional argument: 'limit'"),
    "coroutine": (SIMPLE.format("0").replace("def test", "async def test"), "not async"),
    "option": (SIMPLE.format("0, rounds=3"), "unexpected keyword argument 'rounds'"),
    "unittest": (
        "pytestmark = pytest.mark.gpu_leak_limit(0)\n"
        "class TestIt(__import__('unittest').TestCase):\n    def test_it(self): pass",
        "unittest.TestCase",
    ),
}

#: Runs pytest on one file after the other, in one process.
EACH = """
import pytest, sys
for name in sys.argv[1].split():
    print("::", name, flush=True)
    print("code", int(pytest.main([*sys.argv[2:], f"test_{name}.py"])), flush=True)
"""


def test_what_cannot_be_done_is_a_usage_error(session: Session) -> None:
    for name, (source, _) in WRONG.items():
        (session.folder / f"test_{name}.py").write_text("import pytest\n" + source)
    done = subprocess.run(
        [sys.executable, "-c", EACH, " ".join(WRONG), *OTHERS],
        cwd=session.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    said = dict(part.split("\n", 1) for part in done.stdout.split(":: ")[1:])
    assert said.keys() == WRONG.keys()
    for name, (_, message) in WRONG.items():
        assert f"code {int(pytest.ExitCode.USAGE_ERROR)}" in said[name]
        assert "test_it" in said[name]
        assert message in said[name]


def test_a_session_without_the_marker_loads_nothing(session: Session) -> None:
    (session.folder / "conftest.py").write_text(
        """
import sys
def pytest_unconfigure(config):
    assert config.pluginmanager.get_plugin("vidlab").__name__ == "vidlab.workbench.pytest_plugin"
    heavy = {"av", "cupy", "numpy", "pandas", "polars", "pyarrow", "pynvml", "vidlab.recording"}
    print("loaded:", sorted(heavy & set(sys.modules)))
"""
    )
    code, said = session("def test_it(): pass")
    assert (code, "1 passed" in said) == (0, True), said
    assert "loaded: []" in said


def test_without_cupy_it_is_skipped_with_a_reason_or_fails_where_it_is_required(
    session: Session,
) -> None:
    (session.folder / "cupy.py").write_text("raise ImportError('none here')")
    source = SIMPLE.format("0, frames=3")
    here = {"PYTHONPATH": str(session.folder)}
    code, said = session(source, **here)
    assert code == pytest.ExitCode.OK
    assert "1 skipped" in said
    assert "CuPy can't be imported (none here)" in said
    code, said = session(source, VIDLAB_REQUIRE="ffmpeg,hostcuda", **here)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert "VIDLAB_REQUIRE says that CuPy must work here" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 0}, "frames is a whole number from 1, not 0"),
        ({"frames": True}, "not True"),
        ({"warmup": 1.5}, "warmup is a whole number from 0, not 1.5"),
        ({"warmup": -1}, "not -1"),
    ],
)
def test_bad_numbers_of_calls(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse("1 MB", **arguments)


def test_the_markers_defaults() -> None:
    assert parse("1 MB") == Limit(10**6, 100, 10)

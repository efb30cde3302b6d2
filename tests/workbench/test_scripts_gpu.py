"""`vidlab record --hostcuda`: an unmodified CuPy program, all its processes, on no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import vidlab as vl

pytestmark = pytest.mark.needs("hostcuda")

RECORD = [sys.executable, "-m", "vidlab.cli", "record"]

#: How long a program may take in all, in seconds: only one that hangs takes longer.
PATIENCE_S = 140

#: Its sizes tell who has taken what.
PROGRAM = """
import multiprocessing, sys, threading
import cupy

kept = []

def take(size, count=5):
    for _ in range(count):
        cupy.empty(size, "u1")

def forget():
    kept.append(cupy.zeros(7 * 512, "u1"))

if __name__ == "__main__":
    print(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
    forget()
    threads = [threading.Thread(target=take, args=(size,)) for size in (11 * 512, 12 * 512)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        own = cupy.empty(13 * 512, "u1")
    print(pool.used_bytes(), pool.total_bytes())
    for method, size in (("spawn", 14 * 512), ("fork", 15 * 512)):
        process = multiprocessing.get_context(method).Process(target=take, args=(size,))
        process.start()
        process.join()
        print(method, process.exitcode)
    del own
    print(pool.used_bytes(), kept[0].get().sum(), cupy.get_default_memory_pool().used_bytes())
    print("on stderr", file=sys.stderr)
    sys.exit(3)
"""

OUTPUT = f"""host memory (no GPU)
{13 * 512} {13 * 512}
spawn 0
fork 0
0 0 {7 * 512}
"""


def environment(**variables: str) -> dict[str, str]:
    """This process's environment, in which CuPy may be on host memory: a program's is not."""
    return {name: v for name, v in os.environ.items() if name != "VIDLAB_HOSTCUDA"} | variables


def run(
    command: list[Any], folder: Path, program: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    if program is not None:
        (folder / "script.py").write_text(textwrap.dedent(program))
    return subprocess.run(
        [str(argument) for argument in command],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


# --- what is recorded -----------------------------------------------------------


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("recorded")
    return folder, run([*RECORD, "--hostcuda", "-o", "run", "script.py", "x"], folder, PROGRAM)


@pytest.fixture(scope="module")
def recorded(ended: tuple[Path, Any]) -> vl.Run:
    return vl.open_run(ended[0] / "run")


@pytest.fixture(scope="module")
def allocations(recorded: vl.Run) -> pl.DataFrame:
    return recorded.scan("allocations").collect()


def test_it_prints_and_ends_as_without_us(ended: tuple[Path, Any]) -> None:
    _, result = ended
    assert result.stdout == OUTPUT
    assert result.stderr == "on stderr\n"
    assert result.returncode == 3


def test_every_process_and_thread_is_recorded(allocations: pl.DataFrame) -> None:
    took = allocations.filter(pl.col("level") == "pool", pl.col("op") == "alloc")
    counts = took.group_by("size_bytes").agg(
        pl.len(), pl.col("pid").n_unique().alias("pids"), pl.col("tid").n_unique().alias("tids")
    )
    by_size = {size // 512: rest for size, *rest in counts.rows()}
    assert by_size == {
        7: [1, 1, 1],
        11: [5, 1, 1],
        12: [5, 1, 1],
        13: [1, 1, 1],
        14: [5, 1, 1],
        15: [5, 1, 1],
    }
    pids = {size // 512: pid for size, pid in took.select("size_bytes", "pid").rows()}
    assert pids[7] == pids[11] == pids[12] == pids[13]
    assert len({pids[7], pids[14], pids[15]}) == 3
    tids = {size // 512: tid for size, tid in took.select("size_bytes", "tid").rows()}
    assert len({tids[7], tids[11], tids[12]}) == 3


def test_what_was_given_back_is_recorded(allocations: pl.DataFrame) -> None:
    freed = allocations.filter(pl.col("level") == "pool", pl.col("op") == "free")
    assert set(freed["status"].cast(pl.String)) == {"ok"}
    counts = {size // 512: n for size, n in freed.group_by("size_bytes").len().rows()}
    assert counts == {11: 5, 12: 5, 13: 1, 14: 5, 15: 5}


def test_the_driver_is_recorded_as_well(allocations: pl.DataFrame) -> None:
    took = allocations.filter(pl.col("level") == "driver", pl.col("op") == "alloc")
    assert took["pid"].n_unique() == 3
    assert took["pooled"].all()
    # A pool of its own takes memory of its own.
    assert 13 * 512 in took["size_bytes"].to_list()


def test_it_is_known_where_each_was_taken(recorded: vl.Run, allocations: pl.DataFrame) -> None:
    took = allocations.filter(pl.col("level") == "pool", pl.col("op") == "alloc")
    stacks = recorded.scan("stacks").collect()
    frames = dict(stacks.select("stack", "frames").rows())
    script = {
        size // 512: next(call for call in frames[stack] if call["file"].endswith("script.py"))
        for size, stack in took.select("size_bytes", "stack").rows()
    }
    functions = {size: call["function"].rpartition(".")[2] for size, call in script.items()}
    assert functions == {
        7: "forget",
        11: "take",
        12: "take",
        13: "<module>",
        14: "take",
        15: "take",
    }


def test_what_is_kept_has_its_holder(recorded: vl.Run, allocations: pl.DataFrame) -> None:
    holders = recorded.scan("holders").collect()
    (holder,) = holders.filter(pl.col("size_bytes") == 7 * 512, pl.col("arrays") > 0).to_dicts()
    assert "kept" in holder["holder"]
    assert holder["kind"] == "container"
    (taken,) = allocations.filter(
        pl.col("size_bytes") == 7 * 512, pl.col("level") == "pool"
    ).to_dicts()
    assert (holder["pid"], holder["generation"]) == (taken["pid"], taken["generation"])


def test_the_device_is_called_what_it_is(recorded: vl.Run) -> None:
    samples = recorded.scan("gpu_samples").collect()
    assert set(samples["device_name"].cast(pl.String)) == {"host memory (no GPU)"}
    assert set(samples["device"]) == {0}
    assert samples["used_bytes"].max() > 0


def test_the_run_is_whole(recorded: vl.Run) -> None:
    assert vl.verify(recorded.path) == []
    assert recorded.losses == {}
    findings = recorded.scan("findings").collect()
    assert findings.filter(pl.col("severity") != "info").rows() == []
    assert "hostcuda_not_installed" not in findings["kind"].to_list()


# --- what a user says -----------------------------------------------------------


def test_the_environment_says_how_much_host_memory(tmp_path: Path) -> None:
    program = """
        import cupy
        print(cupy.cuda.runtime.getDeviceCount(), cupy.cuda.Device(1).mem_info[1])
        try:
            cupy.empty(1 << 20, "u1")
        except cupy.cuda.memory.OutOfMemoryError as error:
            print(error)
    """
    result = run(
        [*RECORD, "--hostcuda", "-o", "run", "script.py"],
        tmp_path,
        program,
        VIDLAB_HOSTCUDA="devices=2,memory=512KiB",
    )
    first, second = result.stdout.splitlines()
    assert first == f"2 {512 << 10}"
    assert second.startswith("Out of memory allocating 1,048,576 bytes")
    rows = vl.open_run(tmp_path / "run").scan("allocations").filter(pl.col("status") != "ok")
    assert rows.filter(pl.col("level") == "pool").collect()["size_asked_bytes"].to_list() == [
        1 << 20
    ]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PATH": "", "CC": ""}, "there is no C compiler: apt install gcc"),
        ({"CC": "no-such-compiler"}, "$CC is 'no-such-compiler'"),
        ({"VIDLAB_HOSTCUDA": "two devices"}, "VIDLAB_HOSTCUDA is 'two devices'"),
        ({"VIDLAB_HOSTCUDA": "devices=99"}, "hostcuda has 1 to 16 devices, not 99"),
        ({"PYTHONPATH": "without"}, "pip install 'vidlab[gpu]'"),
    ],
)
def test_what_is_missing_is_told_before_anything_runs(
    tmp_path: Path, variables: dict[str, str], message: str
) -> None:
    # So that nothing is there that was built before.
    cache = tmp_path / "cache"
    cache.mkdir()
    # A Python without CuPy.
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *rest: (\n"
        "    None if name == 'cupy_backends' else find(name, *rest)\n"
        ")\n"
    )
    result = run(
        [*RECORD, "--hostcuda", "-o", "run", "script.py"],
        tmp_path,
        "print('ran')",
        XDG_CACHE_HOME=str(cache),
        **variables,
    )
    assert message in result.stderr
    assert result.stderr.startswith("vidlab record: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert result.returncode == 2
    assert not (tmp_path / "run").exists()


def test_what_a_process_could_not_install_is_in_the_run(tmp_path: Path) -> None:
    # Nobody asked for it by --hostcuda: what the environment says is the program's matter.
    result = run(
        [*RECORD, "-o", "run", "script.py"], tmp_path, "print('ran')", VIDLAB_HOSTCUDA="nonsense"
    )
    assert (result.stdout, result.stderr, result.returncode) == ("ran\n", "", 0)
    findings = vl.open_run(tmp_path / "run").scan("findings").collect()
    (finding,) = findings.filter(pl.col("kind") == "hostcuda_not_installed").to_dicts()
    assert "VIDLAB_HOSTCUDA is 'nonsense'" in finding["message"]
    assert finding["severity"] == "error"


# --- without a run --------------------------------------------------------------

CHILD = "import vidlab; print(vidlab.hostcuda.installed()); import cupy; print(cupy.zeros(3).get())"


def test_a_child_that_imports_vidlab_has_what_its_parent_has(tmp_path: Path) -> None:
    result = run([sys.executable, "-c", CHILD], tmp_path, VIDLAB_HOSTCUDA="devices=2")
    assert (result.stdout, result.stderr) == ("True\n[0. 0. 0.]\n", "")
    result = run(
        [sys.executable, "-c", "import vidlab; print(vidlab.hostcuda.installed())"], tmp_path
    )
    assert result.stdout == "False\n"


def test_a_child_that_cannot_have_it_is_told_why_once_it_imports_cupy(tmp_path: Path) -> None:
    result = run([sys.executable, "-c", "import vidlab"], tmp_path, VIDLAB_HOSTCUDA="nonsense")
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)
    for program in ("import vidlab, cupy", "import cupy, vidlab"):
        result = run([sys.executable, "-c", program], tmp_path, VIDLAB_HOSTCUDA="nonsense")
        assert "CuPy is not on host memory: VIDLAB_HOSTCUDA is 'nonsense'" in result.stderr
        assert result.returncode == 0


def test_a_child_s_own_log_is_its_own(tmp_path: Path) -> None:
    program = (
        "import logging, vidlab; logging.basicConfig()\n"
        "logging.getLogger('vidlab').warning('for the program')\n"
    )
    result = run([sys.executable, "-c", program], tmp_path, VIDLAB_HOSTCUDA="1")
    assert "for the program" in result.stderr

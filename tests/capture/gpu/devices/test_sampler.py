"""The sampler: real nvidia-ml-py, on a stand-in for the driver's library, and hostcuda."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import vidlab as vl
from vidlab.capture.gpu import native
from vidlab.capture.gpu.devices.sampler import GpuSampler
from vidlab.errors import InputError

HERE = Path(__file__).parent / "nvml"
MIB = 1 << 20

#: All that a sample holds besides its memory, as the stand-in tells it.
LOAD = {
    "utilization": 61.0,
    "memory_utilization": 32.0,
    "decoder": 13.0,
    "encoder": 14.0,
    "sm_clock_mhz": 1980.0,
    "memory_clock_mhz": 2619.0,
    "power_w": 98.765,
    "temperature_c": 44.0,
}

PROGRAM = """
import _thread, ctypes, os, sys, time
nvml = ctypes.CDLL(sys.argv[1])     # nvidia-ml-py is given this one: it has the same soname
nvml.stand_in_reads.restype = ctypes.c_uint
import vidlab as vl
from vidlab.capture.gpu.devices.sampler import GpuSampler
vl.record.__globals__["_can_compact"] = lambda: False   # it would take longer than all the rest
run, cuda = sys.argv[2], sys.argv[3]

threads = _thread._count    # of Python, those below `threading` among them

def until(condition):
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)

with vl.record(run, engines=[GpuSampler(period_s=float(sys.argv[4]))]) as recording:
{body}
"""

NOTHING = "pass"
FIVE_ROUNDS = "until(lambda: nvml.stand_in_reads(0) >= 5)"


@pytest.fixture(autouse=True)
def compiler() -> None:
    if native.compiler() is None:
        pytest.skip("there is no C compiler: apt install gcc")


def library(*flags: str) -> Path:
    options = ["-fvisibility=default", "-Wl,-soname,libnvidia-ml.so.1", *flags]
    return native.build("libnvidia-ml.so.1", [HERE / "nvml.c"], options)


def cuda() -> Path:
    options = ["-fvisibility=default", "-Wl,-soname,libcuda.so.1"]
    return native.build("libcuda.so.1", [HERE / "cuda.c"], options)


def record(
    path: Path, body: str = NOTHING, flags: tuple[str, ...] = (), period_s: float = 0.01, **env: str
) -> Any:
    """Record a program on the stand-in, in a process of its own; return the run."""
    lines = "\n".join("    " + line for line in body.strip("\n").split("\n"))
    program = PROGRAM.format(body=lines)
    arguments = [str(library(*flags)), str(path / "run"), str(cuda()), str(period_s)]
    # Not what the session that tests has set: this is another machine.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VIDLAB_", "CUDA_"))}
    result = subprocess.run(
        # From 3.12 Python warns of each fork of a process with threads, such as a recording's.
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", program, *arguments],
        env={**kept, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    return vl.open_run(path / "run")


def samples(run: Any) -> pl.DataFrame:
    found: pl.DataFrame = run.scan("gpu_samples").sort("device", "t_ns").collect()
    return found


def findings(run: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run.scan("findings").collect().to_dicts()
    return [{**row, "evidence": json.loads(row["evidence"] or "{}")} for row in rows]


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


def test_two_devices_are_read_in_full(tmp_path: Path) -> None:
    run = record(tmp_path, FIVE_ROUNDS)
    table = samples(run)
    for number, (name, group) in enumerate(
        zip(("Stand-in A", "Stand-in B"), table.partition_by("device"), strict=True)
    ):
        assert group["device"].unique().to_list() == [number]
        assert group["device_name"].unique().to_list() == [name]
        # Each reading counted one more: none is left out, none is written twice.
        assert group["used_bytes"].to_list() == [
            (100 * (number + 1) + i) * MIB for i in range(group.height)
        ]
        assert group.height >= 6  # and one more at the end
        assert group["total_bytes"].unique().to_list() == [8192 * MIB]
        # On the second device this process is in both lists, and counted once.
        assert group["process_used_bytes"].unique().to_list() == [(40 + number) * MIB]
        assert group["async_reserved_bytes"].null_count() == group.height
        for column, value in LOAD.items():
            assert group[column].unique().to_list() == [value], column
        assert (group["duration_ns"] > 0).all()
        assert group["t_ns"].is_sorted()
        assert group["labels"].unique().to_list() == [0]
    assert findings(run) == []


def test_there_is_a_sample_at_the_start_and_one_at_the_end(tmp_path: Path) -> None:
    body = "from vidlab.clock import now_ns\nbegan = now_ns()\ntime.sleep(0.01)\nended = now_ns()\n"
    body += "vl.stage('x')\nopen(run + '/times', 'w').write(f'{began} {ended}')"
    table = samples(record(tmp_path, body, period_s=3600))
    began, ended = map(int, (tmp_path / "run/times").read_text().split())
    assert table.height == 4
    for _, group in table.group_by("device"):
        first, last = group["t_ns"].sort()
        assert first < began
        assert last > ended


def test_what_a_library_lacks_stays_empty(tmp_path: Path) -> None:
    run = record(tmp_path, FIVE_ROUNDS, flags=("-DNO_ENCODER",))
    table = samples(run)
    assert table["encoder"].null_count() == table.height
    assert table["decoder"].null_count() == 0
    (finding,) = findings(run)
    assert (finding["kind"], finding["severity"]) == ("gpu_reading_missing", "info")
    assert finding["evidence"] == {
        "columns": "encoder",
        "function": "nvmlDeviceGetEncoderUtilization",
        "devices": [0, 1],
    }


def test_an_older_library_tells_the_same_by_its_older_functions(tmp_path: Path) -> None:
    run = record(tmp_path, FIVE_ROUNDS, flags=("-DOLD",))
    table = samples(run)
    # Its memory in use includes what the driver keeps for itself.
    assert table["used_bytes"][0] == 150 * MIB
    assert table["temperature_c"].unique().to_list() == [44.0]
    assert findings(run) == []


def test_what_a_user_may_not_see_stays_empty(tmp_path: Path) -> None:
    denied = "nvmlDeviceGetComputeRunningProcesses_v3,nvmlDeviceGetPowerUsage"
    run = record(tmp_path, FIVE_ROUNDS, NVML_DENIES=denied)
    table = samples(run)
    assert table["process_used_bytes"].null_count() == table.height
    assert table["power_w"].null_count() == table.height
    assert table["temperature_c"].null_count() == 0
    assert table["used_bytes"].null_count() == 0
    assert {f["evidence"]["columns"] for f in findings(run)} == {"process_used_bytes", "power_w"}
    assert all("Insufficient Permissions" in f["message"] for f in findings(run))


def test_without_its_memory_a_device_still_tells_the_rest(tmp_path: Path) -> None:
    run = record(tmp_path, NOTHING, NVML_LACKS="nvmlDeviceGetMemoryInfo_v2")
    table = samples(run)
    assert table["used_bytes"].null_count() == table.height
    assert table["utilization"].unique().to_list() == [61.0]


def test_a_lost_device_is_told_once_and_the_other_goes_on(tmp_path: Path) -> None:
    body = "until(lambda: nvml.stand_in_reads(0) >= 12)"
    run = record(tmp_path, body, NVML_LOST="1", NVML_LOST_AFTER="3")
    counts = dict(samples(run).group_by("device").len().iter_rows())
    assert counts[1] in (2, 3)  # the third reading was its last; it may not have got to its end
    assert counts[0] >= 12
    (finding,) = findings(run)
    assert (finding["kind"], finding["severity"]) == ("gpu_lost", "error")
    assert (
        finding["evidence"]
        == {
            "device": 1,
            "reason": "nvmlDeviceGetMemoryInfo: GPU is lost",
        }
        or finding["evidence"]["device"] == 1
    )
    assert "device 1 (Stand-in B)" in finding["message"]


def test_a_device_that_is_lost_from_the_start_is_told(tmp_path: Path) -> None:
    run = record(tmp_path, FIVE_ROUNDS, NVML_LOST="1")
    assert samples(run)["device"].unique().to_list() == [0]
    assert [(f["kind"], f["evidence"]["device"]) for f in findings(run)] == [("gpu_lost", 1)]


def test_when_all_devices_are_lost_the_thread_ends(tmp_path: Path) -> None:
    body = """
until(lambda: nvml.stand_in_reads(0) == 100)
until(lambda: threads() == 1)           # the writer's, not the sampler's any more
"""
    run = record(tmp_path, body, NVML_LOST="0", NVML_LOST_AFTER="100", CUDA_VISIBLE_DEVICES="0")
    assert samples(run).height in (99, 100)
    assert [f["kind"] for f in findings(run)] == ["gpu_lost"]


def test_devices_have_the_numbers_that_cuda_would_give_them(tmp_path: Path) -> None:
    table = samples(record(tmp_path, CUDA_VISIBLE_DEVICES="1,0"))
    assert set(table.select("device", "device_name").iter_rows()) == {
        (0, "Stand-in B"),
        (1, "Stand-in A"),
    }


def test_devices_that_the_process_does_not_see_are_not_read(tmp_path: Path) -> None:
    name = "GPU-00000000-0000-0000-0000-00000000000b"
    table = samples(record(tmp_path, CUDA_VISIBLE_DEVICES=name))
    assert set(table.select("device", "device_name").iter_rows()) == {(0, "Stand-in B")}


def test_a_process_that_sees_no_device_is_told_so(tmp_path: Path) -> None:
    run = record(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert samples(run).height == 0
    assert [f["kind"] for f in findings(run)] == ["gpu_not_sampled"]


def test_once_the_program_runs_cuda_its_own_numbers_and_pool_are_known(tmp_path: Path) -> None:
    body = """
library = ctypes.CDLL(cuda)
until(lambda: nvml.stand_in_reads(0) >= 4)      # loaded is not started
read = nvml.stand_in_reads(0)
library.cuInit(0)
until(lambda: nvml.stand_in_reads(0) >= read + 6)
"""
    table = samples(record(tmp_path, body))
    for name, numbers in (("Stand-in A", [0, 1]), ("Stand-in B", [1, 0])):
        device = table.filter(pl.col("device_name") == name).sort("t_ns")
        assert device["used_bytes"].is_sorted()  # it is one device all along
        assert device["device"].rle().struct.field("value").to_list() == numbers
    # CUDA's device 0, the second of NVML's, has a context here; the other one has none.
    after = table.filter(pl.col("device_name") == "Stand-in B", pl.col("device") == 0)
    assert after["async_reserved_bytes"].unique().to_list() == [96 * MIB]
    other = table.filter(pl.col("device_name") == "Stand-in A", pl.col("device") == 1)
    assert other["async_reserved_bytes"].null_count() == other.height


def test_a_process_that_a_container_hides_is_not_known_to_hold_nothing(tmp_path: Path) -> None:
    body = "ctypes.CDLL(cuda).cuInit(0)\nuntil(lambda: nvml.stand_in_reads(0) >= 5)"
    table = samples(record(tmp_path, body, NVML_HOST_PIDS="1"))
    held = {
        name: group["process_used_bytes"].unique().to_list()
        for (name,), group in table.group_by("device_name")
    }
    # Before CUDA runs, and on the device without a context, it does hold nothing.
    assert held["Stand-in A"] == [0]
    assert set(held["Stand-in B"]) == {0, None}


def test_without_a_driver_the_program_goes_on_and_is_told_how_to_get_it(tmp_path: Path) -> None:
    run = record(tmp_path, NVML_BROKEN="9")
    assert samples(run).height == 0
    (finding,) = findings(run)
    assert (finding["kind"], finding["severity"]) == ("gpu_not_sampled", "info")
    assert "Driver Not Loaded" in finding["message"]
    assert "install the driver" in finding["message"]


def test_without_the_package_the_program_is_told_how_to_get_it(tmp_path: Path) -> None:
    body = "pass\nsys.modules['pynvml'] = None"
    program = PROGRAM.replace(
        "import vidlab as vl", "sys.modules['pynvml'] = None\nimport vidlab as vl"
    )
    assert program != PROGRAM
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "PROGRAM", program)
        run = record(tmp_path, body)
    (finding,) = findings(run)
    assert "pip install 'vidlab[gpu]'" in finding["message"]


def test_nvml_is_left_as_it_was(tmp_path: Path) -> None:
    body = """
import pynvml
pynvml.nvmlInit()                       # the program's own use of it goes on
until(lambda: nvml.stand_in_reads(0) >= 3)
import atexit
def left():
    (tmp := open(run + '/users', 'w')).write(str(nvml.stand_in_users()))
    tmp.close()
atexit.register(left)
"""
    record(tmp_path, body)
    assert (tmp_path / "run/users").read_text() == "1"


def test_sampling_goes_on_after_forks_and_there_is_one_thread(tmp_path: Path) -> None:
    body = """
until(lambda: threads() == 2)           # the writer's, and the sampler's
for _ in range(20):                     # more often than a period lasts
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    time.sleep(0.01)
read = nvml.stand_in_reads(0)
until(lambda: nvml.stand_in_reads(0) >= read + 3)
until(lambda: threads() == 2)           # one that a fork did not wait for may still be ending
"""
    run = record(tmp_path, body)
    assert samples(run)["pid"].n_unique() == 1  # its children did not use a GPU


def test_readings_go_on_in_a_program_that_forks_all_the_time(tmp_path: Path) -> None:
    body = """
read = nvml.stand_in_reads(0)
while nvml.stand_in_reads(0) < read + 3:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
"""
    assert samples(record(tmp_path, body, period_s=0.3)).height >= 2 * 4


def test_a_forked_child_is_sampled_once_it_uses_a_gpu(tmp_path: Path) -> None:
    body = """
if (pid := os.fork()) == 0:
    try:
        ctypes.CDLL(cuda).cuInit(0)
        read = nvml.stand_in_reads(0)
        until(lambda: nvml.stand_in_reads(0) >= read + 3)
        recording.stop()
    finally:
        os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
open(run + '/child', 'w').write(str(pid))
"""
    table = samples(record(tmp_path, body))
    child = table.filter(pl.col("pid") == int((tmp_path / "run/child").read_text()))
    assert child["device"].n_unique() == 2
    assert table["pid"].n_unique() == 2


@pytest.mark.needs("hostcuda")
def test_on_hostcuda_it_reads_the_books_of_the_host_s_memory(tmp_path: Path) -> None:
    import cupy

    from vidlab.capture.gpu import hostcuda

    sampler = GpuSampler(period_s=3600)
    cupy.cuda.runtime.deviceSynchronize()  # the pool lets go of what earlier tests gave back
    with vl.record(tmp_path / "run", engines=[sampler]):
        before = hostcuda.books()
        memory = cupy.cuda.runtime.malloc(64 * MIB)
        pool = cupy.cuda.MemoryAsyncPool()
        held = pool.malloc(5 * MIB)
        reserved = cupy.cuda.runtime.memPoolGetAttribute(
            cupy.cuda.runtime.deviceGetDefaultMemPool(0),
            cupy.cuda.runtime.cudaMemPoolAttrReservedMemCurrent,
        )
        during = hostcuda.books()
    del held
    cupy.cuda.runtime.free(memory)
    run = vl.open_run(tmp_path / "run")
    table = samples(run)
    assert table["device_name"].unique().to_list() == ["host memory (no GPU)"]
    first, last = table.filter(pl.col("device") == 0).to_dicts()
    assert first["used_bytes"] == before[0].used_bytes
    assert last["used_bytes"] == during[0].used_bytes >= before[0].used_bytes + 69 * MIB
    assert last["total_bytes"] == during[0].total_bytes
    assert last["process_used_bytes"] == during[0].process_used_bytes
    assert last["async_reserved_bytes"] == reserved >= 5 * MIB
    for column in LOAD:
        assert table[column].null_count() == table.height
    assert findings(run) == []


def own_threads() -> set[str]:
    """The threads of this process that vidlab keeps for itself, by the kernel's numbers."""
    found = set()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            if (thread / "comm").read_text().startswith("vidlab"):
                found.add(thread.name)
    return found


def test_a_recording_leaves_no_thread(tmp_path: Path) -> None:
    before = own_threads()  # one of an earlier test may just be ending
    sampler = GpuSampler(period_s=0.01)
    for name in ("first", "second"):
        with vl.record(tmp_path / name, engines=[sampler]) as recording:
            sampler.start(recording.writer)  # once more does nothing
            until(lambda: len(own_threads() - before) == 2)  # the writer's, and the sampler's
        until(lambda: own_threads() <= before)


def test_parameters_make_another_one_like_it() -> None:
    parameters = GpuSampler(period_s=0.25).parameters()
    assert GpuSampler(**json.loads(json.dumps(parameters))).parameters() == {"period_s": 0.25}


@pytest.mark.parametrize("period_s", [0, 0.009, -1, float("nan"), float("inf")])
def test_a_period_that_cannot_be_used_is_refused(period_s: float) -> None:
    with pytest.raises(InputError, match=r"between two readings in seconds, 0\.01 to 3600"):
        GpuSampler(period_s)

"""`vidlab doctor`, on machines that lack what GPU memory needs, and on one that has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vidlab.capture.ebpf.kernel import abilities, privileges
from vidlab.capture.gpu import native
from vidlab.workbench import doctor
from vidlab.workbench.doctor import Finding

NVML = Path(__file__).parents[1] / "capture" / "gpu" / "devices" / "nvml" / "nvml.c"

#: How long a program may take in all, in seconds: only one that hangs takes longer.
PATIENCE_S = 140

EXPORT = '__attribute__((visibility("default")))'

#: What the stand-in for NVML of the sampler's tests does not have.
VERSION = f"""
#include <string.h>
{EXPORT} int nvmlSystemGetDriverVersion(char *version, unsigned length)
{{ strncpy(version, "999.42", length); return 0; }}
"""

DRIVER = f"""
#include <string.h>
{EXPORT} int cuInit(unsigned flags) {{ return (int)flags; }}
{EXPORT} int cuDeviceGetCount(int *count) {{ *count = 1; return 0; }}
{EXPORT} int cuDeviceGetName(char *name, int size, int device)
{{ strncpy(name, "Imaginary 9000", (size_t)size); return device; }}
"""


def examined(**variables: str) -> dict[str, Finding]:
    """What a fresh Python finds, in which nothing is installed or loaded yet."""
    program = (
        "import dataclasses, json, sys\n"
        "from vidlab.workbench.doctor import examine\n"
        "print(json.dumps([dataclasses.asdict(finding) for finding in examine()]))\n"
        "assert 'cupy' not in sys.modules\n"
        "from vidlab.capture.gpu import hostcuda\n"
        "assert not hostcuda.installed()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "VIDLAB_HOSTCUDA"}
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
        env=environment | variables,
    )
    return {facts["what"]: Finding(**facts) for facts in json.loads(answer.stdout)}


@pytest.fixture
def library(tmp_path: Path) -> Callable[..., str]:
    """Builds a library from C, and returns the folder that it lies in."""

    def build(name: str, *sources: Path | str) -> str:
        paths = []
        for number, source in enumerate(sources):
            if isinstance(source, str):
                path = tmp_path / f"{name}-{number}.c"
                path.write_text(source)
                paths.append(path)
            else:
                paths.append(source)
        flags = ["-fvisibility=default", f"-Wl,-soname,{name}"]
        return str(native.build(name, paths, flags).parent)

    return build


@pytest.mark.needs("hostcuda")
def test_a_compiler_is_enough_for_cupy_on_host_memory() -> None:
    found = examined()
    assert found["a C compiler"].works
    assert found["a C compiler"].detail == native.compiler()
    assert found["CuPy on host memory"].works
    assert "vidlab record --hostcuda" in found["CuPy on host memory"].detail


def test_without_a_compiler(tmp_path: Path) -> None:
    found = examined(PATH=str(tmp_path), CC="")
    for what in ("a C compiler", "CuPy on host memory"):
        assert not found[what].works
        assert found[what].remedy == "sudo apt install gcc"
    found = examined(PATH=str(tmp_path), CC="tcc -O1")
    assert found["a C compiler"].detail == "missing: $CC, tcc -O1"
    assert "unset CC" in found["a C compiler"].remedy


@pytest.mark.needs("hostcuda")
def test_without_python_s_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    found = {finding.what: finding for finding in doctor.examine()}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for what in ("a C compiler", "CuPy on host memory"):
        assert not found[what].works
        assert found[what].remedy == f"sudo apt install python{version}-dev"
    assert "Python.h" in found["a C compiler"].detail


@pytest.mark.needs("hostcuda")
def test_without_a_driver(tmp_path: Path, library: Callable[..., str]) -> None:
    # Libraries that offer nothing come before those of a machine that has a GPU.
    no_gpu = DRIVER.replace("*count = 1; return 0;", "*count = 0; return 100;")
    folders = (
        library("libcuda.so.1", no_gpu),
        library("libnvidia-ml.so.1", f"{EXPORT} int nothing(void) {{ return 0; }}"),
    )
    found = examined(LD_LIBRARY_PATH=os.pathsep.join(folders))
    gpu, nvml = found["a GPU for CuPy"], found["NVML"]
    assert not gpu.works
    assert "vidlab record --hostcuda" in gpu.remedy
    assert "vl.hostcuda.install()" in gpu.remedy
    assert "NVIDIA's driver" in gpu.remedy
    assert not nvml.works
    assert "libnvidia-ml.so.1" in nvml.remedy


@pytest.mark.needs("hostcuda")
def test_with_a_gpu(library: Callable[..., str]) -> None:
    folders = (
        library("libcuda.so.1", DRIVER),
        library("libnvidia-ml.so.1", NVML, VERSION),
    )
    found = examined(LD_LIBRARY_PATH=os.pathsep.join(folders))
    assert found["a GPU for CuPy"] == Finding("a GPU for CuPy", True, "Imaginary 9000")
    assert found["NVML"] == Finding("NVML", True, "2 devices, driver 999.42")


@pytest.mark.needs("hostcuda")
def test_a_library_that_does_not_tell_its_version(library: Callable[..., str]) -> None:
    found = examined(LD_LIBRARY_PATH=library("libnvidia-ml.so.1", NVML))
    assert found["NVML"].works
    assert found["NVML"].detail.startswith("2 devices, driver unknown: ")


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    find = doctor.importlib.util.find_spec

    def without(name: str, *arguments: Any) -> Any:
        return None if name == "cupy_backends" else find(name, *arguments)

    monkeypatch.setattr(doctor.importlib.util, "find_spec", without)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = {finding.what: finding for finding in doctor.examine()}
    for what, package in (("CuPy on host memory", "cupy-cuda12x"), ("NVML", "nvidia-ml-py")):
        assert not found[what].works
        assert found[what].detail == f"missing: {package}"
        assert found[what].remedy == "pip install 'vidlab[gpu]'"


# --- kernel events ----------------------------------------------------------------

EVENTS = "kernel events: "


def kernel_events() -> dict[str, Finding]:
    """What is found of kernel events, by name."""
    return {
        finding.what.removeprefix(EVENTS): finding
        for finding in doctor._kernel_events()
        if finding.what.startswith(EVENTS)
    }


@pytest.mark.needs("ebpf")
def test_each_thing_that_kernel_events_need_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDLAB_EBPF_BROKER", raising=False)
    found = kernel_events()
    assert set(found) == {ability.name for ability in abilities.abilities()}
    for name in ("maps and programs", "ring buffer", "tracepoints"):
        assert found[name].works, found[name]
        assert found[name].detail
        assert found[name].remedy == ""
    for finding in found.values():
        assert finding.works == (finding.remedy == "")


def test_without_the_privileges_both_ways_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = privileges.PrivilegeError("kernel events need cap_bpf", "do this", ["cap_bpf"])
    monkeypatch.setattr(privileges, "check", lambda: refused)
    monkeypatch.delenv("VIDLAB_EBPF_BROKER", raising=False)
    found = kernel_events()
    assert not found["maps and programs"].works
    assert found["maps and programs"].detail == "kernel events need cap_bpf"
    assert found["maps and programs"].remedy == "do this"
    assert "ring buffer" not in found  # what is in vain is not told seven times
    assert not found["by a broker"].works
    assert "sudo vidlab ebpf-broker" in found["by a broker"].remedy
    assert "VIDLAB_EBPF_BROKER" in found["by a broker"].remedy


def test_a_broker_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDLAB_EBPF_BROKER", str(tmp_path / "socket"))
    found = kernel_events()["by a broker"]
    assert not found.works
    assert f"no broker answers at {tmp_path / 'socket'}" in found.detail
    assert "sudo vidlab ebpf-broker" in found.remedy


@pytest.mark.needs("ebpf")
def test_a_broker_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("VIDLAB_EBPF_BROKER", str(tmp_path / "socket"))
    command = [sys.executable, "-m", "vidlab.cli", "ebpf-broker", "--uid", str(os.geteuid())]
    options = ["--socket", str(tmp_path / "socket"), "--audit-log", str(tmp_path / "log")]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as broker:
        assert broker.stdout is not None
        assert "serving" in broker.stdout.readline()
        found = kernel_events()["by a broker"]
        broker.terminate()
    assert found.works
    assert str(tmp_path / "socket") in found.detail


def test_without_pyarrow_the_rest_is_told() -> None:
    program = (
        "import sys\n"
        "sys.modules['pyarrow'] = None\n"
        "from vidlab.workbench.doctor import examine\n"
        "print([finding.what for finding in examine()])\n"
    )
    environment = {key: word for key, word in os.environ.items() if "VIDLAB" not in key}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert "disk for runs" in done.stdout, done.stderr
    assert "kernel events" not in done.stdout

"""Installing: before CuPy, never by surprise, and with errors that help."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.needs("hostcuda")

Child = Callable[..., subprocess.CompletedProcess[str]]


def test_it_comes_before_cupy_or_not_at_all(child: Child) -> None:
    answer = child(
        "import cupy; from vidlab.capture.gpu import hostcuda as h; h.install()", check=False
    )
    assert "CuPy is imported already" in answer.stderr
    assert "vidlab record --hostcuda" in answer.stderr


def test_a_number_that_makes_no_sense_is_refused(child: Child) -> None:
    for arguments in ("devices=0", "devices=17", "memory_bytes=0"):
        answer = child(
            f"from vidlab.capture.gpu import hostcuda as h; h.install({arguments})", check=False
        )
        assert "InputError" in answer.stderr


def test_a_working_gpu_is_left_alone(tmp_path: Any, child: Child) -> None:
    """A stand-in for the driver says that there is a GPU: only force gets past it."""
    from vidlab.capture.gpu import native

    source = tmp_path / "driver.c"
    source.write_text(
        "#include <string.h>\n"
        '#define EXPORT __attribute__((visibility("default")))\n'
        "EXPORT int cuInit(unsigned int flags) { return (int)flags; }\n"
        "EXPORT int cuDeviceGetCount(int *count) { *count = 1; return 0; }\n"
        "EXPORT int cuDeviceGetName(char *name, int size, int device)\n"
        '{ strncpy(name, "Imaginary 9000", (size_t)size); return device; }\n'
    )
    driver = native.build("libcuda.so.1", [source], ["-Wl,-soname,libcuda.so.1"])
    answer = child(
        "from vidlab.capture.gpu import hostcuda as h\nfrom vidlab.errors import VidlabError\n"
        "try: h.install()\nexcept VidlabError as error: print(error)\n"
        "print(h.installed()); h.install(force=True); print(h.installed())\n"
        "import os; print(os.environ['VIDLAB_HOSTCUDA'])",
        LD_LIBRARY_PATH=str(driver.parent),
    )
    said, before, after, variable = answer.stdout.splitlines()
    assert "a GPU works here (Imaginary 9000)" in said
    assert (before, after) == ("False", "True")
    assert variable.endswith(",force=1")


def test_another_cupy_is_named_with_the_function_that_differs(child: Child) -> None:
    answer = child(
        """
import ctypes
from vidlab.capture.gpu import hostcuda
import cupy_backends.cuda.api.runtime as runtime
new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
name = ctypes.create_string_buffer(b"intptr_t (size_t, double, int __pyx_skip_dispatch)")
before = dict(runtime.__pyx_capi__)
runtime.__pyx_capi__["malloc"] = new(1, ctypes.cast(name, ctypes.c_char_p), None)
changed = dict(runtime.__pyx_capi__)
try:
    hostcuda.install()
except Exception as error:
    print(type(error).__name__, error)
print(hostcuda.installed(), dict(runtime.__pyx_capi__) == changed)
"""
    )
    said, unchanged = answer.stdout.splitlines()
    assert re.match(r"VidlabError cupy-cuda1\dx [\d.]+ .*api\.runtime\.malloc", said)
    assert "(size_t, double, int __pyx_skip_dispatch)" in said
    assert unchanged == "False True"


def test_without_cupy_or_a_compiler_it_says_how_to_get_them(tmp_path: Any, child: Child) -> None:
    program = "from vidlab.capture.gpu import hostcuda as h; h.install()"
    without_cupy = """
import sys
class Without:
    def find_spec(name, path, target=None):
        if name == "cupy_backends":
            raise ModuleNotFoundError("No module named 'cupy_backends'", name=name)
sys.meta_path.insert(0, Without)
"""
    answer = child(without_cupy + program, check=False)
    assert "MissingDependencyError" in answer.stderr
    assert "vidlab[gpu]" in answer.stderr
    answer = child(program, check=False, PATH=str(tmp_path), CC="")
    assert "MissingDependencyError" in answer.stderr
    assert "apt install gcc" in answer.stderr


REPORT = (
    "from vidlab.capture.gpu import hostcuda as h; h.install_from_environment()\n"
    "print(h.installed(), [b.total_bytes for b in h.books()] if h.installed() else '')"
)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "False "),
        ("0", "False "),
        ("1", f"True {[4 << 30]}"),
        ("devices=2,memory=1GiB", f"True {[1 << 30] * 2}"),
        ("memory=500MB, devices=1", f"True {[500_000_000]}"),
    ],
)
def test_the_environment_may_ask_for_it(value: str, said: str, child: Child) -> None:
    assert child(REPORT, VIDLAB_HOSTCUDA=value).stdout == said + "\n"


@pytest.mark.parametrize("value", ["yes", "devices=two", "memory=4 parsecs", "devices=1,,"])
def test_an_environment_that_is_not_understood_is_an_error(value: str, child: Child) -> None:
    answer = child(REPORT, check=False, VIDLAB_HOSTCUDA=value)
    assert "InputError: VIDLAB_HOSTCUDA is" in answer.stderr
    assert "devices=2,memory=4GiB" in answer.stderr


def test_children_get_what_their_parent_has(child: Child) -> None:
    answer = child(
        f"""
import os, subprocess, sys
from vidlab.capture.gpu import hostcuda
hostcuda.install(devices=3, memory_bytes=1 << 20)
hostcuda.install()
print([books.total_bytes for books in hostcuda.books()], flush=True)
subprocess.run([sys.executable, "-c", {REPORT!r}], check=True)
"""
    )
    assert answer.stdout.splitlines() == [f"{[1 << 20] * 3}", f"True {[1 << 20] * 3}"]


def test_a_fork_keeps_its_memory_and_its_books(child: Child) -> None:
    answer = child(
        """
import os, threading
from vidlab.capture.gpu import hostcuda
hostcuda.install()
import cupy, numpy
array = cupy.asarray(numpy.arange(100000))
stop = threading.Event()
def busy():
    while not stop.is_set():
        cupy.cuda.runtime.free(cupy.cuda.runtime.malloc(1 << 17))
thread = threading.Thread(target=busy)
thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        other = cupy.asarray(numpy.arange(5))
        right = array.get()[-1] == 99999 and hostcuda.books()[0].used_bytes >= array.nbytes
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
print(array.get()[-1])
"""
    )
    assert answer.stdout == "99999\n"

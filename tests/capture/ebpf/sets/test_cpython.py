"""The sets `cpython` and `cpython_calls` in the real kernel, on interpreters of this machine."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from vidlab.capture.ebpf.sets.cpython import LARGE_BYTES
from vidlab.capture.ebpf.symbols import usdt

from .children import Child
from .conftest import Listen

pytestmark = [pytest.mark.needs("ebpf"), pytest.mark.usefixtures("nothing_left")]

GC, MEMORY, CALLS = "kernel_python_gc", "kernel_python_memory", "kernel_python_calls"


def with_probes() -> str | None:
    """An interpreter that has USDT probes for calls: CPython 3.11 or older, as Debian builds it."""
    for name in ("/usr/bin/python3", *(f"/usr/bin/python3.{minor}" for minor in range(8, 12))):
        found = shutil.which(name)
        if found and {"gc__start", "function__return"} <= {
            probe.name for probe in usdt.probes(str(Path(found).resolve()))
        }:
            return found
    return None


@pytest.fixture
def interpreter() -> str:
    found = with_probes()
    if found is None:
        pytest.skip("no interpreter here has USDT probes for calls, as Debian's python3.11")
    return found


def test_collections_are_those_that_python_tells_of(listen: Listen, interpreter: str) -> None:
    code = """
import gc
seen = []
def note(phase, info):
    seen.append([phase, time.monotonic_ns(), info["generation"], info["collected"]])
gc.disable()
step()
gc.callbacks.append(note)
for generation in (0, 1, 2, 2, 0):
    for _ in range(generation * 10 + 3):
        loop = []
        loop.append(loop)
    del loop
    gc.collect(generation)
gc.enable()
kept = [[i] for i in range(20000)]
gc.disable()
gc.callbacks.remove(note)
step(seen)
"""
    with (
        Child(code, interpreter=interpreter) as child,
        listen("cpython", target=child.pid) as heard,
    ):
        (seen,) = child.go()
        rows = heard.rows(GC)
        heard.hits()
    told = {"start": "start", "stop": "done"}
    assert [row["op"] for row in rows] == [told[phase] for phase, *_ in seen]
    assert len(rows) > 10
    for row, (phase, _, generation, collected) in zip(rows, seen, strict=True):
        assert row["pid"] == row["tid"] == child.pid
        if phase == "start":
            assert (row["generation"], row["collected"]) == (generation, None)
        else:
            assert (row["generation"], row["collected"]) == (None, collected)
    # Python calls back before the probe of a start, and after that of an end.
    for (start, done), (before, after) in zip(
        zip(rows[::2], rows[1::2], strict=True),
        zip(seen[::2], seen[1::2], strict=True),
        strict=True,
    ):
        assert before[1] < start["t_ns"] < done["t_ns"] < after[1]


def test_an_interpreter_without_probes_is_named(listen: Listen) -> None:
    if any(probe.name == "gc__start" for path in mapped() for probe in usdt.probes(path)):
        pytest.skip("this interpreter has USDT probes")
    with Child("step()") as child, listen("cpython", target=child.pid) as heard:
        assert not heard.attached(GC)
        assert heard.attached(MEMORY) >= {"malloc", "calloc", "realloc", "PyMem_RawMalloc"}
        assert any("python3" in problem for problem in heard.session.problems)


@pytest.mark.parametrize("which", ["own", "other"])
def test_large_allocations_of_any_interpreter(
    listen: Listen, which: str, request: pytest.FixtureRequest
) -> None:
    path = sys.executable if which == "own" else request.getfixturevalue("interpreter")
    small, large = LARGE_BYTES - 1000, 12 * 34567 + 1
    code = f"""
step()
before = time.monotonic_ns()
kept = [bytes({large} + i) for i in range(10)] + [b"x" * ({large} + 10)]
after = time.monotonic_ns()
text = "x" * {large + 11}
array = bytearray({large + 12})
little = [bytes({small}) for _ in range(10)]
listed = [None] * {large}
step([id(one) for one in kept], sys.getsizeof(b"") - 1, before, after, threading.get_native_id())
"""
    with Child(code, interpreter=path) as child, listen("cpython", target=child.pid) as heard:
        addresses, head, before, after, tid = child.go()
        rows = heard.rows(MEMORY)
        heard.hits()
    assert {row["tid"] for row in rows} == {tid}
    assert all(row["size_bytes"] >= LARGE_BYTES for row in rows)
    asked = [row for row in rows if row["domain"] == "c"]
    for number, address in enumerate(addresses):
        (row,) = [row for row in asked if row["size_bytes"] == large + number + head + 1]
        # The C library gives memory, and Python's object is at its begin.
        assert row["address"] == address
        assert before < row["t_ns"] < row["t_ns"] + row["duration_ns"] < after
        assert row["symbol"] in ("malloc", "calloc")
    sizes = [row["size_bytes"] for row in asked]
    assert any(large + 11 < size < large + 11 + 100 for size in sizes)
    assert large + 12 + 1 in sizes
    assert 8 * large in sizes
    # What the interpreter asked its own function for, that asked the C library for.
    for row in rows:
        if row["domain"] == "raw":
            assert any(
                inner["address"] == row["address"] and inner["size_bytes"] == row["size_bytes"]
                for inner in asked
                if row["t_ns"] < inner["t_ns"] < row["t_ns"] + row["duration_ns"]
            )


def test_calls_are_told_with_function_file_and_line(listen: Listen, interpreter: str) -> None:
    code = """
def outer(n):
    for i in range(n): inner(i)
def inner(i): return i
step()
outer(37)
step()
"""
    with (
        Child(code, interpreter=interpreter) as child,
        listen("cpython_calls", target=child.pid) as heard,
    ):
        child.go()
        rows = [row for row in heard.rows(CALLS) if row["op"] == "return"]
        heard.hits()
    own = [row for row in rows if row["function"] in ("outer", "inner")]
    assert [row["function"] for row in own] == ["inner"] * 37 + ["outer"]
    assert {row["file"] for row in own} == {"<string>"}
    (line,) = {row["line"] for row in own if row["function"] == "inner"}
    assert own[-1]["line"] == line - 1
    assert {row["symbol"] for row in own} == {"function__return"}


def mapped() -> list[str]:
    """The files of this interpreter."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({line.split()[-1] for line in lines if "python3" in line.split()[-1]})

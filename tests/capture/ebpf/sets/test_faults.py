"""The set `faults` in the real kernel: each page that is touched first is a row."""

from __future__ import annotations

import mmap
import platform

import pytest

from vidlab.capture.ebpf.sets.faults import PRESENT, USER, WRITE

from .children import Child
from .conftest import Listen

pytestmark = [
    pytest.mark.needs("ebpf"),
    pytest.mark.usefixtures("nothing_left"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the tracepoint is of x86"),
]

TABLE = "kernel_page_faults"

PAGES = 123

#: Touches each page of memory of its own, in another thread; then once more.
TOUCHES = f"""
import mmap
size = mmap.PAGESIZE
memory = mmap.mmap(-1, {PAGES} * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
def touch():
    before = time.monotonic_ns()
    for page in range({PAGES}): memory[page * size] = 1
    told.append([threading.get_native_id(), before, time.monotonic_ns()])
step(start)
told = []
for _ in range(2):
    thread = threading.Thread(target=touch)
    thread.start()
    thread.join()
step(*told)
"""


def test_every_page_that_is_touched_is_a_fault_of_its_thread(listen: Listen) -> None:
    with Child(TOUCHES) as child, listen("faults", target=child.pid) as heard:
        (start,) = child.told
        (tid, before, after), (again, _, _) = child.go()
        rows = heard.rows(TABLE)
        heard.hits()
    end = start + PAGES * mmap.PAGESIZE
    faults = [row for row in rows if start <= row["address"] < end]
    assert [row["address"] for row in faults] == list(range(start, end, mmap.PAGESIZE))
    assert {row["tid"] for row in faults} == {tid}
    assert again not in {row["tid"] for row in faults}
    assert all(before < row["t_ns"] < after for row in faults)
    assert all(row["error_code"] & (PRESENT | WRITE | USER) == WRITE | USER for row in faults)
    assert len({row["ip"] for row in faults}) == 1  # one instruction touched them all
    assert {row["pid"] for row in rows} == {child.pid}


def test_what_is_read_first_and_written_then_faults_twice(listen: Listen) -> None:
    code = TOUCHES.replace(
        "memory[page * size] = 1", "memory[page * size]; memory[page * size] = 1"
    )
    with Child(code) as child, listen("faults", target=child.pid) as heard:
        (start,) = child.told
        child.go()
        rows = heard.rows(TABLE)
    end = start + PAGES * mmap.PAGESIZE
    codes = [row["error_code"] & (PRESENT | WRITE) for row in rows if start <= row["address"] < end]
    assert codes == [0, PRESENT | WRITE] * PAGES

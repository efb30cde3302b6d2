"""Probes in the kernel: attaching a set, what others pay for it, and whether the counts add up."""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from vidlab.capture.ebpf import Probe, arg, retval
from vidlab.capture.ebpf.kernel import privileges
from vidlab.capture.ebpf.plan import Plan
from vidlab.capture.ebpf.reading.counters import Counts
from vidlab.capture.ebpf.reading.ring import Ring
from vidlab.capture.ebpf.session import Session
from vidlab.capture.gpu import hostcuda

from .figure import Figure, report

#: A library with one function, which counts its calls itself, and a loop that calls it.
SOURCE = """
static unsigned long calls;
__attribute__((noinline)) int work(int x) { __asm__ volatile("" ::: "memory"); return x + 1; }
void loop(long count) { for (long i = 0; i < count; i++) { work((int)i);
  __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED); } }
unsigned long counted(void) { return __atomic_load_n(&calls, __ATOMIC_RELAXED); }
"""

CALLS, ROUNDS = 2_000_000, 9

#: How often the calls of an overloaded probe are counted, and how many those are.
RUNS, OVERLOAD = 20, 30_000


def attach_cuda() -> Figure:
    """Return how long it takes to attach the whole set `cuda`, in ms."""
    hostcuda.install()
    import cupy

    cupy.zeros(1)
    plan = Plan(["cuda"])
    took = []
    for _ in range(7):
        begin = time.perf_counter()
        session = Session(plan, os.getpid())
        took.append(1e3 * (time.perf_counter() - begin))
        attached = len(session.attachments)
        session.close()
    assert attached > 100, "the set is not attached"
    return Figure("attaching the cuda set (CuPy on host memory)", min(took), "ms", target=100)


def other_processes(library: Path) -> Figure:
    """Return what a probed function costs a process that is not meant, of what it did before."""
    program = (
        "import ctypes, sys, time\n"
        "library = ctypes.CDLL(sys.argv[1])\n"
        "for line in sys.stdin:\n"
        "    begin = time.process_time_ns()\n"
        f"    library.loop(ctypes.c_long({CALLS}))\n"
        "    print(time.process_time_ns() - begin, flush=True)\n"
    )
    ctypes.CDLL(str(library))
    plan = Plan([Probe(str(library), "work", entry={"x": arg(0, "i32")}, exit={})])
    free: list[float] = []
    probed: list[float] = []
    with subprocess.Popen(
        [sys.executable, "-c", program, str(library)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None

        def once() -> float:
            print("go", file=other.stdin, flush=True)
            return float(other.stdout.readline()) / CALLS  # type: ignore[union-attr]

        once()
        for _ in range(ROUNDS):
            free.append(once())
            with Session(plan, os.getpid()):
                probed.append(once())
        other.stdin.close()
    return Figure(
        "a call in another process while ours is probed",
        statistics.median(probed),
        "ns",
        peer=statistics.median(free),
        target=1.05,
    )


def exact(library: Path) -> Figure:
    """Return in how many of 20 overloaded runs calls were not read + lost, exactly."""
    code = ctypes.CDLL(str(library))
    code.counted.restype = ctypes.c_ulong
    probe = Probe(str(library), "work", entry={"x": arg(0, "i32")}, exit={"result": retval()})
    wrong, lost_in_all = 0, 0
    for _ in range(RUNS):
        plan = Plan([probe])
        [layout] = plan.layouts.values()
        with Session(plan, os.getpid(), ring_bytes=1 << 16) as session:
            before = code.counted()
            threads = [threading.Thread(target=code.loop, args=(OVERLOAD,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            ring = Ring(session.shared.rings[layout.name].fd, 1 << 16, layout.dtype, layout.stride)
            read = 0
            while any(thread.is_alive() for thread in threads) or ring.available():
                time.sleep(0.02)  # too seldom for this ring
                view = ring.view(1 << 20)
                read += len(view.records)
                ring.advance(view.extent)
            calls = code.counted() - before
            told = Counts(session.shared.counts).read()[0]
            missed = sum(session.misses().values())
            ring.close()
        lost = int(told[4] + told[5]) + missed
        lost_in_all += lost
        wrong += calls != read + lost
    assert lost_in_all, "no run was overloaded"
    return Figure(f"runs of {RUNS} in which calls ≠ read + lost", wrong, "runs", target=0)


def main() -> None:
    """Measure, and print the figures."""
    if (refused := privileges.check()) is not None:
        print(f"probes are not measured: {refused}", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "work.c"), Path(folder, "libwork.so")
        source.write_text(SOURCE)
        command = ["gcc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source)]
        subprocess.run(command, check=True)
        report([attach_cuda(), other_processes(library), exact(library)])


if __name__ == "__main__":
    main()

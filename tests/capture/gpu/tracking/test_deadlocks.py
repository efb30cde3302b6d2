"""Allocations and frees in the middle of anything, each in a process of its own that must end."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from vidlab.runs.run import open_run

pytestmark = pytest.mark.needs("hostcuda")

#: If it hangs, it says where and ends.
PROLOGUE = """
    import faulthandler, gc, os, random, signal, sys, threading, time
    faulthandler.dump_traceback_later(100, exit=True)
    from vidlab.capture.gpu import hostcuda
    hostcuda.install()
    import cupy
    from vidlab.capture.gpu.tracking import tracker
    from vidlab.capture.gpu.engine import GpuMemory
    from vidlab.recording import record
    recording = record(sys.argv[1], engines=[GpuMemory(holders=False)])
    track = tracker.active
"""

EPILOGUE = """
    gc.collect()
    assert track.failures == 0, track.failures
    left = track.live.blocks(0)
    assert not left, left
    recording.stop()
    print("ended")
"""


def run(tmp_path: Path, script: str) -> list[dict[str, Any]]:
    """Run a script under a recording; return the pool's rows. All it took has been freed."""
    text = textwrap.dedent(PROLOGUE) + textwrap.dedent(script) + textwrap.dedent(EPILOGUE)
    path = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", text, path],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.stdout.endswith("ended\n"), done.stderr[-3000:]
    recorded = open_run(path)
    rows = recorded.scan("allocations").collect().to_dicts()
    pool = [row for row in rows if row["level"] == "pool" and row["generation"]]
    taken = {row["generation"] for row in pool if row["op"] == "alloc" and row["status"] == "ok"}
    freed = [row["generation"] for row in pool if row["op"] == "free"]
    assert len(freed) == len(set(freed))
    # Signal handlers that interrupt each other too deep lose records, which are counted.
    lost = recorded.losses.get("allocations", {}).get("lost", 0)
    assert len(set(freed) ^ taken) <= lost
    return pool


def test_in_a_garbage_collection(tmp_path: Path) -> None:
    rows = run(
        tmp_path,
        """
        def collected(phase, info):
            cupy.cuda.alloc(700)
        gc.callbacks.append(collected)
        gc.set_threshold(1, 1, 1)
        class Node: pass
        def work():
            for _ in range(300):
                node = Node()
                node.array, node.self = cupy.empty(300, "u1"), node
        threads = [threading.Thread(target=work) for _ in range(3)]
        for t in threads: t.start()
        for t in threads: t.join()
        gc.callbacks.remove(collected)
        gc.set_threshold(700, 10, 10)
        """,
    )
    assert {"gc", "refcount"} <= {row["freed_by"] for row in rows}
    assert sum(row["size_asked_bytes"] == 300 for row in rows) == 900


def test_inside_del(tmp_path: Path) -> None:
    rows = run(
        tmp_path,
        """
        class Buffer:
            def __init__(self):
                self.array = cupy.empty(300, "u1")
                self.self = self
            def __del__(self):
                cupy.empty(900, "u1")
                self.array = None
        gc.set_threshold(5, 2, 2)
        def work():
            for _ in range(500):
                Buffer()
        threads = [threading.Thread(target=work) for _ in range(3)]
        for t in threads: t.start()
        for t in threads: t.join()
        gc.collect()
        """,
    )
    assert sum(row["size_asked_bytes"] == 900 for row in rows) == 1500


def test_inside_a_signal_handler(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        kept, depth = [], 0
        def handler(signum, frame):
            global depth
            if depth == 8:      # on a slow machine it is interrupted faster than it ends
                return
            depth += 1
            kept.append(cupy.empty(random.randrange(1, 5000), "u1"))
            if len(kept) > 20:
                kept.clear()
                gc.collect(0)
            depth -= 1
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        until = time.monotonic() + 3
        def work():
            while time.monotonic() < until:
                cupy.empty(random.randrange(1, 5000), "u1")
        thread = threading.Thread(target=work)
        thread.start()
        work()
        thread.join()
        signal.setitimer(signal.ITIMER_REAL, 0)
        kept.clear()
        """,
    )


def test_inside_another_trackers_hook(tmp_path: Path) -> None:
    rows = run(
        tmp_path,
        """
        class Hook(cupy.cuda.MemoryHook):
            name = "mine"
            busy = False
            def malloc_postprocess(self, **what):
                if not self.busy:
                    self.busy = True
                    cupy.cuda.alloc(700)
                    self.busy = False
            free_preprocess = malloc_postprocess
        with Hook():
            for _ in range(500):
                cupy.cuda.alloc(300)
        """,
    )
    assert sum(row["size_asked_bytes"] == 300 for row in rows) == 500
    assert sum(row["size_asked_bytes"] == 700 for row in rows) == 1000


def test_beside_tracemalloc(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        import tracemalloc
        tracemalloc.start(20)
        for _ in range(200):
            cupy.empty(300, "u1")
        assert tracemalloc.take_snapshot().traces
        tracemalloc.stop()
        """,
    )


def test_a_python_allocator_that_collects(tmp_path: Path) -> None:
    rows = run(
        tmp_path,
        """
        pool = cupy.cuda.MemoryPool()
        class Node:
            def __del__(self):
                self.array = None
                cupy.cuda.alloc(900)
        def allocate(size):
            if size == 300:
                gc.collect()
            return pool.malloc(size)
        cupy.cuda.set_allocator(allocate)
        for _ in range(50):
            node = Node()
            node.array, node.self = cupy.empty(300, "u1"), node
        del node
        gc.collect()
        """,
    )
    assert sum(row["size_asked_bytes"] == 900 for row in rows) == 50


def test_a_signal_handler_that_raises_reaches_the_program(tmp_path: Path) -> None:
    text = textwrap.dedent(PROLOGUE) + textwrap.dedent(
        """
        class Late(BaseException): pass
        armed = False
        def handler(signum, frame):
            global armed
            if armed:
                armed = False
                raise Late
        signal.signal(signal.SIGALRM, handler)
        for n in range(50):
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.003), 0.1)
                while True:
                    armed = True
                    cupy.cuda.alloc(random.randrange(1, 5000))
            except Late:
                pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        armed = False
        assert track.failures == 0
        recording.stop()
        print("ended")
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", text, tmp_path / "run"], capture_output=True, text=True, timeout=150
    )
    assert done.stdout.endswith("ended\n"), done.stderr[-3000:]


def test_in_forked_children(tmp_path: Path) -> None:
    script = """
        import multiprocessing
        array = cupy.empty(300, "u1")
        def child():
            # What was there before belongs to the parent; what is new is the child's.
            mine = cupy.empty(500, "u1")
            assert [b.size_bytes for b in tracker.active.live.blocks(0)] == [512]
            del mine
            globals().pop("array")
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=child) for _ in range(3)]
        for p in processes: p.start()
        for p in processes: p.join(60)
        assert [p.exitcode for p in processes] == [0] * 3
        del array
        """
    text = textwrap.dedent(PROLOGUE) + textwrap.dedent(script) + textwrap.dedent(EPILOGUE)
    path = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", text, path], capture_output=True, text=True, timeout=150
    )
    assert done.stdout.endswith("ended\n"), done.stderr[-3000:]
    rows = open_run(path).scan("allocations").collect().to_dicts()
    rows = [row for row in rows if row["level"] == "pool" and row["generation"]]
    by_process: dict[int, list[tuple[str, int]]] = {}
    for row in sorted(rows, key=lambda row: row["t_ns"]):
        by_process.setdefault(row["pid"], []).append((row["op"], row["size_bytes"]))
    assert len(by_process) == 4
    assert sorted(by_process.values()) == sorted([[("alloc", 512), ("free", 512)]] * 4)


def test_forked_children_that_end_while_threads_record(tmp_path: Path) -> None:
    script = """
        import multiprocessing
        over = threading.Event()
        def work():
            while not over.is_set():
                cupy.empty(random.randrange(1, 5000), "u1")
        def child():
            cupy.empty(500, "u1")
        threads = [threading.Thread(target=work) for _ in range(2)]
        for t in threads: t.start()
        context = multiprocessing.get_context("fork")
        for _ in range(8):
            process = context.Process(target=child)
            process.start()
            process.join(60)
            assert process.exitcode == 0
            time.sleep(0.2)
        over.set()
        for t in threads: t.join()
        """
    text = textwrap.dedent(PROLOGUE) + textwrap.dedent(script) + textwrap.dedent(EPILOGUE)
    path = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", text, path], capture_output=True, text=True, timeout=150
    )
    # No word of what could not be written: what one process has ended, others still use.
    assert (done.stdout, done.stderr) == ("ended\n", "")
    recorded = open_run(path)
    rows = recorded.scan("allocations").collect().to_dicts()
    pool = [(row["pid"], row["generation"], row["op"]) for row in rows if row["level"] == "pool"]
    taken = [(pid, generation) for pid, generation, op in pool if op == "alloc"]
    freed = [(pid, generation) for pid, generation, op in pool if op == "free"]
    # Threads that record faster than a disk that stands still writes lose records, counted.
    lost = recorded.losses.get("allocations", {}).get("lost", 0)
    assert len(set(taken) ^ set(freed)) <= lost
    assert len({pid for pid, *_ in pool}) == 9
    assert len(taken) == len(set(taken))
    assert len(freed) == len(set(freed))

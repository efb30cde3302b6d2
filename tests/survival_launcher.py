"""Starts recordings and kills them, with their children, at random moments.

Usage: survival_launcher.py FOLDER COUNT SEED. Run by test_survival.py in a process
that has not imported polars, since it forks. Each recording gets a folder with the
run and a `witness`: a shared file of 64-bit counters, one a worker, that a worker
raises after each span that it completed.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import vidlab as vl

WORKERS = 6  # 0-2: threads; 3: a forked child; 4: a Python child of its own; 5: holds the GIL
CHILD = "import sys, survival_launcher as s; s.work(s.witness(sys.argv[1]), 4)"

# PyDLL keeps the GIL while C's usleep sleeps: nothing of Python runs meanwhile.
hold_gil = ctypes.PyDLL(None).usleep

PR_SET_CHILD_SUBREAPER = 36


def witness(path: Path | str) -> mmap.mmap:
    with Path(path).open("r+b") as file:
        return mmap.mmap(file.fileno(), 8 * WORKERS)


def work(counters: mmap.mmap, worker: int) -> None:
    """Complete spans until killed, and say after each how many there are."""
    name, count = f"worker-{worker}", 0
    with vl.labels(stream_id=f"cam-{worker}"):
        while True:
            with vl.stage(name):
                pass
            count += 1
            struct.pack_into("<Q", counters, 8 * worker, count)
            if worker == 5:
                hold_gil(400_000)
            elif count % 64 == 0:
                time.sleep(0.0005)


def record(folder: Path, holds_gil: bool) -> None:
    """Record until killed."""
    counters = witness(folder / "witness")
    with vl.record(folder / "run"):
        threads = [0, 1, 2, *([5] if holds_gil else [])]
        for worker in threads:
            threading.Thread(target=work, args=(counters, worker), daemon=True).start()
        pid = os.fork()
        if pid == 0:
            work(counters, 3)
        subprocess.Popen([sys.executable, "-c", CHILD, str(folder / "witness")])
        time.sleep(60)


def main(folder: Path, count: int, seed: int) -> None:
    # The children of what is killed become children of this process, which waits for their end.
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1) == 0
    moments = random.Random(seed)
    for number in range(count):
        one = folder / f"{number:02}"
        one.mkdir()
        (one / "witness").write_bytes(bytes(8 * WORKERS))
        pid = os.fork()
        if pid == 0:
            os.setsid()  # so that a kill reaches all that it starts, and nothing else
            try:
                record(one, holds_gil=number % 3 == 0)
            finally:
                os._exit(70)
        counters = witness(one / "witness")
        while not any(counters[:]):  # the first span of all
            time.sleep(0.001)
        time.sleep(moments.uniform(0.0, 0.9))
        os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # when there are no more
            while True:
                os.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

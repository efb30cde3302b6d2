"""Runs a script with every engine on, or with none.

Usage: all_engines_launcher.py RUN|- SCRIPT ARGUMENTS. Run by test_all_engines.py. As the
script ends it says on stderr what is left of the recording in this process: nothing.
"""

from __future__ import annotations

import contextlib
import gc
import os
import runpy
import sys
import threading
import time
from pathlib import Path

import vidlab as vl
from vidlab.capture.engine import Engine
from vidlab.capture.profiles.engine import Profiles

#: How long a thread of the recording may take to be gone, in seconds: it was told to end.
PATIENCE_S = 60


def every_engine() -> list[Engine]:
    """Return one of each."""
    return [
        vl.Frames(),
        vl.GpuMemory(),
        vl.GpuSampler(),
        vl.KernelEvents(["cuda", "libav", "sched"]),
        vl.Runtime("staging"),
        Profiles(sample_rate=200, memory=True),
    ]


def left() -> dict[str, object]:
    """Return what a recording could leave behind."""
    files = [str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    names = {thread.name for thread in threading.enumerate()}
    return {
        "threads": sorted(names),
        "gc callbacks": len(gc.callbacks),
        "sockets": sum(file.startswith("socket:") for file in files),
        "variable": os.environ.get("VIDLAB_RUN"),
    }


def remains(before: dict[str, object]) -> dict[str, object]:
    """Return what is left that was not there before, and stays."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        found = left()
        others = {what: found[what] for what in found if found[what] != before[what]}
        if not others or time.monotonic() > until_s:
            return others
        time.sleep(0.05)


def main(run: str, script: str, *arguments: str) -> None:
    import asyncio  # noqa: F401  # so that what these leave is there before
    import concurrent.futures.thread  # noqa: F401

    vl.hostcuda.install()
    sys.argv = [script, *arguments]
    before = left()
    try:
        with contextlib.ExitStack() as recording:
            if run != "-":
                recording.enter_context(vl.record(run, engines=every_engine()))
            runpy.run_path(script, run_name="__main__")
    finally:
        sys.stderr.write(f"{remains(before)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

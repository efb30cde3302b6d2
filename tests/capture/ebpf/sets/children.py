"""Processes to be watched, which do one step after another; and what programs keep of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vidlab.capture.ebpf.kernel import bpf
from vidlab.capture.ebpf.kernel.maps import Map

from ..lab import wait_until

#: What the code of every child begins with: `step(...)` tells values, and waits for the next turn.
_PRELUDE = """
import ctypes, json, os, socket, sys, threading, time
def step(*values):
    print(json.dumps(values), flush=True)
    if not sys.stdin.readline(): os._exit(0)
def until_reading(tid, fd):
    # As the kernel tells it of a thread that is off its CPU: the call's number and arguments. So a
    # wait for the interpreter's lock is not taken for it, nor one that is yet to begin.
    while open(f"/proc/self/task/{tid}/syscall").read().split()[1:2] != [hex(fd)]:
        time.sleep(0.001)
class Word(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("first", "frame", "labels", "last")]
    def set(self, span, frame, labels):
        self.first, self.frame, self.labels, self.last = span, frame, labels, span
    @property
    def address(self): return ctypes.addressof(self)
"""


#: What the kernel tells of a thread that waits for input: the number of read(2), here or on arm64,
#: and the descriptor.
_WAITING = re.compile("(0|63) 0x0 ")


class Child:
    """A Python process that runs this code up to its first `step`.

    Parameters
    ----------
    code : str
        Each `step(values)` hands values over and waits for `go`.
    *arguments : str
        Its ``sys.argv[1:]``.
    interpreter : str
    keep : tuple of int
        Descriptors that it inherits.

    Attributes
    ----------
    pid : int
    told : list
        What its last step told.
    """

    def __init__(
        self,
        code: str,
        *arguments: str,
        interpreter: str = sys.executable,
        keep: tuple[int, ...] = (),
    ) -> None:
        self._process = subprocess.Popen(
            [interpreter, "-I", "-c", _PRELUDE + code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=keep,
        )
        self.pid = self._process.pid
        self.told: list[Any] = self._read()

    def start(self) -> None:
        """Let it go on; `wait` reads what its next step tells."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def wait(self) -> list[Any]:
        """Return what the next step tells."""
        self.told = self._read()
        return self.told

    def go(self) -> list[Any]:
        """Let it go on, and return what its next step tells."""
        self.start()
        return self.wait()

    def end(self) -> None:
        """Let it come to its end, and wait for that."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait(60)

    def tasks(self) -> set[int]:
        """Its threads."""
        return {int(path.name) for path in Path(f"/proc/{self.pid}/task").iterdir()}

    def _read(self) -> list[Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the child has ended before its next step"
        wait_until(self._waits)
        return list(json.loads(line))

    def _waits(self) -> bool:
        """Whether it waits to go on: having told a step it still runs for a while."""
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                if _WAITING.match((task / "syscall").read_text()):
                    return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.end()
        finally:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()


def kept(name: str) -> dict[bytes, bytes]:
    """What the map of this name holds that a session of this process has."""
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(link.readlink()) == "anon_inode:bpf-map":
                with Map.from_fd(os.dup(int(link.name))) as map:
                    if map.name == bpf.object_name(name).decode():
                        return dict(map.items())
    raise AssertionError(f"no session of this process has a map {name}")

"""A broker that runs, and processes of another user that ask it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vidlab.capture.ebpf.broker.audit import Audit
from vidlab.capture.ebpf.broker.server import Broker, Limits

#: A user without any rights.
NOBODY = 65534

#: Run before a child's own code: it becomes that user, for good, and may be looked at.
BECOME = """
import ctypes, json, os, socket, struct, sys, threading, time
from pathlib import Path
import vidlab.recording
from vidlab.capture.ebpf import Counter, Histogram, Probe, Tracepoint, arg, duration, retval
from vidlab.capture.ebpf.broker import client, protocol
from vidlab.capture.ebpf.broker.client import RemoteSession
from vidlab.capture.ebpf.kernel.privileges import PrivilegeError, effective
from vidlab.capture.ebpf.plan import Plan
from vidlab.capture.ebpf.reading import columns, counters, reader, ring
from vidlab.errors import InputError, RecordingError, VidlabError
import encodings.ascii, encodings.idna, encodings.latin_1, linecache, mmap, traceback
{warm}
os.setgroups([])  # from here on, Python may not be able to read its own library
os.setresgid({user}, {user}, {user})
os.setresuid({user}, {user}, {user})
ctypes.CDLL(None).prctl(4, {dumpable}, 0, 0, 0)  # PR_SET_DUMPABLE
libc = ctypes.CDLL("libc.so.6")
libc.labs.restype, libc.labs.argtypes = ctypes.c_long, [ctypes.c_long]
path = Path(sys.argv[1])
labs = Probe("libc.so.6", "labs", {{"value": arg(0, "i64")}}, {{"result": retval("i64")}})
"""


def start_client(
    path: Path, code: str, *, user: int = NOBODY, dumpable: int = 1, warm: bool = False
) -> subprocess.Popen[str]:
    """Start a client's code as another user; `path` is the broker's socket."""
    text = BECOME.format(user=user, dumpable=dumpable, warm=WARM if warm else "") + textwrap.dedent(
        code
    )
    return subprocess.Popen(
        [sys.executable, "-c", text, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


#: Has all that a recording imports imported.
WARM = """
import tempfile
import vidlab as vl
from vidlab.capture.ebpf.engine import KernelEvents
with tempfile.TemporaryDirectory() as _folder:
    _engines = [vl.Frames(), KernelEvents([Probe("libc.so.6", "labs")])]
    with vl.record(_folder + "/run", engines=_engines):
        with vl.stage("work"):
            pass
    _run = vl.open_run(_folder + "/run")
    for _table in _run.tables():
        _run.scan(_table).collect().to_dicts()
    _run.losses
"""


class Running:
    """A broker in a thread of this process, its socket and its log."""

    def __init__(self, folder: Path, uid: int, limits: Limits) -> None:
        self.path = folder / "broker.socket"
        self.log = folder.parent / "audit.jsonl"
        self.audit = Audit(self.log)
        self.broker = Broker(self.path, self.audit, uid, limits)
        self._thread = threading.Thread(target=self.broker.run)
        self._thread.start()

    def lines(self) -> list[dict[str, Any]]:
        """What the audit log says; a line that is being written is not whole yet."""
        whole, _, _ = self.log.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines()]

    def client(self, code: str, **how: Any) -> str:
        """Run a client's code as another user; return what it printed."""
        process = self.start(code, **how)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err[-3000:]
        return out

    def start(self, code: str, **how: Any) -> subprocess.Popen[str]:
        return start_client(self.path, code, **how)

    def stop(self) -> None:
        self.broker.stop()
        self._thread.join()
        self.broker.close()
        self.audit.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of the other user's."""
    with tempfile.TemporaryDirectory() as above:
        Path(above).chmod(0o755)
        path = Path(above, "user")
        path.mkdir(mode=0o700)
        os.chown(path, NOBODY, NOBODY)
        yield path
        shutil.rmtree(path)


@pytest.fixture
def limits() -> Limits:
    return Limits(patience_s=120.0)  # a client may have to wait for the CPU


@pytest.fixture
def broker(folder, limits, nothing_left) -> Iterator[Running]:
    running = Running(folder, NOBODY, limits)
    with contextlib.ExitStack() as undo:
        undo.callback(running.stop)
        yield running

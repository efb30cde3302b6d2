"""Whether a test leaves anything in the kernel, and processes with fewer rights."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vidlab.capture.ebpf.kernel import bpf
from vidlab.capture.ebpf.kernel.bpf import Command, KernelError, MapType, ProgramType
from vidlab.capture.ebpf.kernel.maps import Map
from vidlab.capture.ebpf.kernel.programs import Program

#: How long the kernel may take to free what nobody holds any more, in seconds.
PATIENCE = 60.0

#: In the environment of every process that a test starts: whose child it is.
TOKEN = "VIDLAB_TEST_LEAKS"

#: By kind: the commands that walk the ids, and the line of /proc/PID/fdinfo that tells one.
KINDS = {
    "program": (Command.PROG_GET_NEXT_ID, "prog_id"),
    "map": (Command.MAP_GET_NEXT_ID, "map_id"),
    "link": (Command.LINK_GET_NEXT_ID, "link_id"),
}

Ids = dict[str, set[int]]


def live_ids() -> Ids:
    """The ids of all programs, maps and links of the machine. Empty for who may not ask."""
    found: Ids = {}
    for kind, (command, _) in KINDS.items():
        ids = found[kind] = set()
        last = 0
        while True:
            attributes = ctypes.create_string_buffer(struct.pack("<III", last, 0, 0), 12)
            try:
                bpf.bpf(command, attributes)
            except KernelError:
                break
            (last,) = struct.unpack_from("<I", attributes, 4)
            ids.add(last)
    return found


def held_by(processes: list[int]) -> Ids:
    """What descriptors of these processes hold, and what that holds in turn."""
    held: Ids = {kind: set() for kind in KINDS}
    for pid in processes:
        with contextlib.suppress(OSError):
            for info in Path(f"/proc/{pid}/fdinfo").iterdir():
                with contextlib.suppress(OSError):
                    for line in info.read_text().splitlines():
                        for kind, (_, word) in KINDS.items():
                            if line.startswith(f"{word}:"):
                                held[kind].add(int(line.split()[1]))
    seen: Ids = {kind: set() for kind in KINDS}
    while held != seen:
        seen = {kind: set(ids) for kind, ids in held.items()}
        for program in seen["program"]:
            with contextlib.suppress(KernelError), _program(program) as known:
                held["map"] |= set(known.info().map_ids)
        for number in seen["map"]:
            with contextlib.suppress(KernelError), _map(number) as table:
                if table.type == MapType.PROG_ARRAY:
                    held["program"] |= {int.from_bytes(id, "little") for _, id in table.items()}
    return held


def _of_our_kind(id: int) -> bool:
    """Whether it is a program of a kind that we load, and is still there.

    Others come and go on any machine, held by no process that can be seen: a container's
    manager puts programs on control groups.
    """
    with contextlib.suppress(KernelError), _program(id) as known:
        return known.info().type in set(ProgramType)
    return False


def _program(id: int) -> Program:
    return Program(bpf.bpf(Command.PROG_GET_FD_BY_ID, struct.pack("<III", id, 0, 0)), 0)


def _map(id: int) -> Map:
    return Map.from_fd(bpf.bpf(Command.MAP_GET_FD_BY_ID, struct.pack("<III", id, 0, 0)))


def processes(token: str) -> tuple[list[int], list[int]]:
    """This process and those that it started, and all others of this machine."""
    parents: dict[int, int] = {}
    ours = {os.getpid()}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            pid = int(entry.name)
            with contextlib.suppress(OSError, IndexError):
                text = (entry / "stat").read_text()
                parents[pid] = int(text.rpartition(")")[2].split()[1])
                if token.encode() in (entry / "environ").read_bytes():
                    ours.add(pid)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in ours}
        grown = not more <= ours
        ours |= more
    return sorted(ours), [pid for pid in parents if pid not in ours]


def pins() -> set[str]:
    """What is pinned, by path."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    folders = {place for _, place, kind, *_ in mounts if kind == "bpf"}
    # A folder that goes away meanwhile is no error here.
    return {
        f"{at}/{name}" for folder in folders for at, _, names in os.walk(folder) for name in names
    }


def open_files() -> dict[int, str]:
    """This process's descriptors and what is behind each."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found[int(entry.name)] = str(entry.readlink())
    return found


@dataclass
class Before:
    """What was there before the test."""

    ids: Ids
    files: dict[int, str]
    pins: set[str]
    token: str

    def left(self) -> list[str]:
        """What is there now, was not then, and is no other process's.

        A map counts if somebody of ours holds it. One that nobody holds is the kernel's to free:
        that takes as long as it takes, and a leak of ours has a descriptor, a program or a pin.
        """
        files = [
            f"descriptor {fd}: {what}"
            for fd, what in open_files().items()
            if self.files.get(fd) != what
        ]
        ids = live_ids()
        new = {kind: ids[kind] - self.ids[kind] for kind in KINDS}
        if any(new.values()):
            ours, others = map(held_by, processes(self.token))
            new = {kind: new[kind] - others[kind] for kind in KINDS}
            new["program"] = set(filter(_of_our_kind, new["program"]))
            new["map"] &= ours["map"]
        ids_left = [f"{kind} {id}" for kind in KINDS for id in sorted(new[kind])]
        return files + ids_left + [f"pin {path}" for path in sorted(pins() - self.pins)]


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """After the test no program, map, link or descriptor of ours may exist that was not before.

    The kernel frees some of it later, so this waits for a while. Other processes may trace at the
    same time: what their descriptors hold does not count. The fixture's value is the check itself,
    for the middle of a test.
    """
    token = uuid.uuid4().hex
    monkeypatch.setenv(TOKEN, token)
    before = Before(live_ids(), open_files(), pins(), token)

    def check() -> None:
        end = time.monotonic() + PATIENCE
        left = before.left()
        while left and time.monotonic() < end:
            gc.collect()
            time.sleep(0.01)
            # What is there only now is another process's, made and let go at this moment.
            now = before.left()
            left = [what for what in left if what in now]
        if left:
            raise AssertionError(f"left by the test: {', '.join(left)}")

    yield check
    check()


#: Run before a child's own code: it gives up all capabilities but some, for good.
DROP = """
import ctypes
_libc = ctypes.CDLL(None, use_errno=True)
for _bit in range(64):
    if _bit not in {keep!r}:
        _libc.prctl(24, _bit, 0, 0, 0)  # PR_CAPBSETDROP
class _Data(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32),
                ("inheritable", ctypes.c_uint32)]
_header = (ctypes.c_uint32 * 2)(0x20080522, 0)
_data = (_Data * 2)()
for _bit in {keep!r}:
    _data[_bit // 32].effective |= 1 << _bit % 32
    _data[_bit // 32].permitted |= 1 << _bit % 32
assert _libc.capset(_header, _data) == 0
"""


def child(code: str, *command: str, keep: tuple[int, ...] | None = None) -> str:
    """Run Python code in a new process and return what it printed.

    Parameters
    ----------
    code : str
    *command : str
        What starts the interpreter, such as ``"unshare", "-m"``.
    keep : tuple of int or None
        The capabilities that it keeps, by bit; None for all.
    """
    if keep is not None:
        code = DROP.format(keep=keep) + code
    words = [*command, sys.executable, "-W", "error::ResourceWarning", "-c", code]
    answer = subprocess.run(words, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()

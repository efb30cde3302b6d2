"""The processes of a run: each has an index of its own, alive or not, and may fork.

The index is part of every frame and span number. A process has it by being the
one that created `segments/<index>.process`, and holds an exclusive lock on that
file for as long as it lives: the kernel lets go of it however the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from ..clock import anchor
from ..errors import RecordingError, RunError
from .manifest import Manifest, ProcessFacts, process
from .segments import is_locked

#: The indices that fit into a frame or span number: 1 to this.
MOST_PROCESSES = (1 << 12) - 1


class HasEndedError(RecordingError):
    """The run takes no more processes."""


@dataclass
class Claim:
    """A process's index in a run, held until `release` or the process's end."""

    index: int
    path: Path
    file: int

    def release(self) -> None:
        """Let go of the lock. The index stays taken: what bears it stays in the run."""
        os.close(self.file)

    def withdraw(self) -> None:
        """Give the index back: nothing bears it."""
        self.path.unlink(missing_ok=True)
        os.close(self.file)


def claim(segments: Path) -> Claim:
    """Return an index for this process in the run with this folder of segments.

    Raises
    ------
    OSError
        If the folder cannot be written.
    RecordingError
        If all indices are taken.
    """
    index = max(taken(segments), default=0)
    while index < MOST_PROCESSES:
        index += 1
        path = segments / f"{index:04d}.process"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            file = os.open(path, flags, 0o644)
        except FileExistsError:
            continue
        try:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
            facts = ProcessFacts(
                index,
                os.getpid(),
                os.getppid(),
                tuple(map(str, getattr(sys, "argv", ()))),
                anchor(),
            )
            os.write(file, json.dumps(asdict(facts)).encode())
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(file)
            raise
        return Claim(index, path, file)
    raise RecordingError(
        f"{MOST_PROCESSES} processes have recorded into this run, and no more can: "
        "record the program's parts as runs of their own"
    )


def check_it_goes_on(run: Path) -> None:
    """Raise HasEndedError if the recording of the run has ended.

    To be asked after `claim`: either this process sees that it has ended, or the one that
    ended it sees that this one is there.
    """
    with contextlib.suppress(RunError):
        if Manifest.read(run).ended is not None:
            raise HasEndedError(f"the recording of {run} has ended: start a new one")


def taken(segments: Path) -> list[int]:
    """Return the indices that processes of the run have, or had."""
    return [int(path.stem) for path in segments.glob("[0-9]*.process")]


def living(segments: Path) -> list[int]:
    """Return the indices of the processes that still record into the run, this one included."""
    return [index for index in taken(segments) if is_locked(segments / f"{index:04d}.process")]


def have_ended(segments: Path, patience_s: float) -> bool:
    """Return whether all processes have ended their part, in a moment at the latest."""
    until = time.monotonic() + patience_s
    while living(segments):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def facts(segments: Path) -> tuple[ProcessFacts, ...]:
    """Return what the processes of the run said about themselves, by index."""
    found = []
    for index in sorted(taken(segments)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found.append(process(json.loads((segments / f"{index:04d}.process").read_bytes())))
    return tuple(found)


class Forking(Protocol):
    """What has to know when the process forks."""

    def before_fork(self) -> None: ...
    def after_fork_in_parent(self) -> None: ...
    def after_fork_in_child(self) -> None: ...


_forking: weakref.WeakSet[Forking] = weakref.WeakSet()


def watch_forks(whom: Forking) -> None:
    """Tell this object about every fork from now on, for as long as it lives."""
    _forking.add(whom)


def _before_fork() -> None:
    for each in list(_forking):
        each.before_fork()


def _after_fork_in_parent() -> None:
    for each in list(_forking):
        each.after_fork_in_parent()


def _after_fork_in_child() -> None:
    for each in list(_forking):
        each.after_fork_in_child()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)

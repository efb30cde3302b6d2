"""Record kernel events of a running process, from outside: `vidlab attach PID`."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..capture.ebpf.declaring.probes import Probe, Usdt
from ..capture.ebpf.engine import DEFAULT_PROBES, KernelEvents
from ..capture.ebpf.plan import Asked, Member, Plan
from ..errors import InputError
from ..recording import record
from .scripts import new_run

if TYPE_CHECKING:
    from ..runs.run import Run

#: The longest that the kernel is asked to wait at a time, in milliseconds.
_LONGEST_MS = 3_600_000.0

#: PF_KTHREAD, of the flags in /proc/PID/stat.
_KERNEL_THREAD = 0x0020_0000


@dataclass(frozen=True)
class Attached:
    """What was recorded of a process; as text, what a person wants to know of it.

    Attributes
    ----------
    path : Path
        The run's folder.
    pid : int
        The process.
    command : list of str
        Its program and arguments.
    seconds : float
        For how long it was recorded.
    ended : bool
        Whether the process ended meanwhile.
    plan : Plan
        What was to be recorded.
    """

    path: Path
    pid: int
    command: list[str]
    seconds: float
    ended: bool
    plan: Plan

    @property
    def run(self) -> Run:
        """The run, opened."""
        from ..runs.run import open_run  # where something is recorded, polars may be missing

        return open_run(self.path)

    def __str__(self) -> str:
        name = f" ({textwrap.shorten(' '.join(self.command), 60)})" if self.command else ""
        until = ", until it ended" if self.ended else ""
        first = f"recorded {self.path}: {self.seconds:.1f} s of process {self.pid}{name}{until}"
        try:
            from .kernel_summary import summary

            lines = summary(self.run, self.plan)
        except ImportError:
            lines = [
                f"next: vidlab compact {self.path}, where vidlab[workbench] is installed; then "
                "vidlab info"
            ]
        return "\n".join([first, *lines])


def attach(
    pid: int,
    output: str | os.PathLike[str] | None = None,
    *,
    probes: Sequence[Asked] = DEFAULT_PROBES,
    duration_s: float | None = None,
    ring_bytes: int | None = None,
    broker: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Attached:
    """Record kernel and driver events of a running process, which is not changed.

    It ends with the duration, with the process, or with Ctrl-C. Children of the process are
    processes of their own: attach to them too.

    Parameters
    ----------
    pid : int
        The process.
    output : path, optional
        The run's folder; by default a new one in `runs`.
    probes : sequence of Probe, Tracepoint, Usdt, Counter, Histogram or str
        What to record; see `KernelEvents`.
    duration_s : float, optional
        How long, in seconds; by default until the process ends.
    ring_bytes, broker
        As of `KernelEvents`.
    overwrite : bool
        Replace a run that is there.

    Raises
    ------
    InputError
        If there is no such process, or the probes cannot work.
    PrivilegeError
        If kernel events cannot be had here; the error says how they can.
    """
    if duration_s is not None and not 0 < duration_s < math.inf:
        raise InputError(f"a duration is a number of seconds above zero, not {duration_s!r}")
    if not probes:
        raise InputError("no probes were asked for: name sets, such as cuda and sched")
    watched = _opened(pid)
    try:
        command = _command(pid)
        run = Path(output) if output is not None else new_run(_name(command))
        engine = KernelEvents(probes, pid=pid, ring_bytes=ring_bytes, broker=broker, required=True)
        if _is_of_kernel(pid) and any(_has_library(member) for member in engine.plan.members):
            raise InputError(
                f"process {pid} ({command[0]}) is a thread of the kernel, without libraries: "
                "only sets of tracepoints can tell of it, such as sched"
            )
        parameters = {"attached_to": {"pid": pid, "command": command}}
        with contextlib.ExitStack() as recording, _interrupts() as interrupted:
            recording.enter_context(
                record(run, engines=[engine], parameters=parameters, overwrite=overwrite)
            )
            begun = time.monotonic()
            ended = _wait(watched, interrupted, duration_s)
            seconds = time.monotonic() - begun
    finally:
        os.close(watched)
    return Attached(run, pid, command, seconds, ended, engine.plan)


def _opened(pid: int) -> int:
    """Return a descriptor by which the process is known even if its number is used again."""
    try:
        watched = os.pidfd_open(pid)
    except (OSError, OverflowError):
        raise InputError(_no_process(pid)) from None
    if _has_ended(watched):
        os.close(watched)
        raise InputError(
            f"process {pid} has ended; only its entry is there until its parent has seen it"
        )
    return watched


def _no_process(pid: int) -> str:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        process = next(int(line.split()[1]) for line in lines if line.startswith("Tgid:"))
        if process != pid:
            return f"{pid} is a thread of process {process}: attach to that"
    return (
        f"there is no process {pid}: see 'ps -e'. In a container, processes have other numbers "
        "than on its host"
    )


def _is_of_kernel(pid: int) -> bool:
    with contextlib.suppress(OSError, IndexError, ValueError):
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return bool(int(text.rpartition(")")[2].split()[6]) & _KERNEL_THREAD)
    return False


def _has_library(member: Member) -> bool:
    return isinstance(member.declaration, Probe | Usdt)


def _command(pid: int) -> list[str]:
    """Return a process's program, without its folder, and arguments."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        known = [os.fsdecode(word) for word in words if word]
        if known:
            return [Path(known[0]).name, *known[1:]]
        return [Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()]  # of the kernel
    return []


def _name(command: list[str]) -> str:
    """Return what a run of this command is called: of Python, by the script or module."""
    first, *words = command or ["process"]
    if first.startswith("python"):
        words = words[1:2] if words[:1] == ["-m"] else words[:1]
        first = next((word for word in words if not word.startswith("-")), first)
    return Path(first).stem.replace("/", "-")


def _wait(watched: int, interrupted: int, duration_s: float | None) -> bool:
    """Wait for the end; return whether the process has ended."""
    until = math.inf if duration_s is None else time.monotonic() + duration_s
    poll = select.poll()  # unlike select(), it takes descriptors of any number
    poll.register(watched, select.POLLIN)
    poll.register(interrupted, select.POLLIN)
    while (left_s := until - time.monotonic()) > 0:
        if ready := poll.poll(min(1000 * left_s, _LONGEST_MS)):
            return watched in dict(ready)
    return False


def _has_ended(watched: int) -> bool:
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    return bool(poll.poll(0))


@contextlib.contextmanager
def _interrupts() -> Iterator[int]:
    """Have SIGINT and SIGTERM make this readable: they end the recording, whole."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = {}

    def note(*_: object) -> None:
        with contextlib.suppress(OSError):  # it has been said already
            os.write(writing, b"!")

    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, note)
        yield reading
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)

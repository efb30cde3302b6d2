"""What this machine's kernel can do for us, each thing tried for real and cleaned up."""

from __future__ import annotations

import mmap
import os
import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ....errors import VidlabError
from . import btf, links, pins, privileges, tracefs
from .bpf import AttachType, MapType, ProgramType
from .maps import Map
from .trial import OFFSET, CountingProgram, TrialFunction

#: How often the trial function is called.
_CALLS = 10

#: What everything else needs.
_FIRST = "maps and programs"


@dataclass(frozen=True, slots=True)
class Ability:
    """One thing that the kernel can do, or cannot.

    Attributes
    ----------
    name : str
    works : bool
    detail : str
        What was seen, or what went wrong.
    remedy : str
        What to do if it does not work; empty if it does.
    """

    name: str
    works: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class _Trial:
    name: str
    attempt: Callable[[], str]
    remedy: str
    #: Whether it is in vain without the right to load programs.
    privileged: bool = True


class _FailedError(VidlabError):
    """A trial that ran and did not do what it should."""


def abilities() -> list[Ability]:
    """Try everything that kernel events use, and return what works, in a fixed order.

    Programs are loaded and attached to a function of our own for some milliseconds; nothing is
    left. Takes some 0.2 s.
    """
    trials = [
        _Trial(_FIRST, _programs, "See what the kernel says: 'dmesg'.", False),
        _Trial("ring buffer", _ring, "Linux 5.8 or newer"),
        _Trial("uprobes, many by one link", _uprobes, "Linux 6.6 or newer"),
        _Trial("uprobes of a process's threads", _threads, "Linux 6.10, 6.9.4, 6.6.33 or newer"),
        _Trial(
            "entry and return by one link",
            _sessions,
            "Linux 6.13 or newer; without it two programs do the same, at some more cost",
        ),
        _Trial("tracepoint formats", _formats, "a kernel with CONFIG_TRACING", False),
        _Trial("tracepoints", _tracepoints, "a kernel with CONFIG_BPF_EVENTS"),
        _Trial(
            "type information of the kernel",
            _types,
            "a kernel with CONFIG_DEBUG_INFO_BTF; the sets 'sched' and 'tcp' tell less without it",
            False,
        ),
        _Trial(
            "BPF file system",
            _file_system,
            "'sudo mount -t bpf bpf /sys/fs/bpf' (only for pin=)",
            False,
        ),
    ]
    told: list[Ability] = []
    for trial in trials:
        if trial.privileged and not told[0].works:
            told.append(Ability(trial.name, False, "not tried", f"first of all {_FIRST!r}"))
        else:
            told.append(_try(trial))
    return told


def _try(trial: _Trial) -> Ability:
    try:
        return Ability(trial.name, True, trial.attempt())
    except privileges.PrivilegeError as error:
        return Ability(trial.name, False, error.why, error.remedy)
    except (VidlabError, OSError) as error:
        return Ability(trial.name, False, str(error), trial.remedy)


def _programs() -> str:
    refused = privileges.check()
    if refused is not None:
        raise refused
    return f"Linux {platform.release()}, with {' and '.join(sorted(privileges.effective()))}"


def _ring() -> str:
    size = mmap.PAGESIZE
    with Map.create(MapType.RINGBUF, 0, 0, size, name="vidlab_trial") as ring:
        # The positions and the data, which the kernel maps twice, one after the other.
        mmap.mmap(ring.fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE).close()
        mmap.mmap(ring.fd, size + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=size).close()
    return "made and mapped"


def _uprobes() -> str:
    if not links.has_uprobes():
        raise _FailedError("this kernel does not know such links")
    with CountingProgram(ProgramType.KPROBE, AttachType.UPROBE_MULTI) as counting:
        return _counted(counting, _CALLS, session=False)


def _sessions() -> str:
    if not links.has_sessions():
        raise _FailedError("this kernel does not know such links")
    with CountingProgram(ProgramType.KPROBE, AttachType.UPROBE_SESSION) as counting:
        return _counted(counting, 2 * _CALLS, session=True)


def _counted(counting: CountingProgram, expected: int, session: bool) -> str:
    with (
        TrialFunction() as function,
        links.attach_uprobes(
            counting.program, function.path, [OFFSET], pid=os.getpid(), session=session
        ),
    ):
        for number in range(_CALLS):
            function.call(number)
    if counting.count != expected:
        raise _FailedError(f"{_CALLS} calls of a function ran it {counting.count} times")
    return f"{_CALLS} calls of a function ran it {expected} times"


def _threads() -> str:
    """Some kernels take a process's number for a thread's: they miss its other threads."""
    with (
        CountingProgram(ProgramType.KPROBE, AttachType.UPROBE_MULTI) as counting,
        TrialFunction() as function,
        links.attach_uprobes(counting.program, function.path, [OFFSET], pid=os.getpid()),
    ):
        thread = threading.Thread(target=function.call)
        thread.start()
        thread.join()
        if counting.count != 1:
            raise _FailedError("a call by another thread of the process is not seen")
    return "a call by another thread of the process is seen"


def _formats() -> str:
    number = tracefs.tracepoint_format("sched", "sched_switch").id
    place = tracefs.mounted()
    where = f"read from {place}" if place else "read without a mount"
    return f"{where}; sched:sched_switch has the number {number}"


def _tracepoints() -> str:
    """The scheduler's own: this thread gives the CPU away until it has been seen doing so."""
    with (
        CountingProgram(ProgramType.TRACEPOINT) as counting,
        links.attach_tracepoint(counting.program, "sched", "sched_switch"),
    ):
        pause = threading.Event()
        for _ in range(100):
            pause.wait(0.001)
            if counting.count:
                return "sched:sched_switch was seen"
    raise _FailedError("sched:sched_switch was not seen while this thread slept")


def _types() -> str:
    kernel = btf.kernel()
    if not kernel.has_struct("task_struct"):
        raise _FailedError("the kernel's types lack task_struct")
    return f"{kernel.count} types"


def _file_system() -> str:
    place = pins.file_system()
    if place is None:
        raise _FailedError("none is mounted")
    return f"mounted at {place}"

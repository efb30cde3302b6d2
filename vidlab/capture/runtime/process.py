"""The process: memory, CPU time, page faults, context switches, files, threads.

Each comes from where it is cheapest to have: one system call for a few of them at a time,
and no text longer than a line.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Sequence

from .parts import Missing, Reading

_PAGE = resource.getpagesize()

#: A task folder's links are its threads and these.
_OTHER_LINKS = 2


class Process:
    """Reads the metrics `process.*`, and what the engine's own threads cost.

    Parameters
    ----------
    own_cpu : callable
        Returns the CPU time in nanoseconds of each of the engine's threads, by name.
    """

    def __init__(self, own_cpu: Callable[[], dict[str, int]]) -> None:
        self._own_cpu = own_cpu
        try:
            self._memory = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Missing(
                f"the process's metrics cannot be read ({error}): /proc has to be mounted"
            ) from error
        # Since Linux 6.2 a process's folder of open files says how many there are.
        self._files_tell = os.stat("/proc/self/fd").st_size > 0  # noqa: PTH116

    def read(self) -> Sequence[Reading]:
        """Return the metrics as they are now."""
        pages = os.pread(self._memory, 128, 0).split()
        used = resource.getrusage(resource.RUSAGE_SELF)
        readings: list[Reading] = [
            ("process.memory.usage", "", int(pages[1]) * _PAGE),
            ("process.memory.virtual", "", int(pages[0]) * _PAGE),
            ("process.cpu.time", "mode=user", used.ru_utime),
            ("process.cpu.time", "mode=system", used.ru_stime),
            ("process.paging.faults", "type=minor", used.ru_minflt),
            ("process.paging.faults", "type=major", used.ru_majflt),
            ("process.context_switches", "type=voluntary", used.ru_nvcsw),
            ("process.context_switches", "type=involuntary", used.ru_nivcsw),
            ("process.unix.file_descriptor.count", "", self._open_files()),
            ("process.thread.count", "", os.stat("/proc/self/task").st_nlink - _OTHER_LINKS),  # noqa: PTH116
        ]
        for thread, cpu_ns in self._own_cpu().items():
            readings.append(("vidlab.runtime.cpu.time", f"thread={thread}", cpu_ns / 1e9))
        return readings

    def close(self) -> None:
        """Close what is kept open."""
        with contextlib.suppress(OSError):
            os.close(self._memory)

    def _open_files(self) -> int:
        if self._files_tell:
            return os.stat("/proc/self/fd").st_size  # noqa: PTH116 - a Path costs more than the call
        return len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - listing opens one

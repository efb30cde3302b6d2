"""The process's threads: which there are, by name, and when they came and went."""

from __future__ import annotations

import os
import threading
from typing import Any

from ...runs.writer import RunWriter
from .scheduler import TASKS, threads_here

#: How often a thread that Python does not know is asked for its name again, in looks.
_ASK_AGAIN = 10

#: A thread's name, whether Python knows it, and whether it is a daemon.
_Known = tuple[str, bool, bool]


class Threads:
    """Writes a row of `threads` for each thread that begins, changes its name or ends.

    A thread that lives for less than a period may be missed.
    """

    least_period_ns = 50_000_000

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self._known: dict[str, _Known] = {}
        self._looks = 0
        #: Threads that the last look saw first: they may have had no name yet.
        self._young: set[str] = set()

    def look(self, t_ns: int) -> None:
        """Write down what has changed."""
        self._looks += 1
        here = threads_here()
        python = _python_threads()
        known = self._known
        young, self._young = self._young, set()
        for tid in here:
            of_python = python.get(int(tid))
            before = known.get(tid)
            if of_python is not None:
                now = of_python
            elif before is not None and (
                before[1] or (tid not in young and self._looks % _ASK_AGAIN)
            ):
                continue  # Python lets go of a thread's name before the kernel does
            else:
                name = _kernel_name(tid)
                if name is None:  # it has ended meanwhile
                    continue
                now = (name, False, True)
            if before is None:
                self._young.add(tid)
            if now != before:
                known[tid] = now
                self._write(t_ns, tid, "began" if before is None else "renamed", now)
        if len(known) > len(here):
            for tid in known.keys() - set(here):
                self._write(t_ns, tid, "ended", known.pop(tid))

    def finish(self, t_ns: int) -> None:
        """Look for the last time."""
        self.look(t_ns)

    def close(self) -> None:
        """Nothing is kept open."""

    def _write(self, t_ns: int, tid: str, op: str, thread: _Known) -> None:
        name, python, daemon = thread
        self._writer.row(
            "threads",
            t_ns=t_ns,
            tid=int(tid),
            labels=0,
            op=op,
            name=name,
            python=python,
            daemon=daemon,
        )


def _python_threads() -> dict[int, _Known]:
    """Return the threads that `threading` knows, by the kernel's number.

    Their attributes are taken from the objects themselves: a subclass may have properties
    of these names that run code of the program's.
    """
    active: dict[int, threading.Thread] = vars(threading).get("_active", {})
    found: dict[int, _Known] = {}
    for thread in list(active.values()):
        tid = number_of(thread)
        if tid:
            mine: dict[str, Any] = object.__getattribute__(thread, "__dict__")
            daemon = bool(mine.get("_daemonic", False))
            found[tid] = (str(mine.get("_name", "")), True, daemon)
    return found


def number_of(thread: threading.Thread | None) -> int:
    """Return what the kernel numbers a thread; 0 if that is not known."""
    if thread is None:
        return 0
    if thread is vars(threading).get("_main_thread"):
        return os.getpid()  # also in a forked child, where Python may not know its new number
    mine: dict[str, Any] = object.__getattribute__(thread, "__dict__")
    return mine.get("_native_id") or 0


def _kernel_name(tid: str) -> str | None:
    """Return what the kernel calls a thread; None if it has ended."""
    try:
        with open(f"{TASKS}/{tid}/comm", "rb", buffering=0) as file:  # noqa: PTH123
            return file.read().decode(errors="replace").rstrip("\n")
    except OSError:
        return None

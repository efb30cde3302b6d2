"""A thread that a recording keeps for itself, out of the recorded program's sight.

It is started below `threading`, whose locks a signal handler or a forked child must
not touch and whose list of threads the program may look at.
"""

from __future__ import annotations

import _thread
import contextlib
from collections.abc import Callable


class Background:
    """Calls a function again and again in a thread: each interval, and when woken.

    Parameters
    ----------
    function : callable
        Must not raise.
    interval_s : float
        At most so long passes between two calls.
    name : str
        What the kernel calls the thread: at most 15 characters count.

    Attributes
    ----------
    thread : int
        The thread, as `threading.get_ident` gives it; 0 while there is none.
    """

    def __init__(
        self, function: Callable[[], None], interval_s: float, name: str = "vidlab"
    ) -> None:
        self._function = function
        self._interval_s = interval_s
        self._name = name
        self.leave()

    def leave(self) -> None:
        """Have no thread: at first, and in a forked child."""
        self.thread = 0
        self._running: _thread.LockType | None = None
        self._bell = _thread.allocate_lock()
        self._bell.acquire()

    def start(self) -> None:
        """Start the thread, or raise RuntimeError if the system has none to give."""
        running = _thread.allocate_lock()
        running.acquire()  # until the thread ends
        self._running = running
        try:
            self.thread = _thread.start_new_thread(self._run, (running,))
        except RuntimeError:
            self._running = None
            raise

    def wake(self) -> None:
        """Have the function called now: cheap, and allowed in a signal handler."""
        with contextlib.suppress(RuntimeError):  # it is ringing already
            self._bell.release()

    def stop(self, patience_s: float) -> None:
        """End the thread after the call that it is in; wait for that at most so long."""
        running, self._running = self._running, None
        if running is None or self.thread == _thread.get_ident():
            return
        self.wake()
        if running.acquire(timeout=patience_s):
            running.release()
        self.thread = 0

    def _run(self, running: _thread.LockType) -> None:
        try:
            name_thread(self._name)
            while self._running is running:
                self._bell.acquire(timeout=self._interval_s)
                self._function()
        finally:
            running.release()


def name_thread(name: str, tid: int = 0) -> None:
    """Have the kernel call a thread of this process, by default the calling one, by this name."""
    with contextlib.suppress(OSError):  # it is shown in lists of threads, nothing more
        path = f"/proc/self/task/{tid or _thread.get_native_id()}/comm"
        with open(path, "w", encoding="ascii") as file:  # noqa: PTH123 - as cheap as can be
            file.write(name)

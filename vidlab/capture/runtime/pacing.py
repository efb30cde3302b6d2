"""A thread of the engine's own that says itself when it wants to be called again."""

from __future__ import annotations

import _thread
import contextlib
from collections.abc import Callable

from ...runs.background import Background


class Paced(Background):
    """Calls a function in a thread, each time after as many seconds as it returned.

    Parameters
    ----------
    function : callable
        Returns in how many seconds to call it again; must not raise.
    name : str
        What the kernel calls the thread: at most 15 characters count.
    begin : callable, optional
        Called first in each thread.
    """

    def __init__(
        self, function: Callable[[], float], name: str, begin: Callable[[], None] | None = None
    ) -> None:
        super().__init__(self._call, 0, name)
        self._paced = function
        self._begin = begin

    def start_in(self, seconds: float) -> bool:
        """Start the thread, to call first in so many seconds; False if there is none to be had."""
        self._interval_s = seconds
        with contextlib.suppress(RuntimeError):
            self.start()
            return True
        return False

    def _call(self) -> None:
        self._interval_s = self._paced()

    def _run(self, running: _thread.LockType) -> None:
        if self._begin is not None:
            with contextlib.suppress(Exception):  # the thread is wanted all the same
                self._begin()
        super()._run(running)

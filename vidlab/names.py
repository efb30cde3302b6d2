"""Interned names: what records name by number, such as stages, queues and threads."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable


class Names:
    """Interned names (stages, queues, sinks) of one recording: text to a number below 65,536.

    `write` is called with each new (number, text) before the number is handed out.
    """

    #: What all names beyond the last free number are called.
    OVERFLOW = "(other)"

    def __init__(self, write: Callable[[int, str], None]) -> None:
        self._write = write
        self._lock = threading.RLock()  # a garbage collection inside may come back here
        self._numbers: dict[str, int] = {}
        self._count = itertools.count()
        self.number(self.OVERFLOW)

    def after_fork_in_child(self) -> None:
        """Forget a lock that a thread of the parent may have held."""
        self._lock = threading.RLock()

    def number(self, name: str) -> int:
        """Return the number of this name, new or known."""
        known = self._numbers.get(name)
        if known is not None:
            return known
        with self._lock:
            if name not in self._numbers:
                if len(self._numbers) >= 1 << 16:
                    return self._numbers[self.OVERFLOW]
                number = next(self._count)
                self._write(number, name)
                self._numbers[name] = number
            return self._numbers[name]

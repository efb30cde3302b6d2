"""What goes wrong while a run is written: the program goes on, and somebody is told once."""

from __future__ import annotations

import logging
from pathlib import Path

_log = logging.getLogger("vidlab")


class Complaints:
    """Says what cannot be done into the run at `path`, each reason the first time only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said: set[str] = set()

    def forget(self) -> None:
        """Have said nothing: in a forked child."""
        self._said = set()

    def __call__(self, what: str, error: object) -> None:
        """Say what went wrong, the first time that it does in this way."""
        # The error itself must not be kept: its traceback holds blocks in memory.
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        if reason not in self._said:
            self._said.add(reason)
            _log.warning(
                "vidlab cannot %s into %s (%s): the program goes on, what is lost is counted",
                what,
                self._path,
                reason,
            )

"""The audit log: who had the broker attach what to which process, a JSON object a line."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ....errors import InputError, RecordingError

#: So many refusals a minute are written one by one; what comes on top is counted.
MOST_REFUSALS = 60
_MINUTE_S = 60.0


class Audit:
    """An audit log that is open: appended to, for its owner's eyes only.

    Any thread may write.

    Parameters
    ----------
    path : path
        The file. It is made, readable by its owner alone, if it is not there.

    Raises
    ------
    InputError
        If it cannot be written, is no regular file, or others may read or write it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(self.path, flags | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise InputError(
                f"the audit log {self.path} cannot be written: {error.strerror}"
            ) from error
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            wrong = "is no regular file"
        elif status.st_uid != os.geteuid():
            wrong = f"belongs to user {status.st_uid}, not to the broker's {os.geteuid()}"
        elif status.st_mode & 0o077:
            wrong = "may be read or written by others: 'chmod 600' it"
        else:
            wrong = ""
        if wrong:
            os.close(self._fd)
            raise InputError(f"the audit log {self.path} {wrong}, or name another")
        self._lock = threading.Lock()
        self._minute = time.monotonic()
        self._refusals = 0

    def write(self, event: str, **what: Any) -> None:
        """Write what has happened, before anything else does.

        Raises
        ------
        RecordingError
            If it cannot be written: what is not written down must not be done.
        """
        with self._lock:
            self._write(event, what)

    def refused(self, **what: Any) -> None:
        """Write a refusal: one that is made again and again cannot fill the disk."""
        with self._lock:
            now = time.monotonic()
            if now - self._minute > _MINUTE_S:
                self._tell_unwritten()
                self._minute, self._refusals = now, 0
            self._refusals += 1
            if self._refusals <= MOST_REFUSALS:
                with contextlib.suppress(RecordingError):  # nothing was done
                    self._write("refused", what)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._fd >= 0:
                self._tell_unwritten()
                os.close(self._fd)
                self._fd = -1

    def _tell_unwritten(self) -> None:
        unwritten = self._refusals - MOST_REFUSALS
        if unwritten > 0:
            with contextlib.suppress(RecordingError):
                self._write("refused", {"reason": "further refusals", "count": unwritten})

    def _write(self, event: str, what: dict[str, Any]) -> None:
        when = {"time": datetime.now(UTC).isoformat(), "t_ns": time.monotonic_ns()}
        rest = memoryview(json.dumps({**when, "event": event, **what}).encode() + b"\n")
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            raise RecordingError(
                f"the broker's audit log {self.path} cannot be written ({error.strerror}), so "
                "nothing is attached: free some space, or restart the broker"
            ) from error

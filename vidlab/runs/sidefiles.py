"""The side files of a process: its label sets and names, one JSON object a line.

A line is written, by one call, before any record can name what it defines.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Lines:
    """A file to which lines are appended. Every process and table of names has its own."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._unwritten: deque[bytes] = deque()
        self.error: OSError | None = None

    def append(self, values: Mapping[str, Any]) -> None:
        """Write a line; if that fails it is kept for `retry`."""
        self._write(json.dumps(values, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    def retry(self) -> None:
        """Write what could not be written before."""
        for _ in range(len(self._unwritten)):
            self._write(self._unwritten.popleft())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, line: bytes) -> None:
        try:
            if self._file.write(line) == len(line):
                return
            line = b"\n" + line.lstrip(b"\n")  # what came of it is a line of nonsense
        except ValueError:  # closed: a thread outlives the recording
            return
        except OSError as error:
            self.error = error
        self._unwritten.append(line)

"""The engine `Runtime`."""

from __future__ import annotations

from typing import Any

from ...runs.writer import RunWriter
from .collector import Collector


class Runtime:
    """Records the garbage collector's pauses, in the table `gc_pauses`.

    `analysis.pauses.frames_hit` joins them with the frames that were in flight.
    """

    name = "runtime"

    def __init__(self) -> None:
        self._collector: Collector | None = None

    def parameters(self) -> dict[str, Any]:
        """Return the keyword arguments that make another one like it."""
        return {}

    def start(self, writer: RunWriter) -> None:
        """Begin to record into this run."""
        self._collector = Collector(writer)
        self._collector.start()

    def stop(self) -> None:
        """Stop listening to the garbage collector."""
        if self._collector is not None:
            self._collector.stop()
            self._collector = None

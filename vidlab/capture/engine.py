"""What a capture engine is: it is started with a run's writer, and stopped."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from ..runs.writer import RunWriter


@runtime_checkable
class Engine(Protocol):
    """Something that records.

    Engines don't know each other: what they write meets in the run's tables. A child
    process of the recorded program has its own, made anew by `cls(**parameters())`.
    """

    #: What it is called in the manifest; its class is in `capture.registry`.
    name: str

    def parameters(self) -> dict[str, Any]:
        """Return, as JSON values, the keyword arguments that make another one like it."""

    def start(self, writer: RunWriter) -> None:
        """Begin to record. A VidlabError here tells the user what to change."""

    def stop(self) -> None:
        """Leave the program as it was before `start`."""

"""What the sampler's parts have in common: they look, and they read metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ...runs.writer import RunWriter
from ...schema import TABLES
from ...schema.metrics import kind_of

_RECORD = TABLES["runtime_metrics"].record
assert _RECORD is not None
_SIZE = _RECORD.size
_pack_into = _RECORD.struct.pack_into

#: A metric's name, the attribute as text ('' if it has none), and the value in its unit.
Reading = tuple[str, str, float]


class Part(Protocol):
    """Something that the sampler calls again and again, in its thread."""

    #: It is not called more often than this, whatever the profile says.
    least_period_ns: int

    def look(self, t_ns: int) -> Iterator[None] | None:
        """Look, and write down what is seen. May raise `Missing`.

        A look that takes long is given as its steps, of a few milliseconds at most: other
        parts have their turns in between. How long it took is a metric then.
        """

    def finish(self, t_ns: int) -> Iterator[None] | None:
        """Look for the last time, as the recording ends."""

    def close(self) -> None:
        """Let go of everything: it is not called any more."""


class Source(Protocol):
    """Where metrics are read."""

    def read(self) -> Sequence[Reading]:
        """Return the metrics as they are now. May raise `Missing`."""

    def close(self) -> None:
        """Close what is kept open."""


class Missing(Exception):  # noqa: N818 - nothing went wrong: the system does not tell this
    """What a part would read is not to be had here: which, why, and what to do about it."""


class Pen:
    """Writes readings into `runtime_metrics`."""

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self._numbers: dict[tuple[str, str], tuple[int, int, int]] = {}

    def write(self, t_ns: int, readings: Sequence[Reading]) -> None:
        """Write down these readings, of now."""
        buffer = self._writer.buffer("runtime_metrics")
        numbers = self._numbers
        for metric, attribute, value in readings:
            known = numbers.get((metric, attribute))
            if known is None:
                known = numbers[metric, attribute] = self._known(metric, attribute)
            position = buffer.position
            if position == buffer.end:
                position = buffer.roll()
            buffer.position = position + _SIZE
            _pack_into(buffer.view, position, t_ns, value, 0, known[0], known[1], 0, 0, known[2])

    def took(self, part: str, t_ns: int, took_ns: int) -> None:
        """Write down that a part looked from then on, for so long."""
        self.write(t_ns, [(f"vidlab.runtime.{part}.duration", "", took_ns / 1e9)])

    def _known(self, metric: str, attribute: str) -> tuple[int, int, int]:
        """Return the numbers of a metric and its attribute, and its kind as a commit mark."""
        number = self._writer.names.number
        return number(metric), number(attribute) if attribute else 0, kind_of(metric) + 1


class Metrics:
    """A part that writes what a source reads."""

    least_period_ns = 0

    def __init__(self, pen: Pen, source: Source) -> None:
        self._pen = pen
        self._source = source

    def look(self, t_ns: int) -> None:
        self._pen.write(t_ns, self._source.read())

    def finish(self, t_ns: int) -> None:
        self.look(t_ns)

    def close(self) -> None:
        self._source.close()

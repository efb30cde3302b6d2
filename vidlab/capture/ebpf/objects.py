"""What a session has in the kernel: made anew, and gone with it; or kept under a name.

`pinning.Pinned` is of the same kind, for what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .kernel.bpf import MapType
from .kernel.links import Link
from .kernel.maps import Map
from .kernel.programs import Program


@dataclass(frozen=True)
class Attachment:
    """A program in one place.

    Attributes
    ----------
    number : int
        The program's, in its plan.
    table : str
        What it records into; the metric that it counts into.
    symbol : str
        The function, USDT probe or event.
    library : str
        The file; the category of a tracepoint.
    how : str
        "session" or "pair" (a call), "entry", "usdt" or "tracepoint".
    """

    number: int
    table: str
    symbol: str
    library: str
    how: str


class Objects:
    """Makes maps and programs for a session; all are gone when they are closed."""

    @property
    def attached(self) -> dict[str, Attachment]:
        """What is attached already: places, as `keep` was given them."""
        return {}

    def map(
        self,
        kind: str,
        name: str,
        type: MapType,
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int = 0,
    ) -> Map:
        """Return a map, which the caller closes.

        Parameters
        ----------
        kind, name : str
            Together they tell it from the session's others.
        type, key_size, value_size, max_entries, flags
            As of `Map.create`.
        """
        return Map.create(type, key_size, value_size, max_entries, flags, name)

    def program(self, name: str, make: Callable[[], Program], attach_type: int) -> Program:
        """Return a program, which the caller closes: what `make` returns, or what is kept."""
        return make()

    def keep(self, links: Sequence[Link], places: dict[str, Attachment]) -> None:
        """Note that links are there, and of which places."""

"""What a program is made for: its number, its record, its table's ring."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .registers import Architecture, this_machine
from .words import FIELDS_START, FIELDS_START_OF_CALLS, MOST_ON_STACK, stash_bytes

if TYPE_CHECKING:
    from ..declaring.layout import Layout
    from ..kernel.tracefs import TracepointFormat


@dataclass(frozen=True, kw_only=True)
class ProgramContext:
    """What a program is made for.

    Attributes
    ----------
    index : int or None
        Its number: its key in the counts, and `probe` in its records. None to read it from
        the lower 32 bits of the cookie: so one program can serve several probes.
    layout : Layout, optional
        The record of its table; None if it counts only.
    ring_bytes : int
        The size of the table's ring, a power of two.
    targets : bool
        Only the processes in the map of targets are recorded; others are not even hits.
    namespace : tuple of int and int, optional
        Device and inode of our PID namespace (``/proc/self/ns/pid``), if it is not the
        kernel's first: processes and threads are then told as it numbers them, and those
        of other namespaces as 0.
    format : TracepointFormat, optional
        The fields of the tracepoint that it is on.
    stash_room : int
        The size of the stash's values, where it is more than this table needs.
    architecture : Architecture
    """

    index: int | None
    layout: Layout | None = None
    ring_bytes: int = 0
    targets: bool = False
    namespace: tuple[int, int] | None = None
    format: TracepointFormat | None = None
    stash_room: int = 0
    architecture: Architecture = field(default_factory=this_machine)

    @property
    def record_bytes(self) -> int:
        """The size of a record; 0 if it counts only."""
        return 0 if self.layout is None else self.layout.dtype.itemsize

    @property
    def fields_start(self) -> int:
        """Where the record's own fields begin, in bytes."""
        calls = self.layout is not None and self.layout.returns
        return FIELDS_START_OF_CALLS if calls else FIELDS_START

    @property
    def stash_bytes(self) -> int:
        """The size of the stash's values."""
        return max(self.stash_room, stash_bytes(self.record_bytes))

    @property
    def stashes_in_place(self) -> bool:
        """Whether a call is too large for the stack, and is put together in its map."""
        return self.stash_bytes > MOST_ON_STACK

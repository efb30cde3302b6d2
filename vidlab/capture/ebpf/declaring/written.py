"""Sets of programs that are written by hand, where a declaration cannot say it.

What a thread waited for is known only after two events that share a state; so some sets
bring programs of their own. They are made with the same assembler, and have the same
record header, counts and table as those that are generated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..program.context import ProgramContext
    from ..program.instructions import Builder


@dataclass(frozen=True)
class MapShape:
    """A map that the programs of a set share."""

    type: int
    key_size: int
    value_size: int
    max_entries: int


@dataclass(frozen=True)
class Attached:
    """A program of a set, and the tracepoint that it is on.

    Attributes
    ----------
    category, event : str
        The tracepoint.
    write : callable
        Given the program's context, returns its instructions.
    optional : bool
        The set works without it, where the kernel does not have it.
    rows : bool
        Whether a hit that the kernel does not run it for is a row that is missing.
    """

    category: str
    event: str
    write: Callable[[ProgramContext], Builder]
    optional: bool = False
    rows: bool = True


@dataclass(frozen=True, eq=False)
class Written:
    """A set of programs with one table.

    Attributes
    ----------
    set : str
        The probe set's name, by which another process makes it anew.
    name : str
        The table is `kernel_NAME`.
    meaning : str
        What one row is.
    fields : Mapping[str, str]
        The type of each own column in the record: "u32", "i64", "s16" (text), or "ip" (16
        bytes: an IPv6 address, or an IPv4 one mapped into one).
    texts : Mapping[str, Mapping[int, str]]
        For columns of numbers that stand for texts.
    attached : tuple of Attached
        Its programs.
    maps : Mapping[str, MapShape]
        Maps that they share.
    returns : bool
        Whether a row has `duration_ns`.
    zero_is_null : frozenset of str
        Columns in which 0 stands for "not known".
    """

    set: str
    name: str
    meaning: str
    fields: Mapping[str, str]
    attached: tuple[Attached, ...]
    texts: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    maps: Mapping[str, MapShape] = field(default_factory=dict)
    returns: bool = False
    zero_is_null: frozenset[str] = frozenset()

    KIND = "set"

    @property
    def table(self) -> str:
        return f"kernel_{self.name}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values: another process makes it anew by its name."""
        return {"kind": self.KIND, "set": self.set, "name": self.name}

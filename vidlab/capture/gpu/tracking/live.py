"""The live set: the blocks of GPU memory that are in use, as the program sees them now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ....schema import LEVELS


class Block(NamedTuple):
    """An allocation that has not been freed. It is only a description: it keeps nothing alive."""

    generation: int  #: the number of the allocation in its process, from 1
    level: int  #: of `schema.LEVELS`
    kind: int  #: of `schema.MEMORY_KINDS`
    device: int
    address: int
    size_bytes: int
    stack: int  #: where it was made: a number of `Stacks`
    labels: int  #: what it was made under: a label set's id
    frame: int  #: what it was made for: a frame's number, or 0
    t_ns: int  #: since when it is there
    pooled: bool  #: it is driver memory that a pool keeps


class Live(Mapping[tuple[int, int], Block]):
    """The blocks in use, by (level, address).

    There is no lock: each change is one operation of a dict, which the garbage
    collector, a signal handler or another thread cannot come into. Iterating
    goes over the blocks of one moment.

    Examples
    --------
    >>> live = Live()
    >>> live.at(1)[4096] = Block(1, 1, 0, 0, 4096, 512, 0, 0, 0, 0, False)
    >>> live[1, 4096].size_bytes, len(live)
    (512, 1)
    """

    def __init__(self) -> None:
        self._levels: tuple[dict[int, Block], ...] = tuple({} for _ in LEVELS)

    def at(self, level: int) -> dict[int, Block]:
        """Return the blocks of one level by address: the very dict, for who writes it."""
        return self._levels[level]

    def blocks(self, level: int | None = None) -> list[Block]:
        """Return the blocks of this moment, of one level or of all."""
        levels = self._levels if level is None else (self._levels[level],)
        # A list of a dict's values is not made in one step: collecting garbage may come in.
        return [block for known in levels for block in known.copy().values()]

    def used_bytes(self, level: int, device: int | None = None) -> int:
        """Return what the blocks of a level, and of one device, come to."""
        return sum(
            block.size_bytes for block in self.blocks(level) if device in (None, block.device)
        )

    def clear(self) -> None:
        """Know of no block any more."""
        for known in self._levels:
            known.clear()

    def __getitem__(self, key: tuple[int, int]) -> Block:
        level, address = key
        return self._levels[level][address]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(block.level, block.address) for block in self.blocks()])

    def __len__(self) -> int:
        return sum(map(len, self._levels))

"""A graph of device memory: blocks are nodes, copies between them are edges.

It is built from what the probes on the CUDA driver saw, event by event in the order of
time. `MemoryGraph.follow` keeps it current while a recording goes on.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from typing import Protocol

import polars as pl

from . import kernel, tables
from .tables import AnyTable

#: A copy's side that is in no known block: host memory, or taken before the recording.
HOST, UNKNOWN = "host memory", "unknown device memory"

#: So long after an event another one from before it may still be on its way to the run.
SETTLED_NS = 1_000_000_000

#: The tables that it is built from.
MEMORY, COPIES = "kernel_cuda_memory", "kernel_cuda_copies"

_BOTH = ("t_ns", "duration_ns", "pid", "tid", "op", "status", "size_bytes")
_MEMORY = (*_BOTH, "kind", "address")
_COPIES = (*_BOTH, "direction", "direction_code", "source", "destination")

#: What takes effect at one moment does in this order: an address is free before it is given anew.
_FREE, _ALLOC, _COPY = 0, 1, 2
_OPS = {"alloc": _ALLOC, "map": _ALLOC, "free": _FREE, "unmap": _FREE}

_NODES = {
    "number": pl.Int64,
    "pid": pl.Int64,
    "address": pl.UInt64,
    "size_bytes": pl.Int64,
    "kind": pl.String,
    "t_ns": pl.Int64,
    "t_freed_ns": pl.Int64,
}
_EDGES = {
    "source": pl.String,
    "destination": pl.String,
    "copies": pl.Int64,
    "size_bytes": pl.Int64,
    "t_last_ns": pl.Int64,
}

#: cudaMemcpyKind, of the CUDA runtime's driver_types.h.
_DIRECTIONS = {
    0: "host_to_host",
    1: "host_to_device",
    2: "device_to_host",
    3: "device_to_device",
}


@dataclass
class Block:
    """A block of device memory.

    Attributes
    ----------
    number : int
        Counted from 0 in the order of allocation.
    pid, address, size_bytes : int
        The size is 0 where the call does not tell it, as of arrays.
    kind : str
        device, async, managed, pinned, …
    t_ns : int
        When the call that took it was done.
    t_freed_ns : int or None
        When it was given back; at the latest, if that was not seen and its address was
        handed out again.
    """

    number: int
    pid: int
    address: int
    size_bytes: int
    kind: str
    t_ns: int
    t_freed_ns: int | None = None


@dataclass
class Edge:
    """All copies from one node to another."""

    copies: int = 0
    size_bytes: int = 0
    t_last_ns: int = 0


class NewRows(Protocol):
    """A run that is being recorded, as `runs.following.Following` reads it."""

    @property
    def finished(self) -> bool:
        """Whether nothing more comes, so that `whole` is all there is."""

    def new(self, table: str) -> pl.DataFrame:
        """Return the rows that were written since the last call."""

    def whole(self, table: str) -> pl.DataFrame:
        """Return all rows."""


@dataclass
class _Live:
    """The blocks of a process that are there, by address."""

    addresses: list[int] = field(default_factory=list)
    blocks: dict[int, Block] = field(default_factory=dict)

    def take(self, block: Block) -> None:
        there = self.blocks.get(block.address)
        if there is not None and there.t_ns > block.t_ns:  # an allocation that is told late
            block.t_freed_ns = there.t_ns
            return
        self.free(block.address, block.t_ns)  # of which we were not told
        bisect.insort(self.addresses, block.address)
        self.blocks[block.address] = block

    def free(self, address: int, t_ns: int) -> None:
        block = self.blocks.get(address)
        if block is None or block.t_ns > t_ns:  # a free that is told late
            return
        block.t_freed_ns = t_ns
        del self.blocks[address]
        del self.addresses[bisect.bisect_left(self.addresses, address)]

    def around(self, address: int) -> Block | None:
        place = bisect.bisect_right(self.addresses, address)
        if not place:
            return None
        block = self.blocks[self.addresses[place - 1]]
        return block if address < block.address + max(block.size_bytes, 1) else None


class MemoryGraph:
    """Blocks of device memory, and what was copied between them.

    Examples
    --------
    Of a run that is complete:

    >>> run = vl.datasets.load("kernel_events")
    >>> graph = MemoryGraph()
    >>> told = graph.add(run.scan(MEMORY), run.scan(COPIES), end=True)
    >>> graph.edges().columns
    ['source', 'destination', 'copies', 'size_bytes', 't_last_ns']

    Of one that is being recorded, again and again until nothing more comes:

    >>> from vidlab.runs.following import Following
    >>> graph, following = MemoryGraph(), Following(run.path)
    >>> while not graph.complete:
    ...     told = graph.follow(following)
    >>> graph.edges().height > 0
    True
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._blocks: list[Block] = []
        self._edges: dict[tuple[int | str, int | str], Edge] = {}
        self._live: dict[int, _Live] = {}
        self._until_ns = -(1 << 62)
        self._waiting: tuple[pl.DataFrame, pl.DataFrame] | None = None
        self._taken_up = 0
        self.complete = False

    @property
    def t_ns(self) -> int:
        """Up to when it is known."""
        return self._until_ns

    def follow(self, run: NewRows, settled_ns: int = SETTLED_NS) -> int:
        """Take up what a run that is being recorded has more, and return how many events.

        What is read and computed is what is new; only once, as the run ends, all is built
        anew, so that events that came late are in their places. From then on it is
        `complete`.
        """
        if self.complete:
            return 0
        if not run.finished:
            memory, copies = run.new(MEMORY), run.new(COPIES)
            if not (memory.height or copies.height):
                return 0
            return self.add(_any(memory), _any(copies), settled_ns)
        known = self._taken_up
        self._begin()
        return max(self.add(_any(run.whole(MEMORY)), _any(run.whole(COPIES)), end=True) - known, 0)

    def add(
        self,
        memory: AnyTable | None,
        copies: AnyTable | None,
        settled_ns: int = SETTLED_NS,
        end: bool = False,
    ) -> int:
        """Take up rows of the tables, each of them once, and return how many events that was.

        Parameters
        ----------
        memory, copies : polars.LazyFrame or polars.DataFrame
            The tables `kernel_cuda_memory` and `kernel_cuda_copies`, whole or what was
            written since; None where there is none.
        settled_ns : int
            Events newer than the newest by less than this wait for the next call, in ns:
            others from before them may still come.
        end : bool
            Nothing more comes: take up all.
        """
        blocks = _plain(memory, MEMORY, _MEMORY).filter(pl.col("op").is_in(list(_OPS)))
        moved = _plain(copies, COPIES, _COPIES).filter(pl.col("op") == "copy")
        if self._waiting is not None:
            blocks = pl.concat([self._waiting[0], blocks])
            moved = pl.concat([self._waiting[1], moved])
        events = _events(blocks, moved)
        known = self._taken_up
        if events.height:
            newest = int(events["t_effect_ns"][-1])
            self._until_ns = max(newest if end else newest - settled_ns, self._until_ns)
            # Those from before that are not taken up yet come late.
            due = events.filter(pl.col("t_effect_ns") <= self._until_ns, ~pl.col("taken"))
            for row in due.drop("taken").iter_rows():
                self._take(*row)
            self._taken_up += due.height
        self._waiting = (_not_over(blocks, self._until_ns), _not_over(moved, self._until_ns))
        self.complete = end
        return self._taken_up - known

    def nodes(self) -> pl.DataFrame:
        """Return the blocks.

        Returns
        -------
        polars.DataFrame
            `number`, `pid`, `address`, `size_bytes`, `kind`, `t_ns`, `t_freed_ns` (null
            while it is there).
        """
        return pl.DataFrame([vars(block) for block in self._blocks], schema=_NODES)

    def edges(self) -> pl.DataFrame:
        """Return the copies, added up by where from and where to.

        Returns
        -------
        polars.DataFrame
            `source`, `destination` (a block's number as text, or `HOST` or `UNKNOWN`),
            `copies`, `size_bytes`, `t_last_ns`; most bytes first.
        """
        rows = [
            (str(source), str(destination), edge.copies, edge.size_bytes, edge.t_last_ns)
            for (source, destination), edge in self._edges.items()
        ]
        return pl.DataFrame(rows, schema=_EDGES, orient="row").sort(
            "size_bytes", "source", "destination", descending=[True, False, False]
        )

    def _take(
        self,
        t_ns: int,
        what: int,
        pid: int,
        address: int | None,
        source: int | None,
        size_bytes: int,
        kind: str,
        from_device: bool,
        to_device: bool,
    ) -> None:
        live = self._live.setdefault(pid, _Live())
        if what == _COPY:
            ends = (_end(live, source, from_device), _end(live, address, to_device))
            edge = self._edges.setdefault(ends, Edge())
            edge.copies += 1
            edge.size_bytes += size_bytes
            edge.t_last_ns = max(t_ns, edge.t_last_ns)
        elif address is not None and what == _ALLOC:
            block = Block(len(self._blocks), pid, address, size_bytes, kind, t_ns)
            self._blocks.append(block)
            live.take(block)
        elif address is not None:
            live.free(address, t_ns)


def _end(live: _Live, address: int | None, on_device: bool) -> int | str:
    block = None if address is None else live.around(address)
    if block is not None:
        return block.number
    return UNKNOWN if on_device else HOST


def _any(rows: pl.DataFrame) -> pl.DataFrame | None:
    """A table of which nothing was written has no columns yet."""
    return rows if rows.height else None


def _plain(table: AnyTable | None, name: str, columns: tuple[str, ...]) -> pl.DataFrame:
    """Return what succeeded of a table, so that parts of it fit together; not taken up yet."""
    if table is None:
        table = pl.DataFrame(schema=dict.fromkeys(columns, pl.Null))
    numbers = ("t_ns", "duration_ns", "pid", "tid", "size_bytes")
    addresses = [column for column in ("address", "source", "destination") if column in columns]
    texts = [column for column in ("op", "kind", "direction") if column in columns]
    codes = [column for column in ("direction_code",) if column in columns]
    return (
        tables.lazy(table, name, columns)
        .filter(pl.col("status") == 0)
        .select(columns)
        .with_columns(
            pl.col(numbers).cast(pl.Int64),
            pl.col(addresses).cast(pl.UInt64),
            pl.col(texts).cast(pl.String),
            pl.col(codes).cast(pl.Int64),
            pl.lit(False).alias("taken"),
        )
        .drop("status")
        .collect()
    )


def _events(blocks: pl.DataFrame, moved: pl.DataFrame) -> pl.DataFrame:
    """Return events as `MemoryGraph._take` takes them, in the order in which they took effect.

    A block is there when the call that takes it is done, and gone when the one that frees it
    begins: between the two another thread may have been given its address already.
    """
    taken = kernel.outermost(blocks.lazy(), ["address", "op"]).select(
        t_effect_ns=_effect(),
        what=pl.col("op").replace_strict(_OPS, return_dtype=pl.Int64),
        pid="pid",
        address="address",
        source=pl.lit(None, pl.UInt64),
        size_bytes=pl.col("size_bytes").fill_null(0),
        kind=pl.col("kind").fill_null("device"),
        from_device=pl.lit(True),
        to_device=pl.lit(True),
        taken="taken",
    )
    told = pl.coalesce(
        "direction",
        pl.col("direction_code").replace_strict(_DIRECTIONS, default=None, return_dtype=pl.String),
    ).fill_null("")
    copied = kernel.outermost(moved.lazy(), ["source", "destination"]).select(
        t_effect_ns=_effect(),
        what=pl.lit(_COPY, pl.Int64),
        pid="pid",
        address="destination",
        source="source",
        size_bytes=pl.col("size_bytes").fill_null(0),
        kind=pl.lit("", pl.String),
        from_device=told.str.starts_with("device"),
        to_device=told.str.ends_with("device"),
        taken="taken",
    )
    both = pl.concat([taken, copied])
    return both.sort("t_effect_ns", "what", "pid", "address", "source", "size_bytes").collect()


def _effect() -> pl.Expr:
    freed = pl.col("op").replace_strict(_OPS, default=_COPY, return_dtype=pl.Int64) == _FREE
    return pl.when(freed).then("t_ns").otherwise(pl.col("t_ns") + pl.col("duration_ns"))


def _not_over(rows: pl.DataFrame, until_ns: int) -> pl.DataFrame:
    """Return the calls that were not done then: others that are not known yet lie in them."""
    return rows.filter(pl.col("t_ns") + pl.col("duration_ns") > until_ns).with_columns(
        taken=_effect() <= until_ns
    )

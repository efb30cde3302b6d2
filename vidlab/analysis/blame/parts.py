"""Lives, taken apart: every moment of a frame put down to one cause.

Where several things went on at once the first of these has the time: the garbage collector,
the driver, the run queue (by the kernel), the GIL, storage, the run queue (by its clock),
and only then what the stage or the queue itself did. In a stage the GIL, an estimate, has no
more than its thread's clocks leave: what it ran, or waited for a CPU, it did not wait for the
GIL.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ...schema import ENCODER_LAG, QUEUE, REORDER, SERVICE, SPAN_KINDS
from . import stalls
from .causes import NO_STAGE
from .intervals import Disjoint, Ints, spread
from .lives import Lives, cut
from .pieces import (
    ASLEEP_OF,
    BY_ALLOCATOR,
    BY_GC,
    BY_GIL,
    BY_IO,
    BY_NOTHING,
    BY_RUN_QUEUE,
    BY_SLEEP,
    IN_ENCODER,
    IN_QUEUE,
    IN_REORDERING,
    ON_CPU,
    OPEN,
    RUN_QUEUE_OF,
    WORK_OF,
    Flags,
    Pieces,
)

#: The kinds of parts: those of spans, and that of time which no span covers.
KINDS = (*SPAN_KINDS, "none")
_GAP = len(SPAN_KINDS)

#: What a piece is put down to if nothing else is known than its span's kind.
_BY_KIND = {QUEUE: IN_QUEUE, REORDER: IN_REORDERING, ENCODER_LAG: IN_ENCODER, _GAP: BY_NOTHING}


@dataclass(frozen=True)
class Parts:
    """Lives in parts.

    Attributes
    ----------
    table : polars.DataFrame
        In no order: `life` (a row of the lives' frames), `t_ns`, `duration_ns`, `row` (of
        `spans`) and `told` (an index into `pieces.TOLD`). No two parts of a life overlap,
        and they add up to it.
    spans : polars.DataFrame
        The lives' spans, and below them one row a process for time that no span covers: its
        `stage` is `NO_STAGE`, and `kind` an index into `KINDS`.
    """

    table: pl.DataFrame
    spans: pl.DataFrame


def parts(held: stalls.Stalls, lives: Lives) -> Parts:
    """Return these lives in parts, by what held up processes and threads meanwhile."""
    gaps = _gaps(lives)
    spans = pl.concat([lives.spans, gaps], how="diagonal")
    whole = cut(lives)
    rows = _with_gaps(lives, gaps, whole.life, whole.row)
    open_ = np.full(len(rows), OPEN, np.int8)
    pieces = _Told(spans, Pieces(whole.life, whole.begin, whole.end, rows, open_)).by_all(
        held, lives
    )
    table = pl.DataFrame(
        {
            "life": pieces.life,
            "t_ns": pieces.begin,
            "duration_ns": pieces.length,
            "row": pieces.row,
            "told": pieces.told,
        }
    )
    return Parts(table, spans)


def _gaps(lives: Lives) -> pl.DataFrame:
    """A row for each process that a frame or span is of: what is between spans."""
    processes = pl.concat([lives.spans["pid"], lives.frames["pid"]]).unique().sort()
    return pl.DataFrame({"pid": processes}).with_columns(
        pl.lit(NO_STAGE).cast(pl.Categorical).alias("stage"),
        kind=pl.lit(_GAP, pl.Int64),
        tid=pl.lit(-1, pl.Int64),
        parent=pl.lit(0, pl.UInt64),
    )


def _with_gaps(lives: Lives, gaps: pl.DataFrame, life: Ints, rows: Ints) -> Ints:
    """The rows with those of gaps: in the process of the span before, or of the frame."""
    before = np.maximum.accumulate(np.where(rows >= 0, np.arange(len(rows)), 0))
    own = lives.frames["pid"].to_numpy()[life]
    if not lives.spans.height:
        pid = own
    else:
        of_life = (rows[before] >= 0) & (life[before] == life)
        pid = np.where(of_life, lives.spans["pid"].to_numpy()[rows[before]], own)
    place = np.searchsorted(gaps["pid"].to_numpy(), pid)
    return np.where(rows >= 0, rows, lives.spans.height + place)


class _Told:
    """Pieces, as more and more of them are told."""

    def __init__(self, spans: pl.DataFrame, pieces: Pieces) -> None:
        self._spans = spans
        self._pieces = pieces
        self._kind, self._pid = (spans[name].to_numpy() for name in ("kind", "pid"))
        self._thread = stalls.thread(self._pid, spans["tid"].to_numpy())
        self._kinds, self._kinds_of = self._kind[pieces.row], pieces

    def by_all(self, held: stalls.Stalls, lives: Lives) -> Pieces:
        """Return the pieces, all of them told."""
        self._by_kernel(held.off_cpu)
        self._within(self._of(SERVICE), self._thread, held.collected_in, BY_GC)
        cpu, waited = self._clocks()
        waited = self._by_collector(held.collected, cpu, waited)
        self._by_driver(held.driver.by_thread, held.driver.by_life(lives.frames))
        left = self._open()
        # What of both is more than is left was while the driver was at it.
        waited = np.minimum(waited, left)
        cpu = np.where(cpu < 0, -1, np.minimum(cpu, left - waited))
        self._by_gil(held.gil, left - np.maximum(cpu, 0) - waited)
        self._by_kind(cpu, waited)
        return self._pieces

    def _by_kernel(self, off: stalls.OffCpu) -> None:
        # A frame in a queue waits for the thread that takes it, and so for that one's CPU.
        served = self._of(SERVICE)
        self._within(served | self._of(QUEUE), self._thread, off.run_queue, BY_RUN_QUEUE)
        for others, told in ((off.io, BY_IO), (off.asleep, BY_SLEEP)):
            self._within(self._of(SERVICE) & self._is(OPEN), self._thread, others, told)
        pieces = self._pieces
        for pid, (begin, end) in off.complete.items():
            seen = (self._pid[pieces.row] == pid) & (pieces.begin >= begin) & (pieces.end <= end)
            pieces = pieces.renamed(seen & self._of(SERVICE) & self._is(OPEN), ON_CPU)
        self._pieces = pieces

    def _by_collector(self, by_process: Disjoint, cpu: Ints, waited: Ints) -> Ints:
        """Tell what the collector took in other threads; return what is left of run-queue waits."""
        off = self._is(BY_RUN_QUEUE, BY_IO, BY_SLEEP)
        self._within(~self._of(SERVICE) | off, self._pid, by_process, BY_GC)
        left = self._open()
        idle = left - np.clip(cpu, 0, left)
        self._within(self._is(OPEN), self._pid, by_process, BY_GC, idle)
        return np.minimum(waited, idle - (left - self._open()))

    def _by_driver(self, by_thread: Disjoint, by_life: Disjoint) -> None:
        self._within(self._of(SERVICE) & ~self._is(BY_GC), self._thread, by_thread, BY_ALLOCATOR)
        gaps = self._of(_GAP) & self._is(OPEN)
        self._pieces = self._pieces.within(gaps, self._pieces.life, by_life, BY_ALLOCATOR)

    def _by_gil(self, by_process: Disjoint, idle: Ints) -> None:
        off = self._is(BY_IO, BY_SLEEP) | (~self._of(SERVICE) & self._is(OPEN))
        self._within(off, self._pid, by_process, BY_GIL)
        self._within(self._of(SERVICE) & self._is(OPEN), self._pid, by_process, BY_GIL, idle)

    def _by_kind(self, cpu: Ints, waited: Ints) -> None:
        """Tell what is left by the spans' clocks, and by their kinds."""
        left = self._open()
        waited = np.minimum(waited, left - np.clip(cpu, 0, left))
        work = np.where(cpu < 0, left - waited, np.clip(cpu, 0, left - waited))
        served = self._of(SERVICE) & self._is(OPEN)
        amounts = ((RUN_QUEUE_OF, waited), (WORK_OF, work))
        self._pieces = self._pieces.shared(served, amounts, ASLEEP_OF)
        for kind, told in _BY_KIND.items():
            mine = self._of(kind) & self._is(OPEN)
            self._pieces = self._pieces.renamed(mine, told)

    def _clocks(self) -> tuple[Ints, Ints]:
        """How much of each span its thread was on a CPU (-1: not known), and waited for one.

        Without what inner spans had of it, what the collector had in that very thread, and
        what the kernel has told already. Of a span of which only a part counts, as much of it.
        """
        alone, cpu, waited = _alone(self._spans)
        length = self._pieces.per_span(self._of(SERVICE), len(self._kind))
        part = np.minimum(length / np.maximum(alone, 1), 1.0)
        used, waited = (
            np.rint(np.maximum(amount, 0) * part).astype(np.int64) for amount in (cpu, waited)
        )
        collected, told = (
            self._pieces.per_span(self._of(SERVICE) & self._is(one), len(self._kind))
            for one in (BY_GC, BY_RUN_QUEUE)
        )
        waited = np.clip(waited - told, 0, length)
        return np.where(cpu >= 0, np.clip(used - collected, 0, length), -1), waited

    def _within(
        self,
        which: Flags,
        keys: Ints,
        others: Disjoint,
        told: int,
        budget: Ints | None = None,
    ) -> None:
        if others:
            self._pieces = self._pieces.within(which, keys[self._pieces.row], others, told, budget)

    def _open(self) -> Ints:
        """How much of each span's own time nothing has told."""
        return self._pieces.per_span(self._of(SERVICE) & self._is(OPEN), len(self._kind))

    def _of(self, kind: int) -> Flags:
        if self._kinds_of is not self._pieces:
            self._kinds = self._kind[self._pieces.row]
            self._kinds_of = self._pieces
        return np.asarray(self._kinds == kind)

    def _is(self, *told: int) -> Flags:
        found = np.zeros(len(self._pieces.told), bool)
        for one in told:
            found |= self._pieces.told == one
        return found


def _alone(spans: pl.DataFrame) -> tuple[Ints, Ints, Ints]:
    """How long each span was without its inner ones, on a CPU (-1: not known), waiting for one."""
    known = {"duration_ns": 0, "cpu_ns": -1, "runqueue_ns": 0}
    own = spans.select(pl.col(name).fill_null(unknown) for name, unknown in known.items())
    alone, cpu, waited = (own[name].to_numpy().copy() for name in known)
    inner, around = _nested(spans)
    if not inner.size:
        return alone, cpu, waited
    used = np.where(cpu >= 0, cpu, alone)
    is_known = cpu >= 0
    for amount, of_inner in ((cpu, used), (waited, waited), (alone, alone)):
        taken = np.rint(np.bincount(around, of_inner[inner], len(amount))).astype(np.int64)
        amount -= np.minimum(taken, amount)
    cpu[~is_known] = -1
    return alone, cpu, waited


def _nested(spans: pl.DataFrame) -> tuple[Ints, Ints]:
    """The rows of spans that lie within another of the same frame and thread, and of that one."""
    parent = spans["parent"].to_numpy()
    inner = np.flatnonzero(parent > 0)
    if not inner.size:
        return inner, inner
    number = spans["span"].fill_null(0).to_numpy()
    order = np.argsort(number, kind="stable")
    first = np.searchsorted(number[order], parent[inner])
    nth, place = spread(first, np.searchsorted(number[order], parent[inner], "right") - first)
    inner, around = inner[nth], order[place]
    life = spans["life"].fill_null(-1).to_numpy()
    thread = stalls.thread(spans["pid"].to_numpy(), spans["tid"].to_numpy())
    same = (life[inner] == life[around]) & (thread[inner] == thread[around])
    return inner[same], around[same]

"""The tracker: writes down every allocation and free, and knows what is live.

Whoever sees memory being taken or given back (`pool`, `driver`, `borrowing`) tells the
tracker. All of it may happen in the middle of anything: a garbage collection that an
allocation of ours has started frees arrays, and so calls back into here. So nothing
is locked, what is shared changes by single operations of dicts, and a record's place
is reserved and filled without anything in between.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import sys
import threading
from asyncio import current_task
from asyncio.events import _get_running_loop as running_loop
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from .... import labelsets
from ....clock import now_ns
from ....schema import ALLOC, BY_GC, BY_REFCOUNT, DEVICE, FREE, NOT_FREED, TABLES, UNKNOWN
from ... import failures
from ...frames import stages
from .interrupts import is_anothers, raise_later
from .live import Block, Live
from .stacks import Stacks
from .threads import IN_ALLOCATOR, IN_POOL, NOT_INSIDE, Local, Writer

_RECORD = TABLES["allocations"].record
assert _RECORD is not None
_FORMAT = _RECORD.struct.format
_pack = _RECORD.struct.pack_into
_SIZE = _RECORD.size

#: How many asyncio tasks can have a name of their own; the others are "(more tasks)".
_MOST_TASKS = 4096

#: How many findings a recording can have from here.
_MOST_FINDINGS = 1000

#: What `_gpus` has for a label set that names no device.
_ANY = -1

__all__ = ["IN_ALLOCATOR", "IN_POOL", "NOT_INSIDE", "Tracker", "Writer", "active"]

_new_tuple = tuple.__new__
_ident = threading.get_ident
_here = stages.here


class Tracker:
    """Writes the allocations and frees of one recording; any thread may call it.

    Parameters
    ----------
    writer : RunWriter
        What the records go to.
    stacks : Stacks
        Numbers the calls that lead to an allocation.

    Attributes
    ----------
    live : Live
        The blocks in use.
    local : threading.local
        Its `state` is the calling thread's `ThreadState`.
    failures : int
        How often something of the tracker itself has failed: the first is a finding.
    take, freed : callable
        Note that memory was taken, as `allocated` but returning the block; that it was freed.
        `_take` and `_freed`, or, with a compiler, C that writes the same records.
    recorder : object or None
        The C object, `_driver.Recorder`, if there is one.
    """

    def __init__(self, writer: Writer, stacks: Stacks) -> None:
        self.writer = writer
        self.stacks = stacks
        self.live = Live()
        self.local = Local(writer)
        self.failures = 0
        self.take: Callable[..., Block] = self._take
        self.freed: Callable[..., None] = self._freed
        self.recorder: Any = None
        #: Returns the handle of the calling thread's current CUDA stream.
        self.current_stream: Callable[[], int] = int
        #: The handles of the devices' CUDA contexts, where they are known.
        self.contexts: dict[int, int] = defaultdict(int)
        self._levels = [self.live.at(level) for level in range(3)]
        self.next_generation = itertools.count(1).__next__
        #: In a forked child, the generations up to this one are its parent's.
        self.inherited = 0
        self._gpus: dict[int, int] = {labelsets.EMPTY: _ANY}
        self._tasks: dict[str, int] = {}
        self._ok = writer.names.number("ok")
        self._found: set[tuple[str, int]] = set()
        self._collecting = 0
        gc.callbacks.append(self._collects)

    def close(self) -> None:
        """Take no more notice of garbage collections."""
        with contextlib.suppress(ValueError):
            gc.callbacks.remove(self._collects)

    def use(self, native: Any) -> None:
        """Record with this C extension from now on; `contexts` is not another one from then on."""
        self.stacks.use(native)
        stacks = self.stacks
        self.recorder = native.Recorder(
            *(_FORMAT, stacks.depth, self._ok, self, Block, tuple(self._levels)),
            *(self.next_generation, self.contexts, self.local, self._gpus, running_loop, _here),
            *(vars(stages), labelsets.current, stacks.numbers, stacks.learn),
        )
        self.take, self.freed = self.recorder.take, self.recorder.freed

    # --- what happens to memory -----------------------------------------------------

    def allocated(
        self,
        level: int,
        kind: int,
        device: int,
        address: int,
        size: int,
        asked: int,
        stream: int,
        t0_ns: int,
        t1_ns: int,
        pooled: bool = False,
    ) -> int:
        """Note that memory was taken, in a call from `t0_ns` to `t1_ns`; return its number.

        Parameters
        ----------
        level, kind : int
            Of `schema.LEVELS` and `schema.MEMORY_KINDS`.
        size, asked : int
            Bytes given, and asked for.
        pooled : bool
            It is driver memory that a pool keeps.
        """
        return self.take(
            level, kind, device, address, size, asked, stream, t0_ns, t1_ns, pooled
        ).generation

    def _take(
        self,
        level: int,
        kind: int,
        device: int,
        address: int,
        size: int,
        asked: int,
        stream: int,
        t0_ns: int,
        t1_ns: int,
        pooled: bool = False,
    ) -> Block:
        """Do what `allocated` does; return the block. `records.c` does just the same."""
        span, frame, labels = _here()
        stack = self.stacks.here()
        generation = self.next_generation()
        # A NamedTuple's own constructor takes four times as long.
        block: Block = _new_tuple(
            Block,
            (generation, level, kind, device, address, size, stack, labels, frame, t1_ns, pooled),
        )
        self._levels[level][address] = block
        self._write(
            (t0_ns, t1_ns - t0_ns, address, size, asked, generation, span, frame),
            (stream, stack, labels),
            (self._ok, device, level, kind, NOT_FREED, pooled, ALLOC + 1),
        )
        expected = self._gpus.get(labels)
        if expected != device and expected != _ANY:
            self._check_device(labels, device, stack, size)
        return block

    def failed(
        self,
        level: int,
        kind: int,
        device: int,
        asked: int,
        stream: int,
        t0_ns: int,
        t1_ns: int,
        status: str,
    ) -> None:
        """Note that an allocation failed, and with which error's name."""
        span, frame, labels = _here()
        self._write(
            (t0_ns, t1_ns - t0_ns, 0, 0, asked, 0, span, frame),
            (stream, self.stacks.here(), labels),
            (self.writer.names.number(status), device, level, kind, NOT_FREED, False, ALLOC + 1),
        )

    def retire(self, level: int, address: int) -> Block | None:
        """Take a block out of the live set, and return it. To be called before it is freed."""
        return self._levels[level].pop(address, None)

    def retire_block(self, block: Block) -> bool:
        """Take this very block out of the live set; return whether its end is to be written.

        There may be another at its address, or that one may have gone already: in a garbage
        collection an owner may give memory back before our token of it dies, and another
        thread be given the same. What a forked child has of its parent's has no end here.
        """
        known = self._levels[block.level]
        found = known.pop(block.address, None)
        if found is not None and found is not block:
            known.setdefault(block.address, found)
        return block.generation > self.inherited

    def _freed(
        self,
        block: Block | None,
        level: int,
        kind: int,
        device: int,
        address: int,
        size: int,
        stream: int,
        t0_ns: int,
        t1_ns: int,
        status: str = "ok",
        freed_by: int | None = None,
    ) -> None:
        """Write down that memory was freed, in a call from `t0_ns` to `t1_ns`.

        Parameters
        ----------
        block : Block or None
            What `retire` gave; None if the memory is older than the recording.
        size : int
            Its size, where the block does not tell.
        freed_by : int, optional
            Of `schema.FREED_BY`; by default `BY_GC` in a garbage collection of this
            thread, and else `BY_REFCOUNT`.
        """
        span, frame, labels = _here()
        stack = self.stacks.here()
        generation, pooled = 0, False
        if block is not None:
            generation, level, kind, device, address, size, _, _, _, _, pooled = block
        if freed_by is None:
            freed_by = BY_REFCOUNT
            if self._collecting and self._collecting == _ident():
                freed_by = BY_GC
        number = self._ok if status == "ok" else self.writer.names.number(status)
        self._write(
            (t0_ns, t1_ns - t0_ns, address, size, UNKNOWN, generation, span, frame),
            (stream, stack, labels),
            (number, device, level, kind, freed_by, pooled, FREE + 1),
        )

    def older(self, level: int, device: int, size: int, pooled: bool) -> None:
        """Note what of a device's memory was in use before the recording began."""
        if size:
            what = (now_ns(), 0, 0, size, UNKNOWN, 0, 0, 0)
            how = (self._ok, device, level, DEVICE, NOT_FREED, pooled, ALLOC + 1)
            self._write(what, (0, 0, labelsets.EMPTY), how)

    def _write(
        self, what: tuple[int, ...], where: tuple[int, int, int], how: tuple[int, ...]
    ) -> None:
        """Write a record: what happened, where in the program, and how. Fills in who did it."""
        stream, stack, labels = where
        task = 0 if running_loop() is None else self._task()
        fields = (*what, self.contexts[how[1]], stream, stack, labels, task, *how)
        buffer = self.local.state.buffer
        position = buffer.position
        if position == buffer.end:
            position = buffer.roll()
        buffer.position = position + _SIZE
        _pack(buffer.view, position, *fields)

    def _task(self) -> int:
        """The number of the running asyncio task's name."""
        task = current_task()
        if task is None:
            return 0
        name = task.get_name()
        known = self._tasks.get(name)
        if known is None:
            if len(self._tasks) >= _MOST_TASKS:
                name = "(more tasks)"
            known = self._tasks[name] = self.writer.names.number(name)
        return known

    def _collects(self, phase: str, info: object) -> None:
        self._collecting = _ident() if phase == "start" else 0

    # --- findings -------------------------------------------------------------------

    def finding(self, kind: str, message: str, severity: str = "warning", **evidence: Any) -> None:
        """Note something that should not be, once for each place in the program."""
        site = (kind, evidence.get("stack") or self.stacks.here())
        if site in self._found or len(self._found) >= _MOST_FINDINGS:
            return
        self._found.add(site)
        self.writer.finding(kind, message, severity, **evidence)

    def _check_device(self, labels: int, device: int, stack: int, size: int) -> None:
        """Say so if an allocation is on another device than its label `gpu` names."""
        expected = self._gpus.get(labels)
        if expected is None:
            named = labelsets.get(labels).values.get("gpu")
            expected = self._gpus[labels] = _ANY if named is None else int(named)
        if expected not in (device, _ANY):
            self.finding(
                "wrong_device",
                f"memory was taken on device {device} for work labelled gpu={expected}: "
                f"make device {expected} current before it",
                labels=labels,
                stack=stack,
                device=device,
                label_gpu=expected,
                size_bytes=size,
            )

    def failure(self) -> None:
        """Count a failure of our own, from within its `except`; report the first.

        What a signal handler of the program's raises in the middle of us is no failure
        of ours: it is raised again a moment later, for here it might be ignored.
        """
        error = sys.exc_info()[1]
        if error is not None and is_anothers(error):
            raise_later(error)
            return
        self.failures += 1
        if self.failures == 1:
            failures.report(self.writer, "allocations")


#: The tracker of the recording that runs, if one does.
active: Tracker | None = None


def _after_fork_in_child() -> None:
    if active is not None:  # what the parent has is not the child's to give back
        active.live.clear()
        active.inherited = active.next_generation()


os.register_at_fork(after_in_child=_after_fork_in_child)

"""Blocks that are handed to a CUDA stream while another may still be at work on them.

A block that was used on one stream, freed, and handed out on another without anything between
that orders the two, is read and written at once by both. It is a finding, `stream_hazard`.

What is seen as a use of a block: that it was handed out on a stream, and copies and fills of
it on a stream. Kernels are not seen. What is seen to order streams: an event recorded on one
and waited for by the other; and whatever the host waited for (a stream, an event, a device, a
blocking copy, a cudaFree, a query that said "done"). The default stream waits for the others
and they for it, unless they were made non-blocking. Where it is not known (an event from
before the recording, steps that were not looked at in time, the default streams of several
devices) the work counts as ordered: a finding is never a guess.

Nothing is looked at while only one stream is used. Then the trampolines' log (steps.c) is read
when a block is handed out, and no earlier. Its positions are the clock here: a use at position
n is ordered before a stream's next work if the stream knows of positions beyond n.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

# What the log's steps are: as in driver.h.
USE, FREE, RECORD, WAIT, EVENT_DONE, STREAM_DONE, ALL_DONE, EVENT_GONE, STREAM_GONE = range(9)

#: How many blocks, uses by copies, events and streams are remembered; the oldest go.
MOST_BLOCKS = 16_384
MOST_COPIES = 1_024
MOST_EVENTS = 1_024
MOST_STREAMS = 256

#: Clocks that are not a stream's: of all streams, and of those that wait for the default one.
_ALL, _BLOCKING = -1, -2

#: Up to where (in the log) something knows each stream's work to be done.
_Clock = dict[int, int]


class Findings(Protocol):
    """Where a finding goes: a `Tracker`."""

    def finding(self, kind: str, message: str, **evidence: Any) -> None:
        """Report something that should not be."""


class _Use(NamedTuple):
    start: int
    end: int
    stream: int
    position: int
    what: str  #: the CUDA function, "handed out" for an allocation


class Hazards:
    """What is known of the streams' order, and which blocks were used on which."""

    def __init__(self, extension: Any, tracker: Findings) -> None:
        self._extension = extension
        self._several = extension.several
        self._report = tracker.finding
        self._clocks: dict[int, _Clock] = {}
        self._events: dict[int, _Clock] = {}
        self._non_blocking: set[int] = set()
        self._done: _Clock = {}  #: what the host has waited for
        self._default_step = -1  #: the position after the last work on the default stream
        self._blocks: dict[int, _Use] = {}
        self._copies: dict[int, dict[int, _Use]] = {}  #: by where they start, then by stream
        self._starts: list[int] = []  #: the same, sorted
        self._busy = False
        extension.watch(True)

    def close(self) -> None:
        """Stop keeping the log."""
        self._extension.watch(False)

    def handed_out(self, address: int, size: int, stream: int | None) -> None:
        """Say that a block is handed out for work on a stream; None: for the host (pinned).

        `address` and `size` are in bytes. A finding results if another stream may still work
        on it.
        """
        if not self._several(0 if stream is None else stream) or self._busy:
            return
        # A block that the garbage collector frees while we look is not looked at itself.
        self._busy = True
        try:
            self._look(address, size, stream)
        finally:
            self._busy = False

    def _look(self, address: int, size: int, stream: int | None) -> None:
        position = self._catch_up()
        if stream is not None:
            stream = 0 if stream == 1 else stream
            if self._extension.flags(stream):
                self._non_blocking.add(stream)
        for use in self._take(address, size):
            if not self._ordered(use, stream):
                self._report(
                    "stream_hazard",
                    f"a block of {size:,} bytes is handed out on {_called(stream)} while "
                    f"{_called(use.stream)} may still use it ({use.what}): nothing between "
                    "orders the two",
                    address=address,
                    size_bytes=size,
                    stream=stream,
                    last_stream=use.stream,
                    last_use=use.what,
                )
                break
        if stream is not None:
            while len(self._blocks) >= MOST_BLOCKS:
                self._blocks.pop(next(iter(self._blocks)), None)
            # Before any later step, and so before what waits from now on.
            self._blocks[address] = _Use(
                address, address + size, stream, position - 1, "handed out"
            )

    def _take(self, address: int, size: int) -> list[_Use]:
        """Forget and return what was known of a block's memory."""
        uses = []
        block = self._blocks.pop(address, None)
        if block is not None:
            uses.append(block)
        starts = self._starts
        if starts:
            first = bisect.bisect_left(starts, address)
            last = bisect.bisect_left(starts, address + max(size, 1), first)
            if first and any(use.end > address for use in self._copies[starts[first - 1]].values()):
                first -= 1  # a block began there, of which this one is a part now
            for start in starts[first:last]:
                uses += self._copies.pop(start).values()
            del starts[first:last]
        return uses

    def _ordered(self, use: _Use, stream: int | None) -> bool:
        """Whether a use is over before what the host (None) or a stream does next."""
        if stream == use.stream or self._covers(self._done, use):
            return True
        if stream is None:
            return False
        if self._covers(self._clocks.get(stream, {}), use):
            return True
        if stream in self._non_blocking:
            return False
        # The stream waits for the default stream, which waits for the streams like it.
        return (
            use.stream == 0
            or (use.stream not in self._non_blocking and stream == 0)
            or (use.stream not in self._non_blocking and use.position < self._default_step)
            or self._covers(self._clocks.get(0, {}), use)
        )

    def _covers(self, clock: _Clock, use: _Use) -> bool:
        position = use.position
        return (
            position < clock.get(use.stream, -1)
            or position < clock.get(_ALL, -1)
            or (position < clock.get(_BLOCKING, -1) and use.stream not in self._non_blocking)
        )

    def _catch_up(self) -> int:
        """Take in the log's steps since the last time; return the position after them."""
        first, lost, steps = self._extension.drain()
        if lost:  # what ordered them may have been lost with them
            self._forget()
        for position, step in enumerate(steps, first):
            self._take_in(position, *step)
        after: int = first + len(steps)
        return after

    def _forget(self) -> None:
        self._blocks.clear()
        self._copies.clear()
        self._starts.clear()
        self._events.clear()

    def _take_in(
        self,
        position: int,
        what: int,
        name: str,
        address: int,
        size: int,
        stream: int,
        flags: int,
        upto: int,
    ) -> None:
        """Take in one step. `upto` is the position at which its call began."""
        if flags:
            self._non_blocking.add(stream)
        if what == USE:
            self._used(_Use(address, address + size, stream, position, name))
        elif what == RECORD:
            self._events.pop(address, None)
            if len(self._events) >= MOST_EVENTS:
                self._events.pop(next(iter(self._events)))
            self._events[address] = self._knowledge(stream, upto)
        elif what == WAIT:
            self._learn(self._clock(stream), self._events.get(address, {_ALL: upto}))
        elif what == EVENT_DONE:
            self._learn(self._done, self._events.get(address, {_ALL: upto}))
        elif what == STREAM_DONE:
            self._learn(self._done, self._knowledge(stream, upto))
        elif what == ALL_DONE:
            self._learn(self._done, {_ALL: upto})
        elif what == FREE:
            self._freed(address, stream)
        elif what == EVENT_GONE:
            self._events.pop(address, None)
        elif what == STREAM_GONE:
            self._clocks.pop(stream, None)
            self._non_blocking.discard(stream)
        if stream == 0 and what in (USE, RECORD, WAIT, FREE):
            self._default_step = position + 1

    def _used(self, use: _Use) -> None:
        known = self._copies.get(use.start)
        if known is None:
            if len(self._starts) >= MOST_COPIES:
                oldest = next(iter(self._copies))
                del self._copies[oldest], self._starts[bisect.bisect_left(self._starts, oldest)]
            known = self._copies[use.start] = {}
            bisect.insort(self._starts, use.start)
        before = known.get(use.stream)
        if before is not None and before.end > use.end:
            use = use._replace(end=before.end)
        known[use.stream] = use

    def _freed(self, address: int, stream: int) -> None:
        """An asynchronous free: who gets the block next comes after the stream that frees it."""
        block = self._blocks.get(address)
        if block is None:
            return
        for use in self._take(address, block.end - block.start):
            if not self._ordered(use, stream):
                if use is block:
                    self._blocks[address] = use
                else:
                    self._used(use)

    def _knowledge(self, stream: int, upto: int) -> _Clock:
        """What is over once the stream has done all its work so far."""
        clock = dict(self._clocks.get(stream, ()))
        clock[stream] = upto
        if stream == 0:
            clock[_BLOCKING] = upto
        elif stream not in self._non_blocking:
            self._learn(clock, self._clocks.get(0, {}))
            self._learn(clock, {0: upto, _BLOCKING: self._default_step})
        return clock

    def _clock(self, stream: int) -> _Clock:
        clock = self._clocks.get(stream)
        if clock is None:
            if len(self._clocks) >= MOST_STREAMS:
                self._clocks.clear()
                self._forget()
            clock = self._clocks[stream] = {}
        return clock

    @staticmethod
    def _learn(clock: _Clock, other: _Clock) -> None:
        for stream, position in other.items():
            if clock.get(stream, -1) < position:
                clock[stream] = position


def _called(stream: int | None) -> str:
    if stream is None:
        return "the host"
    return f"stream {stream:#x}" if stream else "the default stream"


#: The running recording's hazards.
active: Hazards | None = None


def start(extension: Any, tracker: Findings) -> None:
    """Look for hazards from now on."""
    global active
    active = Hazards(extension, tracker)


def stop() -> None:
    """Look for hazards no more."""
    global active
    if active is not None:
        active.close()
    active = None


def handed_out(address: int, size: int, stream: int | None) -> None:
    """Say that a block is handed out on a stream; None: for the host. See `Hazards`."""
    if active is not None:
        active.handed_out(address, size, stream)


def note(extension: Any, name: str, steps: Iterable[tuple[int, int, int, int]]) -> None:
    """Enter steps (what, address, bytes, stream) that were called from Python into the log."""
    for what, address, size, stream in steps:
        extension.note(what, name, address, size, stream, extension.position())

"""Spans: what a stage's context manager does, as cheaply as Python allows.

The open spans of a thread are a chain (`ThreadState.top`, then `Span.outer`). In a
thread that runs an event loop each task has its own chain, in a context variable:
setting one takes a fifth of a span's whole cost, so other threads do without.
"""

from __future__ import annotations

import inspect
import struct
import sys
from asyncio import CancelledError
from asyncio.events import _get_running_loop as running_loop
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ...clock import now_ns
from ...labelsets import current as labels_here
from ...schema import CANCELLED, ERROR, OK, SERVICE, TABLES, UNKNOWN
from .refs import FrameRef
from .threadstate import ThreadState

if TYPE_CHECKING:
    from ..gpu.timing import Begun, Timer

_RECORD = TABLES["spans"].record
assert _RECORD is not None
SIZE = _RECORD.size

# Most spans have no clocks read and no span around them. They pack 11 fields as 6: a
# frame's part (`FrameRef.head`) and a stage's part (from `stage` on to the commit mark,
# which is still written last) are prepared bytes.
_QUICK = struct.Struct("<qq32sII4s")
assert _QUICK.size == SIZE
_pack_quick = _QUICK.pack_into

#: Below this, a span ends in the thread that it began in: changing threads takes longer.
_SWITCH_NS = 2_000

#: The code of a coroutine or generator, which may pause with a span open.
_MAY_PAUSE = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

#: Stages whose spans take longer than this on average have their clocks read.
CLOCKS_FROM_NS = 100_000

Clocks = Literal["auto", "always", "never"]

F = TypeVar("F", bound=Callable[..., Any])

#: The innermost open span of this task, or the span that the work here was started in.
inherited: ContextVar[Span | None] = ContextVar("vidlab_span", default=None)

_get_inherited = inherited.get
_get_labels = labels_here.get


class StageKind:
    """A stage of one recording: its number, and whether its clocks are worth reading.

    Reading a thread's CPU clock and run-queue wait twice costs 1.3 µs and more. With
    `clocks="auto"` that is done for stages that take long enough for it not to
    matter: until their mean duration is known, and while it is above `CLOCKS_FROM_NS`.
    """

    __slots__ = ("auto", "mean_ns", "name", "number", "reads_clocks", "tail")

    def __init__(self, name: str, number: int, clocks: Clocks) -> None:
        self.name = name
        self.number = number
        self.auto = clocks == "auto"
        self.reads_clocks = clocks != "never"
        self.mean_ns = 2.0 * CLOCKS_FROM_NS
        #: The end of a record of a span that went well.
        self.tail = struct.pack("<HBB", number, SERVICE, OK + 1)

    def took(self, duration_ns: int) -> None:
        """Take a duration into the mean: of each span with clocks, of a long one without."""
        self.mean_ns += (duration_ns - self.mean_ns) / 8
        self.reads_clocks = self.mean_ns > CLOCKS_FROM_NS


class Span:
    """An open stage. Its frame may become known while it is open.

    This is the cheap one: for threads without an event loop, and without clocks. What
    is rare (an error, a long span, one inside another) goes by `_end`.

    Attributes
    ----------
    ref : FrameRef or None
        The frame that it works on.
    t0, t1 : int
        When it began and ended; `t1` is 0 while it is open, and only then.
    outer : Span or None
        The span around it, of the same frame or not.
    labels : int
        The label set that it is published under (`publishing`); only then it has one.
    """

    __slots__ = ("kind", "labels", "outer", "ref", "sequence", "state", "t0", "t1")

    labels: int
    outer: Span | None

    def __init__(self, kind: StageKind, ref: FrameRef | None, state: ThreadState) -> None:
        self.kind = kind
        self.ref = ref
        self.state = state
        self.t1 = -1

    def __call__(self, function: F) -> F:
        from .decorating import decorated  # which is built on stages, and they on this

        return decorated(self.kind.name, function)

    def __enter__(self) -> Span:
        if self.t1 == 0:
            return self  # entered again while it is open: it ends with the inner block
        state = self.state
        self.sequence = state.sequence = state.sequence + 1
        self.outer = state.top
        state.top = self
        self.t1 = 0
        self.t0 = now_ns()
        return self

    def __exit__(self, error: type[BaseException] | None, value: object, where: object) -> None:
        t1 = now_ns()
        try:
            t0 = self.t0
            duration = t1 - t0
            state = self.state
            ref = self.ref
            if (
                duration > _SWITCH_NS
                or ref is None
                or error is not None
                or self.outer is not None
                or state.top is not self
            ):
                if self.t1 == 0:
                    self._end(t1, error, state.recorder.local.state)
                return
            state.top = None
            self.t1 = t1
            head = ref.head
            if head is None:
                return
            labels = ref.labels
            here = _get_labels()
            if here != labels and here != 0:
                labels = state.merge(labels, here)
            buffer = state.buffer
            position = buffer.position
            if position == buffer.end:
                position = state.roll()
            buffer.position = position + SIZE
            _pack_quick(
                buffer.view, position, t0, duration, head, self.sequence, labels, self.kind.tail
            )
        except Exception:
            self.state.recorder.failed()

    def _end(
        self,
        t1_ns: int | None,
        error: type[BaseException] | None,
        state: ThreadState,
        cpu_ns: int = UNKNOWN,
        runqueue_ns: int = UNKNOWN,
    ) -> None:
        """End the span, whichever it is, in the thread of this state, and write it.

        Without an end it ends as it is written: what recording it takes is part of it,
        not a gap between it and the next.
        """
        own, outer = self.state, self.outer
        if own.top is self:
            own.top = outer
        else:
            self._leave()
        kind, t0_ns = self.kind, self.t0
        duration_ns = (now_ns() if t1_ns is None else t1_ns) - t0_ns
        if kind.auto and (cpu_ns != UNKNOWN or duration_ns > CLOCKS_FROM_NS):
            reads_clocks = kind.reads_clocks
            kind.took(duration_ns)
            if kind.reads_clocks != reads_clocks:
                own.spares.pop(kind.name, None)  # which is of the other class
        # It may end in another thread than it began in: a generator can be resumed and
        # closed anywhere. A thread writes to its own buffer only, under its own numbers.
        if state is not own:
            self.sequence = state.sequence = state.sequence + 1
        self.t1 = t0_ns + duration_ns  # it has ended, even if it cannot be written
        self.t1 = state.recorder.write(
            state,
            kind.number,
            SERVICE,
            OK if error is None else status_of(error),
            self.ref,
            t0_ns,
            t1_ns,
            outer,
            self.sequence,
            cpu_ns,
            runqueue_ns,
        )

    def _leave(self) -> None:
        """Take this span out of the chain of open spans that it is in."""
        state, outer = self.state, self.outer
        if state.top is self:
            state.top = outer
        elif _get_inherited() is self:
            inherited.set(outer)
        else:  # it ends before a span that it encloses, or in another task
            child = state.top
            while child is not None:
                if child.outer is self:
                    child.outer = outer
                child = child.outer

    def began(self, t0_ns: int) -> None:
        """Have begun at this time, a little before it was entered: recording it is part of it.

        Its frame may have become known since it was entered.
        """
        self.t0 = t0_ns

    def drop(self) -> None:
        """End this span without writing it: it turned out to be of nothing that is recorded."""
        if self.t1 == 0:
            self._leave()
            self.t1 = self.t0


class TaskSpan(Span):
    """A span in a thread that may run an event loop."""

    __slots__ = ()

    def __enter__(self) -> Span:
        if self.t1 == 0:
            return self
        state = self.state
        self.sequence = state.sequence = state.sequence + 1
        if state.loops and running_loop() is not None:
            self.outer = still_open(_get_inherited()) or state.top
            inherited.set(self)
        else:
            self.outer = state.top
            state.top = self
        self.t1 = 0
        self.t0 = now_ns()
        return self

    def __exit__(self, error: type[BaseException] | None, value: object, where: object) -> None:
        t1 = now_ns()
        try:
            if self.t1 == 0:
                self._end(t1, error, self.state.recorder.local.state)
        except Exception:
            self.state.recorder.failed()


class ClockedSpan(TaskSpan):
    """A span with the thread's CPU time and run-queue wait.

    A coroutine's or generator's span goes without in a thread that runs an event loop:
    other tasks may run in the middle of it.
    """

    __slots__ = ("cpu0_ns", "runqueue0_ns")

    def __enter__(self) -> Span:
        if self.t1 == 0:
            return self
        t0_ns = now_ns()
        state, ref = self.state, self.ref
        if (ref is not None and not ref.sampled) or (
            state.loops and sys._getframe(1).f_code.co_flags & _MAY_PAUSE and running_loop()
        ):
            self.cpu0_ns = self.runqueue0_ns = UNKNOWN
        else:
            self.cpu0_ns, self.runqueue0_ns = state.read_clocks()
        TaskSpan.__enter__(self)
        self.t0 = t0_ns
        return self

    def __exit__(self, error: type[BaseException] | None, value: object, where: object) -> None:
        try:
            if self.t1 != 0:
                return
            state = self.state.recorder.local.state
            cpu_ns = runqueue_ns = UNKNOWN
            if self.cpu0_ns != UNKNOWN and state is self.state:
                cpu1_ns, runqueue1_ns = state.read_clocks()
                cpu_ns = cpu1_ns - self.cpu0_ns
                if runqueue1_ns != UNKNOWN and self.runqueue0_ns != UNKNOWN:
                    runqueue_ns = runqueue1_ns - self.runqueue0_ns
            self._end(None, error, state, cpu_ns, runqueue_ns)
        except Exception:
            self.state.recorder.failed()


class GpuSpan(ClockedSpan):
    """A span with the time that its work takes on the GPU: `stage(…, gpu=True)`.

    It is never used again for another stage, as the cheap ones are.
    """

    __slots__ = ("begun", "timer")

    def __init__(
        self, kind: StageKind, ref: FrameRef | None, state: ThreadState, timer: Timer
    ) -> None:
        super().__init__(kind, ref, state)
        self.timer = timer
        self.begun: Begun | None = None

    def __call__(self, function: F) -> F:
        from .decorating import decorated  # which is built on stages, and they on this

        return decorated(self.kind.name, function, gpu=True)

    def __enter__(self) -> Span:
        if self.t1 == 0:
            return self
        state, ref = self.state, self.ref
        if self.kind.reads_clocks and not (
            state.loops and sys._getframe(1).f_code.co_flags & _MAY_PAUSE and running_loop()
        ):
            ClockedSpan.__enter__(self)
        else:
            self.cpu0_ns = self.runqueue0_ns = UNKNOWN
            TaskSpan.__enter__(self)
        if ref is None or ref.sampled:
            self.begun = self.timer.begin()
        return self

    def __exit__(self, error: type[BaseException] | None, value: object, where: object) -> None:
        begun, self.begun = self.begun, None
        timed = None if begun is None else self.timer.end(begun)
        recorded = self.t1 == 0 and (self.ref is None or self.ref.sampled)
        ClockedSpan.__exit__(self, error, value, where)
        if timed is None:
            return
        if recorded:
            state = self.state.recorder.local.state  # that which has written it
            self.timer.take(state.buffer.span + self.sequence, timed)
        else:
            self.timer.drop(timed)


def still_open(span: Span | None) -> Span | None:
    """The innermost span, from this one outwards, that has not ended."""
    while span is not None and span.t1:
        span = span.outer
    return span


def parent_number(span: Span | None, frame: int) -> int:
    """The number of the innermost open span, from `span` outwards, of this frame; 0 if none.

    A span inside one of another frame, or of none, is at the top level: a frame's
    top-level spans add up to the time that was spent on it.
    """
    while span is not None:
        ref = span.ref
        if (0 if ref is None else ref.frame) == frame and not span.t1:
            return span.state.buffer.span + span.sequence
        span = span.outer
    return 0


def status_of(error: type[BaseException]) -> int:
    """How a stage that is left by this exception has ended."""
    if issubclass(error, (CancelledError, GeneratorExit, KeyboardInterrupt)):
        return CANCELLED
    if issubclass(error, (StopIteration, StopAsyncIteration)):
        return OK  # an iterator has come to its end
    return ERROR

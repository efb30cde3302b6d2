"""Spans: what a stage's context manager does, as cheaply as Python allows.

The open spans of a thread are a chain (`ThreadState.top`, then `Span.outer`). In a
thread that runs an event loop each task has its own chain, in a context variable:
setting one costs as much as all the rest of a span, so other threads do without.
"""

from __future__ import annotations

import struct
from asyncio import CancelledError
from asyncio.events import _get_running_loop as running_loop
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

from ...clock import now_ns
from ...labelsets import current as labels_here
from ...schema import CANCELLED, ERROR, OK, SERVICE, TABLES, UNKNOWN
from .refs import FrameRef
from .threadstate import ThreadState

_RECORD = TABLES["spans"].record
assert _RECORD is not None
SIZE = _RECORD.size

# Most spans have no clocks read. They pack 12 fields as 9: the two clocks, and all
# from `gpu_duration_ns` on to the commit mark (still written last), are prepared bytes.
_QUICK = struct.Struct("<qqQQ16sII8s")
assert _QUICK.size == SIZE
_pack_quick = _QUICK.pack_into
_UNREAD = struct.pack("<qq", UNKNOWN, UNKNOWN)

#: Below this, a span ends in the thread that it began in: changing threads takes longer.
_SWITCH_NS = 2_000

#: The `gpu_duration_ns` of a span that nobody has timed on a GPU.
NOT_TIMED = float("nan")

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

    __slots__ = ("auto", "long_ns", "mean_ns", "name", "number", "ok", "span", "tails")

    def __init__(self, name: str, number: int, clocks: Clocks) -> None:
        self.name = name
        self.number = number
        self.auto = clocks == "auto"
        self.mean_ns = 2.0 * CLOCKS_FROM_NS
        #: The class of its spans.
        self.span: type[Span] = Span if clocks == "never" else ClockedSpan
        #: Spans without clocks that are longer than this are told to `took`.
        self.long_ns = CLOCKS_FROM_NS if self.auto else 1 << 62
        self.tails = tuple(
            struct.pack("<fHBB", NOT_TIMED, number, SERVICE, status + 1)
            for status in (OK, ERROR, CANCELLED)
        )
        self.ok = self.tails[OK]

    def took(self, duration_ns: int) -> None:
        """Take a duration into the mean: of each span with clocks, of a long one without."""
        self.mean_ns += (duration_ns - self.mean_ns) / 8
        self.span = ClockedSpan if self.mean_ns > CLOCKS_FROM_NS else Span


class Span:
    """An open stage. Its frame may become known while it is open.

    Attributes
    ----------
    ref : FrameRef or None
        The frame that it works on.
    t0, t1 : int
        When it began and ended; `t1` is 0 while it is open, and only then.
    outer : Span or None
        The span around it, of the same frame or not.
    """

    __slots__ = ("kind", "outer", "ref", "sequence", "state", "t0", "t1")

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
        state = self.state
        if self.t1 == 0:
            return self  # entered again while it is open: it ends with the inner block
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
            state = self.state
            outer = self.outer
            if state.top is self:
                state.top = outer
            elif self.t1 == 0:
                self._leave()
            else:
                return
            t0 = self.t0
            duration = t1 - t0
            kind = self.kind
            if duration > _SWITCH_NS or error is not None:
                state = self._settle(duration)
            self.t1 = t1
            ref = self.ref
            if ref is None:
                frame = 0
                labels = _get_labels()
            else:
                frame = ref.frame
                labels = ref.labels
                here = _get_labels()
                if here != 0 and here != labels:
                    labels = state.merge(labels, here)
            buffer = state.buffer
            position = buffer.position
            if position == buffer.end:
                position = state.roll()
            buffer.position = position + SIZE
            _pack_quick(
                buffer.view,
                position,
                t0,
                duration,
                frame,
                0 if outer is None else parent_number(outer, frame),
                _UNREAD,
                self.sequence,
                labels,
                kind.ok if error is None else kind.tails[status_of(error)],
            )
        except Exception:
            self.state.recorder.failed()

    def _leave(self) -> None:
        """Take this span, which is not its thread's innermost one, out of where it is.

        It belongs to an asyncio task, or ends before a span that it encloses.
        """
        if _get_inherited() is self:
            inherited.set(self.outer)
            return
        child = self.state.top
        while child is not None:
            if child.outer is self:
                child.outer = self.outer
            child = child.outer

    def _settle(self, duration_ns: int) -> ThreadState:
        """Return the state of the thread that this span ends in, whose buffer it goes to.

        It may be another than the one that it began in: a generator may be resumed or
        closed anywhere. A thread writes to its own buffer only, under its own numbers.
        """
        if duration_ns > self.kind.long_ns:
            self.kind.took(duration_ns)
        state = self.state.recorder.local.state
        if state is not self.state:
            self.sequence = state.sequence = state.sequence + 1
        return state

    def drop(self) -> None:
        """End this span without writing it: it turned out to be of nothing that is recorded."""
        Skipped.__exit__(self, None, None, None)


class ClockedSpan(Span):
    """A span with the thread's CPU time and run-queue wait.

    In a thread that runs an event loop they are left out: other tasks may have run
    in between.
    """

    __slots__ = ("cpu0_ns", "runqueue0_ns")

    def __enter__(self) -> Span:
        if self.t1 == 0:
            return self
        state = self.state
        if state.loops and running_loop() is not None:
            self.cpu0_ns = self.runqueue0_ns = UNKNOWN
        else:
            self.cpu0_ns, self.runqueue0_ns = state.read_clocks()
        return Span.__enter__(self)

    def __exit__(self, error: type[BaseException] | None, value: object, where: object) -> None:
        t1 = now_ns()
        try:
            if self.t1 != 0:
                return
            duration_ns = t1 - self.t0
            state = self._settle(duration_ns)
            cpu_ns = runqueue_ns = UNKNOWN
            if self.cpu0_ns != UNKNOWN and state is self.state:
                cpu1_ns, runqueue1_ns = state.read_clocks()
                # The readings lie around the span: it has no more CPU time than time.
                cpu_ns = min(cpu1_ns - self.cpu0_ns, duration_ns)
                if runqueue1_ns != UNKNOWN and self.runqueue0_ns != UNKNOWN:
                    runqueue_ns = min(runqueue1_ns - self.runqueue0_ns, duration_ns)
            if self.state.top is self:
                self.state.top = self.outer
            else:
                self._leave()
            self.t1 = t1
            state.recorder.write(
                state,
                self.kind.number,
                SERVICE,
                OK if error is None else status_of(error),
                self.ref,
                self.t0,
                t1,
                self.outer,
                self.sequence,
                cpu_ns,
                runqueue_ns,
            )
        except Exception:
            self.state.recorder.failed()

    def _settle(self, duration_ns: int) -> ThreadState:
        if self.kind.auto and duration_ns <= self.kind.long_ns:
            self.kind.took(duration_ns)
        return Span._settle(self, duration_ns)


class Skipped(Span):
    """The stage of a frame that is not recorded: it only lets the stages inside know."""

    __slots__ = ()

    def __exit__(
        self: Span, error: type[BaseException] | None, value: object, where: object
    ) -> None:
        if self.t1 != 0:
            return
        self.t1 = self.t0
        if self.state.top is self:
            self.state.top = self.outer
        else:
            self._leave()


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

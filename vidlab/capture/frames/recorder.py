"""The span recorder of one recording: what all of the frame engine writes through."""

from __future__ import annotations

import threading
from asyncio.events import _get_running_loop as running_loop
from collections.abc import Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

from ... import labelsets
from ...clock import now_ns
from ...schema import TABLES, UNKNOWN
from .. import failures
from . import publishing, spans
from .refs import FrameRef
from .sampling import Sampling
from .spans import (
    ClockedSpan,
    Clocks,
    GpuSpan,
    Span,
    StageKind,
    TaskSpan,
    inherited,
    parent_number,
    still_open,
)
from .threadstate import Local, ThreadState, Writer

if TYPE_CHECKING:
    from ..gpu.timing import Timer

_SPANS, _EVENTS = TABLES["spans"].record, TABLES["frame_events"].record
assert _SPANS is not None
assert _EVENTS is not None
_pack_span, _pack_event = _SPANS.struct.pack_into, _EVENTS.struct.pack_into
_EVENT_SIZE = _EVENTS.size

_making = threading.Lock()

#: How many stages can have a name of their own.
_MOST_STAGES = 1 << 16

#: The frame that this thread or task works on, as far as queues and decoders tell.
frame_here: ContextVar[FrameRef | None] = ContextVar("vidlab_frame", default=None)


class Holding(Protocol):
    """What has frames inside."""

    def refs(self) -> list[FrameRef]:
        """Return them."""


class SpanRecorder:
    """Writes spans and frame events of one recording; any thread may call it.

    Parameters
    ----------
    writer : RunWriter
        What the records go to.
    clocks : {"auto", "always", "never"}
        Whether stages read the thread's CPU clock and run-queue wait.
    sampling : Sampling, optional
        The share of frames that is recorded; by default all.

    Attributes
    ----------
    writer : RunWriter
    failures : int
        How often something of the engine itself has failed: the first is a finding.
    """

    def __init__(
        self,
        writer: Writer,
        clocks: Clocks = "auto",
        sampling: Sampling | None = None,
    ) -> None:
        self.writer = writer
        self.sampling = sampling or Sampling({})
        self.local = Local(self)
        self.failures = 0
        self._clocks: Clocks = clocks
        #: Times stages on the GPU; made when one first asks for it.
        self.timer: Timer | None = None
        #: Its stages, by name.
        self.kinds: dict[str, StageKind] = {}

    def kind(self, name: str) -> StageKind:
        """Return the stage of this name, new or known."""
        known = self.kinds.get(name)
        if known is not None:
            return known
        number = self.writer.names.number(str(name))
        kind = StageKind(name, number, self._clocks)
        return kind if len(self.kinds) >= _MOST_STAGES else self.kinds.setdefault(name, kind)

    def span(self, kind: StageKind, ref: FrameRef | None) -> Span:
        """Return a span of this stage, to be entered."""
        state = self.local.state
        if kind.reads_clocks:
            return ClockedSpan(kind, ref, state)
        return (TaskSpan if state.loops else Span)(kind, ref, state)

    def gpu_span(self, kind: StageKind, ref: FrameRef | None) -> GpuSpan:
        """Return a span of this stage that is timed on the GPU too, to be entered."""
        timer = self.timer
        if timer is None:
            from ..gpu.timing import Timer  # most programs do without

            with _making:
                timer = self.timer = self.timer or Timer(self.writer)
        return GpuSpan(kind, ref, self.local.state, timer)

    def start(self) -> None:
        """Begin what goes on beside the program."""

    def close(self) -> None:
        """Write what is still to be written: nothing is recorded any more."""
        if self.timer is not None:
            self.timer.stop()
        publishing.close(self)

    def innermost(self) -> Span | None:
        """Return the innermost open span here."""
        state: ThreadState | None = getattr(self.local, "state", None)
        if state is None:  # a garbage collection while the thread's state is being made
            return inherited.get()
        if state.loops and running_loop() is not None:
            return still_open(inherited.get()) or state.top
        return state.top

    def outermost(self, ref: FrameRef) -> Span | None:
        """Return the outermost span that is open here and of this frame."""
        found = None
        span = self.innermost()
        while span is not None:
            if not span.t1 and span.ref is not None and span.ref.frame == ref.frame:
                found = span
            span = span.outer
        return found

    def emit(
        self,
        stage: int,
        kind: int,
        status: int,
        ref: FrameRef | None,
        t0_ns: int,
        t1_ns: int | None,
        cpu_ns: int = UNKNOWN,
        runqueue_ns: int = UNKNOWN,
        after: Span | None = None,
    ) -> None:
        """Write a span that is over.

        Parameters
        ----------
        stage : int
            The number of the stage's, or queue's, name.
        kind, status : int
            Of `schema.SPAN_KINDS` and `schema.SPAN_STATUSES`.
        ref : FrameRef or None
            Its frame.
        t0_ns, t1_ns : int
            When it began and ended; without an end it ends as it is written.
        cpu_ns, runqueue_ns : int
            The thread's CPU time and run-queue wait in it.
        after : Span, optional
            A wait that began inside this span of the same frame (`outermost`) counts
            from the span's end: until then the span is what the frame's time goes to.
        """
        if ref is not None and not ref.sampled:
            return
        try:
            if after is not None:
                end_ns = now_ns() if t1_ns is None else t1_ns
                t0_ns = max(t0_ns, after.t1 or end_ns)
                if t0_ns >= end_ns:
                    return
            state = self.local.state
            state.sequence = sequence = state.sequence + 1
            around = self.innermost()
            while around is not None and around.t0 > t0_ns:
                around = around.outer  # it was opened later: this is not inside it
            self.write(
                state,
                stage,
                kind,
                status,
                ref,
                t0_ns,
                t1_ns,
                around,
                sequence,
                cpu_ns,
                runqueue_ns,
            )
        except Exception:
            self.failed()

    def write(
        self,
        state: ThreadState,
        stage: int,
        kind: int,
        status: int,
        ref: FrameRef | None,
        t0_ns: int,
        t1_ns: int | None,
        around: Span | None,
        sequence: int,
        cpu_ns: int,
        runqueue_ns: int,
    ) -> int:
        """Write a span with all that is known of it, as `sequence` of the calling thread.

        Without `t1_ns` it ends now, as late as possible. Returns when it ended.
        """
        here = labelsets.current.get()
        frame = parent = 0
        if ref is not None:
            if not ref.sampled:
                return t1_ns or now_ns()
            frame = ref.frame
            if here != ref.labels:
                here = state.merge(ref.labels, here) if here else ref.labels
        if around is not None:
            parent = parent_number(around, frame)
        buffer = state.buffer
        position = buffer.position
        if position == buffer.end:
            position = state.roll()
        buffer.position = position + spans.SIZE
        if t1_ns is None:
            t1_ns = now_ns()
        _pack_span(
            buffer.view,
            position,
            t0_ns,
            t1_ns - t0_ns,
            frame,
            parent,
            cpu_ns,
            runqueue_ns,
            sequence,
            here,
            stage,
            kind,
            status + 1,
        )
        return t1_ns

    def event(
        self,
        ref: FrameRef | int,
        event: int,
        stage: int = 0,
        flags: int = 0,
        picture_type: int = 0,
        t_ns: int | None = None,
        time_base: tuple[int, int] = (0, 0),
    ) -> None:
        """Write a step of a frame (of `schema.FRAME_EVENTS`), or of a stream.

        Parameters
        ----------
        ref : FrameRef or int
            The frame, or the number of any frame of the stream.
        event : int
            Of `schema.FRAME_EVENTS`.
        stage : int
            The number of the decoder's, queue's or sink's name.
        flags, picture_type : int
            `schema.FLAG_KEY` and `FLAG_CORRUPT`; of `schema.PICTURE_TYPES`.
        t_ns : int, optional
            When; by default now.
        time_base : (int, int)
            Numerator and denominator of the unit of pts and dts.
        """
        try:
            state = self.local.state
            labels = labelsets.current.get()
            pts = dts = UNKNOWN
            if isinstance(ref, FrameRef):
                if not ref.sampled:
                    return
                frame = ref.frame
                labels = state.merge(ref.labels, labels)
                pts = UNKNOWN if ref.pts is None else ref.pts
                dts = UNKNOWN if ref.dts is None else ref.dts
            else:
                frame = ref
            buffer = state.events
            position = buffer.position
            if position == buffer.end:
                position = buffer.roll()
            buffer.position = position + _EVENT_SIZE
            _pack_event(
                buffer.view,
                position,
                now_ns() if t_ns is None else t_ns,
                frame,
                pts,
                dts,
                labels,
                frame & 0xFFFFFFFF,
                time_base[0],
                time_base[1],
                stage,
                flags,
                picture_type,
                event + 1,
            )
        except Exception:
            self.failed()

    def stream_began(self, stream: int, nominal_rate: float | None) -> None:
        """Note an input stream by the high bits of its frames' numbers."""

    def holds(self, inside: Holding) -> None:
        """Note a decoder or encoder that frames can be inside."""

    def never_came_out(self, inside: Iterable[FrameRef]) -> None:
        """Note frames that were inside a decoder when it had given out all that it would."""

    def set_current_frame(self, ref: FrameRef | None) -> None:
        """Note that this thread or task now works on this frame.

        It is the frame of stages that are not given one.
        """
        frame_here.set(ref)

    def failed(self) -> None:
        """Count a failure of the engine itself, from within its `except`; report the first."""
        self.failures += 1
        if self.failures == 1:
            failures.report(self.writer, "spans or events")

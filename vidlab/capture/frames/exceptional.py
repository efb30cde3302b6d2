"""Exceptional frames: those that adaptive sampling keeps whole for what became of them.

A frame is noted, in the table `kept_frames`, as soon as it shows:

* **late**: a span of it ended, or a sink took it, later after its demux than its deadline;
  or it waits in a queue, a decoder, an encoder or an open stage for longer than that;
* **failed**: a stage that worked on it ended by an error;
* **corrupt**: it came out of its decoder flagged, or went in and never came out;
* **lost**: a queue evicted it, or the stage that worked on it was cancelled.

A frame that just ends somewhere, that a program leaves aside on purpose, is recorded if it is
its turn. One that is out of sight for longer than the look-back (in a container of the
program's own, or on its way to another process) and turns out late then may be kept in part.

Nothing here is of any cost to recordings that sample in another way: the methods that see
these things are those of classes which only adaptive recordings have.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from ... import labelsets
from ...clock import now_ns
from ...errors import VidlabError
from ...runs.manifest import Manifest
from ...schema import (
    CORRUPT,
    DECODED,
    DELIVERED,
    DEMUXED,
    ERROR,
    EVICTED,
    FAILED,
    FLAG_CORRUPT,
    FLAG_SKIP,
    LATE,
    LOST,
    OK,
    SENT,
    SERVICE,
    TABLES,
)
from . import queues, refs
from .adaptive import Adaptive, AdaptiveSampling, Governor
from .recorder import Holding, SpanRecorder
from .refs import FrameRef
from .spans import Clocks, Span, StageKind
from .threadstate import all_states

if TYPE_CHECKING:
    from ...runs.writer import RunWriter

#: A frame is late beyond this many nominal frame intervals (as `analysis.latency` has it).
INTERVALS = 3

#: The most that the look-back is raised to for streams with few frames a second.
_LONGEST_LOOKBACK_S = 60.0

#: Frames that are looked at in one go: more than that, and it is not known which are late.
_MOST_WAITING = 8192

#: Frames of which it is remembered that they were counted, or that a decoder is to skip them.
_MOST_REMEMBERED = 1 << 14

#: Stages inside each other of one thread that are looked at.
_MOST_NESTED = 64

_RECORD = TABLES["kept_frames"].record
assert _RECORD is not None
_SIZE = _RECORD.size
_pack_into = _RECORD.struct.pack_into


class WatchedSpan(Span):
    """A cheap span that looks, as it ends, whether its frame is late."""

    __slots__ = ()

    def __exit__(self, error: type[BaseException] | None, value: object, where: object) -> None:
        Span.__exit__(self, error, value, where)
        ref = self.ref
        if ref is None:
            return
        recorder: Any = self.state.recorder
        if self.t1 - ref.t_demux_ns > refs.shortest_ns:
            recorder.look_at(ref, self.t1)


class AdaptiveRecorder(SpanRecorder):
    """A recorder that writes all frames, and notes which of them are exceptional.

    Parameters
    ----------
    writer : RunWriter
    clocks : {"auto", "always", "never"}
    settings : Adaptive
    """

    def __init__(self, writer: RunWriter, clocks: Clocks, settings: Adaptive) -> None:
        sampling = AdaptiveSampling(settings.base)
        super().__init__(writer, clocks, sampling)
        self.governor = Governor(writer, settings, sampling)
        self._lookback = writer.lookback
        self._lookback.seconds = settings.lookback_seconds
        self._lookback.look = self.look
        self._deadline_ns = _deadline_of(writer)
        refs.forget_deadlines()
        if self._deadline_ns is not None:
            refs.shortest_ns = self._deadline_ns
            self._expect(self._deadline_ns)
        self._insides: weakref.WeakSet[Holding] = weakref.WeakSet()
        self._skipped: dict[int, None] = {}
        self._failed: dict[int, None] = {}

    def start(self) -> None:
        """Begin to set the share."""
        self.governor.start()

    def close(self) -> None:
        self.governor.stop()
        refs.forget_deadlines()
        super().close()

    # --- what is seen on the way ------------------------------------------------------

    def span(self, kind: StageKind, ref: FrameRef | None) -> Span:
        state = self.local.state
        if kind.reads_clocks or state.loops:
            return super().span(kind, ref)
        return WatchedSpan(kind, ref, state)

    def write(self, *args: Any) -> int:
        t1_ns = super().write(*args)
        _, _, kind, status, ref, *_ = args
        if ref is not None:
            if status != OK and (status == ERROR or kind == SERVICE):
                self._note(ref, FAILED if status == ERROR else LOST)
            elif t1_ns - ref.t_demux_ns > refs.shortest_ns:
                self.look_at(ref, t1_ns)
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
        super().event(ref, event, stage, flags, picture_type, t_ns, time_base)
        if not isinstance(ref, FrameRef):
            return
        try:
            if event == DEMUXED:
                self.governor.born()
            elif event == SENT and flags & FLAG_SKIP:
                _remember(self._skipped, ref.frame)
            elif event == DECODED and flags & FLAG_CORRUPT:
                self._note(ref, CORRUPT)
            elif event == EVICTED:
                self._note(ref, LOST)
            elif event == DELIVERED:
                self.look_at(ref, now_ns() if t_ns is None else t_ns)
        except Exception:
            self.failed()

    def stream_began(self, stream: int, nominal_rate: float | None) -> None:
        if nominal_rate and self._deadline_ns is None:
            deadline_ns = int(INTERVALS * 1e9 / nominal_rate)
            refs.set_deadline(stream, deadline_ns)
            self._expect(deadline_ns)

    def holds(self, inside: Holding) -> None:
        self._insides.add(inside)

    def never_came_out(self, inside: Iterable[FrameRef]) -> None:
        for ref in inside:
            if ref.frame not in self._skipped:
                self._note(ref, CORRUPT)

    # --- what is late -----------------------------------------------------------------

    def look_at(self, ref: FrameRef, t_ns: int) -> None:
        """Note a frame if it is late at this time."""
        try:
            deadline_ns = self._deadline_ns or refs.deadlines.get(ref.frame >> 32)
            if deadline_ns is not None and t_ns - ref.t_demux_ns > deadline_ns:
                self._note(ref, LATE)
        except Exception:
            self.failed()

    def look(self) -> bool:
        """Note frames that are under way and late; return False if there are too many to see."""
        try:
            t_ns = now_ns()
            count = 0
            for ref in islice(self._under_way(), _MOST_WAITING):
                count += 1
                self.look_at(ref, t_ns)
            return count < _MOST_WAITING
        except Exception:
            self.failed()
            return False

    def _under_way(self) -> Iterator[FrameRef]:
        if queues.active is not None:
            yield from queues.active.waiting()
        for inside in list(self._insides):
            for ref in inside.refs():
                if ref.frame not in self._skipped:
                    yield ref
        for state in all_states():
            span = state.top if state.recorder is self else None
            for _ in range(_MOST_NESTED):  # its thread goes on meanwhile
                if span is None:
                    break
                if span.ref is not None and not span.t1:
                    yield span.ref
                span = span.outer

    # --- what is noted ----------------------------------------------------------------

    def _note(self, ref: FrameRef, kept_for: int) -> None:
        """Have a frame kept whole; one that is kept anyway is only counted."""
        if kept_for in (FAILED, CORRUPT) and ref.frame not in self._failed:
            _remember(self._failed, ref.frame)
            self.governor.errors += 1
        if labelsets.get(ref.labels).sample_rate >= 1.0 or not self._lookback.note(ref.frame):
            return
        self.governor.kept += 1
        buffer = self.writer.buffer("kept_frames")
        position = buffer.position
        if position == buffer.end:
            position = buffer.roll()
        buffer.position = position + _SIZE
        _pack_into(buffer.view, position, now_ns(), ref.frame, ref.labels, 0, 0, kept_for + 1)

    def _expect(self, deadline_ns: int) -> None:
        """Have the look-back reach well beyond a deadline."""
        wanted = min(2e-9 * deadline_ns, _LONGEST_LOOKBACK_S)
        self._lookback.seconds = max(self._lookback.seconds, wanted)


def _remember(known: dict[int, None], frame: int) -> None:
    known[frame] = None
    if len(known) > _MOST_REMEMBERED:
        known.clear()


def _deadline_of(writer: RunWriter) -> int | None:
    """The deadline that the recording was given, in nanoseconds; None if it was not."""
    try:
        given = Manifest.read(writer.path).parameters.get("deadline_ms")
        return round(float(given) * 1e6) if given and float(given) > 0 else None
    except (VidlabError, TypeError, ValueError):
        return None

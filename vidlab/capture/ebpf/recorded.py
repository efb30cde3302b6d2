"""The reading side of a session: from its rings and counts into a run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Protocol

from ...errors import InputError
from ...runs.writer import RunWriter
from .. import failures
from ..spanwords import words
from .declaring.layout import Layout
from .declaring.metrics import Histogram
from .declaring.probes import Declaration, Probe, Usdt
from .earlier import Earlier
from .objects import Attachment
from .plan import Member, Plan
from .program.words import COUNTS
from .reading.columns import Columns
from .reading.counters import Counts, bounds
from .reading.counters import Histogram as HistogramMap
from .reading.reader import Reader, Source
from .reading.ring import Ring
from .session import Shared

#: What a hit that is neither under way nor lost has come to.
_ACCOUNTED = ("filtered", "sampled_out", "emitted")


class AnySession(Protocol):
    """What loads and attaches the programs: `session.Session`, or a broker's."""

    @property
    def shared(self) -> Shared: ...
    @property
    def attachments(self) -> list[Attachment]: ...
    @property
    def problems(self) -> list[str]: ...
    @property
    def pending(self) -> list[Member]: ...
    def attach_pending(self) -> list[Attachment]: ...
    def replace(self, number: int, declaration: Declaration) -> None: ...
    def misses(self) -> dict[int, int]: ...
    def detach(self) -> None: ...
    def close(self) -> None: ...


class Recorded:
    """A session whose records go into a run, from now until `close`.

    Parameters
    ----------
    plan : Plan
    session : Session or RemoteSession
        It belongs to this from now on.
    writer : RunWriter
    own : bool
        Whether it is this process's own events: its threads then say which span they
        are in.
    earlier : Earlier, optional
        What was told before, of a session that goes on after this recording.
    """

    def __init__(
        self,
        plan: Plan,
        session: AnySession,
        writer: RunWriter,
        own: bool,
        earlier: Earlier | None = None,
    ) -> None:
        self._plan = plan
        self._session = session
        self._writer = writer
        self._earlier = earlier
        self._pid = os.getpid()
        self._current: dict[int, Declaration] = {
            member.number: member.source
            for member in plan.members
            if isinstance(member.source, Declaration)
        }
        self._said: set[str] = set()
        self._word_failures = words.failures
        self._attached = 0
        with contextlib.ExitStack() as undo:
            undo.callback(session.close)
            shared = session.shared
            self._rings = [
                undo.enter_context(contextlib.closing(_ring(shared, table, layout)))
                for table, layout in plan.layouts.items()
            ]
            self._sources = [
                Source(table, ring, self._sink(layout))
                for (table, layout), ring in zip(plan.layouts.items(), self._rings, strict=True)
            ]
            self._counts = Counts(shared.counts)
            self._metrics = {
                name: earlier.histogram(name, map) if earlier else HistogramMap(map)
                for name, map in shared.metrics.items()
            }
            if earlier is not None:
                self._write_metrics(labelled=False)
            self._reader = Reader(self._sources, lambda table: failures.report(writer, table))
            if own:
                listening = words.listen(self._publish, self._forget)
                undo.callback(listening.close)
            self._reader.start()
            self._undo = undo.pop_all()
        self._tell()

    def refresh(self) -> None:
        """Write the metrics, and attach to libraries that are loaded by now."""
        if self._session.pending and (late := self._session.attach_pending()):
            self._tell_late(late)
        self._tell()
        self._write_metrics()

    def replace(self, old: Declaration, new: Declaration) -> None:
        """Replace a declaration that runs by another: see `KernelEvents.replace`."""
        for number, known in self._current.items():
            if known is old or known.to_json() == old.to_json():
                self._session.replace(number, new)
                self._current[number] = new
                return
        raise InputError(f"{old!r} is not being recorded: replace one that the engine was given")

    def leave(self) -> None:
        """In a forked child: let go of all that is the parent's, which goes on."""
        self._undo.close()

    def close(self) -> None:
        """Take the probes off, read the rest, and write down what was lost."""
        with contextlib.ExitStack() as steps:
            steps.push(self._undo)
            steps.callback(self._finish)
            steps.callback(self._reader.stop)
            if self._earlier is not None:  # programs go on: what they write from now on is left
                for ring in self._rings:
                    steps.callback(ring.end)
            steps.callback(self._session.detach)

    # --- spans ------------------------------------------------------------------------

    def _publish(self, tid: int, address: int) -> None:
        if os.getpid() != self._pid:
            return  # a forked child, whose threads are none of the parent's
        self._session.shared.slots.update(tid.to_bytes(4, "little"), address.to_bytes(8, "little"))

    def _forget(self, tid: int) -> None:
        self._session.shared.slots.delete(tid.to_bytes(4, "little"))

    # --- into the run -----------------------------------------------------------------

    def _sink(self, layout: Layout) -> Callable[[Columns], None]:
        writer, table, number = self._writer, layout.table, self._writer.names.number
        earlier = self._earlier

        def write(columns: Columns) -> None:
            if earlier is not None:
                earlier.forget_names(columns)
            writer.append(table, layout.columns(columns, number))

        return write

    def _write_metrics(self, labelled: bool = True) -> None:
        for name, map in self._metrics.items():
            metric = self._plan.metrics[name]
            gained = map.since_last()
            low, high = bounds(gained.bucket)
            histogram = isinstance(metric, Histogram)
            for i in range(len(gained.counts)):
                self._writer.row(
                    "kernel_metrics",
                    metric=name,
                    kind=metric.KIND,
                    labels=int(gained.labels[i]) if labelled else 0,
                    low=float(low[i]) if histogram else None,
                    high=float(high[i]) if histogram else None,
                    count=int(gained.counts[i]),
                    unit=metric.unit if isinstance(metric, Histogram) else "",
                )

    def _tell(self) -> None:
        """Say once what could not be attached."""
        for problem in self._session.problems:
            if problem not in self._said:
                self._said.add(problem)
                self._writer.finding("probe_not_attached", problem, severity="info", labels=0)

    def _tell_late(self, late: Iterable[Attachment]) -> None:
        libraries = sorted({one.library for one in late})
        self._writer.finding(
            "probe_attached_late",
            f"{', '.join(libraries)} was loaded after the recording had begun: its first calls are "
            "not recorded",
            severity="info",
            labels=0,
            libraries=libraries,
        )

    def _tell_waiting(self) -> None:
        """Say which probes waited for their library to the end; sets have such on any machine."""
        libraries: dict[str, list[str]] = {}
        for member in self._session.pending:
            of = member.declaration
            if isinstance(of, Probe | Usdt) and not member.optional:
                libraries.setdefault(of.library, []).append(of.label)
        for library, functions in libraries.items():
            self._writer.finding(
                "probe_not_attached",
                f"no library {library!r} was loaded by the end of the recording: nothing is "
                f"recorded of {', '.join(functions)}",
                severity="warning",
                labels=0,
                library=library,
            )

    def _finish(self) -> None:
        """Write down what became of all hits."""
        if words.failures > self._word_failures:
            self._writer.finding(
                "recorder_failed",
                f"{words.failures - self._word_failures} threads could not say which span they "
                "are in: their kernel events have none",
                severity="error",
                labels=0,
            )
        self._write_metrics()
        self._tell()
        self._tell_waiting()
        counts = self._counts.read()
        misses = self._session.misses()
        if self._earlier is not None:
            counts, misses = self._earlier.told(counts, misses)
        places: dict[int, list[Attachment]] = {}
        for one in self._session.attachments:
            places.setdefault(one.number, []).append(one)
        lost: dict[str, int] = {}
        for number, attached in places.items():
            known = dict(zip(COUNTS, map(int, counts[number]), strict=True))
            one = attached[0]
            gone = self._gone(known, self._plan.members[number])
            missed = misses.get(number, 0)
            part = self._plan.members[number].attached
            if part is None or part.rows:
                gone += missed
            lost[one.table] = lost.get(one.table, 0) + gone
            self._writer.row(
                "kernel_probes",
                labels=0,
                into=one.table,
                probe=self._plan.members[number].set or one.symbol,
                library=", ".join(dict.fromkeys(place.library for place in attached)),
                symbol=one.symbol,
                how=one.how,
                hits=known["hits"],
                emitted=known["emitted"],
                filtered=known["filtered"],
                sampled_out=known["sampled_out"],
                lost=gone,
                misses=missed,
            )
        for source in self._sources:
            unread = source.failed + source.left
            if unread or lost.get(source.name):
                self._writer.lost(source.name, unread + lost.get(source.name, 0))

    def _gone(self, known: dict[str, int], member: Member) -> int:
        """Return how many hits are lost.

        A call that is under way at the end is lost. Not so what goes on across recordings:
        a wait of a thread, which has no end yet, and what a pin leaves to the next one.
        """
        if self._earlier is not None or member.attached is not None:
            return known["lost_ring"] + known["lost_stash"]
        return max(known["hits"] - sum(known[name] for name in _ACCOUNTED), 0)


def _ring(shared: Shared, table: str, layout: Layout) -> Ring:
    map = shared.rings[table]
    return Ring(map.fd, map.max_entries, layout.dtype, layout.stride)

"""Storing: the samples of a push become rows of `profile_samples`, under vidlab's labels.

Which labels a sample has is told by its tag `vidlab_labels` alone, and by the frame of the
span that it was in: see `tags`. Samples of the threads that vidlab keeps for itself
are stored under the thread "(vidlab)".

A long recording would fill the disk with samples that say the same. Beyond a limit they are
folded: those of the same stack, labels and thread are added up, per minute and without
spans, and calls are told apart by function and not by line.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ... import labelsets
from ...clock import now_ns
from ...formats import pprof
from ...runs.buffers import RecordBuffer
from ...runs.writer import RunWriter
from ...schema import TABLES
from .pushes import PushedProfile
from .tags import IDENT_TAG, LABELS_TAG, NAME_TAG, SPAN_TAG, OfSpan, deepest

_RECORD = TABLES["profile_samples"].record
assert _RECORD is not None
_SIZE = _RECORD.size
_pack_into = _RECORD.struct.pack_into

#: When stored samples and their stacks come to more than this, equal ones are folded.
FOLD_BEYOND_BYTES = 50 << 20

#: How long folded samples are added up.
_FOLDED_NS = 60_000_000_000

#: No profile is of a longer time.
_LONGEST_NS = 3_600_000_000_000

#: A call of a stack takes about so many bytes where stacks are defined.
_CALL_BYTES = 80

#: So many threads have a name of their own: names are numbers that stages need too.
_MOST_THREADS = 1000

_OWN, _OTHERS = "(vidlab)", "(other threads)"

#: The outermost calls of the threads that vidlab keeps for itself: the ends of their files.
_OWN_FILES = ("vidlab/runs/background.py", "vidlab/capture/profiles/receiver.py")

Spans = Callable[[], dict[int, OfSpan]]


class _Whose(NamedTuple):
    """What a sample's tags say: numbers of a label set, span, frame and thread name."""

    labels: int
    span: int
    frame: int
    thread: int


class _Alike(NamedTuple):
    """What folded samples have in common."""

    profile: int
    type: int
    unit: int
    stack: int
    labels: int
    thread: int


class Store:
    """Writes pushed profiles into a run. One thread calls it at a time.

    Parameters
    ----------
    writer : RunWriter
    spans : callable
        Returns what is known of spans by the numbers that tags have.
    fold_beyond_bytes : int
        When to begin to fold.
    clock : callable
        What time it is, in nanoseconds.

    Attributes
    ----------
    folding : bool
        Whether samples are folded by now.
    """

    def __init__(
        self,
        writer: RunWriter,
        spans: Spans,
        fold_beyond_bytes: int = FOLD_BEYOND_BYTES,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self._writer = writer
        self._spans = spans
        self._limit = fold_beyond_bytes
        self._clock = clock
        self._stored_bytes = 0
        self._stacks: dict[pprof.Stack, int] = {}
        self._own: set[int] = set()
        self._threads: dict[str, int] = {}
        self._folded: dict[_Alike, list[int]] = {}
        self._folded_since_ns = 0
        self.folding = False

    def store(self, profiles: list[PushedProfile]) -> int:
        """Store the samples of these profiles; return how many there are.

        A sample has a row for each of its values that is not zero.
        """
        spans = self._spans()
        count = sum(self._store(profile, spans) for profile in profiles)
        if self.folding:
            if self._clock() - self._folded_since_ns >= _FOLDED_NS:
                self.flush()
        elif self._stored_bytes > self._limit:
            self._begin_to_fold()
        return count

    def flush(self) -> None:
        """Write what has been folded so far."""
        until_ns = self._clock()
        since_ns, self._folded_since_ns = self._folded_since_ns, until_ns
        folded, self._folded = self._folded, {}
        if not folded:  # nor is a buffer needed
            return
        buffer = self._writer.buffer("profile_samples")
        for alike, (value, samples) in folded.items():
            whose = _Whose(alike.labels, 0, 0, alike.thread)
            self._write(
                buffer, since_ns, until_ns - since_ns, alike[:3], value, samples, alike.stack, whose
            )

    def _begin_to_fold(self) -> None:
        self.folding = True
        self._folded_since_ns = self._clock()
        self._stacks.clear()  # from now on they are of functions
        self._own.clear()
        self._writer.finding(
            "profiles_folded",
            f"the profiles have come to {self._limit / (1 << 20):,.0f} MiB: from now on samples of "
            "equal stacks, labels and threads are added up per minute, without spans and lines; "
            "a lower sample_rate keeps more of a long recording",
            severity="info",
            labels=labelsets.EMPTY,
            stored_bytes=self._stored_bytes,
        )

    def _store(self, profile: PushedProfile, spans: dict[int, OfSpan]) -> int:
        samples = profile.samples
        if not len(samples.values):
            return 0
        number = self._writer.names.number
        kinds = [(number(profile.name), number(t.type), number(t.unit)) for t in samples.types]
        duration_ns = min(max(samples.duration_nanos, 0), _LONGEST_NS)
        t_ns = _began_ns(samples.time_nanos, duration_ns)
        stacks = self._numbers_of(samples.stacks)
        names = {str(thread.ident): thread.name for thread in threading.enumerate()}
        whose = [self._whose(labels, spans, names) for labels in samples.label_sets]
        is_own = [stack in self._own for stack in stacks]
        own_thread = number(_OWN)
        seen = samples.times_seen()
        rows, columns = np.nonzero(samples.values)
        whole = zip(
            columns.tolist(),
            samples.values[rows, columns].tolist(),
            samples.stack[rows].tolist(),
            samples.label_set[rows].tolist(),
            seen[rows].tolist(),
            strict=True,
        )
        folding, write = self.folding, self._write
        buffer = self._writer.buffer("profile_samples")
        for column, value, stack, label_set, count in whole:
            mine = whose[label_set]
            if is_own[stack]:
                mine = mine._replace(thread=own_thread)
            if folding:
                alike = _Alike(*kinds[column], stacks[stack], mine.labels, mine.thread)
                known = self._folded.setdefault(alike, [0, 0])
                known[0] += value
                known[1] += count
            else:
                write(buffer, t_ns, duration_ns, kinds[column], value, count, stacks[stack], mine)
        return len(samples.values)

    def _write(
        self,
        buffer: RecordBuffer,
        t_ns: int,
        duration_ns: int,
        kind: tuple[int, ...],
        value: int,
        samples: int,
        stack: int,
        whose: _Whose,
    ) -> None:
        position = buffer.position
        if position == buffer.end:
            position = buffer.roll()
        buffer.position = position + _SIZE
        labels, span, frame, thread = whose
        _pack_into(
            *(buffer.view, position, t_ns, duration_ns, value, samples, span, frame),
            *(labels, stack, *kind, thread, 0, 0, 1),
        )
        self._stored_bytes += _SIZE

    def _numbers_of(self, stacks: list[pprof.Stack]) -> list[int]:
        """Return the run's numbers of these stacks, 0 for the empty one."""
        if self.folding:
            plain = [tuple((function, file, 0) for function, file, _ in s) for s in stacks]
            distinct = list(dict.fromkeys(plain))
            number_of = dict(zip(distinct, self._numbered(distinct), strict=True))
            return [number_of[stack] for stack in plain]
        return self._numbered(stacks)

    def _numbered(self, stacks: list[pprof.Stack]) -> list[int]:
        """Return the numbers of distinct stacks."""
        known = self._stacks  # to look up a stack takes a µs or two
        numbers = [known.get(stack, 0) for stack in stacks]
        new = [place for place, number in enumerate(numbers) if not number and stacks[place]]
        if new:
            given = self._writer.stacks([stacks[place] for place in new])
            for place, number in zip(new, given, strict=True):
                stack = stacks[place]
                known[stack] = numbers[place] = number
                self._stored_bytes += _CALL_BYTES * len(stack)
                if stack[-1][1].endswith(_OWN_FILES):
                    self._own.add(number)
        return numbers

    def _whose(
        self, labels: pprof.Labels, spans: dict[int, OfSpan], names: dict[str, str]
    ) -> _Whose:
        sets: list[str] = []
        shown: list[str] = []
        name = ident = ""
        for key, value in labels:
            if key == LABELS_TAG:
                sets.append(str(value))
            elif key == SPAN_TAG:
                shown.append(str(value))
            elif key == NAME_TAG:
                name = str(value)
            elif key == IDENT_TAG:
                ident = str(value)
        own = _labels_known(deepest(sets))
        span = frame = 0
        if shown:
            span = deepest(shown)
            known = spans.get(span)
            if known is not None:
                span, frame, born = known
                if born:
                    own = labelsets.of_frame(born, own)
        return _Whose(own, span, frame, self._thread(name or names.get(ident, "")))

    def _thread(self, name: str) -> int:
        if not name:
            return 0
        known = self._threads.get(name)
        if known is None:
            if len(self._threads) >= _MOST_THREADS:
                return self._writer.names.number(_OTHERS)
            known = self._threads[name] = self._writer.names.number(name)
        return known


def _labels_known(number: int) -> int:
    """Return the number if there is a label set of it, else that of the empty set."""
    try:
        labelsets.get(number)
    except LookupError:
        return labelsets.EMPTY
    return number


def _began_ns(time_nanos: int, duration_nanos: int) -> int:
    """Return the wall-clock time at which a profile began as one of our clock.

    It is one that has just ended; a wall clock that was set meanwhile is not believed.
    """
    now = now_ns()
    ago = time.time_ns() - time_nanos
    if not 0 <= ago - duration_nanos <= 60_000_000_000:
        ago = duration_nanos
    return now - ago

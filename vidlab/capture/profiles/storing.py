"""Storing: the samples of a push become rows of `profile_samples`, under vidlab's labels.

Which labels a sample has is told by its tag `vidlab_labels` alone, and by the frame of the
span that it was in: see `tags`. Samples of the threads that vidlab keeps for itself
are stored under the thread "(vidlab)".

A long recording would fill the disk with samples that say the same. Beyond a limit they are
folded: those of the same stack, labels and thread are added up, per minute and without
spans, and calls are told apart by function and not by line.

A push may bring thousands of stacks that are all new: what is done for each is done by NumPy,
or once per call, label set or stack.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ... import labelsets
from ...clock import now_ns
from ...formats import pprof
from ...runs.writer import RunWriter
from ...schema import TABLES
from ...schema.profiling import OWN_THREADS
from .labeltags import LABELS_TAG
from .pushes import PushedProfile
from .tags import IDENT_TAG, NAME_TAG, SPAN_TAG, OfSpan, deepest

_RECORD = TABLES["profile_samples"].record
assert _RECORD is not None
_DTYPE, _SIZE, _COMMIT = _RECORD.dtype, _RECORD.size, _RECORD.commit

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

_OTHERS = "(other threads)"

#: A thread whose outermost call is in a file of these folders is one that vidlab keeps for
#: itself. A program's threads begin in `threading`, or in the program.
_OWN_FOLDERS = tuple(f"{Path(__file__).parents[2] / name}/" for name in ("runs", "capture"))

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
        #: Numbers of calls; and of stacks, by the numbers of their calls.
        self._calls: dict[pprof.Call, int] = {}
        self._stacks: dict[bytes, int] = {b"": 0}
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
        kinds = list(zip(*folded, strict=True))
        value, samples = zip(*folded.values(), strict=True)
        rows = np.zeros(len(folded), _DTYPE)
        rows["t_ns"], rows["duration_ns"] = since_ns, until_ns - since_ns
        rows["value"], rows["samples"] = value, samples
        for name, column in zip(_Alike._fields, kinds, strict=True):
            rows[name] = column
        self._write(rows)

    def _begin_to_fold(self) -> None:
        self.folding = True
        self._folded_since_ns = self._clock()
        self._stacks = {b"": 0}  # from now on they are of functions
        self._calls.clear()
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
        stacks = self._numbers_of(samples)
        names = {str(thread.ident): thread.name for thread in threading.enumerate()}
        whose = [self._whose(labels, spans, names) for labels in samples.label_sets]
        rows, column = np.nonzero(samples.values)
        found = np.zeros(len(rows), _DTYPE)
        found["t_ns"], found["duration_ns"] = t_ns, duration_ns
        found["value"] = samples.values[rows, column]
        found["samples"] = samples.times_seen()[rows]
        for name, numbers in zip(_Whose._fields, zip(*whose, strict=True), strict=True):
            found[name] = np.array(numbers, _DTYPE[name])[samples.label_set[rows]]
        for name, numbers in zip(_Alike._fields, zip(*kinds, strict=True), strict=False):
            found[name] = np.array(numbers, _DTYPE[name])[column]
        found["stack"] = np.array(stacks, np.uint32)[samples.stack[rows]]
        own = np.array([stack in self._own for stack in stacks])
        found["thread"][own[samples.stack[rows]]] = number(OWN_THREADS)
        if self.folding:
            self._fold(found)
        else:
            self._write(found)
        return len(samples.values)

    def _fold(self, rows: np.ndarray[Any, Any]) -> None:
        """Add rows to those that they are alike."""
        columns = [rows[name].tolist() for name in (*_Alike._fields, "value", "samples")]
        for *alike, value, samples in zip(*columns, strict=True):
            known = self._folded.setdefault(_Alike._make(alike), [0, 0])
            known[0] += value
            known[1] += samples

    def _write(self, rows: np.ndarray[Any, Any]) -> None:
        """Write rows that are not committed yet."""
        buffer = self._writer.buffer("profile_samples")
        self._stored_bytes += _SIZE * len(rows)
        while len(rows):
            position = buffer.position
            if position == buffer.end:
                position = buffer.roll()
            fits = rows[: (buffer.end - position) // _SIZE]
            buffer.position = end = position + _SIZE * len(fits)
            view = buffer.view
            view[position:end] = fits.tobytes()
            np.frombuffer(view, _DTYPE, len(fits), position)[_COMMIT] = 1
            rows = rows[len(fits) :]

    def _numbers_of(self, samples: pprof.Samples) -> list[int]:
        """Return the run's numbers of the stacks of these samples, 0 for the empty one."""
        calls = samples.calls
        if self.folding:
            calls = [(function, file, 0) for function, file, _ in calls]
        known_calls = self._calls
        of_call = [known_calls.setdefault(call, len(known_calls)) for call in calls]
        # To look up thousands of stacks as tuples would take some ms, as bytes it does not.
        flat = np.array(of_call, np.uint32)[samples.stack_calls]
        data, edges = flat.tobytes(), samples.stack_edges.tolist()
        keys = [data[begin:end] for begin, end in pairwise((4 * samples.stack_edges).tolist())]
        known = self._stacks
        new = {key: place for place, key in enumerate(keys) if key not in known}
        if new:
            objects = np.fromiter(calls, np.object_, len(calls))
            flat_calls = objects[samples.stack_calls].tolist()
            stacks = [tuple(flat_calls[edges[n] : edges[n + 1]]) for n in new.values()]
            numbers = self._writer.stacks(stacks)
            known.update(zip(new, numbers, strict=True))
            self._stored_bytes += _CALL_BYTES * sum(map(len, stacks))
            for stack, number in zip(stacks, numbers, strict=True):
                function, file, _ = stack[-1]
                if file.startswith(_OWN_FOLDERS) and function != "<module>":
                    self._own.add(number)
        return [known[key] for key in keys]

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

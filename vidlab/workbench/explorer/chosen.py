"""What is chosen of a run: its frames, or one stage's spans, narrowed step by step.

Each step is kept for a while: who moves a brush back and forth narrows anew only what comes
after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from . import state as states
from .durations import Bools, Durations, Moments, Numbers, Places, Times
from .source import Source
from .stages import Stages

Kept = TypeVar("Kept")

#: Results of each step that are kept. Of a million frames each takes some 30 MB.
_KEPT = 3


class Chosen:
    """Narrows a run's frames to what states choose.

    Parameters
    ----------
    source : Source
    stages : function
        Returns the stages; called when a state chooses one of them.
    """

    def __init__(self, source: Source, stages: Callable[[], Stages]) -> None:
        self._source, self._stages = source, stages
        self._known: dict[str, dict[Any, Any]] = {}

    def groups(self, state: Mapping[str, Any]) -> Bools | None:
        """Return which groups of labels count; None: all."""
        return self._kept(
            "groups", states.of_labels(state), lambda: self._source.groups.chosen(state)
        )

    def times(self, state: Mapping[str, Any]) -> Times | None:
        """Return from when to when, in nanoseconds; None: always."""
        if state["time_s"] is None:
            return None
        begin, end = (self._source.start_ns + round(s * 1e9) for s in state["time_s"])
        return begin, end

    def moments(self, state: Mapping[str, Any]) -> Moments:
        """Return what `timed` does, in the order of time."""
        found = self._kept("moments", _rows(state), lambda: self._moments(state))
        times = self.times(state)
        return found if times is None else found.during(times)

    def every(self, state: Mapping[str, Any]) -> Durations:
        """Return all latencies, or all durations of the stage."""
        stage = state["stage"]
        return self._source.frames if stage is None else self._stages().of(stage)

    def codecs(self, state: Mapping[str, Any]) -> Numbers:
        """Return the codec of each of `every`, as of `Groups.codecs`."""
        numbers = self._source.groups.codecs[0]
        return self._kept("codecs", state["stage"], lambda: numbers.take(self.every(state).group))

    def timed(self, state: Mapping[str, Any]) -> Durations:
        """Return the latencies, or the durations of the stage, of the chosen labels and time."""
        return self._kept(
            "timed", (_rows(state), _key(state["time_s"])), lambda: self._timed(state)
        )

    def boxed(self, state: Mapping[str, Any]) -> Durations:
        """Return those that are of the chosen length as well."""
        if state["latency_ms"] is None:
            return self.timed(state)
        low, high = (round(ms * 1e6) for ms in state["latency_ms"])
        key = (_rows(state), _key(state["time_s"]), low, high)
        return self._kept("boxed", key, lambda: self.timed(state).between(low, high))

    def frames(self, state: Mapping[str, Any]) -> Bools:
        """Return of which frames `boxed` are, by row."""
        boxed = self.boxed(state)
        if state["stage"] is None:
            return boxed.flags
        flags = np.zeros(len(self._source.frames) + 1, bool)
        flags[boxed.frame] = True
        return flags[:-1]  # -1, which is none, is the last

    def beyond(self, state: Mapping[str, Any], place: Callable[[Durations], int]) -> Durations:
        """Return the delivered frames among `boxed` that took as long as the quantile, or longer.

        Parameters
        ----------
        place : function of Durations
            Returns the place of the quantile.
        """
        boxed = self.boxed(state)
        known = boxed if state["stage"] is None else boxed.where(boxed.frame >= 0)
        if not len(known):
            return known
        return known.between(int(known.ns[place(known)]), int(known.ns[-1]))

    def by_stream(self, state: Mapping[str, Any]) -> Places:
        """Return the places of `boxed`, by stream."""
        box = state["latency_ms"]
        key = (_rows(state), _key(state["time_s"]), None if box is None else _key(box))
        return self._kept("by_stream", key, lambda: self._by_stream(self.boxed(state)))

    def _by_stream(self, rows: Durations) -> Places:
        return np.argsort(self._source.groups.streams[0].take(rows.group), kind="stable")

    def _labelled(self, state: Mapping[str, Any]) -> Durations:
        return self._kept("labelled", _rows(state), lambda: self._narrowed(state))

    def _narrowed(self, state: Mapping[str, Any]) -> Durations:
        rows, groups = self.every(state), self.groups(state)
        return rows if groups is None else rows.of_groups(groups)

    def _moments(self, state: Mapping[str, Any]) -> Moments:
        rows, groups = self.every(state).moments, self.groups(state)
        return rows if groups is None else rows.of_groups(groups)

    def _timed(self, state: Mapping[str, Any]) -> Durations:
        rows, times = self._labelled(state), self.times(state)
        if times is None:
            return rows
        return rows.during(times)

    def _kept(self, step: str, key: Any, make: Callable[[], Kept]) -> Kept:
        known = self._known.setdefault(step, {})
        found: Kept = known.pop(key) if key in known else make()
        known[key] = found  # the last one asked for is the last to go
        if len(known) > _KEPT:
            del known[next(iter(known))]
        return found


def _rows(state: Mapping[str, Any]) -> tuple[Any, ...]:
    return (*states.of_labels(state), state["stage"])


def _key(pair: list[float] | None) -> tuple[float, ...] | None:
    return None if pair is None else tuple(pair)

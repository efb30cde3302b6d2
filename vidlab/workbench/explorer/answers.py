"""What the explorer's views show of a run: asked with a state, it answers with tables.

Frames are always counted exactly, and so are the stages of a run of up to `stages.EXACT` spans.
Of a run with more, counts are exact and the percentiles of stages are of histograms, within
1 %; the view says "≈". Their spans are read while the first views are already seen: until
then stages are told by the run's cube.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from ...analysis import appearance
from ...errors import InputError
from ...runs import cube
from ...runs.run import Run
from . import state as states
from .causes import Causes
from .chosen import Chosen
from .later import Later
from .notes import Notes
from .profiled import Profiled
from .signals import Signals
from .source import Source, told
from .stages import EXACT, Stages, from_cube
from .views import BEYOND, Views

#: All views, in the order in which they are read.
VIEWS = tuple(states.DEPENDS)

#: Values of a label that are listed at most.
MOST_OPTIONS = 500

#: Answers of a view that are kept.
_KEPT = 4

#: A run index that is possible is checked by who has several runs.
_ANY = 1 << 30

_NARROWING = ("stream_id", "codec", "gpu", "stage", "time_s", "latency_ms")

#: A larger cube is not quicker than the spans.
_CUBE_BYTES = 16_000_000


class Explored:
    """A run, opened to be explored.

    Parameters
    ----------
    run : Run

    Attributes
    ----------
    source : Source
        The run's labels and frames, as they were when it was read.

    Raises
    ------
    RunError
        If the run is no longer there, or cannot be read.
    """

    def __init__(self, run: Run) -> None:
        self._open(Source(run))

    def _open(self, source: Source) -> None:
        self.source = source
        self._spans = source.count("spans")
        self._later = Later(lambda: Stages(source, exact=self._spans <= EXACT))
        self._chosen = Chosen(source, lambda: self.stages)
        self._views = Views(source, self._chosen)
        self._signals = Signals(source)
        self._profiled = Profiled(source, self._views.beyond)
        self._causes = Causes(source)
        self._notes = Notes(source, exact=self.exact)
        self._known: dict[str, dict[Any, pl.DataFrame]] = {}
        self._cube = self._small_cube()
        views = {"stages": self._stages_of, "beyond": self._beyond}
        parts = (self._views, self._signals, self._profiled, self._causes)
        self._asked: dict[str, Callable[[Mapping[str, Any]], pl.DataFrame]] = views | {
            view: getattr(part, view)
            for view in VIEWS
            for part in parts
            if view not in views and hasattr(part, view)
        }

    @property
    def run(self) -> Run:
        """The run."""
        return self.source.run

    @property
    def exact(self) -> bool:
        """Whether the percentiles of stages are exact; else they are within 1 %."""
        return self._spans <= EXACT

    @property
    def stages(self) -> Stages:
        """The spans by stage; waits until they have been read."""
        return self._later.result()

    @property
    def seconds(self) -> float:
        """How long the run is: from its start to its end, as far as it was read."""
        frames, ended = self.source.frames, self.run.manifest.ended
        moments = [self.source.start_ns] if ended is None else [ended.monotonic_ns]
        if len(frames):
            moments.append(int((frames.t_ns + frames.ns).max()))
        return (max(moments) - self.source.start_ns) / 1e9

    def answers(
        self, state: Mapping[str, Any] | None = None, views: Iterable[str] | None = None
    ) -> dict[str, pl.DataFrame]:
        """Return what these views show.

        Parameters
        ----------
        state : mapping, optional
            See `state.checked`. What is not in the run, such as another run's stream, leaves
            nothing.
        views : iterable of str, optional
            Some of `VIEWS`; by default all.

        Returns
        -------
        dict of str to polars.DataFrame
            Each of at most 4,000 rows. What is no longer there to be read is an error only for
            a view that has not been asked for before.

        Raises
        ------
        InputError
            If the state is not possible, or there is no such view.
        RunError
            If the run is no longer there, or cannot be read.
        """
        whole = states.checked(state, _ANY)
        asked = VIEWS if views is None else tuple(views)
        unknown = [view for view in asked if view not in VIEWS]
        if unknown:
            raise InputError(f"there is no view {unknown[0]!r}: choose among {', '.join(VIEWS)}")
        self._check_stage(whole)
        return {view: self._answer(view, whole) for view in asked}

    def ahead(self) -> None:
        """Begin with what is likely to be asked next, in threads: once answers have been seen.

        Sooner it would keep the page waiting, which needs a CPU to draw them.
        """
        self._later.begin()
        if self._causes.told:
            self._causes.begin()

    def options(self, state: Mapping[str, Any] | None = None) -> dict[str, list[Any]]:
        """Return what can be chosen of each label, and of the stages.

        Of more than `MOST_OPTIONS` streams those with most late frames; others can be chosen
        all the same.
        """
        whole = {**states.checked(state, _ANY), **dict.fromkeys(_NARROWING)}
        table = self.source.groups.table
        known = table[np.unique(self.source.frames.group).tolist()]
        streams = known["stream_id"].drop_nulls().unique()
        if streams.len() > MOST_OPTIONS:
            by_stream = self._views.by_stream(whole)["stream_id"]
            streams = by_stream.drop_nulls().unique(maintain_order=True).head(MOST_OPTIONS)
        return {
            "stream_id": appearance.natural(streams.to_list()),
            "codec": appearance.natural(known["codec"].drop_nulls().unique().to_list()),
            "gpu": known["gpu"].drop_nulls().unique().sort().to_list(),
            "stage": self._stage_names(),
        }

    def notes(
        self, state: Mapping[str, Any] | None = None, views: Iterable[str] | None = None
    ) -> dict[str, str]:
        """Return what has to be said beside these views; a view without a note is left out."""
        return self._notes.of(states.checked(state, _ANY), VIEWS if views is None else views)

    @property
    def grown(self) -> bool:
        """Whether there is more of the run than was read: a look at its files' sizes."""
        return self.source.grown

    def refresh(self) -> str:
        """Read the run again, and return in words up to where.

        Raises
        ------
        RunError
            If the run is no longer there, or cannot be read: what was read before stays.
        """
        with told(self.run):
            source = Source(Run(self.run.path))
        self._open(source)
        frames = len(source.frames)
        told_ = f"{frames:,} {'frame' if frames == 1 else 'frames'} up to {self.seconds:,.1f} s"
        return told_ + ("; the run is still being recorded" * source.live)

    def _answer(self, view: str, state: Mapping[str, Any]) -> pl.DataFrame:
        known = self._known.setdefault(view, {})
        key = states.key(view, state)
        found = known.pop(key) if key in known else self._asked[view](state)
        known[key] = found  # the last one asked for is the last to go
        if len(known) > _KEPT:
            del known[next(iter(known))]
        return found

    def _stages_of(self, state: Mapping[str, Any]) -> pl.DataFrame:
        """The view `stages`: `stage`, `kind`, `row`, `median_ms`, `quantile_ms`, `count`."""
        whole = state["time_s"] is None and state["latency_ms"] is None
        if self._cube is not None and whole and not self._later.ready:
            chosen = [
                pl.col(name).cast(pl.String) == str(state[name])
                for name in states.LABELS
                if state[name] is not None
            ]
            part = self._cube.filter(chosen) if chosen else self._cube
            found = from_cube(part, state["quantile"])
        else:
            frames = times = None
            if state["latency_ms"] is None:
                times = self._chosen.times(state)
            else:
                frames = self._chosen.frames(state)
            found = self.stages.percentiles(
                state["quantile"], self._chosen.groups(state), times, frames
            )
        return found.select(
            "stage",
            "kind",
            "row",
            median_ms=pl.col("median_ns") / 1e6,
            quantile_ms=pl.col("quantile_ns") / 1e6,
            count="count",
        )

    def _beyond(self, state: Mapping[str, Any]) -> pl.DataFrame:
        """The view `beyond`: see `Causes.of`."""
        points = self._views.points(self._views.beyond(state).last(BEYOND), state)
        return self._causes.of(points)

    def _stage_names(self) -> list[str]:
        if self._cube is None or self._later.ready:
            return self.stages.table["row"].to_list()
        return from_cube(self._cube, 0.5).sort("stage", "kind")["row"].to_list()

    def _check_stage(self, state: Mapping[str, Any]) -> None:
        stage = state["stage"]
        if stage is not None and stage not in (names := self._stage_names()):
            raise InputError(
                f"the run has no stage {stage!r}: choose among {', '.join(names) or 'none'}"
            )

    def _small_cube(self) -> pl.DataFrame | None:
        """The run's cube, if it tells stages sooner than the spans do."""
        path = self.run.path / cube.FILE_NAME
        with told(self.run):
            if self.exact or not self.run.compacted or not path.exists():
                return None
            return self.run.cube() if path.stat().st_size < _CUBE_BYTES else None

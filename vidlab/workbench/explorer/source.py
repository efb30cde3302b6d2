"""A run, as the explorer keeps it in memory: its labels and its frames, and its tables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import polars as pl

from ...analysis import latency, tables
from ...errors import RunError
from ...runs.run import Run
from . import durations
from .durations import Bools, Durations, Ints
from .groups import Groups

#: What stands for a frame without a deadline: no latency is beyond it.
_NEVER = np.iinfo(np.int64).max


class Source:
    """A run's labels and delivered frames, read at once, and its other tables.

    Parameters
    ----------
    run : Run

    Attributes
    ----------
    run : Run
    start_ns : int
        When the recording started: from there seconds are counted.
    groups : Groups
    frames : Durations
        The latencies of the delivered frames, and when their packets were read. A frame's row
        is its place here: the quickest has the first.
    frame_ids : ndarray of uint64
        The number of each of these frames.

    Raises
    ------
    RunError
        If the run is no longer there, or cannot be read.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._read: dict[str, pl.DataFrame] = {}
        self._deadlines: dict[float | None, tuple[Ints, Bools]] = {}
        self._late: dict[float | None, Bools] = {}
        self.files = _files(run)
        with told(run):
            self.start_ns = run.manifest.started.monotonic_ns
            self.groups = Groups(run.scan("labels").collect())
            self.live = run.live
            columns = ("frame", "labels", "t_demux_ns", "end_to_end_ns")
            scanned = tables.delivered(run.scan("frames"), ("frame", "labels"))
            found = scanned.select(columns).collect()
        ids = found["frame"].to_numpy()
        if (ids[1:] < ids[:-1]).any():  # they are ascending where streams are opened by name
            found = found.sort("frame", maintain_order=True)
            ids = found["frame"].to_numpy()
        self._ids = ids
        group, ns = self.groups.of(found["labels"]), found["end_to_end_ns"].to_numpy()
        self._present = np.flatnonzero(np.bincount(group, minlength=len(self.groups)))
        order = durations.ascending(ns)
        self.frame_ids = ids.take(order)
        self._row_of_id = np.empty(len(ids), np.int32)
        self._row_of_id[order] = np.arange(len(ids), dtype=np.int32)
        t_ns = found["t_demux_ns"].to_numpy()
        self.frames = Durations.of(t_ns, ns, group, self._row_of_id, order)

    @property
    def grown(self) -> bool:
        """Whether the run's files are others, or larger, than when it was read."""
        return _files(self.run) != self.files

    def count(self, table: str) -> int:
        """Return how many rows a table has; 0 if the run lacks it."""
        with told(self.run):
            facts = self.run.manifest.tables.get(table) if self.run.compacted else None
            if facts is not None:
                return facts.rows
            if table not in self.run.tables():
                return 0
            return int(self.run.scan(table).select(pl.len()).collect().item())

    def table(self, name: str) -> pl.DataFrame:
        """Return a whole table, read once; without rows if the run lacks it."""
        if name not in self._read:
            has_it = self.count(name) > 0
            with told(self.run):
                self._read[name] = self.run.scan(name).collect() if has_it else pl.DataFrame()
        return self._read[name]

    def scan(self, name: str) -> pl.LazyFrame:
        """Return a table that is read anew each time; see `told`."""
        with told(self.run):
            return self.run.scan(name)

    def deadlines(self, deadline_ms: float | None) -> tuple[Ints, Bools]:
        """Return the deadline of each group's frames in nanoseconds, and whether they have one.

        It is `deadline_ms`, else the run's own, else three nominal frame intervals of the
        stream (`analysis.latency.late`).
        """
        if deadline_ms not in self._deadlines:
            self._deadlines = {deadline_ms: self._deadlines_by(deadline_ms)}
        return self._deadlines[deadline_ms]

    def dated(self, deadline_ms: float | None) -> bool:
        """Return whether any of the frames has a deadline."""
        return bool(self.deadlines(deadline_ms)[1][self._present].any())

    def _deadlines_by(self, deadline_ms: float | None) -> tuple[Ints, Bools]:
        chosen = deadline_ms or self.run.manifest.parameters.get("deadline_ms")
        if chosen is not None:
            return np.full(len(self.groups), round(chosen * 1e6)), np.ones(len(self.groups), bool)
        streams = self.table("streams")
        if not streams.height:
            return np.full(len(self.groups), _NEVER), np.zeros(len(self.groups), bool)
        rates = tables.nominal_rates(streams).collect()
        interval = (latency.INTERVALS * 1e9 / pl.col("nominal_rate")).round().cast(pl.Int64)
        known = self.groups.table.join(
            rates.select("stream_id", interval.alias("deadline_ns")),
            on="stream_id", how="left", maintain_order="left",
        )["deadline_ns"]  # fmt: skip
        return known.fill_null(_NEVER).to_numpy(), known.is_not_null().to_numpy()

    def late(self, deadline_ms: float | None) -> Bools:
        """Return which frames were late, by their row; the last is for -1, which is none."""
        if deadline_ms not in self._late:
            deadlines = self.deadlines(deadline_ms)[0].take(self.frames.group)
            self._late = {deadline_ms: np.append(self.frames.ns > deadlines, False)}
        return self._late[deadline_ms]

    def began(self, frame: int) -> int | None:
        """Return when the packet of a frame was read, delivered or not; None if there is none."""
        with told(self.run):
            found = self.run.scan("frames").filter(pl.col("frame") == frame)
            times = found.select("t_demux_ns").collect()["t_demux_ns"]
        return times[0] if times.len() else None

    def rows_of(self, frames: pl.Series) -> npt.NDArray[np.int32]:
        """Return the row of each of these frames; -1 if it was not delivered."""
        if not len(self._ids):
            return np.full(len(frames), -1, np.int32)
        numbers = frames.fill_null(0).to_numpy()
        place = np.minimum(np.searchsorted(self._ids, numbers), len(self._ids) - 1)
        return np.where(self._ids.take(place) == numbers, self._row_of_id.take(place), np.int32(-1))


@contextmanager
def told(run: Run) -> Iterator[None]:
    """Say in words what is wrong when a run is read that is no longer there, or damaged."""
    if not (run.path / "manifest.json").exists():
        raise _gone(run)
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        if not (run.path / "manifest.json").exists():
            raise _gone(run) from error
        raise RunError(
            f"{run.path} cannot be read ({error}): 'vidlab verify {run.path}' says what is wrong"
        ) from error


def _gone(run: Run) -> RunError:
    return RunError(
        f"the run {run.path} is no longer there, or is no run any more: it was deleted or moved "
        "while it was explored; open it where it is now"
    )


def _files(run: Run) -> frozenset[tuple[str, int]]:
    """The files of a run with their sizes: a cheap look at whether there is more."""
    found = set()
    for folder in (run.path, run.path / "segments"):
        try:
            with os.scandir(folder) as entries:
                found |= {(entry.path, entry.stat().st_size) for entry in entries}
        except OSError:
            continue
    return frozenset(found)

"""The views of frames and stages: each answers for a state, with a table that is ready to draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from . import durations, pictures
from .chosen import Chosen
from .durations import Bools, Durations, Floats, Places
from .source import Source

#: Parts of time of the heatmap, and cells in all.
_TIME_BINS, _CELLS = 60, 1_500

#: Parts of time of the overview.
_OVERVIEW_BINS = 120

#: Points that can be clicked: the worst few of each of so many parts of time.
_WORST_BINS, _WORST_EACH = 75, 4

#: Frames at or beyond the quantile, and streams, that are listed.
BEYOND, STREAMS = 50, 40

State = Mapping[str, Any]

_TAIL = {"codec": pl.String, "value_ms": pl.Float64, "longer": pl.Float64}


class Views:
    """The views of durations: of whole frames, or of the stage that a state chooses.

    Parameters
    ----------
    source : Source
    chosen : Chosen
    """

    def __init__(self, source: Source, chosen: Chosen) -> None:
        self._source, self._chosen = source, chosen
        self._groups = source.groups

    def overview(self, state: State) -> pl.DataFrame:
        """Return how many frames were read when, and how many of them were late: all the run.

        Returns
        -------
        polars.DataFrame
            `t_s`, `t_end_s`, `frames`, `late`.
        """
        rows = self._chosen.frames(state)
        start, width = durations.time_bin(rows.t_ns, _OVERVIEW_BINS)
        bin_ = durations.bin_of(rows.t_ns, start, width)
        late = np.flatnonzero(self._late(rows, {**state, "stage": None}))
        weights, each = self._groups.weights(rows.group)
        lates = None if weights is None else weights[late]
        frames = np.bincount(bin_, weights, _OVERVIEW_BINS) * each
        late_frames = np.bincount(bin_[late], lates, _OVERVIEW_BINS) * each
        used = np.flatnonzero(frames)
        return pl.DataFrame(
            {
                "t_s": self._seconds(start + used * width),
                "t_end_s": self._seconds(start + (used + 1) * width),
                "frames": np.rint(frames[used]).astype(np.int64),
                "late": np.rint(late_frames[used]).astype(np.int64),
            }
        )

    def latency(self, state: State) -> pl.DataFrame:
        """Return the heatmap: `t_s`, `t_end_s`, `low_ms`, `high_ms`, `frames`; as `over_time`."""
        rows = self._chosen.timed(state)
        cells = pictures.heatmap(rows, *self._groups.weights(rows.group), _TIME_BINS, _CELLS)
        return cells.select(
            t_s=self._seconds(pl.col("t_ns")),
            t_end_s=self._seconds(pl.col("t_end_ns")),
            low_ms=pl.col("low_ns") / 1e6,
            high_ms=pl.col("high_ns") / 1e6,
            frames=pl.col("count"),
        )

    def worst(self, state: State) -> pl.DataFrame:
        """Return the frames that took longest, of each part of time a few: points to click.

        Returns
        -------
        polars.DataFrame
            `t_s`, `latency_ms`, `frame` (its number as text), `stream_id`, `codec`, `late`; the
            longest first.
        """
        boxed = self._chosen.boxed(state)
        known = boxed if state["stage"] is None else boxed.where(boxed.frame >= 0)
        start, width = durations.time_bin(known.t_ns, _WORST_BINS)
        bin_ = durations.bin_of(known.t_ns, start, width)
        return self.points(known.at(pictures.worst_of_bins(bin_, _WORST_EACH)), state)

    def points(self, rows: Durations, state: State) -> pl.DataFrame:
        """Return the frames of these rows, as `worst` does."""
        labels = self._groups.table[rows.group.tolist()]
        return pl.DataFrame(
            {
                "t_s": self._seconds(rows.t_ns),
                "latency_ms": rows.ns / 1e6,
                "frame": pl.Series(self._source.frame_ids[rows.frame]).cast(pl.String),
                "stream_id": labels["stream_id"],
                "codec": labels["codec"],
                "late": self._late(rows, state),
            }
        ).reverse()

    def tail(self, state: State) -> pl.DataFrame:
        """Return which share took how long, or longer: `codec`, `value_ms`, `longer`."""
        rows = self._chosen.timed(state)
        codec_of, names = self._groups.codecs
        codec = codec_of.take(rows.group)
        weights = self._weights(rows)
        parts = []
        for number in np.flatnonzero(np.bincount(codec)):
            mine = np.flatnonzero(codec == number)
            values, longer = pictures.tail(
                rows.ns[mine], None if weights is None else weights[mine]
            )
            named = pl.lit(names[number]).alias("codec")
            parts.append(pl.DataFrame({"value_ms": values / 1e6, "longer": longer}).select(
                named, "value_ms", "longer"
            ))  # fmt: skip
        return pl.concat([pl.DataFrame(schema=_TAIL), *parts])

    def streams(self, state: State) -> pl.DataFrame:
        """Return the streams with most late frames: see `by_stream`."""
        return self.by_stream(state).head(STREAMS)

    def by_stream(self, state: State) -> pl.DataFrame:
        """Return how many frames of each stream were late, and how long they took.

        Returns
        -------
        polars.DataFrame
            `stream_id`, `codec`, `frames`, `late`, `late_share` (of those with a deadline; null
            if there are none) and `quantile_ms`; most late ones first.
        """
        rows, order = self._chosen.boxed(state), self._chosen.by_stream(state)
        stream_of, names = self._groups.streams
        stream = stream_of.take(rows.group)
        weights, each = self._groups.weights(rows.group)
        _, dated = self._source.deadlines(state["deadline_ms"])
        found = np.bincount(stream, minlength=names.height)
        used = np.flatnonzero(found)

        def summed(places: Places | None) -> Floats:
            if places is None:
                sums = found if weights is None else np.bincount(stream, weights, len(found))
            else:
                some = None if weights is None else weights[places]
                sums = np.bincount(stream[places], some, len(found))
            return np.asarray(sums[used] * each)

        frames = summed(None)
        lates = summed(np.flatnonzero(self._late(rows, state)))
        with_deadline = frames if dated.all() else summed(np.flatnonzero(dated[rows.group]))
        places = durations.ranks_of_groups(
            found[used], None if weights is None else weights[order], state["quantile"]
        )
        share = np.divide(
            lates, with_deadline, out=np.full(len(used), np.nan), where=with_deadline > 0
        )
        return (
            names[used.tolist()]
            .with_columns(
                frames=np.rint(frames).astype(np.int64),
                late=np.rint(lates).astype(np.int64),
                late_share=pl.Series(share, nan_to_null=True),
                quantile_ms=rows.ns[order[places]] / 1e6,
            )
            .sort("late", "quantile_ms", "stream_id", descending=[True, True, False])
        )

    def beyond(self, state: State) -> Durations:
        """Return the delivered frames that took as long as the quantile, or longer."""
        return self._chosen.beyond(
            state,
            lambda rows: durations.rank(len(rows), self._weights(rows), state["quantile"]),
        )

    def _weights(self, rows: Durations) -> Floats | None:
        return self._groups.weights(rows.group)[0]

    def _late(self, rows: Durations, state: State) -> Bools:
        """Return of each row whether its frame was late; what is no delivered frame was not."""
        deadlines = self._source.deadlines(state["deadline_ms"])[0]
        if state["stage"] is None:
            return rows.ns > deadlines.take(rows.group)
        return self._source.late(rows.frame, deadlines)

    def _seconds(self, t_ns: Any) -> Any:
        return (t_ns - self._source.start_ns) / 1e9

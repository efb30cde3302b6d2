"""The views of frames and stages: each answers for a state, with a table that is ready to draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from . import pictures, ranks
from .chosen import Chosen
from .durations import Bools, Durations, Floats, Ints, Places
from .flagged import Flagged
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
        rows = self._chosen.moments({**state, "stage": None, "time_s": None})
        start, width, ends = rows.bins(_OVERVIEW_BINS)
        late = np.flatnonzero(self._source.late(state["deadline_ms"]).take(rows.place))
        weights, each = self._groups.weights(rows.group)
        if weights is None:
            frames, late_frames = np.diff(ends), np.diff(np.searchsorted(late, ends))
        else:
            bin_ = np.repeat(np.arange(_OVERVIEW_BINS), np.diff(ends))
            frames = np.bincount(bin_, weights, _OVERVIEW_BINS)
            late_frames = np.bincount(bin_[late], weights[late], _OVERVIEW_BINS)
        used = np.flatnonzero(frames)
        return pl.DataFrame(
            {
                "t_s": self._seconds(start + used * width),
                "t_end_s": self._seconds(start + (used + 1) * width),
                "frames": np.rint(frames[used] * each).astype(np.int64),
                "late": np.rint(late_frames[used] * each).astype(np.int64),
            }
        )

    def latency(self, state: State) -> pl.DataFrame:
        """Return the heatmap: `t_s`, `t_end_s`, `low_ms`, `high_ms`, `frames`; as `over_time`."""
        rows = self._chosen.moments(state)
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
        rows = self._chosen.boxed(state)
        if state["latency_ms"] is None:
            ends = self._chosen.moments(state).of_frames()
        else:
            ends = rows.t_ns if state["stage"] is None else rows.t_ns[rows.frame >= 0]
        return self.points(pictures.worst_of_bins(rows, ends, _WORST_BINS, _WORST_EACH), state)

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
        every, codec = self._chosen.every(state), self._chosen.codecs(state)
        found: list[tuple[str, Ints, Floats]] = []
        for number, name in enumerate(self._groups.codecs[1]):
            is_mine = codec == number
            if not rows.is_all:
                is_mine &= rows.flags
            mine = Flagged(is_mine)
            if not len(mine):
                continue
            weights = None
            if self._groups.several_rates:
                weights = self._groups.weights(every.group[is_mine])[0]
            found.append((name, *pictures.tail(every.ns, mine, weights)))
        # By hand: an expression of polars takes longer to set up than these few rows take.
        return pl.DataFrame(
            {
                "codec": [name for name, values, _ in found for _ in values],
                "value_ms": np.concatenate([np.empty(0), *(values for _, values, _ in found)])
                / 1e6,
                "longer": np.concatenate([np.empty(0), *(longer for _, _, longer in found)]),
            },
            schema=_TAIL,
        )

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
        by_group = np.bincount(rows.group, minlength=len(self._groups))
        found = np.bincount(stream_of, by_group, names.height).astype(np.intp)
        used = np.flatnonzero(found)

        def summed(counts: Places) -> Floats:  # of groups
            sums = np.bincount(stream_of, counts / self._groups.rates, names.height)
            return np.asarray(sums[used], np.float64)

        late = rows.group[self._late(rows, state)]
        lates = summed(np.bincount(late, minlength=len(by_group)))
        with_deadline = summed(by_group * self._source.deadlines(state["deadline_ms"])[1])
        weights = self._weights(rows)
        places = ranks.ranks_of_groups(
            found[used], None if weights is None else weights[order], state["quantile"]
        )
        share = np.divide(
            lates, with_deadline, out=np.full(len(used), np.nan), where=with_deadline > 0
        )
        return (
            names[used.tolist()]
            .with_columns(
                frames=np.rint(summed(by_group)).astype(np.int64),
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
            lambda rows: ranks.rank(len(rows), self._weights(rows), state["quantile"]),
        )

    def _weights(self, rows: Durations) -> Floats | None:
        """Return how many each row stands for; None if all stand for equally many."""
        return self._groups.weights(rows.group)[0] if self._groups.several_rates else None

    def _late(self, rows: Durations, state: State) -> Bools:
        """Return of each row whether its frame was late; what is no delivered frame was not."""
        return self._source.late(state["deadline_ms"]).take(rows.frame)

    def _seconds(self, t_ns: Any) -> Any:
        return (t_ns - self._source.start_ns) / 1e9

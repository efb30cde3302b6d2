"""A part of a run: the tables of one stream, codec or GPU, and the deadline of its frames."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import polars as pl

from ..analysis import latency, sampling
from ..runs.run import Run

#: What a table that is no longer there when a run is finished was derived into.
_MADE_OF = {"frames": ("frames", "frame_events")}

#: Tables whose rows are about a whole process, or a stream that was opened: labels that
#: follow a frame don't narrow them.
_WHOLE = {
    **dict.fromkeys(
        ("gc_pauses", "host_allocations", "loop_delays", "objects", "runtime_metrics", "tasks"), ()
    ),
    **dict.fromkeys(("thread_waits", "threads", "wakeups"), ()),
    "streams": ("stream_id", "codec"),
}


@dataclass(frozen=True)
class Slice:
    """A run, narrowed to a stream, a codec and a GPU; None narrows nothing.

    Attributes
    ----------
    run : Run
    stream_id, codec, gpu
        Of which frames.
    deadline_ms : float or None
        A frame is late beyond this latency; None: the run's own deadline, and if it has
        none, three nominal frame intervals.
    """

    run: Run
    stream_id: str | None = None
    codec: str | None = None
    gpu: int | None = None
    deadline_ms: float | None = None

    @property
    def deadline(self) -> float | None:
        """The one deadline of all frames in milliseconds; None if each stream has its own."""
        return self.deadline_ms or self.run.manifest.parameters.get("deadline_ms")

    @property
    def start_ns(self) -> int:
        """When the recording started."""
        return self.run.manifest.started.monotonic_ns

    def window_s(self, bins: int) -> float:
        """Return the length of windows of which about `bins` cover the run: a second at least."""
        ended = self.run.manifest.ended
        if ended is None:  # it goes on, or was killed
            last = self.run.scan("frames").select(pl.col("t_demux_ns").max()).collect().item()
            seconds = ((last or self.start_ns) - self.start_ns) / 1e9
        else:
            seconds = (ended.monotonic_ns - self.start_ns) / 1e9
        return max(1.0, seconds / bins)

    def scan(self, table: str) -> pl.LazyFrame:
        """Return the rows of this table that belong to the slice."""
        labels = {"stream_id": self.stream_id, "codec": self.codec, "gpu": self.gpu}
        narrowing = _WHOLE.get(table, tuple(labels))
        chosen = [
            pl.col(label).cast(pl.String) == str(value)
            for label, value in labels.items()
            if value is not None and label in narrowing
        ]
        rows = self.run.scan(table)
        return rows.filter(chosen) if chosen else rows

    def late_frames(self) -> pl.DataFrame:
        """Return the delivered frames and whether each was late (`analysis.latency.late`)."""
        return latency.late(self.scan("frames"), self.scan("streams"), self.deadline)

    def lost(self, *tables: str) -> sampling.Gaps:
        """Return how many rows of these tables were lost while recording, in the whole run.

        If only a sample of them was recorded, it says so too.
        """
        parts = [part for table in tables for part in _MADE_OF.get(table, (table,))]
        gone = sum(self.run.losses.get(part, {}).get("lost", 0) for part in parts)
        return sampling.Gaps(gone, self.sampled if {"frames", "spans"} & set(tables) else "")

    def losses(self) -> list[str]:
        """Return what was lost while recording, in the whole run: a line a table."""
        return [
            f"lost while recording: {counts['lost']:,} of {table}"
            for table, counts in self.run.losses.items()
            if counts.get("lost")
        ]

    @cached_property
    def sampled(self) -> str:
        """What has to be said if only a sample of its frames was recorded, else ''."""
        return sampling.sentence(self.scan("frames"), self.run.scan("sampling_decisions"))

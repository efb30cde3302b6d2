"""What made single frames late: the worst cause of each, and one frame's waterfall."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from ...analysis import blame, latency
from ...analysis.causewords import CAUSE_WORDS
from .later import Later
from .source import Source, told
from .stages import EXACT

#: Late frames of which the worst cause is found out at most, those that took longest.
_FRAMES = 20_000

#: Parts of a waterfall at most.
_MOST = 1_500

State = Mapping[str, Any]

_PARTS = {
    "t_ns": pl.Int64, "duration_ns": pl.Int64, "stage": pl.String, "within": pl.String,
    "kind": pl.String, "cause": pl.String, "exact": pl.Boolean, "pid": pl.Int32, "tid": pl.Int32,
    "span": pl.UInt64, "evidence": pl.String, "from_ms": pl.Float64, "to_ms": pl.Float64,
}  # fmt: skip


class Causes:
    """Why frames took as long as they did.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._worst = Later(self._found)
        #: Whether the worst causes of many frames are told; those of a large run take too long.
        self.told = source.count("spans") <= EXACT

    def begin(self) -> None:
        """Begin to find out the worst causes."""
        self._worst.begin()

    def of(self, points: pl.DataFrame) -> pl.DataFrame:
        """Return frames with the cause that is most to blame for each.

        Parameters
        ----------
        points : polars.DataFrame
            As of `Views.points`.

        Returns
        -------
        polars.DataFrame
            `frame`, `t_s`, `latency_ms`, `stream_id`, `codec`, `worst_cause` (its stage
            and the cause, in words; null if the frame was not late by the run's own deadline, or
            it is not told).
        """
        if self.told:
            worst = self._worst.result()
            points = points.join(worst, on="frame", how="left", maintain_order="left")
        else:
            points = points.with_columns(pl.lit(None, pl.String).alias("worst_cause"))
        return points.select("frame", "t_s", "latency_ms", "stream_id", "codec", "worst_cause")

    def waterfall(self, state: State) -> pl.DataFrame:
        """Return the chosen frame's life in parts.

        Returns
        -------
        polars.DataFrame
            As of `analysis.blame.waterfall`, with `from_ms` and `to_ms`, since its packet was
            read.
        """
        frame = state["frame"]
        if frame is None or self._source.began(frame) is None:
            return pl.DataFrame(schema=_PARTS)
        with told(self._source.run):
            parts = blame.waterfall(self._source.run, frame)
        begin = (pl.col("t_ns") - pl.col("t_ns").min()) / 1e6
        return parts.with_columns(from_ms=begin, to_ms=begin + pl.col("duration_ns") / 1e6).head(
            _MOST
        )

    def _found(self) -> pl.DataFrame:
        """`frame` (as text) and `worst_cause` of the late frames."""
        run = self._source.run
        streams = self._source.table("streams")
        deadline = run.manifest.parameters.get("deadline_ms")
        schema = {"frame": pl.String, "worst_cause": pl.String}
        if deadline is None and not streams.height:
            return pl.DataFrame(schema=schema)
        with told(run):
            frames = latency.late(run.scan("frames"), streams.lazy(), deadline)
            worst = frames.filter("late").sort("end_to_end_ns", "frame", descending=True)
            baseline = blame.typical(run, frames)
            blamed = blame.per_frame(run, worst.head(_FRAMES), baseline)
        first = blamed.filter(pl.col("rank") == 1, pl.col("blamed_ns") > 0)
        stage, cause = (pl.col(name).cast(pl.String) for name in ("stage", "cause"))
        return first.select(
            pl.col("frame").cast(pl.String),
            worst_cause=stage + " · " + cause.replace(CAUSE_WORDS),
        )

"""Time in frames: how many frames of its stream had come at a moment.

What a pipeline holds grows with the frames that it has worked on, whatever their rate and
however long it stood still in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from . import tables
from .tables import AnyTable

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Clock:
    """The frames of a stream.

    Attributes
    ----------
    t_ns : ndarray of int64
        When each came, in order.
    counts : ndarray of float64
        How many had come by then, this one included; a recorded frame of a sampled stream
        counts for those that it stands for.
    """

    t_ns: Ints
    counts: Floats

    @property
    def total(self) -> float:
        """How many frames there are."""
        return float(self.counts[-1]) if self.counts.size else 0.0

    def at(self, t_ns: Ints) -> Floats:
        """Return how many frames had come at these moments, before the first one 0."""
        came = np.searchsorted(self.t_ns, t_ns, side="right")
        return np.concatenate([[0.0], self.counts])[came]

    @classmethod
    def of(cls, moments: pl.DataFrame) -> Clock:
        """Make it of the columns `t_ns` and `WEIGHT`."""
        moments = moments.sort("t_ns")
        return cls(moments["t_ns"].to_numpy(), moments[tables.WEIGHT].cum_sum().to_numpy())


def clocks(allocations: AnyTable, frames: AnyTable | None = None) -> Mapping[str | None, Clock]:
    """Return the clock of each stream, and under None that of all together.

    Parameters
    ----------
    allocations : polars.LazyFrame or polars.DataFrame
        The table `allocations`: without `frames`, those frames count for which something
        was allocated, from then on.
    frames : polars.LazyFrame or polars.DataFrame, optional
        The table `frames`. A frame counts once it has come out of the decoder.
    """
    if frames is None:
        table = tables.lazy(allocations, "allocations", ["frame", "t_ns", "stream_id"])
        known = table.filter(pl.col("frame").is_not_null())
        weight = pl.col(tables.WEIGHT).first()
        weighted = (
            tables.weighted(known).group_by("stream_id", "frame").agg(pl.col("t_ns").min(), weight)
        )
    else:
        table = tables.lazy(frames, "frames", ["t_demux_ns", "t_decoded_ns", "stream_id"])
        came = pl.coalesce("t_decoded_ns", "t_demux_ns").alias("t_ns")
        weighted = tables.weighted(table).with_columns(came).filter(came.is_not_null())
    columns = tables.as_text(weighted.select("stream_id", "t_ns", tables.WEIGHT), ["stream_id"])
    moments_of = columns.collect().partition_by("stream_id", as_dict=True)
    found: dict[str | None, Clock] = {
        name: Clock.of(moments) for (name,), moments in moments_of.items() if name is not None
    }
    whole = pl.concat(moments_of.values()) if moments_of else columns.collect()
    return {**found, None: Clock.of(whole)}

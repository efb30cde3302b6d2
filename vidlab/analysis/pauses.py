"""Which frames did the garbage collector hold up?"""

from __future__ import annotations

import polars as pl


def frames_hit(
    gc_pauses: pl.DataFrame | pl.LazyFrame, frames: pl.DataFrame | pl.LazyFrame
) -> pl.DataFrame:
    """Return each pause with each frame that was in flight while it lasted.

    A pause stops all Python code of its process, so it hits every frame whose
    life [`t_demux_ns`, `t_done_ns`] overlaps it in that process; and the frame
    that the collecting thread was working on, wherever that one was read.

    Parameters
    ----------
    gc_pauses, frames
        The tables of a run.

    Returns
    -------
    pl.DataFrame
        ``frame`` (u64), ``t_ns`` (the pause's start), ``generation`` and
        ``overlap_ns``: how much of the frame's life the pause took. One row a
        pair, by pause and frame. A frame without an end was still in flight.
    """
    pauses = gc_pauses.lazy().select(
        "t_ns",
        "pid",
        "generation",
        pl.col("frame").alias("at_hand"),
        (pl.col("t_ns") + pl.col("duration_ns")).alias("end_ns"),
    )
    lives = frames.lazy().select(
        "frame",
        pl.col("pid").alias("frame_pid"),
        "t_demux_ns",
        pl.col("t_done_ns").fill_null(pl.lit((1 << 63) - 1, pl.Int64)),
    )
    # Two inequalities and nothing else, so that polars sorts instead of trying every pair.
    in_flight = pauses.join_where(
        lives,
        pl.col("t_ns") < pl.col("t_done_ns"),
        pl.col("end_ns") > pl.col("t_demux_ns"),
    ).filter(pl.col("pid") == pl.col("frame_pid"))
    at_hand = pauses.join(lives, left_on="at_hand", right_on="frame", coalesce=False).filter(
        pl.col("t_ns") < pl.col("t_done_ns"), pl.col("end_ns") > pl.col("t_demux_ns")
    )
    overlap = pl.min_horizontal("end_ns", "t_done_ns") - pl.max_horizontal("t_ns", "t_demux_ns")
    hit = ["frame", "t_ns", "generation", overlap.alias("overlap_ns")]
    return (
        pl.concat([in_flight.select(hit), at_hand.select(hit)])
        .unique(["frame", "t_ns"])
        .sort("t_ns", "frame")
        .collect()
    )


def by_generation(gc_pauses: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """Return how often and how long the collector paused, by generation.

    Returns
    -------
    pl.DataFrame
        ``generation``, ``count``, ``total_ns``, ``p50_ns``, ``p99_ns``
        (nearest-rank), ``max_ns``, ``collected`` and ``uncollectable`` (objects).
    """
    duration = pl.col("duration_ns")
    return (
        gc_pauses.lazy()
        .group_by("generation")
        .agg(
            pl.len().alias("count"),
            duration.sum().alias("total_ns"),
            _nearest_rank(0.50).alias("p50_ns"),
            _nearest_rank(0.99).alias("p99_ns"),
            duration.max().alias("max_ns"),
            pl.col("collected").sum(),
            pl.col("uncollectable").sum(),
        )
        .sort("generation")
        .collect()
    )


def _nearest_rank(quantile: float) -> pl.Expr:
    # Rank ceil(q·n), counted from one; "nearest" of polars rounds between two ranks instead.
    rank = (pl.len() * quantile).ceil().cast(pl.Int64).clip(1)
    return pl.col("duration_ns").sort().get(rank - 1)

"""Which frames did the garbage collector hold up, and do its pauses grow?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from . import tables
from .tables import AnyTable

#: Pauses of which each is this much longer than the one before grow …
GROWTH_NS = 50_000_000

#: … if there are so many in a row.
IN_A_ROW = 3


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
        ``overlap_ns``: how much of the frame's life the pause took; and the
        ``sample_rate`` of the frame, if the table has it. One row a pair, by pause
        and frame. A frame without an end was still in flight.
    """
    pauses = gc_pauses.lazy().select(
        "t_ns",
        "pid",
        "generation",
        pl.col("frame").alias("at_hand"),
        (pl.col("t_ns") + pl.col("duration_ns")).alias("end_ns"),
    )
    rate = ["sample_rate"] if tables.has(frames.lazy(), "sample_rate") else []
    lives = frames.lazy().select(
        "frame",
        *rate,
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
    hit = ["frame", "t_ns", "generation", overlap.alias("overlap_ns"), *rate]
    return (
        pl.concat([in_flight.select(hit), at_hand.select(hit)])
        .unique(["frame", "t_ns"])
        .sort("t_ns", "frame")
        .collect()
    )


def count_hit(hit: AnyTable, by: str | Sequence[str] = ()) -> pl.DataFrame:
    """Return how many frames were in flight during a pause.

    Parameters
    ----------
    hit : polars.LazyFrame or polars.DataFrame
        What `frames_hit` returned. A sampled frame counts for all that it stands for.
    by : str or sequence of str
        ``generation``, or nothing for all pauses together: one row then.

    Returns
    -------
    polars.DataFrame
        `by` and `frames_hit`, each frame once; sorted by `by`.
    """
    keys = tables.names(by)
    each = tables.weighted(hit.lazy()).unique(["frame", *keys])
    count = tables.whole_number(pl.col(tables.WEIGHT).sum()).alias("frames_hit")
    return (each.group_by(keys).agg(count).sort(keys) if keys else each.select(count)).collect()


def by_generation(gc_pauses: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """Return how often and how long the collector paused, by generation.

    Returns
    -------
    pl.DataFrame
        ``generation``, ``count``, ``total_ns``, ``p50_ns``, ``p99_ns``
        (nearest-rank), ``max_ns``, ``collected`` and ``uncollectable`` (objects).

    Examples
    --------
    >>> by_generation(run.scan("gc_pauses")).select("generation", "count", "max_ns").rows()[0]
    (0, 5, 74489)
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


def changes(gc_pauses: AnyTable) -> pl.DataFrame:
    """Return each pause with its change from the pause before.

    Parameters
    ----------
    gc_pauses : polars.LazyFrame or polars.DataFrame
        The table `gc_pauses`.

    Returns
    -------
    polars.DataFrame
        `pid`, `tid`, `t_ns`, `generation`, `duration_ns`, `collected`, `uncollectable` and
        `change_ns`: how much longer it was than the pause before it of the same process and
        generation; null for the first. By process and time.
    """
    columns = ("pid", "tid", "t_ns", "generation", "duration_ns", "collected", "uncollectable")
    before = pl.col("duration_ns").shift(1).over("pid", "generation", order_by="t_ns")
    return (
        tables.lazy(gc_pauses, "gc_pauses", columns)
        .select(*columns, (pl.col("duration_ns") - before).alias("change_ns"))
        .sort("pid", "t_ns")
        .collect()
    )


def growing(
    gc_pauses: AnyTable, growth_ns: int = GROWTH_NS, in_a_row: int = IN_A_ROW
) -> pl.DataFrame:
    """Return where pauses became longer and longer.

    Parameters
    ----------
    gc_pauses : polars.LazyFrame or polars.DataFrame
        The table `gc_pauses`.
    growth_ns : int
        Each pause is longer by more than this than the one before …
    in_a_row : int
        … at least so many times in a row, in one process and generation.

    Returns
    -------
    polars.DataFrame
        `pid`, `generation`, `t_ns` (the first pause that was longer), `t_end_ns` (the end of
        the last), `pauses` (how many were longer), `before_ns` (the pause before them) and
        `last_ns` (the last, and longest). The longest come first.
    """
    keys = ["pid", "generation"]
    longer = (pl.col("change_ns") > growth_ns).fill_null(False)
    return (
        changes(gc_pauses)
        .lazy()
        .with_columns(longer=longer)
        .with_columns(run=pl.col("longer").rle_id().over(keys, order_by="t_ns"))
        .filter(pl.col("longer"))
        .group_by(*keys, "run")
        .agg(
            pl.col("t_ns").min(),
            (pl.col("t_ns") + pl.col("duration_ns")).max().alias("t_end_ns"),
            pl.len().cast(pl.Int64).alias("pauses"),
            (pl.col("duration_ns") - pl.col("change_ns")).min().alias("before_ns"),
            pl.col("duration_ns").max().alias("last_ns"),
        )
        .filter(pl.col("pauses") >= in_a_row)
        .drop("run")
        .sort("last_ns", *keys, "t_ns", descending=[True, False, False, False])
        .collect()
    )


def within(times: pl.DataFrame, gc_pauses: AnyTable) -> pl.Series:
    """Return how much of each of these times the collector took, in their process.

    Parameters
    ----------
    times : polars.DataFrame
        `pid`, `t_ns` and `t_end_ns`.
    gc_pauses : polars.LazyFrame or polars.DataFrame
        The table `gc_pauses`. Pauses of one process never overlap.

    Returns
    -------
    polars.Series
        `gc_ns` Int64, in the order of the times.
    """
    known = tables.lazy(gc_pauses, "gc_pauses", ("pid", "t_ns", "duration_ns")).collect()
    taken = np.zeros(times.height, np.int64)
    for (pid,), own in known.group_by("pid"):
        mine = (times["pid"] == pid).to_numpy()
        begins, lengths = (own.sort("t_ns")[name].to_numpy() for name in ("t_ns", "duration_ns"))
        first = begins[0] if begins.size else 0  # small numbers: they stay exact as floats
        edges = np.column_stack([begins - first, begins - first + lengths]).ravel()
        upto = np.concatenate([[0], np.cumsum(np.column_stack([0 * lengths, lengths]).ravel())])[1:]
        ends = (np.interp(times[name].to_numpy()[mine] - first, edges, upto)
                for name in ("t_end_ns", "t_ns"))  # fmt: skip
        taken[mine] = np.rint(np.subtract(*ends)).astype(np.int64)
    return pl.Series("gc_ns", taken)


def _nearest_rank(quantile: float) -> pl.Expr:
    # Rank ceil(q·n), counted from one; "nearest" of polars rounds between two ranks instead.
    rank = (pl.len() * quantile).ceil().cast(pl.Int64).clip(1)
    return pl.col("duration_ns").sort().get(rank - 1)

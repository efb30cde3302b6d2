"""Which share of frames was recorded, when, why, and what was kept beside it.

A sampled run holds a part of its frames. Each bears the share that was recorded when it was
born, its `sample_rate`, and stands for 1 / `sample_rate` frames: counts and percentiles are
right, and moments between two neighbours unknown. With adaptive sampling the share follows
the machine and the errors, and frames that were late, failed, corrupt or lost are kept
whatever it is, each for itself alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from . import bins, tables
from .tables import AnyTable

#: Why a frame was recorded that was not kept for what became of it.
BY_TURN = "its turn"

_DECIDED = ("t_ns", "pid", "rate", "rate_before", "reason", "cpu", "error_rate")
_ALL = "all rows"  # a column that is the same in every row; no label, being an identifier, is so


class Gaps(int):
    """How many rows were lost while recording, and how many frames were never meant to be there.

    It is the number of rows, for whoever asks no further.

    Attributes
    ----------
    sampled : str
        What `sentence` says.
    """

    sampled: str

    def __new__(cls, lost: int, sampled: str = "") -> Gaps:
        made = super().__new__(cls, lost)
        made.sampled = sampled
        return made


def coverage(frames: AnyTable, by: str | Sequence[str] = ()) -> pl.DataFrame:
    """Return how many frames were recorded, and how many there were.

    Parameters
    ----------
    frames : polars.LazyFrame or polars.DataFrame
        The table `frames`.
    by : str or sequence of str
        Labels; none for all frames together: one row then.

    Returns
    -------
    polars.DataFrame
        `by`, `recorded`, `frames` (for how many these stand: an estimate of how many there
        were) and `share` (null without frames); sorted by `by`.
    """
    keys = tables.names(by)
    weight = pl.col(tables.WEIGHT)
    table = tables.as_text(tables.weighted(tables.lazy(frames, "frames", keys)), keys)
    sums = (pl.len().cast(pl.Int64).alias("recorded"), weight.sum().alias("frames"))
    found = table.group_by(keys).agg(sums).sort(keys) if keys else table.select(sums)
    share = pl.when(pl.col("frames") > 0).then(pl.col("recorded") / pl.col("frames"))
    return found.with_columns(tables.whole_number(pl.col("frames")), share=share).collect()


def sentence(frames: AnyTable, sampling_decisions: AnyTable | None = None) -> str:
    """Return what has to be said beside numbers of a sampled run; '' of one that is whole.

    Parameters
    ----------
    frames : polars.LazyFrame or polars.DataFrame
        The table `frames`, or a part of it.
    sampling_decisions : polars.LazyFrame or polars.DataFrame, optional
        The table of this name: with rows, the run was sampled even if these frames are whole.

    Examples
    --------
    >>> sentence(pl.DataFrame({"sample_rate": [1.0, 0.1, 0.1]}))
    'sampled: 3 of about 21 frames were recorded; counts and percentiles are weighted'
    """
    recorded, whole, share = coverage(frames).row(0)
    decided = sampling_decisions is not None and bool(
        sampling_decisions.lazy().head(1).collect().height
    )
    if not recorded or (share == 1.0 and not decided):
        return ""
    return (
        f"sampled: {recorded:,} of about {whole:,} frames were recorded; "
        "counts and percentiles are weighted"
    )


def decisions(sampling_decisions: AnyTable, until_ns: int | None = None) -> pl.DataFrame:
    """Return from when to when each share held, and what it followed from.

    Parameters
    ----------
    sampling_decisions : polars.LazyFrame or polars.DataFrame
        The table `sampling_decisions`.
    until_ns : int, optional
        When the recording ended; by default the last decision.

    Returns
    -------
    polars.DataFrame
        `pid`, `t_ns`, `t_end_ns`, `rate` (the share), `rate_before` (null at the start),
        `reason` (start, cpu, errors or calm), `cpu` and `error_rate` (shares, as they were
        read then; null if unknown); by process and time.
    """
    known = tables.as_text(
        tables.lazy(sampling_decisions, "sampling_decisions", _DECIDED).select(_DECIDED),
        ["reason"],
    )
    last = pl.max_horizontal(pl.col("t_ns").max(), pl.lit(until_ns, pl.Int64))
    following = pl.col("t_ns").shift(-1).over("pid", order_by="t_ns")
    return (
        known.with_columns(t_end_ns=pl.coalesce(following, last))
        .select("pid", "t_ns", "t_end_ns", *_DECIDED[2:])
        .sort("pid", "t_ns")
        .collect()
    )


def kept(
    frames: AnyTable, kept_frames: AnyTable, by: str | Sequence[str] = ("stream_id", "codec")
) -> pl.DataFrame:
    """Return how many frames were recorded by their turn, and how many for what became of them.

    Parameters
    ----------
    frames, kept_frames : polars.LazyFrame or polars.DataFrame
        The tables of these names.
    by : str or sequence of str
        Labels.

    Returns
    -------
    polars.DataFrame
        `by`, `kept_for` (`BY_TURN`, late, failed, corrupt or lost), `recorded`, and `share` (of
        all frames that there were of these labels); most first.
    """
    keys = tables.names(by)
    weight = pl.col(tables.WEIGHT)
    return (
        tables.as_text(_reasoned(frames, kept_frames, keys), keys)
        .with_columns(pl.lit(0).alias(_ALL))
        .with_columns(weight.sum().over(*keys, _ALL))
        .group_by(*keys, "kept_for")
        .agg(pl.len().cast(pl.Int64).alias("recorded"), share=pl.len() / weight.first())
        .sort("recorded", *keys, "kept_for", descending=[True, *[False] * (len(keys) + 1)])
        .collect()
    )


def over_time(frames: AnyTable, kept_frames: AnyTable, time_bins: int = 120) -> pl.DataFrame:
    """Return how many frames were recorded over time, and why, for a chart.

    Parameters
    ----------
    frames, kept_frames : polars.LazyFrame or polars.DataFrame
        The tables of these names.
    time_bins : int
        How many parts the time from the first to the last frame is cut into.

    Returns
    -------
    polars.DataFrame
        `t_ns`, `t_end_ns`, `kept_for` and `recorded`, by when frames were read. What there is
        none of is left out.
    """
    known = _reasoned(frames, kept_frames, ["t_demux_ns"]).filter(
        pl.col("t_demux_ns").is_not_null()
    )
    start, width = bins.time_bin(known, time_bins, "t_demux_ns")
    begin = start + pl.col("bin") * width
    return (
        known.group_by("kept_for", bin=(pl.col("t_demux_ns") - start) // width)
        .agg(pl.len().cast(pl.Int64).alias("recorded"))
        .select(begin.alias("t_ns"), (begin + width).alias("t_end_ns"), "kept_for", "recorded")
        .sort("t_ns", "kept_for")
        .collect()
    )


def _reasoned(frames: AnyTable, kept_frames: AnyTable, columns: Sequence[str]) -> pl.LazyFrame:
    """The frames with these columns, their weight, and `kept_for`."""
    first = tables.lazy(kept_frames, "kept_frames", ("t_ns", "frame", "kept_for")).select(
        "t_ns", pl.col("frame").cast(pl.UInt64), pl.col("kept_for").cast(pl.String)
    )
    # Two processes may have noted a frame.
    reasons = first.group_by("frame").agg(pl.col("kept_for").min_by("t_ns"))
    table = tables.weighted(tables.lazy(frames, "frames", ("frame", *columns)))
    return (
        table.select(pl.col("frame").cast(pl.UInt64), *columns, tables.WEIGHT)
        .join(reasons, on="frame", how="left")
        .with_columns(pl.col("kept_for").fill_null(BY_TURN))
    )

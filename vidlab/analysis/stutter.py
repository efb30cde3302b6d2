"""How evenly a stream's frames come out: the jitter between frames, and freezes.

A freeze is counted as WebRTC's statistics do (`freezeCount`, `totalFreezesDuration`): the
interval since the last frame is max(3 a, a + 150 ms) or more, where a is the mean of the
last 30 intervals, this one included; the first four intervals can't be freezes. (libwebrtc,
video/video_quality_observer2.cc.)
"""

from __future__ import annotations

import polars as pl

from . import tables
from .tables import AnyTable

#: WebRTC's rule: how many intervals are averaged, and how many it takes at least.
WINDOW, FEWEST = 30, 5

#: WebRTC's rule: how far beyond the mean an interval is a freeze.
BEYOND_NS = 150_000_000


def intervals(frames: AnyTable, kept_frames: AnyTable | None = None) -> pl.DataFrame:
    """Return the time between one delivered frame and the next, for each stream.

    Streams of which only a sample of frames was recorded are left out: their neighbours
    are unknown.

    Parameters
    ----------
    frames : polars.LazyFrame or polars.DataFrame
        The table `frames`.
    kept_frames : polars.LazyFrame or polars.DataFrame, optional
        The table `kept_frames`, of a recording with adaptive sampling.

    Returns
    -------
    polars.DataFrame
        `stream_id`, `codec`, `frame`, `t_done_ns` (when it came out), `interval_ns` (since the
        one before; null for the first), `mean_ns` (of up to 30 intervals) and `freeze`
        Boolean. By stream and time.
    """
    delivered = tables.delivered(frames, ["frame", "stream_id", "codec"])
    table = tables.recorded_whole(delivered, pl.col("stream_id"), kept_frames)
    return (
        tables.as_text(
            table.select("stream_id", "codec", "frame", "t_done_ns"), ["stream_id", "codec"]
        )
        .sort("stream_id", "t_done_ns", "frame")
        .with_columns(interval_ns=pl.col("t_done_ns").diff().over("stream_id"))
        .with_columns(
            mean_ns=pl.col("interval_ns")
            .rolling_mean(WINDOW, min_samples=1)
            .over("stream_id")
            .cast(pl.Int64)
        )
        .with_columns(
            freeze=(
                pl.col("interval_ns")
                >= pl.max_horizontal(3 * pl.col("mean_ns"), pl.col("mean_ns") + BEYOND_NS)
            ).fill_null(value=False)
            & (pl.int_range(pl.len()).over("stream_id") >= FEWEST)
        )
        .collect()
    )


def freezes(frames: AnyTable, kept_frames: AnyTable | None = None) -> pl.DataFrame:
    """Return each freeze: `stream_id`, `codec`, `t_ns` (its start), `duration_ns`, `frame`.

    `frame` is the one that ended it. By time.
    """
    return (
        intervals(frames, kept_frames)
        .filter("freeze")
        .select(
            "stream_id",
            "codec",
            (pl.col("t_done_ns") - pl.col("interval_ns")).alias("t_ns"),
            pl.col("interval_ns").alias("duration_ns"),
            "frame",
        )
        .sort("t_ns", "stream_id")
    )


def by_stream(
    frames: AnyTable, streams: AnyTable, kept_frames: AnyTable | None = None
) -> pl.DataFrame:
    """Return how evenly each stream came out, against its nominal rate.

    Parameters
    ----------
    frames, streams : polars.LazyFrame or polars.DataFrame
        The tables of these names.
    kept_frames : polars.LazyFrame or polars.DataFrame, optional
        The table `kept_frames`, of a recording with adaptive sampling.

    Returns
    -------
    polars.DataFrame
        `stream_id`, `codec`, `delivered` (frames), `nominal_ns` (interval; null if the rate is
        not known), `mean_ns`, `jitter_ns` (the intervals' standard deviation, over n, as
        WebRTC's totalInterFrameDelay and totalSquaredInterFrameDelay give it), `p50_ns`,
        `p99_ns`, `max_ns` (intervals), `freezes`, `frozen_ns` (their sum), `frozen_share` (of
        the time from first to last frame). Where only a sample of frames was recorded all
        but the first four are null.
    """
    weight = pl.col(tables.WEIGHT)
    keys = ["stream_id", "codec"]
    counts = (
        tables.as_text(tables.weighted(tables.delivered(frames, keys)), keys)
        .group_by(keys)
        .agg(tables.whole_number(weight.sum()).alias("delivered"))
    )
    nominal = tables.nominal_rates(streams).select(
        "stream_id",
        (1e9 / pl.col("nominal_rate")).round().cast(pl.Int64).alias("nominal_ns"),
    )
    interval = pl.col("interval_ns")
    known = (
        intervals(frames, kept_frames)
        .lazy()
        .group_by(keys)
        .agg(
            interval.mean().round().cast(pl.Int64).alias("mean_ns"),
            interval.std(ddof=0).round().cast(pl.Int64).alias("jitter_ns"),
            *(
                interval.quantile(share, "equiprobable").cast(pl.Int64).alias(name)
                for share, name in ((0.5, "p50_ns"), (0.99, "p99_ns"))
            ),
            interval.max().alias("max_ns"),
            pl.col("freeze").sum().cast(pl.Int64).alias("freezes"),
            interval.filter("freeze").sum().alias("frozen_ns"),
            pl.when(interval.sum() > 0)
            .then(interval.filter("freeze").sum() / interval.sum())
            .alias("frozen_share"),
        )
    )
    return (
        counts.join(nominal, on="stream_id", how="left")
        .join(known, on=keys, how="left", nulls_equal=True)
        .select(*keys, "delivered", "nominal_ns", pl.exclude(*keys, "delivered", "nominal_ns"))
        .sort(keys)
        .collect()
    )

"""How long until the first frame: of each stream, from its opening to a sink."""

from __future__ import annotations

import polars as pl

from . import tables
from .tables import AnyTable


def first_frames(
    frames: AnyTable, streams: AnyTable, started_ns: int | None = None
) -> pl.DataFrame:
    """Return when each stream's first frame was read, decoded and delivered.

    Parameters
    ----------
    frames, streams : polars.LazyFrame or polars.DataFrame
        The tables of these names.
    started_ns : int, optional
        When the recording started, on CLOCK_MONOTONIC (the manifest's anchor).

    Returns
    -------
    polars.DataFrame
        `stream_id`, `codec`, `t_open_ns` (when it was first opened), `opened_ns` (from the
        recording's start to that; null without `started_ns`), and from its opening to the
        first frame `demuxed_ns` (the begin of its read), `decoded_ns` and `delivered_ns`. A
        time is null if there was no such frame; streams without frames are here, too. The
        slowest to deliver comes first, and before it those that never did. `exact` is False
        where only a sample of frames was recorded: then the times are those of the first
        that was, and of the first of all as long or shorter.
    """
    keys = ["stream_id", "codec"]
    inputs = tables.lazy(streams, "streams", ["t_ns", "direction", *keys]).filter(
        pl.col("direction").cast(pl.String) == "input"
    )
    opened = (
        tables.as_text(inputs, keys)
        .group_by("stream_id")
        .agg(pl.col("t_ns").min().alias("t_open_ns"), pl.col("codec").drop_nulls().first())
    )
    needs = ["t_demux_ns", "t_decoded_ns", "t_done_ns", "fate", *keys]
    known = tables.weighted(tables.lazy(frames, "frames", needs))
    table = tables.as_text(known, [*keys, "fate"])
    first = table.group_by("stream_id").agg(
        pl.col("codec").drop_nulls().first(),
        pl.col("t_demux_ns").min().alias("demuxed_ns"),
        pl.col("t_decoded_ns").min().alias("decoded_ns"),
        pl.col("t_done_ns")
        .filter(pl.col("fate").is_in(tables.DELIVERED))
        .min()
        .alias("delivered_ns"),
        exact=(pl.col(tables.WEIGHT) == 1.0).all(),
    )
    return (
        opened.join(first, on="stream_id", how="full", coalesce=True, nulls_equal=True)
        .with_columns(codec=pl.coalesce("codec", "codec_right"))
        .select(
            *keys,
            "t_open_ns",
            (pl.col("t_open_ns") - pl.lit(started_ns, pl.Int64)).alias("opened_ns"),
            *(
                pl.col(name) - pl.col("t_open_ns")
                for name in ("demuxed_ns", "decoded_ns", "delivered_ns")
            ),
            pl.col("exact").fill_null(value=True),
        )
        .sort("delivered_ns", *keys, descending=[True, False, False], nulls_last=False)
        .collect()
    )

"""Which frames were lost, where, and what a lost key frame took along."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ..schema import FATES
from . import tables
from .tables import DELIVERED, AnyTable

_LABELS = ("stream_id", "codec")


def fates(frames: AnyTable, by: str | Sequence[str] = _LABELS) -> pl.DataFrame:
    """Return how many frames had which fate.

    Parameters
    ----------
    frames : polars.LazyFrame or polars.DataFrame
        The table `frames`. A frame counts 1 / `sample_rate`, if it has that column.
    by : str or sequence of str

    Returns
    -------
    polars.DataFrame
        `by`, `frames`, one column a fate (`delivered`, `duplicated`, `dropped`, `corrupt`,
        `cancelled`, `unfinished`), `reordered` (frames that came out of the decoder after
        one that was sent later: normal for B-frames; null where only a sample of frames was
        recorded, whose neighbours are unknown), and `lost_share`: of dropped, corrupt and
        cancelled frames among those that have come to an end.

    Examples
    --------
    >>> frames = pl.DataFrame(
    ...     {"stream_id": ["cam"] * 4, "codec": ["vp9"] * 4, "reordered": [False] * 4,
    ...      "fate": ["delivered", "delivered", "dropped", "unfinished"]}
    ... )
    >>> fates(frames).select("frames", "delivered", "dropped", "unfinished", "lost_share").row(0)
    (4, 2, 1, 1, 0.3333333333333333)
    """
    keys = tables.names(by)
    table = tables.lazy(frames, "frames", [*keys, "fate", "reordered"]).pipe(tables.weighted)
    weight, fate = pl.col(tables.WEIGHT), pl.col("fate").cast(pl.String)
    ended = sum((pl.col(name) for name in FATES[:-1]), start=pl.lit(0.0))
    delivered = pl.sum_horizontal(DELIVERED)
    numbers = ["frames", *FATES, "reordered"]
    return (
        tables.as_text(table, keys)
        .group_by(keys)
        .agg(
            weight.sum().alias("frames"),
            *(
                pl.when(fate == name).then(weight).otherwise(0.0).sum().alias(name)
                for name in FATES
            ),
            pl.when((weight == 1.0).all()).then(pl.col("reordered").sum()).alias("reordered"),
        )
        .with_columns(lost_share=pl.when(ended > 0).then((ended - delivered) / ended))
        .select(*keys, *map(tables.whole_number, map(pl.col, numbers)), "lost_share")
        .sort(keys)
        .collect()
    )


def by_stage(frames: AnyTable, by: str | Sequence[str] = _LABELS) -> pl.DataFrame:
    """Return which stages, or queues, lost frames, and which sinks took frames twice.

    Parameters
    ----------
    frames, by
        As of `fates`.

    Returns
    -------
    polars.DataFrame
        `by`, `fate` (not delivered ones; null `lost_at` if duplicated), `lost_at`, `frames`
        and `share` (of all frames of the group), most frames first.

    Examples
    --------
    >>> by_stage(run.scan("frames")).select("stream_id", "fate", "lost_at", "frames").rows()
    [('cam-02', 'dropped', 'decoded', 1)]
    """
    keys = tables.names(by)
    table = tables.lazy(frames, "frames", [*keys, "fate", "lost_at"]).pipe(tables.weighted)
    weight = pl.col(tables.WEIGHT)
    text = tables.as_text(table, [*keys, "fate", "lost_at"])
    every = weight.sum().over(keys) if keys else weight.sum()
    return (
        text.with_columns(every=every)
        .filter(pl.col("fate") != "delivered")
        .group_by(*keys, "fate", "lost_at")
        .agg(weight.sum(), pl.col("every").first())
        .select(
            *keys,
            "fate",
            "lost_at",
            tables.whole_number(weight).alias("frames"),
            (weight / pl.col("every")).alias("share"),
        )
        .sort("frames", *keys, "fate", "lost_at", descending=[True, *[False] * (len(keys) + 2)])
        .collect()
    )


def gops(frames: AnyTable, kept_frames: AnyTable | None = None) -> pl.DataFrame:
    """Return each lost key frame with the frames after it that were lost as well.

    A key frame whose packet is dropped before the decoder, or corrupt, takes along the
    frames that are predicted from it, up to the next key frame. Frames that were dropped
    after decoding took nobody along. Sampled streams are left out: what came between
    recorded frames is unknown.

    Parameters
    ----------
    frames : polars.LazyFrame or polars.DataFrame
        The table `frames`.
    kept_frames : polars.LazyFrame or polars.DataFrame, optional
        The table `kept_frames`, of a recording with adaptive sampling.

    Returns
    -------
    polars.DataFrame
        `stream_id`, `codec`, `frame` (the key frame), `t_demux_ns`, `fate`, `lost_at`,
        `first_seq` and `last_seq` of the run of lost frames, `lost_frames` (in it, the key
        frame included). By time.
    """
    columns = ("frame", "seq", "key", "fate", "lost_at", "t_demux_ns", "t_decoded_ns")
    table = tables.lazy(frames, "frames", [*columns, *_LABELS])
    table = tables.recorded_whole(table, tables.opened(), kept_frames)
    fate = pl.col("fate")
    broken = (fate == "corrupt") | (
        fate.is_in(("dropped", "cancelled")) & pl.col("t_decoded_ns").is_null()
    )
    key = pl.col("key").fill_null(value=False)
    return (
        tables.as_text(table, ["fate", "lost_at", *_LABELS])
        .with_columns(broken=broken, key=key, opened=tables.opened())
        .sort("opened", "seq")
        # A run ends before a frame that was not lost, and before the next key frame.
        .with_columns(run=(~pl.col("broken") | pl.col("key")).cum_sum().over("opened"))
        .filter("broken")
        .group_by("opened", "run", maintain_order=True)
        .agg(
            pl.col("stream_id", "codec", "frame", "t_demux_ns", "fate", "lost_at", "key").first(),
            pl.col("seq").first().alias("first_seq"),
            pl.col("seq").last().alias("last_seq"),
            pl.len().cast(pl.Int64).alias("lost_frames"),
        )
        .filter("key")
        .drop("opened", "run", "key")
        .sort("t_demux_ns", "frame")
        .collect()
    )

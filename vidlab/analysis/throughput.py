"""How many frames a second each stream delivers, against its nominal rate."""

from __future__ import annotations

import polars as pl

from ..errors import InputError
from . import tables
from .tables import AnyTable

_KEYS = ["stream_id", "codec"]


def by_stream(frames: AnyTable, streams: AnyTable) -> pl.DataFrame:
    """Return each stream's rate from its first delivered frame to its last.

    Parameters
    ----------
    frames, streams : polars.LazyFrame or polars.DataFrame
        The tables of these names. A frame counts 1 / `sample_rate`, if it has that column.

    Returns
    -------
    polars.DataFrame
        `stream_id`, `codec`, `delivered` (frames), `seconds` (from first to last), `rate` (frames
        a second: intervals over time; null for a single frame), `nominal_rate` and `ratio`
        (rate / nominal_rate), both null if it is not known.

    Examples
    --------
    >>> rates = by_stream(run.scan("frames"), run.scan("streams"))
    >>> rates.select("stream_id", "delivered", "nominal_rate", pl.col("rate").round(2)).rows()[0]
    ('cam-00', 300, 25.0, 25.07)
    """
    weight, done = pl.col(tables.WEIGHT), pl.col("t_done_ns")
    return (
        _delivered(frames)
        .group_by(_KEYS)
        .agg(
            tables.whole_number(weight.sum()).alias("delivered"),
            ((done.max() - done.min()) / 1e9).alias("seconds"),
            # n frames have n - 1 intervals between them.
            (weight.sum() * (1 - 1 / pl.len())).alias("intervals"),
        )
        .with_columns(
            rate=pl.when(pl.col("seconds") > 0).then(pl.col("intervals") / pl.col("seconds"))
        )
        .drop("intervals")
        .join(tables.nominal_rates(streams), on="stream_id", how="left")
        .with_columns(ratio=pl.col("rate") / pl.col("nominal_rate"))
        .sort(_KEYS)
        .collect()
    )


def over_time(frames: AnyTable, streams: AnyTable, window_s: float = 1.0) -> pl.DataFrame:
    """Return each stream's rate in windows of time.

    A stream's time, from the first frame read to the last one delivered, is cut into
    equal windows of about `window_s`, so that none is only partly covered.

    Parameters
    ----------
    frames, streams
        As of `by_stream`.
    window_s : float
        The windows' length in seconds.

    Returns
    -------
    polars.DataFrame
        `stream_id`, `codec`, `t_ns`, `t_end_ns`, `delivered`, `rate`, `nominal_rate` and `ratio`;
        windows without a frame have rate 0.

    Raises
    ------
    InputError
        If the window is not positive.
    """
    if not window_s > 0:
        raise InputError(f"window_s is in seconds and positive, not {window_s!r}")
    delivered = _delivered(frames).collect().lazy()
    window = round(window_s * 1e9)
    span = pl.col("last_ns") - pl.col("first_ns")
    count = (span / window).round().clip(1).cast(pl.Int64)
    # A window holds its first moment and not its end: the last one must hold t_done_ns.
    streamed = (
        delivered.group_by(_KEYS)
        .agg(
            pl.col("t_demux_ns").min().alias("first_ns"),
            (pl.col("t_done_ns").max() + 1).alias("last_ns"),
        )
        .with_columns(windows=count, width_ns=-(-span // count))
    )
    counts = (
        delivered.join(streamed, on=_KEYS, nulls_equal=True)
        .group_by(*_KEYS, window=(pl.col("t_done_ns") - pl.col("first_ns")) // pl.col("width_ns"))
        .agg(pl.col(tables.WEIGHT).sum())
    )
    begin = pl.col("first_ns") + pl.col("window") * pl.col("width_ns")
    return (
        streamed.with_columns(window=pl.int_ranges(0, "windows"))
        .explode("window")
        .join(counts, on=[*_KEYS, "window"], how="left", nulls_equal=True)
        .join(tables.nominal_rates(streams), on="stream_id", how="left")
        .with_columns(pl.col(tables.WEIGHT).fill_null(0))
        .with_columns(rate=pl.col(tables.WEIGHT) / pl.col("width_ns") * 1e9)
        .select(
            *_KEYS,
            begin.alias("t_ns"),
            (begin + pl.col("width_ns")).alias("t_end_ns"),
            tables.whole_number(pl.col(tables.WEIGHT)).alias("delivered"),
            "rate",
            "nominal_rate",
            (pl.col("rate") / pl.col("nominal_rate")).alias("ratio"),
        )
        .sort(*_KEYS, "t_ns")
        .collect()
    )


def _delivered(frames: AnyTable) -> pl.LazyFrame:
    table = tables.weighted(tables.delivered(frames, _KEYS))
    return tables.as_text(table, _KEYS).select(*_KEYS, "t_demux_ns", "t_done_ns", tables.WEIGHT)

"""How long decoding took in FFmpeg itself, beside what the frame engine's spans say.

A span of the stage `decode` is around PyAV's call: FFmpeg's work, and what Python adds to it
(the wait for the GIL, objects that are made). The probes are on FFmpeg's own functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from . import kernel, tables
from .tables import AnyTable

#: FFmpeg's calls that decode.
CALLS = ("send_packet", "receive_frame")

#: The stage whose spans are around them.
STAGE = "decode"

_SUMS = {"calls": "calls", "duration_ns": "span_ns", "ffmpeg_ns": "ffmpeg_ns"}

_NEEDED = ("t_ns", "duration_ns", "pid", "tid", "op")


def by_stream(
    libav: AnyTable, spans: AnyTable, by: str | Sequence[str] = ("stream_id", "codec")
) -> pl.DataFrame:
    """Return the time in FFmpeg's decoding calls beside that of the spans around them.

    Parameters
    ----------
    libav : polars.LazyFrame or polars.DataFrame
        The table `kernel_libav`.
    spans : polars.LazyFrame or polars.DataFrame
        The table `spans`.
    by : str or sequence of str
        Labels.

    Returns
    -------
    polars.DataFrame
        `by`, `spans`, `calls`, `span_ns` (all spans of the stage that have calls in them),
        `ffmpeg_ns` (the calls in them), `around_ns` (the difference: Python's share), and
        `ffmpeg_share`. The longest spans come first. Calls outside of any such span are
        left out. A sampled span, and the calls in it, count for all that it stands for.
    """
    keys, weight = tables.names(by), pl.col(tables.WEIGHT)
    events = tables.as_text(tables.lazy(libav, "kernel_libav", _NEEDED), ["op"])
    decoding = kernel.outermost(events.filter(pl.col("op").is_in(CALLS)), ["op"])
    calls = (
        kernel.identified(decoding, spans)
        .filter(pl.col("stage") == STAGE)
        .group_by("span")
        .agg(pl.len().alias("calls"), pl.col("duration_ns").sum().alias("ffmpeg_ns"))
    )
    decode = tables.as_text(
        tables.lazy(spans, "spans", ("span", "stage", "kind", "duration_ns", *keys)), keys
    ).filter(
        (pl.col("stage").cast(pl.String) == STAGE) & (pl.col("kind").cast(pl.String) == "service")
    )
    return tables.plain(
        tables.weighted(decode)
        .join(calls, on="span", how="inner")
        .group_by(keys)
        .agg(
            tables.whole_number(weight.sum()).alias("spans"),
            *(
                tables.whole_number((pl.col(column) * weight).sum()).alias(name)
                for column, name in _SUMS.items()
            ),
        )
        .with_columns(
            around_ns=pl.col("span_ns") - pl.col("ffmpeg_ns"),
            ffmpeg_share=pl.col("ffmpeg_ns") / pl.col("span_ns"),
        )
        .sort("span_ns", *keys, descending=[True, *[False] * len(keys)])
        .collect()
    )

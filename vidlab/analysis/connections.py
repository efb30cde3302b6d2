"""TCP connections: whose they are, how they went, and how long their round trips took."""

from __future__ import annotations

import polars as pl

from . import kernel, tables
from .tables import AnyTable

_NEEDED = (
    *("t_ns", "pid", "tid", "op", "socket", "old_state", "new_state", "owner_pid"),
    *("local_address", "local_port", "remote_address", "remote_port"),
    *("bytes_sent", "bytes_received", "srtt_us", "stream_id"),
)


def connections(tcp: AnyTable, spans: AnyTable) -> pl.DataFrame:
    """Return each connection of the recorded processes.

    A socket's address in the kernel is used again after its end: a connection begins with
    each step out of the state "close", and with what follows an event "closed".

    Parameters
    ----------
    tcp : polars.LazyFrame or polars.DataFrame
        The table `kernel_tcp`.
    spans : polars.LazyFrame or polars.DataFrame
        The table `spans`: a connection is of the stream for which it was read from.

    Returns
    -------
    polars.DataFrame
        `socket`, `owner_pid`, `stream_id` (null if nobody read from it within a stage),
        `local_address`, `local_port`, `remote_address`, `remote_port`, `t_ns` (first
        event), `t_established_ns`, `handshake_ns` (from opening to established; null
        where the recording did not see both), `t_closed_ns`, `retransmits`,
        `bytes_sent`, `bytes_received`, `srtt_us` (smoothed round trip, the last known),
        `srtt_max_us`. In the order of opening.
    """
    events = kernel.identified(tables.lazy(tcp, "kernel_tcp", _NEEDED), spans)
    known = (
        tables.as_text(events, ["op", "old_state", "new_state", "local_address", "remote_address"])
        .sort("t_ns")
        .with_columns(
            opens=((pl.col("op") == "state") & (pl.col("old_state") == "close")).fill_null(False),
            after=(pl.col("op") == "closed").shift(1, fill_value=False).over("socket"),
        )
        .with_columns(number=(pl.col("opens") | pl.col("after")).cum_sum().over("socket"))
    )
    state = pl.col("op") == "state"
    established = state & (pl.col("new_state") == "established")
    closed = (state & (pl.col("new_state") == "close")) | (pl.col("op") == "closed")
    opened = pl.col("t_ns").filter(pl.col("opens")).first()

    def last(column: str) -> pl.Expr:
        return pl.col(column).drop_nulls().last()

    return tables.plain(
        known.group_by("socket", "number")
        .agg(
            pl.col("owner_pid").drop_nulls().last(),
            pl.col("stream_id").drop_nulls().first(),
            last("local_address"),
            last("local_port"),
            last("remote_address"),
            last("remote_port"),
            pl.col("t_ns").first(),
            pl.col("t_ns").filter(established).first().alias("t_established_ns"),
            (pl.col("t_ns").filter(established).first() - opened).alias("handshake_ns"),
            pl.col("t_ns").filter(closed).last().alias("t_closed_ns"),
            (pl.col("op") == "retransmit").sum().cast(pl.Int64).alias("retransmits"),
            pl.col("bytes_sent").max(),
            pl.col("bytes_received").max(),
            last("srtt_us"),
            pl.col("srtt_us").max().alias("srtt_max_us"),
        )
        .drop("number")
        .sort("t_ns", "socket")
        .collect()
    )


def by_stream(tcp: AnyTable, spans: AnyTable) -> pl.DataFrame:
    """Return the connections of each stream in numbers.

    Returns
    -------
    polars.DataFrame
        `stream_id`, `remote_address`, `connections`, `open` (not closed by the end),
        `retransmits`, `bytes_sent`, `bytes_received`, `srtt_us` (mean of the
        connections'), `srtt_max_us`. Most retransmits first, then the longest round trips.
    """
    return (
        connections(tcp, spans)
        .group_by("stream_id", "remote_address")
        .agg(
            pl.len().cast(pl.Int64).alias("connections"),
            pl.col("t_closed_ns").is_null().sum().cast(pl.Int64).alias("open"),
            pl.col("retransmits").sum(),
            pl.col("bytes_sent").sum(),
            pl.col("bytes_received").sum(),
            pl.col("srtt_us").mean(),
            pl.col("srtt_max_us").max(),
        )
        .sort(
            "retransmits",
            "srtt_us",
            "stream_id",
            descending=[True, True, False],
            nulls_last=True,
        )
    )

"""Back-pressure: how full queues were, for how long, and how long frames waited in them.

A queue that is full most of the time holds up what fills it: the stage after it is too
slow. One that is empty most of the time waits for the stage before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ..schema import QUEUE, SPAN_KINDS
from . import bins as cut
from . import quantiles, tables
from .tables import AnyTable

_STREAM = ("stream_id",)
_WAITS = (0.5, 0.99)


def by_queue(
    queue_depths: AnyTable, spans: AnyTable | None = None, by: str | Sequence[str] = _STREAM
) -> pl.DataFrame:
    """Return how full each queue was, and how long frames waited in it.

    Parameters
    ----------
    queue_depths : polars.LazyFrame or polars.DataFrame
        The table `queue_depths`.
    spans : polars.LazyFrame or polars.DataFrame, optional
        The table `spans`, for the waits.
    by : str or sequence of str
        Labels that tell queues of one name apart. By default the stream; none for a queue
        that many streams share. Touches without these labels (a sign of the end) are left
        out, unless all touches of that queue are.

    Returns
    -------
    polars.DataFrame
        `queue`, `by`, `capacity` (null if unlimited), `mean_depth` (over time, each depth
        weighted by how long it lasted), `max_depth`, `full_share` (of the time, at capacity;
        null if unlimited), `puts`, `gets`, `evictions`, and with `spans` `waits` (frames) and
        `wait_p50_ns`, `wait_p99_ns`, `wait_max_ns`. The fullest queues come first.
    """
    keys = ["queue", *tables.names(by)]
    touches = _touches(queue_depths, keys)
    lasted, depth = pl.col("lasted_ns"), pl.col("depth")
    full = depth >= pl.col("capacity")
    time = lasted.sum()
    touch = pl.col("touch").cast(pl.String)
    result = (
        touches.with_columns(
            lasted_ns=(pl.col("t_ns").shift(-1) - pl.col("t_ns")).over("pid", *keys).fill_null(0)
        )
        .group_by(keys)
        .agg(
            pl.col("capacity").max(),
            # A queue that was touched once has no time, but a depth.
            pl.when(time > 0)
            .then((depth * lasted).sum() / time)
            .otherwise(depth.mean())
            .alias("mean_depth"),
            depth.max().alias("max_depth"),
            pl.when(pl.col("capacity").count() > 0)
            .then(pl.when(time > 0).then(lasted.filter(full).sum() / time).otherwise(full.mean()))
            .alias("full_share"),
            *(
                (touch == kind).sum().cast(pl.Int64).alias(name)
                for kind, name in (("put", "puts"), ("get", "gets"), ("evict", "evictions"))
            ),
        )
        .sort(
            "full_share",
            "mean_depth",
            *keys,
            descending=[True, True, *[False] * len(keys)],
            nulls_last=True,
        )
        .collect()
    )
    if spans is None:
        return result
    waited = waits(spans, by).rename({"count": "waits"})
    return result.join(
        waited.rename({name: f"wait_{name}" for name in waited.columns if name.endswith("_ns")}),
        on=keys,
        how="left",
        nulls_equal=True,
        maintain_order="left",
    ).with_columns(pl.col("waits").fill_null(0))


def waits(spans: AnyTable, by: str | Sequence[str] = _STREAM) -> pl.DataFrame:
    """Return how long frames waited in each queue: from the begin of put to the end of get.

    Returns
    -------
    polars.DataFrame
        `queue`, `by`, `count`, `p50_ns`, `p99_ns` (nearest-rank), `max_ns`.
    """
    keys = ["queue", *tables.names(by)]
    table = tables.lazy(spans, "spans", ["stage", "kind", "duration_ns", *keys[1:]])
    queued = table.filter(pl.col("kind").cast(pl.String) == SPAN_KINDS[QUEUE])
    return quantiles.grouped(queued.with_columns(queue=pl.col("stage")), keys, _WAITS).drop(
        "mean_ns"
    )


def levels(
    queue_depths: AnyTable, time_bins: int = 300, by: str | Sequence[str] = _STREAM
) -> pl.DataFrame:
    """Return each queue's depth over time, for a chart.

    Parameters
    ----------
    queue_depths, by
        As of `by_queue`.
    time_bins : int
        How many parts the time from the first to the last touch is cut into.

    Returns
    -------
    polars.DataFrame
        `queue`, `by`, `t_ns`, `t_end_ns`, `min_depth`, `max_depth`, `last_depth` and
        `capacity`, one row a queue and bin from its first touch to its last. A bin without a
        touch has the depth that the last one left.
    """
    keys = ["queue", *tables.names(by)]
    touches = _touches(queue_depths, keys).collect().lazy()
    start, width = cut.time_bin(touches, time_bins)
    depth = pl.col("depth")
    binned = touches.group_by(*keys, ((pl.col("t_ns") - start) // width).alias("bin")).agg(
        depth.min().alias("min_depth"),
        depth.max().alias("max_depth"),
        depth.last().alias("last_depth"),
        pl.col("capacity").last(),
    )
    every = (
        binned.group_by(keys)
        .agg(pl.int_range(pl.col("bin").min(), pl.col("bin").max() + 1).alias("bin"))
        .explode("bin")
    )
    before = pl.col("last_depth", "capacity").forward_fill().over(keys, order_by="bin")
    return (
        every.join(binned, on=[*keys, "bin"], how="left", nulls_equal=True)
        .with_columns(before)
        .with_columns(pl.col("min_depth", "max_depth").fill_null(pl.col("last_depth")))
        .select(
            *keys,
            (start + pl.col("bin") * width).alias("t_ns"),
            (start + (pl.col("bin") + 1) * width).alias("t_end_ns"),
            "min_depth",
            "max_depth",
            "last_depth",
            "capacity",
        )
        .sort(*keys, "t_ns")
        .collect()
    )


def _touches(queue_depths: AnyTable, keys: list[str]) -> pl.LazyFrame:
    """The touches in time, text as String, without those that have no labels where others do."""
    needs = ["t_ns", "pid", "depth", "capacity", "touch", *keys]
    table = tables.lazy(queue_depths, "queue_depths", needs).select(list(dict.fromkeys(needs)))
    labels = keys[1:]
    if labels:
        labelled = pl.any_horizontal(pl.col(name).is_not_null() for name in labels)
        table = table.filter(labelled | ~labelled.any().over("queue"))
    capacity = pl.when(pl.col("capacity") > 0).then("capacity")
    return (
        tables.as_text(table, keys)
        .with_columns(capacity=capacity)
        .sort("t_ns", maintain_order=True)
    )

"""What held a full queue up: a stage that is slow, or one that does not take from it?

When a queue is full, those before it fill up as well. The one to look at is the
furthest down the frames' way, and the stage that takes from it: if that was busy,
it is too slow; if it was idle, it did not take what was there.
"""

from __future__ import annotations

import polars as pl

from . import queues, tables
from .tables import AnyTable

#: How finely time is cut.
BIN_NS = 100_000_000

#: Full times of one queue with no more than this between them are one.
TOGETHER_NS = 500_000_000

_QUEUE = ["stream_id", "queue"]


def holdups(queue_depths: AnyTable, spans: AnyTable) -> pl.DataFrame:
    """Return when which queue was full first, and what the stage after it did meanwhile.

    Parameters
    ----------
    queue_depths, spans : polars.LazyFrame or polars.DataFrame
        The tables of these names.

    Returns
    -------
    polars.DataFrame
        `stream_id`, `queue`, `stage` (the longest that follows it), `t_ns`, `duration_ns`
        (from the first to the last time at capacity), `full_ns` (at capacity, while none
        further down was) and `busy_share` (of that time, how much was work on frames that
        came from this queue; a sampled frame counts for all that it stands for); the longest
        first. Queues that hold one item are left out:
        they are full whenever they are used.

    Examples
    --------
    >>> run = vl.datasets.load("queue_backs_up")
    >>> found = holdups(run.scan("queue_depths"), run.scan("spans"))
    >>> idle = found.filter(found["busy_share"] < 0.5).sort("full_ns", descending=True)
    >>> idle.select("stream_id", "queue", "stage").rows()[0]
    ('cam-2', 'before encode', 'encode')
    """
    touches = tables.lazy(queue_depths, "queue_depths", ["t_ns", "stream_id", "capacity"])
    touches = touches.filter(pl.col("capacity") > 1, pl.col("stream_id").is_not_null())
    first, last = (
        touches.select(pl.col("t_ns").min().alias("first"), pl.col("t_ns").max().alias("last"))
        .collect()
        .row(0)
    )
    if first is None:
        touches = touches.head(0)
    bins = 1 if first is None else max(1, -(-(last - first) // BIN_NS))
    levels = queues.levels(touches, bins).lazy()
    steps = _steps(spans).collect().lazy()
    full = (
        levels.filter(pl.col("min_depth") >= pl.col("capacity") - 1)
        .join(_ways(steps), on=_QUEUE, how="inner")
        .sort("place")
        .group_by("stream_id", "t_ns", maintain_order=True)
        .last()
    )
    apart = pl.col("t_ns") - pl.col("t_end_ns").shift(1) > TOGETHER_NS
    episodes = (
        full.sort("t_ns")
        .with_columns(apart=apart.over(_QUEUE).fill_null(value=True))
        .with_columns(number=pl.col("apart").cum_sum().over(_QUEUE))
        .collect()
        .lazy()
    )
    begin, end = pl.col("t_ns").min(), pl.col("t_end_ns").max()
    keys = [*_QUEUE, "stage", "number"]
    return (
        episodes.join(_work(steps, first or 0, episodes), on=[*_QUEUE, "t_ns"], how="left")
        .group_by(keys)
        .agg(
            begin.alias("begin_ns"),
            (end - begin).alias("duration_ns"),
            (pl.col("t_end_ns") - pl.col("t_ns")).sum().alias("full_ns"),
            pl.col("busy_ns").fill_null(0).sum(),
        )
        .with_columns(busy_share=pl.col("busy_ns") / pl.col("full_ns"))
        .select(
            *_QUEUE,
            "stage",
            pl.col("begin_ns").alias("t_ns"),
            "duration_ns",
            "full_ns",
            "busy_share",
        )
        .sort("full_ns", *_QUEUE, "t_ns", descending=[True, False, False, False])
        .collect()
    )


def _steps(spans: AnyTable) -> pl.LazyFrame:
    """The work on each frame, with the queue that it was taken from before."""
    table = tables.weighted(
        tables.top_level(spans, ["t_ns", "stream_id", "stage", "kind"]).filter(
            pl.col("frame") > 0, pl.col("stream_id").is_not_null()
        )
    )
    queued = pl.col("kind") == "queue"
    return (
        tables.as_text(table, ["stage", "stream_id", "kind"])
        .select("frame", "stream_id", "stage", "kind", "t_ns", "duration_ns", tables.WEIGHT)
        .sort("frame", "t_ns")
        .with_columns(
            queue=pl.when(queued).then("stage").forward_fill().over("frame"),
            since_ns=pl.col("t_ns") - pl.col("t_ns").first().over("frame"),
        )
        .filter(pl.col("kind") == "service", pl.col("queue").is_not_null())
    )


def _ways(steps: pl.LazyFrame) -> pl.LazyFrame:
    """Each queue's `place` on the frames' way, and the `stage` after it that takes most time.

    By its median and how often it is there: a single wait for the GIL may be longer than all
    work of a short stage, whichever it falls on.
    """
    return (
        steps.group_by(*_QUEUE, "stage")
        .agg(
            pl.col("duration_ns").median() * pl.col(tables.WEIGHT).sum(),
            pl.col("since_ns").median(),
        )
        .sort("duration_ns")
        .group_by(_QUEUE, maintain_order=True)
        .agg(pl.col("stage").last(), pl.col("since_ns").min().alias("place"))
    )


def _work(steps: pl.LazyFrame, first: int, episodes: pl.LazyFrame) -> pl.LazyFrame:
    """How long what takes from a queue was at work in each bin, and on how many frames."""
    width = (pl.col("t_end_ns") - pl.col("t_ns")).max().alias("width_ns")
    begin, end, wide = pl.col("t_ns"), pl.col("end_ns"), pl.col("width_ns")
    within = pl.min_horizontal("end_ns", pl.col("bin_ns") + wide) - pl.max_horizontal(
        "t_ns", "bin_ns"
    )
    return (
        steps.join(episodes.select(_QUEUE).unique(), on=_QUEUE, how="semi")
        .select(*_QUEUE, "t_ns", tables.WEIGHT, end_ns=begin + pl.col("duration_ns"))
        .join(episodes.select(width), how="cross")
        .with_columns(bin=pl.int_ranges((begin - first) // wide, (end - first) // wide + 1))
        .explode("bin")
        .with_columns(bin_ns=first + pl.col("bin") * wide)
        .group_by(*_QUEUE, "bin_ns")
        .agg((within * pl.col(tables.WEIGHT)).sum().alias("busy_ns"))
        .rename({"bin_ns": "t_ns"})
    )

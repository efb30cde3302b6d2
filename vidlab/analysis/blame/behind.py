"""The rows of a run that stand behind a frame's parts."""

from __future__ import annotations

from collections.abc import Set

import polars as pl

from ...runs.run import Run
from .. import tables

#: Tables of which a row is of a process, or of a thread, and the column that says how long.
_OF_PROCESS = {"gc_pauses": "duration_ns", "wakeups": "late_ns"}
_OF_THREAD = {
    "allocations": "duration_ns",
    "kernel_offcpu": "duration_ns",
    "thread_waits": "duration_ns",
}


def around(
    run: Run, there: Set[str], parts: pl.DataFrame, streams: pl.Series
) -> dict[str, pl.DataFrame]:
    """Return the rows of what went on around a frame, where it was and while it was there.

    Parameters
    ----------
    run : Run
    there : set of str
        The run's tables.
    parts : polars.DataFrame
        The frame's parts (`waterfall`).
    streams : polars.Series
        The name of its stream.

    Returns
    -------
    dict of str to polars.DataFrame
        As of `evidence`, but for the frame's own rows.
    """
    found = {}
    known = parts.select(
        "pid", "tid", "t_ns", t_end_ns=pl.col("t_ns") + pl.col("duration_ns")
    ).drop_nulls("pid")
    for lengths, keys in ((_OF_PROCESS, ["pid"]), (_OF_THREAD, ["pid", "tid"])):
        for name, length in lengths.items():
            if name in there:
                found[name] = _overlapping(run.scan(name), length, known.drop_nulls(keys), keys)
    if "queue_depths" in there:
        lived = pl.col("t_ns").is_between(known["t_ns"].min(), known["t_end_ns"].max())
        of_stream = pl.col("stream_id").cast(pl.String).is_in(streams.implode())
        rows = run.scan("queue_depths").filter(*_labelled(run, there, of_stream), lived)
        touches = rows.collect(engine="streaming").filter(of_stream)
        found["queue_depths"] = tables.plain(touches.sort("t_ns"))
    return found


def _labelled(run: Run, there: Set[str], of_stream: pl.Expr) -> list[pl.Expr]:
    """What holds of the rows of a stream, by their labels' numbers.

    By these all that a file has of other streams is passed over unread; by text it is not.
    """
    if "labels" not in there:
        return []
    numbers = run.scan("labels").filter(of_stream).select("labels").collect()["labels"]
    return [pl.col("labels").is_between(numbers.min(), numbers.max())]


def _overlapping(
    table: pl.LazyFrame, length: str, parts: pl.DataFrame, keys: list[str]
) -> pl.DataFrame:
    """The rows that overlap parts of the same process or thread, and by how much."""
    end = pl.col("t_ns") + pl.col(length)
    rows = (
        table.filter(pl.col("t_ns") < parts["t_end_ns"].max(), end > parts["t_ns"].min())
        .collect()
        .sort("t_ns")
        .with_row_index("row")
    )
    both = rows.select("row", *keys, "t_ns", end.alias("t_end_ns")).join(
        parts.select(*keys, begin="t_ns", end="t_end_ns"), on=keys
    )
    overlap = pl.min_horizontal("end", "t_end_ns") - pl.max_horizontal("begin", "t_ns")
    shared = both.group_by("row").agg(overlap.clip(0).sum().alias("overlap_ns"))
    return tables.plain(
        rows.join(shared, on="row", how="inner", maintain_order="left")
        .filter(pl.col("overlap_ns") > 0)
        .drop("row")
    )

"""What in the program goes on growing: a cache, a context variable, a queue?

What is held is looked at now and then. It *goes on growing* if what it does not give back
climbs in each third of the time, in the last one too: a cache that has filled up does not, nor
a queue that is emptied now and then. The time ends where it is largest, if that is in the
later half: at the end of a program all is let go of.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from . import growth, queues, tables
from .tables import AnyTable

#: With fewer looks nothing is said of growth.
LEAST_LOOKS = 4

#: Of a steady growth a third is in the last third of the time; of one that goes on, this much
#: at least.
_STILL = 1 / 6

#: What a type says of a cache that has a limit.
_BOUND = re.compile(r"maxsize=\d")

#: Queues whose puts and gets nobody sees: C's, and asyncio's.
_UNTOUCHED = r"SimpleQueue|asyncio\."

_HOLDERS = {
    "pid": pl.Int32,
    **dict.fromkeys(("holder", "name", "type"), pl.String),
    "bounded": pl.Boolean,
    **dict.fromkeys(("looks", "t_ns", "t_end_ns"), pl.Int64),
    **dict.fromkeys(("first_items", "most_items", "last_items"), pl.Int64),
    **dict.fromkeys(("first_bytes", "most_bytes", "last_bytes", "kept_bytes"), pl.Int64),
    **dict.fromkeys(("items_grow", "bytes_grow"), pl.Boolean),
}

#: Of a queue the least depth of each so manieth part of the time counts as a look.
_PARTS = 24


def goes_on(values: npt.ArrayLike) -> bool:
    """Return whether a series of looks at equal steps climbs and climbs (see this module).

    >>> goes_on([1, 2, 3, 4, 5]), goes_on([1, 5, 9, 9, 9]), goes_on([1, 9, 2, 9, 1])
    (True, False, False)
    """
    known = np.asarray(values, np.float64)
    until = known.size - int(np.argmax(known[::-1])) if known.size else 0
    series = known[:until]
    if until < max(LEAST_LOOKS, known.size / 2):
        return False
    stays = growth.retained(series)
    edges = np.linspace(0, series.size - 1, 4).round().astype(int)
    climbs = np.diff(stays[edges])
    return bool((climbs > 0).all() and climbs[-1] >= _STILL * climbs.sum())


def holders(objects: AnyTable) -> pl.DataFrame:
    """Return what each holder in the program held, and whether that goes on growing.

    Parameters
    ----------
    objects : polars.LazyFrame or polars.DataFrame
        The table `objects`.

    Returns
    -------
    polars.DataFrame
        `pid`, `holder`, `name`, `type`, `bounded` (a cache with a limit), `looks` (since it was
        first seen), `t_ns` and `t_end_ns` (of the first and the last), `first_items`,
        `most_items`, `last_items`, `first_bytes`, `most_bytes`, `last_bytes`, `kept_bytes`
        (what it held at least in the later half), `items_grow` and `bytes_grow`. The largest
        come first.
    """
    keys = ["pid", "holder", "name"]
    columns = (*keys, "type", "t_ns", "items", "size_bytes")
    table = tables.lazy(objects, "objects", columns).select(columns)
    known = (
        tables.as_text(table, ["holder", "name", "type"])
        .with_columns(pl.col("items", "size_bytes").fill_null(0))
        .sort("t_ns", maintain_order=True)
        .collect()
    )
    looks = dict(known.group_by("pid").agg(pl.col("t_ns").unique().sort()).iter_rows())
    found = known.group_by(keys, maintain_order=True).agg(
        pl.col("type").last(), pl.col("t_ns", "items", "size_bytes")
    )
    rows = [_holder(row, looks[row["pid"]]) for row in found.iter_rows(named=True)]
    return pl.DataFrame(rows, schema=_HOLDERS).sort(
        "most_bytes", "most_items", *keys, descending=[True, True, False, False, False]
    )


def _holder(row: dict[str, Any], looks: list[int]) -> dict[str, Any]:
    """Return a row of `holders`; what is empty may be missing at a look."""
    since = [t_ns for t_ns in looks if t_ns >= row["t_ns"][0]]
    items, size = (
        [seen.get(t_ns, 0) for t_ns in since]
        for seen in (
            dict(zip(row["t_ns"], row[column], strict=True)) for column in ("items", "size_bytes")
        )
    )
    return {
        **{name: row[name] for name in ("pid", "holder", "name", "type")},
        "bounded": bool(_BOUND.search(row["type"] or "")),
        "looks": len(since),
        "t_ns": since[0],
        "t_end_ns": since[-1],
        "first_items": items[0],
        "most_items": max(items),
        "last_items": items[-1],
        "first_bytes": size[0],
        "most_bytes": max(size),
        "last_bytes": size[-1],
        "kept_bytes": min(size[len(size) // 2 :]),
        "items_grow": goes_on(items),
        "bytes_grow": goes_on(size),
    }


def over_time(objects: AnyTable, names: list[str]) -> pl.DataFrame:
    """Return what these holders held at each look, for a chart.

    Returns
    -------
    polars.DataFrame
        `pid`, `holder`, `name`, `t_ns`, `items`, `size_bytes`; by holder and time.
    """
    columns = ("pid", "holder", "name", "t_ns", "items", "size_bytes")
    table = tables.as_text(tables.lazy(objects, "objects", columns), ["holder", "name"])
    return (
        table.select(columns)
        .filter(pl.col("name").is_in(names))
        .sort("pid", "holder", "name", "t_ns")
        .collect()
    )


def unbounded(queue_depths: AnyTable) -> pl.DataFrame:
    """Return the queues without a limit, and whether their depth goes on growing.

    Parameters
    ----------
    queue_depths : polars.LazyFrame or polars.DataFrame
        The table `queue_depths`.

    Returns
    -------
    polars.DataFrame
        `queue`, `t_ns` (when it was first touched), `first_depth` (the least of the first
        part of the time), `most_depth` (the greatest that it never was below within a part)
        and `grows`. The deepest come first.
    """
    levels = queues.levels(queue_depths, _PARTS, by=[])
    free = levels.filter(pl.col("capacity").max().over("queue").is_null())
    found = free.group_by("queue", maintain_order=True).agg(
        pl.col("t_ns").min(),
        pl.col("min_depth").first().alias("first_depth"),
        pl.col("min_depth").max().alias("most_depth"),
        pl.col("min_depth"),
    )
    grows = [goes_on(series) for series in found["min_depth"].to_list()]
    return (
        found.drop("min_depth")
        .with_columns(pl.Series("grows", grows, pl.Boolean))
        .sort("most_depth", "queue", descending=[True, False])
    )


def also_touched(objects: AnyTable, queue_depths: AnyTable, names: Sequence[str]) -> pl.DataFrame:
    """Return the holders that are queues of which each put and get was recorded, too.

    They are told by what they held: at each look as much as the queue did, between that
    look and the next one. A queue that is not one of Python's threads' is never touched so.

    Parameters
    ----------
    objects, queue_depths : polars.LazyFrame or polars.DataFrame
        These tables of a run.
    names : sequence of str
        Which queues of `queue_depths`.

    Returns
    -------
    polars.DataFrame
        `pid`, `name` (the holder's) and `queue`; by holder, of several queues the first.
    """
    keys = ["pid", "name"]
    looks = (
        tables.as_text(
            tables.lazy(objects, "objects", (*keys, "holder", "type", "t_ns", "items")),
            ["holder", "name", "type"],
        )
        .filter(pl.col("holder") == "queue", ~pl.col("type").str.contains(_UNTOUCHED))
        .sort("t_ns")
        .select(*keys, "t_ns", "items", until_ns=pl.col("t_ns").shift(-1).over(keys))
    )
    touches = (
        tables.as_text(
            tables.lazy(queue_depths, "queue_depths", ("pid", "queue", "t_ns", "depth")), ["queue"]
        )
        .filter(pl.col("queue").is_in(list(names)))
        .sort("t_ns")
        .select("pid", "queue", "t_ns", "depth")
        .with_columns(before=pl.col("depth").shift(1, fill_value=0).over("pid", "queue"))
        .collect()
    )
    found = []
    for (pid, name), own in looks.collect().group_by(keys, maintain_order=True):
        for queue in sorted(set(touches.filter(pl.col("pid") == pid)["queue"])):
            of_queue = touches.filter(pl.col("pid") == pid, pl.col("queue") == queue)
            if _fits(own, of_queue):
                found.append({"pid": pid, "name": name, "queue": queue})
                break
    schema = {"pid": pl.Int32, "name": pl.String, "queue": pl.String}
    return pl.DataFrame(found, schema=schema)


def _fits(looks: pl.DataFrame, touches: pl.DataFrame) -> bool:
    """Return whether a queue's depth was what was seen, between each look and the next one."""
    times = touches["t_ns"].to_numpy()
    least = np.minimum(touches["depth"].to_numpy(), touches["before"].to_numpy())
    most = np.maximum(touches["depth"].to_numpy(), touches["before"].to_numpy())
    for t_ns, items, until_ns in looks.select("t_ns", "items", "until_ns").iter_rows():
        begin = max(0, int(np.searchsorted(times, t_ns, "right")) - 1)
        end = times.size if until_ns is None else int(np.searchsorted(times, until_ns, "right"))
        part = slice(begin, max(end, begin + 1))
        if not least[part].min() <= items <= most[part].max():
            return False
    return True

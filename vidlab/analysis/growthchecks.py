"""Checks of what goes on growing, and of what never ends: the rest of `health.verdicts`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import polars as pl

from .. import sizes
from ..runs.run import Run
from . import accumulation, threads
from .saying import times
from .thresholds import Thresholds, Verdict

#: The folders of a file but the last.
_FOLDERS = re.compile(r"\(\S*/(?=[^/]+/[^/]+:\d+\))")

_HELD_IN = {
    "global": "the global {}",
    "attribute": "the attribute {}",
    "cache": "the cache {}",
}


def unbounded_queues(run: Run, limits: Thresholds) -> Iterator[Verdict]:
    """Queues without a limit that get longer and longer: `unbounded_queue`."""
    depths = run.scan("queue_depths")
    found = accumulation.unbounded(depths).select(
        "queue", "t_ns", "first_depth", "most_depth", "grows", pid=pl.lit(None, pl.Int32)
    )
    growing = found.filter("grows")["queue"].to_list()
    touched = accumulation.also_touched(run.scan("objects"), depths, growing)
    held = (
        accumulation.holders(run.scan("objects"))
        .filter(pl.col("holder") == "queue")
        .join(touched, on=["pid", "name"], how="anti")
    )
    both = pl.concat(
        [
            found,
            held.select(
                queue="name",
                t_ns="t_ns",
                first_depth="first_items",
                most_depth="most_items",
                grows="items_grow",
                pid="pid",
            ),
        ],
        how="vertical_relaxed",
    ).with_columns(growth=pl.col("most_depth") - pl.col("first_depth"))
    for row in both.filter("grows", pl.col("growth") >= limits.queue_growth).iter_rows(named=True):
        yield Verdict(
            "unbounded_queue",
            row["queue"],
            f"The queue {row['queue']} has no limit and gets longer and longer: from "
            f"{row['first_depth']:,} to {row['most_depth']:,} entries. What takes "
            "from it is slower than what fills it, and each frame waits longer than the one "
            "before. Give it a maxsize, so that the one waits for the other, or drop frames.",
            row["growth"],
            limits.queue_growth,
            "entries",
            row["pid"],
            row["t_ns"],
            {"first_depth": row["first_depth"], "most_depth": row["most_depth"]},
        )


def growing_holders(run: Run, limits: Thresholds) -> Iterator[Verdict]:
    """Caches and context variables: `cache_growth`, `context_variable_growth`."""
    held = accumulation.holders(run.scan("objects")).filter(pl.col("holder") != "queue")
    items = pl.col("most_items") - pl.col("first_items")
    size = pl.col("most_bytes") - pl.col("first_bytes")
    context = pl.col("holder") == "context_variable"
    grown = held.with_columns(more_items=items, more_bytes=size).with_columns(
        by_items=pl.col("items_grow") & ~pl.col("bounded") & (items >= limits.item_growth),
        by_bytes=pl.col("bytes_grow") & ~pl.col("bounded") & (size >= limits.byte_growth),
        large=context & (pl.col("kept_bytes") >= limits.context_bytes),
    )
    for row in grown.filter(pl.any_horizontal("by_items", "by_bytes", "large")).iter_rows(
        named=True
    ):
        yield _growing_holder(row, limits)


def _growing_holder(row: dict[str, Any], limits: Thresholds) -> Verdict:
    is_context = row["holder"] == "context_variable"
    grows = row["by_items"] or row["by_bytes"]
    first, most = sizes.say(row["first_bytes"]), sizes.say(row["most_bytes"])
    what = (
        f"got larger and larger: from {row['first_items']:,} to {row['most_items']:,} items "
        f"({first} to {most})"
        if grows
        else f"keeps {sizes.say(row['kept_bytes'])} all the time"
    )
    if is_context:
        subject = f"The context variable {row['name']} {what}."
        advice = (
            "Each task and each callback keeps a copy of the context that it began in, with what "
            "the variable held then. Reset it with its token when the frame is done, or keep a "
            "small key in it and the object elsewhere."
        )
    else:
        subject = f"What is held in {_HELD_IN.get(row['holder'], '{}').format(row['name'])} {what}."
        advice = "Give it a limit: functools.lru_cache(maxsize=…), or drop the oldest."
    value, threshold, unit = (
        (row["more_items"], limits.item_growth, "items")
        if row["by_items"]
        else (row["more_bytes"], limits.byte_growth, "bytes")
        if row["by_bytes"]
        else (row["kept_bytes"], limits.context_bytes, "bytes")
    )
    columns = ("holder", "type", "looks", "first_items", "most_items", "first_bytes", "most_bytes")
    return Verdict(
        "context_variable_growth" if is_context else "cache_growth",
        row["name"],
        f"{subject} {advice}",
        value,
        threshold,
        unit,
        row["pid"],
        row["t_ns"],
        {name: row[name] for name in columns},
    )


def stuck_tasks(run: Run, limits: Thresholds) -> Iterator[Verdict]:
    """Asyncio tasks that wait for what never comes: `task_never_ends`."""
    found = threads.stuck(run.scan("tasks"), round(limits.task_age_seconds * 1e9))
    for row in found.iter_rows(named=True):
        several = row["count"] > 1
        names = ", ".join(name for name in row["names"] if name)
        who = f" ({names}{', …' if row['count'] > len(row['names']) else ''})" if names else ""
        place = _FOLDERS.sub("(", row["waits_at"] or "a place that is not known")
        yield Verdict(
            "task_never_ends",
            row["coroutine"] or row["names"][0] or "a task without a name",
            f"{times(row['count'], 'task')} of {row['coroutine']}{who} "
            f"{'have' if several else 'has'} waited at {place} for {row['age_ns'] / 1e9:,.0f} s, "
            f"since {'they were' if several else 'it was'} first seen, and came no further. Wait "
            "with a timeout (asyncio.timeout), or cancel what nobody waits for any more.",
            row["age_ns"] / 1e9,
            limits.task_age_seconds,
            "s",
            row["pid"],
            row["t_ns"],
            {"tasks": row["count"], "names": row["names"], "waits_at": row["waits_at"]},
        )

"""Flame graphs, as trees in tables: of GPU memory by device, labels and stack; of GPU time.

A tree has one row a node: its number `id`, its `parent` (null for the root), `name`, `layer`
(a column's name, "stack", "stage", "root" or "other"), `depth` (0 for the root), `path` (all
names from the root, joined by " > "), a value of its own and one with all that is below it. A
parent comes before its children, siblings by value: see `trees`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import numpy.typing as npt
import polars as pl

from ..errors import InputError
from . import tables, trees
from .allocation_events import Ints, effective, group_numbers
from .memory import Where
from .sites import UNKNOWN_SITE
from .tables import AnyTable
from .trees import Node

#: The layers of memory above the stack, and those of GPU time above the stages.
MEMORY_LAYERS = ("device", "context", "cuda_stream", "stream_id", "codec")
TIME_LAYERS = ("gpu", "stream_id", "codec")

#: What may be measured of memory.
MEASURES = ("in_use", "peak", "allocated")

#: Nodes below this share of the whole are put together, where there are many steps.
PRUNED = 0.005


def memory(
    allocations: AnyTable,
    stacks: AnyTable | None = None,
    measure: str = "in_use",
    t_ns: int | None = None,
    layers: Sequence[str] = MEMORY_LAYERS,
    level: str = "pool",
    where: Where | None = None,
    prune: float = 0.0,
) -> pl.DataFrame:
    """Return the flame graph of memory.

    Parameters
    ----------
    allocations, stacks
        The tables of a run, `allocations` whole.
    measure : str
        `in_use` at the moment `t_ns` (None: the last event); `peak`: in use when the most was;
        `allocated`: all that was ever taken (until `t_ns`, if given), freed or not.
    t_ns : int, optional
        The moment.
    layers : sequence of str
        What the tree is layered by above the stack: columns of allocations.
    level : str
        pool, driver or borrowed.
    where : mapping of str to value, optional
        Only what was taken under these values.
    prune : float
        Nodes below this share of the whole become "(other)".

    Returns
    -------
    polars.DataFrame
        A tree, with `self_bytes` and `total_bytes`. Without memory it is empty.

    Raises
    ------
    InputError
        If a column is missing or the measure is none.
    """
    if measure not in MEASURES:
        raise InputError(f"a measure of memory is one of {', '.join(MEASURES)}, not {measure!r}")
    leaves = _leaves(allocations, layers, level, where)
    change = leaves.change
    upto = len(change)
    if measure == "peak" and upto:
        upto = int(np.argmax(np.cumsum(change))) + 1
    elif t_ns is not None:
        upto = int(np.searchsorted(leaves.t_ns, t_ns, side="right"))
    change, number = change[:upto], leaves.number[:upto]
    if measure == "allocated":
        number, change = number[change > 0], change[change > 0]
    values = np.zeros((leaves.groups.height, 1), np.int64)
    np.add.at(values[:, 0], number, change)
    tree = _tree(leaves.groups, values, layers, stacks)
    return trees.table(tree, prune, "bytes").drop("step")


def memory_over_time(
    allocations: AnyTable,
    stacks: AnyTable | None = None,
    steps: int = 24,
    layers: Sequence[str] = MEMORY_LAYERS,
    level: str = "pool",
    where: Where | None = None,
    prune: float = PRUNED,
) -> pl.DataFrame:
    """Return the flame graph of memory in use at several moments, for a time slider.

    Parameters
    ----------
    allocations, stacks, layers, level, where
        As of `memory`.
    steps : int
        How many moments: the ends of so many equal parts of the time from the first event to
        the last.
    prune : float
        Nodes that are below this share of the largest total at every moment become "(other)".

    Returns
    -------
    polars.DataFrame
        `step` (from 0), `t_ns`, and a tree with `self_bytes` and `total_bytes`: at each step
        the same nodes under the same numbers, some of them with nothing.

    Raises
    ------
    InputError
        If a column is missing or `steps` is not positive.
    """
    if steps < 1:
        raise InputError(f"a flame graph over time has one step at least, not {steps!r}")
    leaves = _leaves(allocations, layers, level, where)
    first, last = (leaves.t_ns[0], leaves.t_ns[-1]) if len(leaves.t_ns) else (0, 0)
    moments = first + ((last - first) * np.arange(1, steps + 1)) // steps
    values = np.zeros((leaves.groups.height, steps), np.int64)
    np.add.at(values, (leaves.number, np.searchsorted(moments, leaves.t_ns)), leaves.change)
    tree = _tree(leaves.groups, np.cumsum(values, axis=1), layers, stacks)
    table = trees.table(tree, prune, "bytes")
    times = pl.DataFrame({"step": np.arange(steps), "t_ns": moments}).cast(
        {"step": pl.Int32, "t_ns": pl.Int64}
    )
    return times.join(table, on="step", maintain_order="left_right")


def gpu_time(
    spans: AnyTable, layers: Sequence[str] = TIME_LAYERS, prune: float = 0.0
) -> pl.DataFrame:
    """Return the flame graph of time on the GPU, by device, labels and stage.

    Parameters
    ----------
    spans : polars.LazyFrame or polars.DataFrame
        The table `spans`. Only those count that were timed on the GPU; one within another is
        below it, and its time is no part of the other's own. A sampled span counts for all
        that it stands for.
    layers : sequence of str
        What the tree is layered by above the stages: columns of spans.
    prune : float
        Nodes below this share of the whole become "(other)".

    Returns
    -------
    polars.DataFrame
        A tree, with `self_ns` and `total_ns`. Without GPU times it is empty.
    """
    keys = list(dict.fromkeys(layers))
    needs = [*keys, "span", "parent", "stage", "gpu_duration_ns"]
    # A span and those within it are of one frame, and stand for equally many.
    whole = tables.whole_number(pl.col("gpu_duration_ns") * pl.col(tables.WEIGHT))
    table = tables.lazy(spans, "spans", needs).pipe(tables.weighted)
    known = table.filter(pl.col("gpu_duration_ns").is_not_null())
    timed = tables.plain(known.with_columns(whole).select(needs).collect())
    own = timed.with_columns(stages=pl.concat_list("stage"), above=pl.col("parent"))
    inside = timed.group_by("parent").agg(pl.col("gpu_duration_ns").sum().alias("inside_ns"))
    own = own.join(inside, left_on="span", right_on="parent", how="left").with_columns(
        value=(pl.col("gpu_duration_ns") - pl.col("inside_ns").fill_null(0)).clip(0)
    )
    outer = timed.select(
        pl.col("span").alias("above"), pl.col("stage").alias("around"), pl.col("parent").alias("up")
    )
    done = []
    while own.height:  # one level of nesting at a time
        found = own.join(outer, on="above", how="left")
        top = pl.col("around").is_null()
        done.append(found.filter(top).select(*keys, "stages", "value"))
        own = found.filter(~top).select(
            *keys,
            pl.concat_list("around", "stages").alias("stages"),
            pl.col("up").alias("above"),
            "value",
        )
    if not done:
        return trees.table(None, prune, "ns").drop("step")
    sums = pl.concat(done).group_by(*keys, "stages").agg(pl.col("value").sum())
    root = Node.root(1)
    for *labels, stages, value in sums.select(*keys, "stages", "value").iter_rows():
        path = [(_shown(key, label), key) for key, label in zip(keys, labels, strict=True)]
        root.add([*path, *((stage, "stage") for stage in stages)], np.array([value]))
    return trees.table(root, prune, "ns").drop("step")


@dataclass(frozen=True)
class _Leaves:
    """Changes in time, each with the number of its group: layers and stack."""

    t_ns: Ints
    change: Ints
    number: npt.NDArray[np.uint32]
    groups: pl.DataFrame


def _leaves(
    allocations: AnyTable, layers: Sequence[str], level: str, where: Where | None
) -> _Leaves:
    keys = [*dict.fromkeys([*layers, "stack"])]
    events = effective(allocations, keys, level, where)
    number, groups = group_numbers(events, keys)
    return _Leaves(events["t_ns"].to_numpy(), events["change_bytes"].to_numpy(), number, groups)


def _tree(
    groups: pl.DataFrame, values: Ints, layers: Sequence[str], stacks: AnyTable | None
) -> Node | None:
    if not values.any():
        return None
    calls = _calls(stacks) if stacks is not None else {}
    root = Node.root(values.shape[1])
    keys = [key for key in dict.fromkeys(layers) if key != "stack"]
    for row, (*labels, stack) in enumerate(groups.select(*keys, "stack").iter_rows()):
        if not values[row].any():
            continue
        path = [(_shown(key, label), key) for key, label in zip(keys, labels, strict=True)]
        unknown = [UNKNOWN_SITE if stack is None else f"stack {stack}"]
        root.add([*path, *((call, "stack") for call in calls.get(stack, unknown))], values[row])
    return root


def _shown(layer: str, value: object) -> str:
    """How a value of a layer is called."""
    if layer in ("device", "gpu"):
        return f"device {value}" if value is not None else "no device"
    if layer == "cuda_stream" and isinstance(value, int):
        return f"CUDA stream {value:#x}" if value else "default CUDA stream"
    if layer == "context" and isinstance(value, int):
        return f"context {value:#x}"
    return f"(no {layer})" if value is None else str(value)


def _calls(stacks: AnyTable) -> dict[int, list[str]]:
    """The calls of each stack, outermost first: "function (file.py:12)"."""
    found = tables.lazy(stacks, "stacks", ("stack", "frames")).collect()
    calls: dict[int, list[str]] = {}
    for stack, frames in found.select("stack", "frames").iter_rows():
        calls[stack] = [
            f"{frame['function']} ({PurePath(frame['file'] or '?').name}:{frame['line']})"
            for frame in reversed(frames or ())
        ] or [UNKNOWN_SITE]
    return calls

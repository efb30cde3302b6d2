"""Which stacks does CPU or memory go to: flame graphs of profiles, and what differs between two.

A *profile* here is a table of stacks with a weight: any columns to layer it by, `calls` (a
list of text, outermost first), one column of values: `cpu_ns`, `size_bytes` or `objects`, and
`samples`, how many were seen, where the profiler tells. Any of its rows are a profile too:
`profile.filter(pl.col("stream_id") == "cam-1")`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from ..errors import InputError
from . import calibration, calls, clocks, tables, trees
from .calibration import LABELS
from .sites import UNKNOWN_SITE
from .tables import AnyTable
from .trees import Node

#: With fewer samples than this no flame graph is drawn: it would show chance.
ENOUGH = 30

#: Nodes below this share of the whole are put together.
PRUNED = 0.002

#: What stands where no stack was seen.
NO_STACK = UNKNOWN_SITE

#: What stands where clocks know of CPU, and no sample was taken.
NOT_SAMPLED = "(not sampled)"

#: Types of samples that say what there is at a moment, rather than what there was since the last.
_STANDING = ("inuse_objects", "inuse_space")

#: The columns of values, and the units that trees call them by.
_VALUES = {"cpu_ns": "ns", "size_bytes": "bytes", "objects": "count"}
_UNITS = {"nanoseconds": "cpu_ns", "bytes": "size_bytes"}


def of_cpu(
    samples: AnyTable,
    stacks: AnyTable,
    spans: AnyTable | None = None,
    by: str | Sequence[str] = LABELS,
    thread_waits: AnyTable | None = None,
    threads: AnyTable | None = None,
    lines: bool = True,
) -> pl.DataFrame:
    """Return the profile of CPU, calibrated: each label's samples sum to its exact CPU.

    Parameters
    ----------
    samples, spans, by, thread_waits, threads
        As of `calibration.shared_out`.
    stacks : polars.LazyFrame or polars.DataFrame
        The table `stacks`.
    lines : bool
        Whether the same function, called from two lines, is two calls.

    Returns
    -------
    polars.DataFrame
        A profile with `by`, in `cpu_ns`; `sampled_ns`, what samples alone say; and `staged`,
        whether it was in a stage.
    """
    keys = tables.names(by)
    shared = calibration.shared_out(samples, spans, keys, thread_waits, threads)
    return _with_calls(shared, stacks, lines).select(
        *keys, "staged", "calls", "samples", pl.col("cpu_ns").round().cast(pl.Int64), "sampled_ns"
    )


def of_type(
    samples: AnyTable,
    stacks: AnyTable,
    type: str,
    by: str | Sequence[str] = (),
    lines: bool = True,
) -> pl.DataFrame:
    """Return the profile of one type of samples, such as alloc_space, as it was received.

    Of memory in use that is what the last push of each process says, of others the sum.

    Parameters
    ----------
    samples, stacks, lines
        As of `of_cpu`.
    type : str
        The type, as of the column `type`.
    by : str or sequence of str
        Columns of samples to keep.

    Returns
    -------
    polars.DataFrame
        A profile with `by`, in `size_bytes`, `cpu_ns` or `objects`, by the unit; without
        `samples`, if the profiler does not tell how many there were.

    Raises
    ------
    InputError
        If a column is missing, or there are no samples of this type.
    """
    keys = tables.names(by)
    needs = ["t_ns", "pid", "type", "unit", "value", "samples", "stack", *keys]
    table = tables.lazy(samples, "profile_samples", needs)
    kinds = table.select(pl.col("type", "unit").cast(pl.String)).unique().sort("type").collect()
    units = kinds.filter(pl.col("type") == type)["unit"]
    if not units.len():
        there = ", ".join(kinds["type"].drop_nulls()) or "none at all"
        raise InputError(f"there are no samples of the type {type!r}; there are: {there}")
    rows = table.filter(pl.col("type").cast(pl.String) == type)
    if type in _STANDING:
        rows = rows.filter(pl.col("t_ns") == pl.col("t_ns").max().over("pid"))
    value = _UNITS.get(units[0] or "", "objects")
    found = (
        tables.as_text(rows, keys)
        .group_by(*keys, "stack")
        .agg(pl.col("samples").sum(), pl.col("value").sum().alias(value))
        .filter(pl.col(value) > 0)
        .sort(value, *keys, "stack", descending=[True, *[False] * (len(keys) + 1)])
        .collect()
    )
    told = ["samples"] if found["samples"].sum() else []
    return _with_calls(found, stacks, lines).select(*keys, "calls", *told, value)


def of_spans(
    samples: AnyTable,
    stacks: AnyTable,
    spans: AnyTable,
    chosen: Iterable[int],
    by: str | Sequence[str] = (),
    lines: bool = True,
) -> pl.DataFrame:
    """Return the profile of what ran while some spans were open, in their threads.

    Parameters
    ----------
    samples, stacks, spans, by, lines
        As of `of_cpu`; all spans, not only those chosen.
    chosen : iterable of int
        The numbers of the spans. Those inside them count too.

    Returns
    -------
    polars.DataFrame
        A profile with `by`, in `cpu_ns`, calibrated to the CPU of just these spans.
    """
    inside = pl.Series("span", _with_inner(spans, chosen), pl.UInt64).implode()
    return of_cpu(
        tables.lazy(samples, "profile_samples", ["span"]).filter(pl.col("span").is_in(inside)),
        stacks,
        tables.lazy(spans, "spans", ["span"]).filter(pl.col("span").is_in(inside)),
        by,
        lines=lines,
    )


def slow_and_rest(spans: AnyTable, stage: str, share: float = 0.1) -> tuple[list[int], list[int]]:
    """Return the numbers of a stage's slowest spans, and those of its other ones.

    Parameters
    ----------
    spans : polars.LazyFrame or polars.DataFrame
        The table `spans`, or those of a slice.
    stage : str
        The stage. Only spans whose clocks were read count, as samples are of these.
    share : float
        Which share of them is slow, in (0, 1). A sampled span counts for all that it stands
        for.

    Raises
    ------
    InputError
        If the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise InputError(f"the slow share of spans is between 0 and 1, such as 0.1, not {share!r}")
    table = tables.lazy(spans, "spans", ["span", "stage", "duration_ns", "cpu_ns"])
    of_stage = (pl.col("stage").cast(pl.String) == stage) & pl.col("cpu_ns").is_not_null()
    ranked = (
        tables.weighted(table.filter(of_stage))
        .select("span", "duration_ns", tables.WEIGHT)
        .sort("duration_ns", "span", descending=[True, False])
        .collect()
    )
    weights = ranked[tables.WEIGHT].to_numpy()
    before = weights.cumsum() - weights
    # The last of the slow ones is that with which they are so many.
    slow = int((before < share * weights.sum() * (1 - 1e-12)).sum())
    numbers = ranked["span"].to_list()
    return numbers[:slow], numbers[slow:]


def flame(profile: pl.DataFrame, layers: Sequence[str] = (), prune: float = PRUNED) -> pl.DataFrame:
    """Return a profile's flame graph.

    Parameters
    ----------
    profile : polars.DataFrame
        A profile.
    layers : sequence of str
        Columns of it that the tree is layered by, above the stacks.
    prune : float
        Nodes below this share of the whole become "(other)".

    Returns
    -------
    polars.DataFrame
        A tree (`trees`), with `self_ns` and `total_ns` (or `…_bytes`, `…_count`) and
        `samples`, if told: how many are in the node and below it; of CPU also `sampled_ns`,
        what these say. Branches of layers with fewer than
        `ENOUGH` samples are not divided by stack: one node says how many there are. Without
        any values it is empty.
    """
    value, unit = _value(profile)
    further = [name for name in ("samples", "sampled_ns") if name in profile.columns]
    table = trees.table(_grown([profile], [value, *further], layers), prune, unit)
    return (
        table.filter(pl.col("step") == 0)
        .drop("step")
        .with_columns(
            table.filter(pl.col("step") == step)[f"total_{unit}"].alias(name)
            for step, name in enumerate(further, 1)
        )
    )


def difference(
    before: pl.DataFrame,
    after: pl.DataFrame,
    layers: Sequence[str] = (),
    frames: tuple[int, int] | None = None,
    prune: float = PRUNED,
) -> pl.DataFrame:
    """Return what two profiles spend differently: of two label values, or of two runs.

    Parameters
    ----------
    before, after : polars.DataFrame
        Two profiles of the same unit; without lines, if they are of different code.
    layers : sequence of str
        Columns that the tree is layered by, above the stacks.
    frames : (int, int), optional
        How many frames each is of: values are then for each frame. By default the second is
        scaled to the total of the first, so that shares are compared.
    prune : float
        Nodes that are in both below this share of the whole become "(other)".

    Returns
    -------
    polars.DataFrame
        A tree, with `before_ns`, `after_ns` and `change_ns` (or `…_bytes`, `…_count`) of each
        node with all below it, and `samples_before` and `samples_after`, if they are told.

    Raises
    ------
    InputError
        If the units differ, or a number of frames is not positive.
    """
    value, unit = _value(before)
    if _value(after)[0] != value:
        raise InputError(f"a difference is of one unit, not of {value} and {_value(after)[0]}")
    if frames is not None and min(frames) < 1:
        raise InputError(f"each profile is of one frame at least, not of {frames!r}")
    totals = [int(part[value].sum()) for part in (before, after)]
    if frames is not None:
        scales = [1 / frames[0], 1 / frames[1]]
    else:
        scales = [1.0, totals[0] / totals[1] if totals[1] else 0.0]
    scaled = [
        part.with_columns((pl.col(value) * scale).round().cast(pl.Int64))
        for part, scale in zip((before, after), scales, strict=True)
    ]
    told = all("samples" in part.columns for part in (before, after))
    columns = [value, *(["samples"] if told else [])]
    root = _grown(scaled, columns, layers) if all(totals) else None
    table = trees.table(root, prune, unit)
    names = [f"before_{unit}", "samples_before", f"after_{unit}", "samples_after"]
    steps = {
        name: table.filter(pl.col("step") == step)[f"total_{unit}"]
        for step, name in enumerate(names if told else names[::2])
    }
    change = (steps[names[2]] - steps[names[0]]).alias(f"change_{unit}")
    wide = table.filter(pl.col("step") == 0).select(
        pl.exclude("step", f"self_{unit}", f"total_{unit}"),
    )
    return wide.with_columns(
        steps[names[0]].alias(names[0]),
        steps[names[2]].alias(names[2]),
        change,
        *(steps[name].alias(name) for name in names[1::2] if told),
    )


def stacks_of(profile: pl.DataFrame, n: int = 20) -> pl.DataFrame:
    """Return the stacks of a profile that are heaviest, as text, for a table.

    Returns
    -------
    polars.DataFrame
        `calls` (from the outermost on, joined by " > "), `samples` and the values.
    """
    value, _ = _value(profile)
    return (
        profile.group_by(pl.col("calls").list.join(" > "))
        .agg(pl.col(name).sum() for name in ("samples", value) if name in profile.columns)
        .sort(value, "calls", descending=[True, False])
        .head(n)
    )


def _grown(
    sides: Sequence[pl.DataFrame], columns: Sequence[str], layers: Sequence[str]
) -> Node | None:
    """Return the tree of profiles, with the columns of each: its values first."""
    if not any(side[columns[0]].sum() for side in sides):
        return None
    width = len(columns)
    root = Node.root(width * len(sides))
    groups: dict[tuple[object, ...], list[Any]] = {}
    for place, side in enumerate(sides):
        stacks, labels = side["calls"].to_list(), side.select(layers).rows()
        for row, values in enumerate(side.select(columns).rows()):
            numbers = np.zeros(width * len(sides), np.int64)
            numbers[width * place : width * (place + 1)] = values
            group = groups.setdefault(labels[row] if layers else (), [])
            group.append((stacks[row], numbers))
    for keys, rows in groups.items():
        above = [(_shown(key, name), name) for key, name in zip(keys, layers, strict=True)]
        total = np.sum([numbers for _, numbers in rows], axis=0)
        fewest = int(total[1::width].min()) if "samples" in columns else ENOUGH
        if fewest < ENOUGH:
            root.add([*above, (f"(too few samples: {fewest})", "note")], total)
            continue
        for stack, numbers in rows:
            root.add([*above, *((call, "stack") for call in stack)], numbers)
    return root


def _shown(value: object, layer: str) -> str:
    if value is None:
        return f"(no {layer})"
    return f"GPU {value}" if layer == "gpu" else str(value)


def _value(profile: pl.DataFrame) -> tuple[str, str]:
    """The column of a profile's values, and their unit."""
    for name, unit in _VALUES.items():
        if name in profile.columns:
            return name, unit
    raise InputError(
        f"this is no profile: it has none of the columns {', '.join(_VALUES)}; make one by of_cpu, "
        "of_type or of_spans"
    )


def _with_calls(rows: pl.DataFrame, stacks: AnyTable, lines: bool) -> pl.DataFrame:
    """Return the rows with the calls of their stacks."""
    known = calls.calls(stacks, lines)
    texts = pl.DataFrame(
        {"stack": list(known), "calls": list(known.values())},
        schema={"stack": pl.UInt32, "calls": pl.List(pl.String)},
    )
    seen = pl.when(pl.col("samples") > 0) if "staged" in rows.columns else pl.when(True)
    missing = seen.then(pl.lit([NO_STACK])).otherwise(pl.lit([NOT_SAMPLED]))
    return rows.join(texts, on="stack", how="left", maintain_order="left").with_columns(
        pl.coalesce("calls", missing)
    )


def _with_inner(spans: AnyTable, chosen: Iterable[int]) -> list[int]:
    """Return the numbers of these spans and of all inside them, in their threads."""
    inner = clocks.nested(spans).select("span", "around").drop_nulls()
    found = set(chosen)
    level = found
    while level:
        inside = inner.filter(
            pl.col("around").is_in(pl.Series(list(level), dtype=pl.UInt64).implode())
        )
        level = set(inside["span"]) - found
        found |= level
    return sorted(found)

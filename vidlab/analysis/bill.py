"""The bill of a device's memory: does what the device says it uses add up?

    used = pool in use + pool cached + other driver allocations + context and modules
           + other processes + unexplained

**A reading is an interval.** A sample was read at some moment of [t, t + duration], and a call
of the driver takes effect at some moment of its own. Of a call that was under way nobody can
say whether the reading saw it. So a sample has several values that "unexplained" may be: see
`readings`. Of all sequences of such values the one with the fewest changes is taken, and where
that leaves a choice, the value nearest to the one before (0 at first). So calls in flight
raise no alarm, and hide no memory taken behind the tracker's back: it is still there when they
are over. What a reading is taken to have seen of them is billed as the pools' or other memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from ..errors import InputError
from ..schema import ASYNC, DRIVER, LEVELS, MEMORY_KINDS, PINNED, POOL
from . import tables
from .allocation_events import Ints, effective
from .readings import Call, in_flight, settled
from .tables import AnyTable

_POOL, _DRIVER = LEVELS[POOL], LEVELS[DRIVER]
_ASYNC, _PINNED = MEMORY_KINDS[ASYNC], MEMORY_KINDS[PINNED]

#: The device that is none: it has no context that would take memory.
HOST_DEVICE = "host memory (no GPU)"

#: From how much unexplained growth on `alarms` speaks up.
ALARM_BYTES = 64 << 20

#: Among so many samples one is sought with no calls in flight, to measure the context by.
_SOON = 10

_SAMPLE = ("t_ns", "duration_ns", "pid", "device", "device_name", "used_bytes", "total_bytes")
_TERMS = (
    "pool_in_use_bytes",
    "pool_cached_bytes",
    "other_driver_bytes",
    "context_and_modules_bytes",
    "other_processes_bytes",
    "unexplained_bytes",
)
_SCHEMA: dict[str, Any] = {
    "t_ns": pl.Int64,
    "pid": pl.Int32,
    "device": pl.Int16,
    "device_name": pl.String,
    "used_bytes": pl.Int64,
    "total_bytes": pl.Int64,
    **dict.fromkeys(_TERMS, pl.Int64),
    "async_in_use_bytes": pl.Int64,
    "pinned_bytes": pl.Int64,
    "in_flight_bytes": pl.Int64,
    "coverage": pl.Float64,
}


def bill(gpu_samples: AnyTable, allocations: AnyTable, pid: int | None = None) -> pl.DataFrame:
    """Return the bill of each device at each sample.

    Parameters
    ----------
    gpu_samples : polars.LazyFrame or polars.DataFrame
        The table `gpu_samples`. Each process's samples are set against its own allocations.
    allocations : polars.LazyFrame or polars.DataFrame
        The table `allocations`, whole.
    pid : int, optional
        Only this process's bill.

    Returns
    -------
    polars.DataFrame
        One row a sample, by `pid`, `device`, `t_ns`; with `device_name`, `total_bytes` and

        * `used_bytes` of the device, which is the sum of the next six;
        * `pool_in_use_bytes`: what allocators gave the program; `pool_cached_bytes`: what pools
          keep beyond it, CUDA's own stream-ordered pool too, if the sample says how much that
          has reserved; `other_driver_bytes`: taken of the driver, and kept by no pool;
        * `context_and_modules_bytes`: what was left over at the first sample at which the
          process used the device and had taken memory of it; constant from then on, never
          negative, and 0 on the host device;
        * `other_processes_bytes`: null if the driver does not say what this process uses. Then
          what others use is part of the context at first, and unexplained as it grows;
        * `unexplained_bytes`: the rest. Negative if the device uses less than was taken of it.

        Besides: `async_in_use_bytes` (part of the pools' in use), `pinned_bytes` (page-locked
        host memory, no part of the bill), `in_flight_bytes` (of driver calls that overlap the
        reading) and `coverage`, the share of `used_bytes` that is explained.

    Raises
    ------
    InputError
        If a column is missing.
    """
    needs = [*_SAMPLE, "process_used_bytes", "async_reserved_bytes"]
    table = tables.lazy(gpu_samples, "gpu_samples", needs).select(needs)
    table = table.filter(pl.col("used_bytes").is_not_null())
    if pid is not None:
        table = table.filter(pl.col("pid") == pid)
    samples = tables.plain(table.sort("pid", "device", "t_ns").collect())
    if not samples.height:
        return pl.DataFrame(schema=_SCHEMA)
    columns = ["pid", "device", "level", "kind", "pooled"]
    events = tables.plain(effective(allocations, columns).filter(pl.col("level") != "borrowed"))
    flights = _calls(allocations)
    parts = []
    for (process, device), own in samples.partition_by(
        "pid", "device", as_dict=True, maintain_order=True
    ).items():
        mine = pl.col("pid").eq_missing(pl.lit(process)), pl.col("device") == device
        parts.append(_of_device(own, events.filter(mine), flights.filter(mine)))
    return pl.concat(parts).select(_SCHEMA.keys()).cast(pl.Schema(_SCHEMA))


def alarms(bill: pl.DataFrame, threshold_bytes: int = ALARM_BYTES) -> pl.DataFrame:
    """Return when memory that nobody explains grew by more than a threshold.

    Parameters
    ----------
    bill : polars.DataFrame
        What `bill` returned.
    threshold_bytes : int
        Growth beyond the least that was unexplained before, in one step or in many.

    Returns
    -------
    polars.DataFrame
        One row an episode, which lasts until half of the threshold is gone again: `pid`,
        `device`, `t_ns` (the sample at which it crossed the threshold), `since_ns` (the last
        sample at which it had not begun to grow), `until_ns` (when it was over; null if it is
        not), `grew_bytes` (at most, during the episode), `unexplained_bytes` (then) and `kind`:
        "step" if it crossed within one sample, else "growth".

    Raises
    ------
    InputError
        If the threshold is not positive.
    """
    if threshold_bytes <= 0:
        raise InputError(f"threshold_bytes is positive, not {threshold_bytes!r}")
    schema = {
        "pid": pl.Int32,
        "device": pl.Int16,
        "t_ns": pl.Int64,
        "since_ns": pl.Int64,
        "until_ns": pl.Int64,
        "grew_bytes": pl.Int64,
        "unexplained_bytes": pl.Int64,
        "kind": pl.String,
    }
    rows = []
    for (pid, device), part in bill.partition_by("pid", "device", as_dict=True).items():
        values = part.sort("t_ns").select("t_ns", "unexplained_bytes").rows()
        rows += [(pid, device, *episode) for episode in _episodes(values, threshold_bytes)]
    return pl.DataFrame(rows, schema=schema, orient="row").sort("t_ns", "pid", "device")


def _episodes(
    values: Iterable[tuple[int, int]], threshold: int
) -> list[tuple[int, int, int | None, int, int, str]]:
    found: list[tuple[int, int, int | None, int, int, str]] = []
    began: tuple[int, int, str] | None = None
    least: int | None = None
    since = most = previous = 0
    for t_ns, value in values:
        if began is not None and least is not None:
            most = max(most, value)
            if value - least <= threshold // 2:
                found.append((*began[:2], t_ns, most - least, most, began[2]))
                began, least = None, None
        elif least is not None and value - least >= threshold:
            step = value - previous >= threshold // 2
            began, most = (t_ns, since, "step" if step else "growth"), value
        if began is None:
            least = value if least is None else min(least, value)
            if value - least <= threshold // 8:  # not yet more than noise
                since = t_ns
        previous = value
    if began is not None and least is not None:
        found.append((*began[:2], None, most - least, most, began[2]))
    return found


def _calls(allocations: AnyTable) -> pl.DataFrame:
    """The driver's calls that change what a device uses: when, how much, whose."""
    needs = ["t_ns", "duration_ns", "pid", "device", "op", "level", "kind", "status", "pooled"]
    table = tables.lazy(allocations, "allocations", [*needs, "size_bytes"]).filter(
        (pl.col("level") == _DRIVER) & (pl.col("status") == "ok") & (pl.col("kind") != _PINNED)
    )
    return tables.plain(table.select(*needs, "size_bytes").sort("t_ns").collect())


def _of_device(samples: pl.DataFrame, events: pl.DataFrame, calls: pl.DataFrame) -> pl.DataFrame:
    """The bill of one process and device."""
    begin = samples["t_ns"].to_numpy()
    end = begin + samples["duration_ns"].fill_null(0).to_numpy()
    used = samples["used_bytes"].to_numpy()
    own = samples["process_used_bytes"].fill_null(samples["used_bytes"]).to_numpy()
    pooled = pl.col("pooled").fill_null(False)
    pool, driver = pl.col("level") == _POOL, pl.col("level") == _DRIVER
    on_device = pl.col("kind") != _PINNED
    pool_in_use = np.zeros(len(begin), np.int64)
    cached = np.zeros(len(begin), np.int64)
    # By kind, so that one allocator's cache is not set against what another one uses.
    for kind in MEMORY_KINDS:
        if kind == _PINNED:
            continue
        of_kind = pl.col("kind") == kind
        in_use = _at(events.filter(pool & of_kind), begin)
        kept = _at(events.filter(driver & pooled & of_kind), begin)
        pool_in_use += in_use
        cached += np.maximum(kept - in_use, 0)
    other = _at(events.filter(driver & ~pooled & on_device), begin)
    async_taken = _at(events.filter(driver & (pl.col("kind") == _ASYNC)), begin)
    async_in_use = _at(events.filter(pool & (pl.col("kind") == _ASYNC)), begin)
    reserved = samples["async_reserved_bytes"].fill_null(-1).to_numpy()
    cached += np.where(reserved >= 0, np.maximum(reserved - async_taken, 0), 0)
    rest = own - pool_in_use - cached - other
    flights = in_flight(calls, begin, end, reserved)
    context = _context(samples, rest, own, calls, flights)
    unexplained, seen, seen_pooled = settled(rest - context, flights)
    known = samples["process_used_bytes"].is_not_null()
    return samples.select(
        "t_ns", "pid", "device", "device_name", "used_bytes", "total_bytes"
    ).with_columns(
        pl.Series("pool_in_use_bytes", pool_in_use),
        pl.Series("pool_cached_bytes", cached + seen_pooled),
        pl.Series("other_driver_bytes", other + seen - seen_pooled),
        pl.Series("context_and_modules_bytes", context),
        pl.Series("other_processes_bytes", used - own).set(~known, None),
        pl.Series("unexplained_bytes", unexplained),
        pl.Series("async_in_use_bytes", async_in_use),
        pl.Series("pinned_bytes", _at(events.filter(driver & ~on_device), begin)),
        pl.Series("in_flight_bytes", [sum(c.size_bytes for c in found) for found in flights]),
        coverage=pl.when(pl.col("used_bytes") > 0).then(
            (1 - pl.Series(np.abs(unexplained)) / pl.col("used_bytes")).clip(0, 1)
        ),
    )


def _at(events: pl.DataFrame, moments: Ints) -> Ints:
    """The bytes in use at each moment."""
    total = np.concatenate([[0], events["change_bytes"].to_numpy().cumsum()])
    value: Ints = total[np.searchsorted(events["t_ns"].to_numpy(), moments, side="right")]
    return value


def _context(
    samples: pl.DataFrame,
    rest: Ints,
    own: Ints,
    calls: pl.DataFrame,
    flights: Sequence[Sequence[Call]],
) -> Ints:
    """What the context takes, from when it stands on; while it is being made, what there is."""
    if samples["device_name"][0] == HOST_DEVICE or not (own > 0).any():
        return np.zeros(len(rest), np.int64)
    # A context stands when the first memory can be taken of it.
    taken = calls.filter(pl.col("op") == "alloc").select(pl.col("t_ns") + pl.col("duration_ns"))
    stands = taken.to_series().min() if taken.height else None
    used = np.flatnonzero(own > 0)
    eligible = used if stands is None else used[samples["t_ns"].to_numpy()[used] >= stands]
    eligible = eligible if len(eligible) else used
    quiet = (n for n in eligible[:_SOON].tolist() if not flights[n])
    first = next(quiet, int(eligible[0]))
    size = max(int(rest[first]), 0)
    context = np.full(len(rest), size, np.int64)
    context[:first] = np.clip(rest[:first], 0, size)
    return context

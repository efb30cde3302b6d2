"""The tables of a simulated run of GPU memory, in the columns and types of the schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from .. import schema
from .simulated import Stream
from .simulated_blocks import Blocks, Ints, Keeper, Leak

_PID = 4_000

#: A context, a CUDA stream of each video stream, and what else a process takes at its start.
_CONTEXT, _CUDA_STREAM = 0x5555_0000_1000, 0x5555_2000_0000
_OTHER_BYTES, _PINNED_BYTES = 16 << 20, 8 << 20

#: A real device's context, and what other processes hold of it.
CONTEXT_BYTES, OTHERS_BYTES = 301 << 20, 1 << 30
_TOTAL_BYTES = 16 << 30
HOST_NAME = "host memory (no GPU)"


@dataclass
class Chunk:
    """What the pool took of the driver as it placed a block; `free_ns` -1: it never gave back."""

    block: int
    address: int
    size_bytes: int
    generation: int
    t_ns: int
    free_ns: int = -1


@dataclass(frozen=True)
class Placed:
    """Where each block lies; `filled` are those for which a chunk was taken."""

    device: Ints
    size: Ints
    address: Ints
    generation: Ints
    filled: npt.NDArray[np.bool_]


def allocations(
    streams: Sequence[Stream],
    blocks: Blocks,
    placed: Placed,
    chunks: Sequence[Chunk],
    first: Ints,
    sites: int,
    takes_ns: tuple[int, int],
) -> pl.DataFrame:
    """Return the table `allocations`; `first` is the number of each stream's first frame."""
    pool_ns, driver_ns = takes_ns
    before = np.where(placed.filled, driver_ns + 10_000, 0)
    asked = np.where(placed.size % 1_000 == 24, placed.size - 24, placed.size)
    frame = first[blocks.stream] + blocks.frame + 1
    common = {
        "pid": _PID,
        "status": "ok",
        "context": _CONTEXT,
        "pooled": False,
        "level": "pool",
        "kind": "device",
    }
    each = {
        "device": placed.device,
        "address": placed.address,
        "generation": placed.generation,
        "size_bytes": placed.size,
        "cuda_stream": _CUDA_STREAM + blocks.stream,
    }
    taken = {
        **common,
        **each,
        "t_ns": blocks.t_ns - before,
        "duration_ns": pool_ns + before,
        "tid": _PID + 1 + blocks.stream,
        "op": "alloc",
        "size_asked_bytes": asked,
        "stack": blocks.site + 1,
        "span": frame * 16 + blocks.site % 16 + 1,
        "frame": frame,
        "labels": blocks.stream + 1,
    }
    freed = blocks.free_ns >= 0
    # The collector frees under whatever labels the thread has that it strikes in.
    stranger = (blocks.stream + 1) % len(streams) + 1
    labels = np.where(blocks.by_gc, stranger, np.where(blocks.frame % 3 > 0, blocks.stream + 1, 0))
    given = {
        **common,
        **each,
        "t_ns": blocks.free_ns,
        "duration_ns": pool_ns // 2,
        "tid": _PID + 101 + blocks.stream,
        "op": "free",
        "freed_by": np.where(blocks.by_gc, "gc", "refcount"),
        "stack": sites + 1,
        "labels": labels,
    }
    parts = [_rows("allocations", taken), _rows("allocations", given).filter(pl.Series(freed))]
    parts += _of_chunks(chunks, blocks, placed, common, driver_ns)
    if chunks:
        parts += [
            _at_the_start(streams, {**common, "level": "driver"}, len(placed.size) + len(chunks))
        ]
    return _labelled(pl.concat(parts), streams)


def _of_chunks(
    chunks: Sequence[Chunk],
    blocks: Blocks,
    placed: Placed,
    common: Mapping[str, Any],
    driver_ns: int,
) -> list[pl.DataFrame]:
    block = np.array([c.block for c in chunks], np.int64)
    free_ns = np.array([c.free_ns for c in chunks], np.int64)
    each = {
        **common,
        "level": "driver",
        "pooled": True,
        "device": placed.device[block],
        "address": np.array([c.address for c in chunks], np.int64),
        "generation": np.array([c.generation for c in chunks], np.int64),
        "size_bytes": np.array([c.size_bytes for c in chunks], np.int64),
        "tid": _PID + 1 + blocks.stream[block],
    }
    taken = {
        **each,
        "t_ns": np.array([c.t_ns for c in chunks], np.int64) - driver_ns - 9_000,
        "duration_ns": driver_ns,
        "op": "alloc",
        "size_asked_bytes": each["size_bytes"],
        "stack": blocks.site[block] + 1,
        "labels": blocks.stream[block] + 1,
    }
    given = {
        **each,
        "t_ns": free_ns,
        "duration_ns": driver_ns // 2,
        "op": "free",
        "freed_by": "release",
        "labels": 0,
    }
    kept = _rows("allocations", given).filter(pl.Series(free_ns >= 0))
    return [_rows("allocations", taken), kept]


def _at_the_start(streams: Sequence[Stream], common: Mapping[str, Any], after: int) -> pl.DataFrame:
    """A library's block on each device, and a page-locked one: no pool keeps them."""
    devices = sorted({stream.gpu or 0 for stream in streams})
    rows = [(device, "device", _OTHER_BYTES) for device in devices]
    rows += [(devices[0], "pinned", _PINNED_BYTES)]
    numbers = np.arange(len(rows))
    sizes = np.array([size for *_, size in rows])
    return _rows(
        "allocations",
        {
            **common,
            "t_ns": 10**15 + 1_000_000 + numbers,
            "duration_ns": 50_000,
            "tid": _PID,
            "op": "alloc",
            "device": np.array([device for device, *_ in rows]),
            "kind": np.array([kind for _, kind, _ in rows]),
            "address": (1 << 40) + numbers * (1 << 32),
            "generation": after + 1 + numbers,
            "size_bytes": sizes,
            "size_asked_bytes": sizes,
            "labels": 0,
        },
    )


def stacks(sites: int) -> pl.DataFrame:
    """Return the table `stacks`: one for each site, and one where blocks are given back."""
    outer = [("run", "app.py", 40), ("<module>", "app.py", 52)]
    calls = [
        [
            ("empty", "/usr/lib/python3/site-packages/cupy/_creation/basic.py", 31),
            (f"stage_{site}", "pipeline.py", 10 + 7 * site),
            ("decode_loop" if site % 2 else "filter_loop", "pipeline.py", 400 + site % 2),
            *outer,
        ]
        for site in range(sites)
    ]
    calls.append([("deliver", "pipeline.py", 500), *outer])
    names = ("function", "file", "line")
    return _rows(
        "stacks",
        {
            "stack": np.arange(1, sites + 2),
            "frames": [[dict(zip(names, call, strict=True)) for call in stack] for stack in calls],
        },
    )


def gpu_samples(
    events: pl.DataFrame, times: Ints, real: bool, plant_ns: int, plant_bytes: int
) -> pl.DataFrame:
    """Return the table `gpu_samples`, its readings adding up to what the driver gave."""
    given = events.filter(
        (pl.col("level") == "driver") & (pl.col("kind") != "pinned") & (pl.col("status") == "ok")
    ).select(
        "device",
        t=pl.col("t_ns") + pl.when(pl.col("op") == "alloc").then("duration_ns").otherwise(0),
        change=pl.when(pl.col("op") == "alloc").then("size_bytes").otherwise(-pl.col("size_bytes")),
    )
    parts = [_rows("gpu_samples", {"t_ns": times[:0]})]
    for device in events["device"].unique().sort().to_list():
        of_it = given.filter(device=device).sort("t")
        total = np.concatenate([[0], of_it["change"].to_numpy().cumsum()])
        mine = total[np.searchsorted(of_it["t"].to_numpy(), times, side="right")]
        mine = mine + (CONTEXT_BYTES if real else 0)
        if device == 0:
            mine = mine + np.where(times >= plant_ns, plant_bytes, 0)
        parts.append(
            _rows(
                "gpu_samples",
                {
                    "t_ns": times,
                    "duration_ns": 2_000,
                    "pid": _PID,
                    "tid": _PID + 900,
                    "labels": 0,
                    "device": device,
                    "device_name": "NVIDIA H200" if real else HOST_NAME,
                    "used_bytes": mine + (OTHERS_BYTES if real else 0),
                    "total_bytes": _TOTAL_BYTES,
                    "process_used_bytes": mine,
                },
            )
        )
    return pl.concat(parts).sort("t_ns", "device")


def frames(streams: Sequence[Stream], begun: Sequence[Ints]) -> pl.DataFrame:
    """Return the table `frames`: all are delivered, two frame intervals after they began."""
    parts, number = [], 1
    for stream, t_ns in zip(streams, begun, strict=True):
        interval = int(1e9 / stream.rate)
        seq = np.arange(len(t_ns))
        values = {
            "t_ns": t_ns,
            "pid": _PID,
            "tid": _PID + 1 + stream.index,
            "frame": number + seq,
            "seq": seq,
            "pts": seq,
            "dts": seq,
            "time_base": f"1/{int(stream.rate)}",
            "picture_type": np.where(seq % 48 == 0, "I", "P"),
            "key": seq % 48 == 0,
            "t_demux_ns": t_ns,
            "t_decoded_ns": t_ns + interval // 8,
            "t_done_ns": t_ns + 2 * interval,
            "fate": "delivered",
            "copies": 1,
            "labels": stream.index + 1,
        }
        parts.append(_labelled(_rows("frames", values), streams))
        number += len(t_ns)
    return pl.concat(parts)


def holders(
    streams: Sequence[Stream],
    blocks: Blocks,
    placed: Placed,
    keepers: Sequence[Keeper],
    end_ns: int,
) -> pl.DataFrame:
    """Return the table `holders`: who holds each block that was left over."""
    kept = np.flatnonzero((blocks.kept >= 0) & (blocks.free_ns < 0))
    texts = []
    for number in blocks.kept[kept]:
        keeper = keepers[number]
        kind = "module" if isinstance(keeper, Leak) else "cache"
        texts.append((kind, getattr(keeper, "holder", "")))
    values = {
        "t_ns": end_ns,
        "pid": _PID,
        "tid": _PID,
        "device": placed.device[kept],
        "address": placed.address[kept],
        "generation": placed.generation[kept],
        "size_bytes": placed.size[kept],
        "kind": np.array([kind for kind, _ in texts], str),
        "holder": np.array([holder for _, holder in texts], str),
        "chain": np.array([json.dumps(["module app", h, "ndarray"]) for _, h in texts], str),
        "arrays": 1,
        "labels": blocks.stream[kept] + 1,
    }
    return _labelled(_rows("holders", values), streams)


@cache
def _types(name: str) -> dict[str, Any]:
    empty = pl.from_arrow(schema.TABLES[name].arrow_schema.empty_table())
    assert isinstance(empty, pl.DataFrame)
    return dict(empty.schema)


def _rows(name: str, values: Mapping[str, Any]) -> pl.DataFrame:
    """Return rows of a table from its columns: arrays, or one value for all rows."""
    count = max(len(v) for v in values.values() if isinstance(v, (np.ndarray, list)))
    columns = []
    for column, dtype in _types(name).items():
        value = values.get(column)
        if not isinstance(value, (np.ndarray, list)):
            series = pl.Series([value]).new_from_index(0, count)
        else:
            series = pl.Series(value)
        columns.append(series.cast(dtype).alias(column))
    return pl.DataFrame(columns)


def _labelled(rows: pl.DataFrame, streams: Sequence[Stream]) -> pl.DataFrame:
    """Return the rows with their labels' columns, sorted as a finished table is."""
    sets = pl.DataFrame(
        {
            "labels": [stream.index + 1 for stream in streams],
            "stream_id": [stream.stream_id for stream in streams],
            "codec": [stream.codec for stream in streams],
            "gpu": [stream.gpu for stream in streams],
        },
        schema={
            "labels": pl.UInt32,
            "stream_id": pl.String,
            "codec": pl.String,
            "gpu": pl.Int16,
        },
    )
    order = rows.columns
    joined = rows.drop("stream_id", "codec", "gpu").join(
        sets.with_columns(pl.col("stream_id", "codec").cast(pl.Categorical)),
        on="labels",
        how="left",
    )
    return joined.select(order).sort("stream_id", "t_ns", maintain_order=True)

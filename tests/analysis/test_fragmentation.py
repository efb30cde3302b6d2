"""Gaps between blocks: by hand, and against a map of every byte."""

from __future__ import annotations

import random

import pytest

from vidlab.analysis import fragmentation
from vidlab.errors import InputError
from vidlab.lab.simulated_memory import simulated_allocations

COMMON = {
    "pid": 1, "tid": 7, "duration_ns": 0, "status": "ok", "kind": "device", "device": 0,
    "labels": 0,
}  # fmt: skip


def lives(number, level, address, size, begin, end=None, **more):
    """The events of a chunk or block."""
    row = {"generation": number, "level": level, "address": address, "size_bytes": size, **more}
    row.setdefault("pooled", level == "driver")
    events = [{**row, "op": "alloc", "t_ns": begin}]
    return events + ([{**row, "op": "free", "t_ns": end}] if end is not None else [])


CHUNKS = [
    *lives(1, "driver", 1_000, 100, 0),
    *lives(2, "driver", 5_000, 50, 10, 90),
    *lives(3, "driver", 1_100, 1_000, 0, pooled=False),  # a neighbour, and none of the pool's
]
BLOCKS = [
    *lives(4, "pool", 1_010, 20, 20),
    *lives(5, "pool", 1_030, 40, 20, 60),
    *lives(6, "pool", 1_080, 20, 20),
    *lives(7, "pool", 5_000, 50, 20, 80),
]


def test_gaps_between_blocks_and_at_the_ends_of_chunks(table):
    allocations = table("allocations", CHUNKS + BLOCKS, **COMMON)
    result = fragmentation.over_time(allocations, times=[5, 15, 30, 70, 85, 95])
    columns = [
        "t_ns", "chunks", "chunk_bytes", "in_use_bytes", "free_bytes", "largest_free_bytes",
        "gaps", "fragmentation",
    ]  # fmt: skip
    assert result.select(columns).rows() == [
        (5, 1, 100, 0, 100, 100, 1, 0.0),
        (15, 2, 150, 0, 150, 100, 2, pytest.approx(1 / 3)),
        (30, 2, 150, 130, 20, 10, 2, 0.5),  # 10 before the first block, 10 between the others
        (70, 2, 150, 90, 60, 50, 2, pytest.approx(1 / 6)),
        (85, 2, 150, 40, 110, 50, 3, pytest.approx(6 / 11)),
        (95, 1, 100, 40, 60, 50, 2, pytest.approx(1 / 6)),
    ]
    assert result["excluded_bytes"].to_list() == [0] * 6


def test_full_chunks_have_no_fragmentation(table):
    rows = [*lives(1, "driver", 64, 10, 0), *lives(2, "pool", 64, 10, 1)]
    result = fragmentation.over_time(table("allocations", rows, **COMMON), times=[5])
    assert result.select("free_bytes", "gaps", "fragmentation").rows() == [(0, 0, None)]


def test_devices_kinds_and_processes_have_address_spaces_of_their_own(table):
    rows = [
        *lives(1, "driver", 1_000, 100, 0),
        *lives(2, "pool", 1_000, 30, 0, device=1),  # in no chunk of its device
        *lives(1, "driver", 1_000, 100, 0, pid=2),
        *lives(2, "pool", 1_000, 60, 0, pid=2),
        *lives(3, "driver", 1_000, 8, 0, kind="managed"),
    ]
    result = fragmentation.over_time(table("allocations", rows, **COMMON), times=[5])
    columns = ["pid", "device", "kind", "in_use_bytes", "free_bytes", "excluded_bytes"]
    assert result.select(columns).rows() == [
        (1, 0, "device", 0, 100, 0),
        (1, 0, "managed", 0, 8, 0),
        (1, 1, "device", 0, 0, 30),
        (2, 0, "device", 60, 40, 0),
    ]


def test_what_is_older_than_the_recording_is_left_out_and_said(table):
    rows = [
        *lives(0, "driver", 0, 1_000, 0),
        *lives(0, "pool", 0, 700, 0),
        {**lives(0, "pool", 4_096, 200, 40)[0], "op": "free"},
    ]
    result = fragmentation.over_time(table("allocations", rows, **COMMON), times=[20, 50])
    assert result.select("chunks", "free_bytes", "excluded_bytes").rows() == [
        (0, 0, 700), (0, 0, 500),
    ]  # fmt: skip


def test_the_layout_at_a_moment(table):
    found = fragmentation.layout(table("allocations", CHUNKS + BLOCKS, **COMMON), 70)
    assert found.select("chunk", "address", "size_bytes", "free").rows() == [
        (1_000, 1_000, 10, True),
        (1_000, 1_010, 20, False),
        (1_000, 1_030, 50, True),
        (1_000, 1_080, 20, False),
        (5_000, 5_000, 50, False),
    ]


def test_nothing(table):
    nothing = table("allocations")
    assert fragmentation.over_time(nothing).is_empty()
    assert "fragmentation" in fragmentation.over_time(nothing).columns
    assert fragmentation.layout(nothing, 5).is_empty()
    with pytest.raises(InputError, match="one moment"):
        fragmentation.over_time(nothing, samples=0)


def some_events(seed):
    """Random chunks, and blocks that never overlap."""
    chance = random.Random(seed)
    rows, number, chunks = [], 0, []
    for n in range(chance.randint(1, 4)):
        number += 1
        end = chance.choice([None, 400])
        chunks.append((1_000 * (n + 1), chance.randint(10, 60), end))
        rows += lives(number, "driver", *chunks[-1][:2], 0, end)
    until = {}
    for t_ns in range(1, 390, 3):
        start, size, _ = chance.choice(chunks)
        low = chance.randint(0, size - 1)
        high = chance.randint(low + 1, size)
        if any(until.get(start + byte, 0) > t_ns for byte in range(low, high)):
            continue
        end = chance.randint(t_ns + 1, 395)
        for byte in range(low, high):
            until[start + byte] = end
        number += 1
        rows += lives(number, "pool", start + low, high - low, t_ns, end)
    return rows


def gaps_by_hand(rows, t_ns):
    """A map of every byte."""
    state = {}
    for level in ("driver", "pool"):
        ends = {r["generation"]: r["t_ns"] for r in rows if r["op"] == "free"}
        for row in rows:
            if row["op"] != "alloc" or row["level"] != level:
                continue
            if row["t_ns"] <= t_ns < ends.get(row["generation"], 10**9):
                for byte in range(row["address"], row["address"] + row["size_bytes"]):
                    state[byte] = level
    free = sorted(byte for byte, level in state.items() if level == "driver")
    gaps = []
    for byte in free:
        if gaps and byte == gaps[-1][1]:
            gaps[-1][1] += 1
        else:
            gaps.append([byte, byte + 1])
    return [(low, high - low) for low, high in gaps]


@pytest.mark.parametrize("seed", range(8))
def test_gaps_equal_a_map_of_every_byte(table, seed):
    rows = some_events(seed)
    allocations = table("allocations", rows, **COMMON)
    times = [1, 50, 123, 200, 388, 399, 401]
    for row in fragmentation.over_time(allocations, times=times).iter_rows(named=True):
        gaps = gaps_by_hand(rows, row["t_ns"])
        sizes = [size for _, size in gaps]
        assert row["free_bytes"] == sum(sizes)
        assert row["largest_free_bytes"] == max(sizes, default=0)
        assert row["gaps"] == len(gaps)
        found = fragmentation.layout(allocations, row["t_ns"]).filter(free=True)
        assert found.select("address", "size_bytes").rows() == gaps


def test_used_and_free_add_up_to_the_chunks():
    simulated = simulated_allocations(500)
    result = fragmentation.over_time(simulated.allocations, 30)
    used = result["in_use_bytes"] + result["free_bytes"]
    assert used.to_list() == result["chunk_bytes"].to_list()
    assert result["excluded_bytes"].sum() == 0
    assert result.filter(device=0)["fragmentation"].max() > 0.3

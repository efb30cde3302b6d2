"""The graph of device memory: blocks and copies by hand, and in parts as at once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import vidlab as vl
from vidlab.analysis.memory_graph import COPIES, HOST, MEMORY, UNKNOWN, MemoryGraph
from vidlab.errors import InputError
from vidlab.runs.following import Following

Build = Callable[..., pl.DataFrame]
Row = dict[str, Any]

TO_DEVICE, TO_HOST, ON_DEVICE = "host_to_device", "device_to_host", "device_to_device"


def alloc(t: int, end: int, address: int, size: int | None = 100, **more: Any) -> Row:
    known = {"t_ns": t, "duration_ns": end - t, "op": "alloc", "kind": "device"}
    return {**known, "address": address, "size_bytes": size, **more}


def free(t: int, end: int, address: int, **more: Any) -> Row:
    return {"t_ns": t, "duration_ns": end - t, "op": "free", "address": address, **more}


def copy(t: int, end: int, source: int, destination: int, size: int | None, **more: Any) -> Row:
    known = {"t_ns": t, "duration_ns": end - t, "op": "copy", "direction": ON_DEVICE}
    return {**known, "source": source, "destination": destination, "size_bytes": size, **more}


def built(table: Build, memory: list[Row], copies: list[Row]) -> MemoryGraph:
    graph = MemoryGraph()
    graph.add(*events(table, memory, copies), end=True)
    return graph


def events(table: Build, memory: list[Row], copies: list[Row]) -> tuple[pl.DataFrame, pl.DataFrame]:
    common = {"pid": 1, "tid": 1, "status": 0, "level": "runtime"}
    return table(MEMORY, memory, **common), table(COPIES, copies, **common)


def edges(graph: MemoryGraph) -> dict[tuple[str, str], tuple[int, int]]:
    rows = graph.edges().select("source", "destination", "copies", "size_bytes").rows()
    return {(source, to): (copies, size) for source, to, copies, size in rows}


def lives(graph: MemoryGraph) -> list[tuple[Any, ...]]:
    return graph.nodes().select("number", "address", "t_ns", "t_freed_ns").rows()


def test_blocks_and_what_went_between_them(table: Build) -> None:
    graph = built(
        table,
        [alloc(0, 10, 1000), alloc(20, 30, 2000, kind="pinned"), free(900, 950, 1000)],
        [
            copy(40, 50, 7, 1000, 60, direction=TO_DEVICE),
            copy(60, 70, 8, 1040, 60, direction=TO_DEVICE),  # into the middle of the block
            copy(80, 90, 1000, 2000, 100, direction=TO_HOST),
            copy(91, 92, 1000, 2000, 100, direction=TO_HOST),
            copy(93, 94, 1100, 9, 5, direction=TO_HOST),  # behind the block's end
            copy(960, 970, 1000, 2000, 1),  # after its end
        ],
    )
    assert graph.nodes().select("number", "pid", "size_bytes", "kind").rows() == [
        (0, 1, 100, "device"),
        (1, 1, 100, "pinned"),
    ]
    assert lives(graph) == [(0, 1000, 10, 900), (1, 2000, 30, None)]
    assert edges(graph) == {
        (HOST, "0"): (2, 120),
        ("0", "1"): (2, 200),
        (UNKNOWN, HOST): (1, 5),
        (UNKNOWN, "1"): (1, 1),
    }
    assert graph.edges()["size_bytes"].is_sorted(descending=True)
    assert graph.t_ns == 970
    assert graph.complete


def test_an_address_that_is_used_again_is_another_block(table: Build) -> None:
    memory = [alloc(0, 10, 1000), free(20, 60, 1000), alloc(25, 30, 1000, tid=2)]
    graph = built(table, memory, [copy(15, 16, 1, 1000, 3), copy(40, 41, 1, 1000, 4)])
    assert lives(graph) == [(0, 1000, 10, 20), (1, 1000, 30, None)]
    assert edges(graph) == {(UNKNOWN, "0"): (1, 3), (UNKNOWN, "1"): (1, 4)}


def test_a_block_whose_free_was_not_seen_ends_where_the_next_begins(table: Build) -> None:
    graph = built(table, [alloc(0, 10, 1000), alloc(50, 60, 1000, 7)], [])
    assert lives(graph) == [(0, 1000, 10, 60), (1, 1000, 60, None)]


def test_the_drivers_calls_within_the_runtimes_count_once(table: Build) -> None:
    driver = {"level": "driver"}
    graph = built(
        table,
        [
            alloc(0, 10, 1000),
            alloc(2, 8, 1000, **driver),
            free(80, 90, 1000),
            free(82, 88, 1000, **driver),
        ],
        [copy(20, 30, 1000, 5, 10), copy(22, 28, 1000, 5, 10, **driver)],
    )
    assert lives(graph) == [(0, 1000, 10, 80)]
    assert edges(graph) == {("0", UNKNOWN): (1, 10)}


def test_processes_have_addresses_of_their_own(table: Build) -> None:
    graph = built(
        table,
        [alloc(0, 10, 1000), alloc(1, 11, 1000, pid=2, tid=5)],
        [copy(20, 30, 1000, 5, 10, pid=2, direction=TO_HOST)],
    )
    assert edges(graph) == {("1", HOST): (1, 10)}


def test_what_is_not_told_is_borne(table: Build) -> None:
    graph = built(
        table,
        [
            alloc(0, 10, 77, None, kind="array"),  # a handle, and no size
            {**alloc(11, 12, 5000), "op": "map", "kind": "ipc"},
            {**alloc(13, 14, 6000), "op": "commit"},  # of a later version
            {**free(900, 901, 5000), "op": "unmap"},
        ],
        [
            copy(20, 30, 77, 5, None, direction=None, direction_code=2),
            copy(31, 32, 5050, 5, 8, direction=None, direction_code=None),
            copy(33, 34, 5, 6, 8, direction=None, direction_code=4),
            {**copy(35, 36, 1, 2, 8), "source": None, "destination": None},  # a batch
            {**copy(37, 38, 1, 2, 8), "op": "set", "source": None},
            copy(39, 40, 77, 5, 8, status=1),
        ],
    )
    assert [kind for (kind,) in graph.nodes().select("kind").rows()] == ["array", "ipc"]
    assert lives(graph)[1] == (1, 5000, 12, 900)
    assert edges(graph) == {
        ("0", HOST): (1, 0),
        ("1", HOST): (1, 8),
        (HOST, HOST): (1, 8),
        (UNKNOWN, UNKNOWN): (1, 8),
    }


def test_nothing_in_nothing_out(table: Build) -> None:
    for parts in ((None, None), (table(MEMORY), table(COPIES))):
        graph = MemoryGraph()
        assert graph.add(*parts) == 0
        assert graph.nodes().is_empty()
        assert graph.edges().is_empty()
        assert graph.edges().columns[:2] == ["source", "destination"]


def test_a_missing_column_is_named(table: Build) -> None:
    with pytest.raises(InputError, match="'kernel_cuda_copies' has no column 'source'"):
        MemoryGraph().add(table(MEMORY), table(COPIES).drop("source"))


# --- in parts ----------------------------------------------------------------------------


def history(rng: random.Random, count: int = 80) -> tuple[list[Row], list[Row]]:
    """What a program with three threads does that takes, frees and copies few blocks."""
    memory, copies = [], []
    free_at = {1000 * n: 0 for n in range(1, 6)}
    taken: dict[int, int] = {}
    t = 0
    for _ in range(count):
        t += rng.randrange(5, 40)
        where = {"tid": rng.randrange(1, 4)}
        inner = {**where, "level": "driver"}
        address = rng.choice(list(free_at))
        what = rng.random()
        if what < 0.3 and address not in taken and free_at[address] < t:
            memory += [alloc(t, t + 9, address, **where), alloc(t + 3, t + 6, address, **inner)]
            taken[address] = t + 9
            t += 9
        elif what < 0.5 and address in taken:
            # It may take long, and the address is another's before it returns.
            end = t + rng.randrange(10, 90)
            memory += [free(t, end, address, **where), free(t + 1, end - 1, address, **inner)]
            del taken[address]
            free_at[address] = t + 1
        else:
            ends = (address + rng.randrange(100), rng.choice([5, 2050, 3010]))
            copies += [copy(t, t + 20, *ends, 10, **where), copy(t + 5, t + 9, *ends, 10, **inner)]
            t += 20
    return memory, copies


def same(one: MemoryGraph, other: MemoryGraph) -> None:
    assert one.nodes().rows() == other.nodes().rows()
    assert one.edges().rows() == other.edges().rows()
    assert one.t_ns == other.t_ns


@pytest.mark.parametrize("seed", range(15))
def test_in_parts_as_at_once(table: Build, seed: int) -> None:
    rng = random.Random(seed)
    memory, copies = events(table, *history(rng))
    settled = 200  # no call takes that long
    both = [
        (row["t_ns"] + row["duration_ns"] + rng.randrange(100), name, place)
        for name, rows in ((MEMORY, memory), (COPIES, copies))
        for place, row in enumerate(rows.to_dicts())
    ]
    both.sort()  # as they reach the run: a call when it has returned, or somewhat later
    graph, done, counted = MemoryGraph(), 0, 0
    while done < len(both):
        part = both[done : done + rng.randrange(0, 25)]
        rows = {name: [place for _, of, place in part if of == name] for name in (MEMORY, COPIES)}
        counted += graph.add(memory[rows[MEMORY]], copies[rows[COPIES]], settled_ns=settled)
        done += len(part)
    counted += graph.add(None, None, end=True)
    whole = MemoryGraph()
    assert whole.add(memory, copies, end=True) == counted
    same(graph, whole)


def test_what_comes_late_is_not_left_out(table: Build) -> None:
    memory, copies = events(
        table,
        [alloc(0, 10, 1000), alloc(900, 910, 2000), free(20, 30, 1000)],
        [copy(12, 13, 5, 1000, 10), copy(950, 960, 5, 2000, 10)],
    )
    graph = MemoryGraph()
    graph.add(memory[:2], copies[1:], settled_ns=0)
    assert graph.t_ns == 960
    graph.add(None, copies[:1], settled_ns=0)
    graph.add(memory[2:], None, settled_ns=0)
    assert lives(graph) == [(0, 1000, 10, 20), (1, 2000, 910, None)]
    assert edges(graph) == {(UNKNOWN, "0"): (1, 10), (UNKNOWN, "1"): (1, 10)}


def test_a_late_free_is_not_of_the_block_that_came_after(table: Build) -> None:
    rows = [alloc(0, 10, 1000), alloc(30, 40, 1000), free(20, 25, 1000), alloc(12, 13, 1000)]
    memory, _ = events(table, rows, [])
    graph = MemoryGraph()
    for n in ([0, 1], [2], [3]):
        graph.add(memory[n], None, settled_ns=0)
    assert lives(graph) == [(0, 1000, 10, 40), (1, 1000, 40, None), (2, 1000, 13, 40)]


class Recorded:
    """A run of which each call of `new` has some rows more, some of them late."""

    def __init__(self, tables: dict[str, pl.DataFrame], rng: random.Random) -> None:
        self._tables = tables
        self._left = {
            name: rows.sample(fraction=1, shuffle=True, seed=rng.randrange(99))
            for name, rows in tables.items()
        }
        self._rng = rng
        self.finished = False

    def new(self, table: str) -> pl.DataFrame:
        count = self._rng.randrange(0, 20)
        part, self._left[table] = self._left[table][:count], self._left[table][count:]
        self.finished = not any(rows.height for rows in self._left.values())
        return part

    def whole(self, table: str) -> pl.DataFrame:
        return self._tables[table]


@pytest.mark.parametrize("seed", range(5))
def test_followed_to_the_end_it_is_as_built_at_once(table: Build, seed: int) -> None:
    rng = random.Random(seed)
    memory, copies = events(table, *history(rng))
    run = Recorded({MEMORY: memory, COPIES: copies}, rng)
    graph = MemoryGraph()
    while not graph.complete:
        graph.follow(run, settled_ns=50)
    whole = MemoryGraph()
    whole.add(memory, copies, end=True)
    same(graph, whole)
    assert graph.follow(run) == 0


@pytest.mark.needs("ebpf")
@pytest.mark.needs("hostcuda")
def test_a_recording_is_followed(tmp_path: Path) -> None:
    import cupy

    cupy.zeros(1)
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    kept, counts = [], []
    graph = MemoryGraph()
    with vl.record(tmp_path, engines=[vl.KernelEvents(["cuda"], required=True)]):
        following = Following(tmp_path)
        assert not following.finished
        end = time.monotonic() + 120
        number = 0
        while sum(map(bool, counts)) < 3 and time.monotonic() < end:  # there is more each time
            number += 1
            host = np.full(1 << 16, number, "f4")
            first, second = cupy.empty(host.shape, "f4"), cupy.empty(host.shape, "f4")
            first.set(host)
            cupy.cuda.runtime.memcpy(second.data.ptr, first.data.ptr, first.nbytes, 3)
            assert (cupy.asnumpy(second) == host).all()
            kept += [first, second]
            if number % 5 == 0:
                kept.clear()
                del first, second
                pool.free_all_blocks()
            time.sleep(0.05)
            counts.append(graph.follow(following, settled_ns=100_000_000))
        assert not graph.complete
        assert sum(map(bool, counts)) == 3
        live = edges(graph)
        assert live
        assert sum(copies for copies, _ in live.values()) <= 3 * number
    graph.follow(following)
    assert graph.complete
    run = vl.open_run(tmp_path)
    whole = MemoryGraph()
    whole.add(run.scan(MEMORY), run.scan(COPIES), end=True)
    same(graph, whole)
    assert run.losses == {}
    # What was known early may have a copy at another block: on a busy machine an allocation
    # is told of later than what copies to it. In the end each is where it belongs.
    assert sum(copies for copies, _ in edges(graph).values()) == 3 * number

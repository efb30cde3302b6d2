"""Who saw an allocation: by pointer and time, through reuse, nesting and stream order."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from vidlab.analysis import pointers
from vidlab.analysis.pointers import BOTH, CUPY_ONLY, DRIVER_ONLY
from vidlab.errors import InputError

Build = Callable[..., pl.DataFrame]
Row = dict[str, Any]

ALLOC = {"op": "alloc", "kind": "device", "level": "runtime", "symbol": "cudaMalloc"}
FREE = {"op": "free", "level": "runtime", "symbol": "cudaFree", "size_bytes": None}


def call(t: int, end: int, address: int, of: Row, **more: Any) -> Row:
    return {"t_ns": t, "duration_ns": end - t, "address": address, **of, **more}


def seen(table: Build, kernel: list[Row], tracked: list[Row]) -> list[Row]:
    events = table("kernel_cuda_memory", kernel, pid=1, tid=1, status=0)
    tracks = table(
        "allocations", tracked, pid=1, op="alloc", level="driver", kind="device", status="ok"
    )
    return pointers.seen_by(events, tracks).to_dicts()


def who(rows: list[Row]) -> list[tuple[Any, ...]]:
    return [(row["t_ns"], row["seen_by"], row["t_freed_ns"]) for row in rows]


def test_the_trackers_call_is_around_the_probes(table: Build) -> None:
    [one] = seen(
        table,
        [call(20, 30, 0xA0, ALLOC, size_bytes=512)],
        [call(10, 40, 0xA0, {}, size_bytes=512, stack=7, stream_id="a", codec="h264")],
    )
    assert one == {
        "t_ns": 20, "pid": 1, "seen_by": BOTH, "address": 0xA0, "size_bytes": 512,
        "kind": "device", "symbol": "cudaMalloc", "stack": 7, "stream_id": "a", "codec": "h264",
        "t_freed_ns": None, "freed": False,
    }  # fmt: skip


def test_each_sees_what_the_other_does_not(table: Build) -> None:
    found = seen(
        table,
        [call(20, 30, 0xA0, ALLOC, size_bytes=512), call(60, 70, 0xA0, FREE)],
        [call(10, 40, 0xB0, {}, size_bytes=64, stack=3)],
    )
    assert who(found) == [(10, CUPY_ONLY, None), (20, DRIVER_ONLY, 60)]
    assert [row["freed"] for row in found] == [None, True]
    assert found[0]["symbol"] is None
    assert found[1]["stack"] is None


def test_a_pointer_that_is_handed_out_again_is_another_allocation(table: Build) -> None:
    kernel, tracked = [], []
    for n in range(4):
        t = 1_000 * n
        kernel += [call(t + 20, t + 30, 0xA0, ALLOC), call(t + 500, t + 510, 0xA0, FREE)]
        if n != 2:  # the third time it is not CuPy's
            tracked.append(call(t + 10, t + 400, 0xA0, {}, stack=n))  # it took its time to note it
    found = seen(table, kernel, tracked)
    assert who(found) == [
        (20, BOTH, 500),
        (1_020, BOTH, 1_500),
        (2_020, DRIVER_ONLY, 2_500),
        (3_020, BOTH, 3_500),
    ]
    assert [row["stack"] for row in found] == [0, 1, None, 3]


def test_a_runtime_call_that_goes_on_to_the_driver_is_one_allocation(table: Build) -> None:
    driver = {"level": "driver", "symbol": "cuMemAlloc_v2"}
    found = seen(
        table,
        [
            call(22, 28, 0xA0, {**ALLOC, **driver}),
            call(20, 30, 0xA0, ALLOC),
            call(20, 30, 0xA0, {**ALLOC, **driver}, tid=2, pid=2),  # another process's
            call(52, 58, 0xA0, {**FREE, "level": "driver", "symbol": "cuMemFree_v2"}),
            call(50, 60, 0xA0, FREE),
        ],
        [call(10, 40, 0xA0, {})],
    )
    assert [(row["pid"], row["seen_by"], row["symbol"], row["t_freed_ns"]) for row in found] == [
        (1, BOTH, "cudaMalloc", 50),
        (2, DRIVER_ONLY, "cuMemAlloc_v2", None),
    ]


def test_a_free_in_stream_order_ends_it_and_a_new_one_may_follow_at_once(table: Build) -> None:
    ordered = {"kind": "async", "symbol": "cudaMallocAsync"}
    found = seen(
        table,
        [
            call(10, 11, 0xA0, {**ALLOC, **ordered}, cuda_stream=5),
            call(20, 26, 0xA0, {**FREE, "symbol": "cudaFreeAsync"}, cuda_stream=5),
            # Another thread gets it while the call that freed it has not returned.
            call(22, 25, 0xA0, {**ALLOC, **ordered}, tid=2, cuda_stream=5),
            call(90, 91, 0xA0, {**FREE, "symbol": "cudaFreeAsync"}, tid=2, cuda_stream=5),
        ],
        [],
    )
    assert who(found) == [(10, DRIVER_ONLY, 20), (22, DRIVER_ONLY, 90)]


def test_a_free_that_was_lost_is_not_taken_from_the_next(table: Build) -> None:
    kernel = [call(10, 20, 0xA0, ALLOC), call(50, 60, 0xA0, ALLOC), call(80, 90, 0xA0, FREE)]
    assert who(seen(table, kernel, [])) == [(10, DRIVER_ONLY, 50), (50, DRIVER_ONLY, 80)]


def test_what_failed_or_has_no_address_is_no_allocation(table: Build) -> None:
    kernel = [call(10, 20, 0xA0, ALLOC, status=2), call(30, 40, 0, ALLOC)]
    older = call(0, 0, 0, {}, size_bytes=512)  # what CuPy's pool had before the recording
    assert seen(table, kernel, [older, call(5, 25, 0xA0, {}, status="failed")]) == []


def test_in_numbers(table: Build) -> None:
    kernel = [
        call(20, 30, 0xA0, ALLOC, size_bytes=512),
        call(60, 70, 0xB0, ALLOC, size_bytes=100),
        call(80, 90, 0xB0, FREE),
        call(95, 96, 0xC0, ALLOC, size_bytes=None),
    ]
    events = table("kernel_cuda_memory", kernel, pid=1, tid=1, status=0)
    tracked = [call(10, 40, 0xA0, {}, size_bytes=512), call(1, 2, 0xD0, {}, size_bytes=64)]
    tracks = table(
        "allocations", tracked, pid=1, op="alloc", level="driver", kind="device", status="ok"
    )
    assert pointers.summary(pointers.seen_by(events, tracks)).rows() == [
        (BOTH, "cudaMalloc", 1, 512, 1, 512),
        (DRIVER_ONLY, "cudaMalloc", 2, 100, 1, 0),
        (CUPY_ONLY, None, 1, 64, 0, 0),
    ]


def test_nothing_in_nothing_out(table: Build) -> None:
    assert seen(table, [], []) == []
    nothing = pointers.seen_by(table("kernel_cuda_memory"), table("allocations"))
    assert pointers.summary(nothing).is_empty()


def test_a_missing_column_is_named(table: Build) -> None:
    with pytest.raises(InputError, match="'kernel_cuda_memory' has no column 'address'"):
        pointers.seen_by(table("kernel_cuda_memory").drop("address"), table("allocations"))
    with pytest.raises(InputError, match="'allocations' has no column 'stack'"):
        pointers.seen_by(table("kernel_cuda_memory"), table("allocations").drop("stack"))


@pytest.mark.parametrize("seed", range(8))
def test_a_busy_heap_is_told_apart(table: Build, seed: int) -> None:
    """Threads take and free few addresses: each allocation is matched with its own call."""
    rng = random.Random(seed)
    kernel: list[Row] = []
    tracked: list[Row] = []
    expected = []
    ready = dict.fromkeys((160, 176, 192), 0)
    for number in range(60):
        address = rng.choice(list(ready))
        t = ready[address] + rng.randrange(1, 50)
        before, begin, took, after, lived = (rng.randrange(1, 40) for _ in range(5))
        begin += t + before
        end = begin + took
        thread = rng.randrange(1, 4)
        kernel.append(call(begin, end, address, ALLOC, tid=thread, size_bytes=number))
        if rng.random() < 0.5:
            inner = call(begin + took // 3, end - took // 3, address, ALLOC, tid=thread)
            kernel.append({**inner, "size_bytes": number})
        is_cupys = rng.random() < 0.6
        if is_cupys:
            tracked.append(call(t, end + after, address, {}, stack=number))
        freed = end + after + lived
        kernel.append(call(freed, freed + 5, address, FREE, tid=rng.randrange(1, 4)))
        ready[address] = freed + 1
        expected.append((number, BOTH if is_cupys else DRIVER_ONLY, freed, is_cupys))
    rng.shuffle(kernel)
    rng.shuffle(tracked)
    found = [
        (row["size_bytes"], row["seen_by"], row["t_freed_ns"], row["stack"] == row["size_bytes"])
        for row in seen(table, kernel, tracked)
    ]
    assert sorted(found) == expected

"""What goes on growing: series with known answers, and tables made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidlab.analysis import accumulation, heap

Build = Callable[..., pl.DataFrame]

MS, S, MIB = 1_000_000, 1_000_000_000, 1 << 20


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (range(4), True),
        (range(100), True),
        ([0, 0, 3, 3, 3, 6, 6, 9, 9], True),
        (np.sqrt(np.arange(100)), True),  # slower and slower, and on
        (np.log1p(np.arange(100) * 100), False),
        ([*range(50), *[50] * 50], False),  # a cache that has filled up
        ([*[0] * 50, *range(50)], False),  # a table that is loaded late
        ([5] * 20, False),
        (np.arange(100) % 10, False),  # emptied now and then
        (np.arange(100) + 20 * (np.arange(100) % 10), True),  # and each time some is left
        (-np.arange(10), False),
        ([*range(60), 40, 20, *[0] * 20], True),  # emptied at the end
        ([*range(40), *[0] * 60], False),  # emptied early
        ([1, 2, 3], False),  # too few looks
        ([], False),
    ],
)
def test_goes_on(series: Sequence[float], expected: bool) -> None:
    assert accumulation.goes_on(list(series)) is expected


@given(st.lists(st.floats(0, 1e9), min_size=4, max_size=30))
def test_what_goes_on_ends_higher_than_it_began(series: list[float]) -> None:
    if accumulation.goes_on(series):
        assert max(series) > min(series)
    assert not accumulation.goes_on([*[min(series)] * 20, *series])


def test_holders(table: Build) -> None:
    rows = [
        row
        for n in range(6)
        for row in (
            {"holder": "cache", "name": "app.CACHE", "items": 10 * n, "size_bytes": n * MIB},
            {"holder": "global", "name": "app.TABLE", "items": 99, "size_bytes": 50 * MIB},
            {"holder": "context_variable", "name": "frame", "items": 3, "size_bytes": None},
        )
    ]
    objects = [row | {"t_ns": number // 3 * S} for number, row in enumerate(rows)]
    found = accumulation.holders(table("objects", objects, pid=1, type="dict"))
    assert found.select("name", "looks", "last_items", "items_grow", "bytes_grow").rows() == [
        ("app.TABLE", 6, 99, False, False),
        ("app.CACHE", 6, 50, True, True),
        ("frame", 6, 3, False, False),
    ]
    [cache] = found.filter(name="app.CACHE").rows(named=True)
    assert (cache["first_bytes"], cache["last_bytes"], cache["kept_bytes"]) == (0, 5 * MIB, 3 * MIB)
    assert (cache["t_ns"], cache["t_end_ns"]) == (0, 5 * S)
    shown = accumulation.over_time(table("objects", objects, pid=1), ["app.CACHE"])
    assert shown["items"].to_list() == [0, 10, 20, 30, 40, 50]


def test_a_holder_that_is_missing_at_a_look_was_empty_then(table: Build) -> None:
    always = [{"name": "app.ALWAYS", "t_ns": n * S, "items": n + 1} for n in range(9)]
    queue = [{"name": "a queue", "t_ns": n * S, "items": 10 * n} for n in (2, 3, 5, 6, 8)]
    objects = table("objects", [*always, *queue], pid=1, holder="queue", size_bytes=0)
    found = accumulation.holders(objects).sort("name")
    assert found.select("name", "looks", "items_grow").rows() == [
        ("a queue", 7, False),
        ("app.ALWAYS", 9, True),
    ]


def test_a_cache_with_a_limit_is_known_by_its_type(table: Build) -> None:
    sizes = {"None": False, "128": True}
    rows = [{"name": f"f{n}", "type": f"functools.lru_cache(maxsize={n})"} for n in sizes]
    found = accumulation.holders(table("objects", rows, pid=1, holder="cache", t_ns=0, items=1))
    assert dict(found.select("type", "bounded").rows()) == {
        f"functools.lru_cache(maxsize={n})": bounded for n, bounded in sizes.items()
    }


def queue_of(table: Build, depths: npt.NDArray[np.int64], capacity: int | None) -> pl.DataFrame:
    rows = [{"t_ns": n * S, "depth": int(depth)} for n, depth in enumerate(depths)]
    return table("queue_depths", rows, pid=1, queue="frames", capacity=capacity, touch="put")


def test_a_queue_without_a_limit_that_only_fills(table: Build) -> None:
    waves = np.arange(200) + 5 * (np.arange(200) % 8)
    [found] = accumulation.unbounded(queue_of(table, waves, None)).rows(named=True)
    assert found["grows"]
    assert found["most_depth"] > 180 > 10 > found["first_depth"]
    [zero] = accumulation.unbounded(queue_of(table, waves, 0)).rows(named=True)
    assert zero["grows"]  # as queue.Queue says that there is none
    assert accumulation.unbounded(queue_of(table, waves, 500)).is_empty()
    [emptied] = accumulation.unbounded(queue_of(table, np.arange(200) % 50, None)).rows(named=True)
    assert not emptied["grows"]


def test_lines_of_the_program_that_hold_more_and_more(table: Build) -> None:
    rows = [
        {"t_ns": n * S, "file": file, "line": 7, "size_bytes": size, "blocks": n}
        for n in range(5)
        for file, size in (("a.py", n * MIB), ("b.py", 2 * MIB))
    ]
    found = heap.lines(table("host_allocations", rows, pid=1))
    assert found.select("file", "first_bytes", "last_bytes", "blocks", "grows").rows() == [
        ("a.py", 0, 4 * MIB, 4, True),
        ("b.py", 2 * MIB, 2 * MIB, 4, False),
    ]


def test_nothing_in_nothing_out(table: Build) -> None:
    assert accumulation.holders(table("objects")).is_empty()
    assert accumulation.unbounded(table("queue_depths")).is_empty()
    assert heap.lines(table("host_allocations")).is_empty()


def test_a_queue_that_is_held_and_touched_is_told_by_what_it_held(table: Build) -> None:
    """Depths go up by one every 10 ms; each look is some while after its time."""
    steps = range(100)
    touches = [{"t_ns": n * 10 * MS, "queue": name, "depth": n * more + 1, "touch": "put"}
               for n in steps for name, more in (("app.py:9", 1), ("app.py:5", 3))]  # fmt: skip
    depths = table("queue_depths", touches, pid=1, capacity=None)

    def looks(name: str, kind: str, more: int) -> list[dict[str, Any]]:
        return [{"t_ns": t * 100 * MS - 3 * MS, "holder": "queue", "name": name, "type": kind,
                 "items": t * 10 * more + 2} for t in range(1, 9)]  # fmt: skip

    rows = [*looks("queue.Queue 1", "queue.Queue", 1), *looks("app.JOBS", "app.Jobs", 3),
            *looks("queue.Queue 2", "queue.Queue", 2),
            *looks("x", "_queue.SimpleQueue", 1)]  # fmt: skip
    objects = table("objects", rows, pid=1, size_bytes=1)
    found = accumulation.also_touched(objects, depths, ["app.py:9", "app.py:5"]).sort("name")
    assert found.select("name", "queue").rows() == [
        ("app.JOBS", "app.py:5"),
        ("queue.Queue 1", "app.py:9"),
    ]
    assert accumulation.also_touched(objects, depths, []).is_empty()
    assert accumulation.also_touched(table("objects"), depths, ["app.py:9"]).is_empty()

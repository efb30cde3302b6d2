"""Simulated memory is what a finished run would hold, and the same for the same seed."""

from __future__ import annotations

import polars as pl
import pytest

from vidlab import schema
from vidlab.analysis import memory
from vidlab.errors import InputError
from vidlab.lab.simulated_memory import Cache, Delayed, Leak, simulated_allocations


def test_tables_have_the_columns_of_the_schema():
    simulated = simulated_allocations(50, leaks=[Leak(every=5)])
    for name in ("allocations", "stacks", "gpu_samples", "frames", "holders"):
        expected = pl.from_arrow(schema.TABLES[name].arrow_schema.empty_table())
        assert getattr(simulated, name).schema == expected.schema, name
        assert getattr(simulated, name).height > 0, name


def test_the_same_arguments_make_the_same_tables():
    one, two = (simulated_allocations(200, seed=3, leaks=[Leak(every=20)]) for _ in range(2))
    other = simulated_allocations(200, seed=4, leaks=[Leak(every=20)])
    assert one.allocations.equals(two.allocations)
    assert not one.allocations.equals(other.allocations)


def test_what_is_kept_is_what_was_asked_for():
    simulated = simulated_allocations(
        1_000,
        streams=2,
        sites=8,
        leaks=[Leak(site=7, stream=1, every=50)],
        caches=[Cache(site=3, stream=0, capacity=12, churn=10)],
        delayed=[Delayed(site=2, stream=0, every=100)],
    )
    lives = memory.blocks(simulated.allocations, level="pool")
    left = lives.filter(pl.col("free_ns").is_null()).group_by("stream_id", "stack").len()
    assert sorted(left.cast({"stream_id": pl.String}).rows()) == [
        ("cam-00", 4, 12),
        ("cam-01", 8, 10),
    ]
    by_gc = lives.filter(pl.col("freed_by") == "gc")
    assert set(by_gc["stack"]) == {3}
    assert set(simulated.holders["generation"]) == set(
        lives.filter(pl.col("free_ns").is_null())["generation"]
    )


def test_blocks_never_overlap_and_lie_in_chunks():
    lives = memory.blocks(simulated_allocations(300).allocations, level="pool")
    ordered = lives.sort("device", "address", "t_ns")
    again = ordered["address"].shift(-1) == ordered["address"]
    assert (ordered["free_ns"] < ordered["t_ns"].shift(-1)).filter(again.fill_null(False)).all()


def test_bad_arguments():
    with pytest.raises(InputError, match="can't make"):
        simulated_allocations(2, streams=4)
    with pytest.raises(InputError, match="names a site"):
        simulated_allocations(10, sites=2, leaks=[Leak(site=2)])

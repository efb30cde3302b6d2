"""Sorting by packing: the same groups and values as by any other way, or none at all."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidlab.analysis import packing, quantiles

rows = st.lists(
    st.tuples(
        st.sampled_from(["decode", "encode", "", None]),
        st.sampled_from([-3, 0, 7, None]),
        st.integers(0, 1 << 40),
    ),
    min_size=1,
    max_size=100,
)


@pytest.mark.parametrize("text", [pl.String, pl.Categorical, pl.Enum(["", "encode", "decode"])])
@settings(deadline=None, max_examples=40)
@given(rows=rows)
def test_values_are_sorted_within_their_groups(text, rows):
    table = pl.DataFrame(
        rows, schema={"stage": pl.String, "gpu": pl.Int16, "value": pl.Int64}, orient="row"
    ).with_columns(pl.col("stage").cast(text))
    result = packing.sorted_groups(table.lazy(), ["stage", "gpu"], "value")
    expected: dict[tuple[str | None, int | None], list[int]] = {}
    for stage, gpu, value in rows:
        expected.setdefault((stage, gpu), []).append(value)
    found = result.keys.rows()
    assert sorted(found, key=str) == sorted(expected, key=str)
    for number, (key, sum_) in enumerate(zip(found, result.sums(), strict=True)):
        values = sorted(expected[key])
        assert sum_ == sum(values)
        assert result.counts[number] == len(values)
        one = np.zeros(len(found), np.int64)
        for place, value in enumerate(values):
            one[number] = place
            assert result.at(one)[number] == value


def test_a_text_that_occurs_once_in_many_rows_is_found():
    table = pl.LazyFrame(
        {"stage": ["decode"] * 5_000 + ["rare"] + ["decode"] * 5_000, "value": range(10_001)},
        schema_overrides={"stage": pl.Categorical},
    )
    result = packing.sorted_groups(table, ["stage"], "value")
    counts = dict(zip(result.keys["stage"].to_list(), result.counts.tolist(), strict=True))
    assert counts == {"decode": 10_000, "rare": 1}


@pytest.mark.parametrize(
    "columns",
    [
        {"key": [1.5, 2.5], "value": [1, 2]},  # a key that is no whole number
        {"key": [1, 2], "value": [-1, 2]},  # a clock that went backwards
        {"key": [1, 1 << 40], "value": [1, 2]},  # too many groups
        {"key": [1, 8], "value": [1, (1 << 62)]},  # too many bits
    ],
)
def test_what_can_not_be_packed_is_counted_all_the_same(columns):
    table = pl.LazyFrame(columns)
    assert packing.sorted_groups(table, ["key"], "value") is None
    result = quantiles.grouped(table, ["key"], [0.5], value="value")
    assert result["p50_ns"].to_list() == columns["value"]


def test_no_rows_no_groups():
    empty = pl.LazyFrame(schema={"stage": pl.Categorical, "value": pl.Int64})
    result = packing.sorted_groups(empty, ["stage"], "value")
    assert result.keys.height == len(result.sums()) == len(result.at(np.array([], np.int64))) == 0

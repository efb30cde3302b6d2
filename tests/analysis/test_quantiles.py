"""Percentiles against an oracle of their own: whole numbers and sorting, nothing of polars."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidlab import histogram
from vidlab.analysis import quantiles
from vidlab.errors import InputError

QUANTILES = [0.0, 0.01, 0.07, 0.29, 0.5, 0.9, 0.99, 0.999, 1.0]


def nearest_rank(values: list[int], quantile: float) -> int:
    """The value of rank ceil(q n), with q as the decimal that a person wrote."""
    rank = math.ceil(Fraction(str(quantile)) * len(values))
    return int(np.sort(values)[max(rank, 1) - 1])


def within(exact: int) -> float:
    """The most that a histogram's quantile is off: its relative error, and rounding to 1 ns."""
    return exact * (histogram.RELATIVE_ERROR + 1e-9) + 0.5


durations = st.integers(0, 10**12)


@settings(deadline=None, max_examples=50)
@given(st.lists(durations, min_size=1, max_size=300))
def test_exact_percentiles_are_the_values_of_their_rank(values: list[int]) -> None:
    result = quantiles.grouped(pl.LazyFrame({"duration_ns": values}), [], QUANTILES)
    row = result.row(0, named=True)
    assert [row[quantiles.column(q)] for q in QUANTILES] == [
        nearest_rank(values, q) for q in QUANTILES
    ]
    assert (row["count"], row["max_ns"]) == (len(values), max(values))
    assert row["mean_ns"] == pytest.approx(np.mean(values), abs=1)


def test_a_product_that_is_a_little_more_than_a_whole_number_is_that_rank() -> None:
    assert 0.07 * 100 > 7  # as floating point has it
    table = pl.LazyFrame({"duration_ns": range(1, 101)})
    assert quantiles.grouped(table, [], [0.07]).row(0, named=True)["p7_ns"] == 7


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(durations, st.integers(1, 50)), min_size=1, max_size=60))
def test_a_weight_is_a_repetition(weighted: list[tuple[int, int]]) -> None:
    values, weights = [v for v, _ in weighted], [w for _, w in weighted]
    table = pl.LazyFrame({"duration_ns": values, "sample_rate": [1 / w for w in weights]})
    repeated = np.repeat(values, weights).tolist()
    row = quantiles.grouped(table, [], QUANTILES).row(0, named=True)
    assert [row[quantiles.column(q)] for q in QUANTILES] == [
        nearest_rank(repeated, q) for q in QUANTILES
    ]
    assert row["count"] == len(repeated)
    assert row["mean_ns"] == pytest.approx(np.mean(repeated), rel=1e-9, abs=1)


def test_sampled_and_whole_groups_side_by_side() -> None:
    table = pl.LazyFrame(
        {
            "codec": ["av1", "av1", "h264", "h264", None, None],
            "sample_rate": [1.0, 1.0, 0.1, 0.1, 0.25, 1.0],
            "duration_ns": [10, 20, 10, 20, 100, 7],
        }
    )
    result = quantiles.grouped(table, ["codec"], [0.5])
    assert result.rows() == [
        (None, 5, 81, 100, 100),  # four times 100 and once 7
        ("av1", 2, 15, 10, 20),
        ("h264", 20, 15, 10, 20),
    ]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(durations, st.integers(1, 5)), min_size=1, max_size=200))
def test_percentiles_of_histograms_are_within_their_error(weighted: list[tuple[int, int]]) -> None:
    values, weights = [v for v, _ in weighted], [w for _, w in weighted]
    cube = pl.LazyFrame(
        {
            "bucket": histogram.bucket_of(values),
            "count": [float(w) for w in weights],
            "total_ns": [float(v * w) for v, w in weighted],
        }
    )
    repeated = np.repeat(values, weights).tolist()
    row = quantiles.of_histograms(cube, [], QUANTILES).row(0, named=True)
    for q in QUANTILES:
        exact = nearest_rank(repeated, q)
        assert abs(row[quantiles.column(q)] - exact) <= within(exact)
    assert row["count"] == len(repeated)
    assert row["mean_ns"] == pytest.approx(np.mean(repeated), rel=1e-9, abs=1)
    assert abs(row["max_ns"] - max(values)) <= within(max(values))


def test_nothing_in_nothing_out() -> None:
    empty = pl.LazyFrame(schema={"duration_ns": pl.Int64, "codec": pl.Categorical})
    result = quantiles.grouped(empty, ["codec"])
    numbers = ["count", "mean_ns", "p50_ns", "p90_ns", "p99_ns", "p99_9_ns", "max_ns"]
    assert dict(result.schema) == {"codec": pl.String, **dict.fromkeys(numbers, pl.Int64)}
    assert result.height == quantiles.grouped(empty, []).height == 0
    cube = pl.LazyFrame(
        schema={"codec": pl.String, "bucket": pl.Int32, "count": pl.Float64, "total_ns": pl.Float64}
    )
    assert quantiles.of_histograms(cube, ["codec"]).schema == result.schema


@pytest.mark.parametrize("wrong", [99, -0.1, math.nan])
def test_a_quantile_is_between_0_and_1(wrong: float) -> None:
    with pytest.raises(InputError, match=r"between 0 and 1.*0\.99"):
        quantiles.grouped(pl.LazyFrame({"duration_ns": [1]}), [], [wrong])

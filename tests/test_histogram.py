from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidlab.histogram import (
    GAMMA,
    RELATIVE_ERROR,
    ZERO_BUCKET,
    Histogram,
    bucket_of,
    merged,
    value_of,
)

durations = st.lists(st.integers(0, 2**62), min_size=1, max_size=200)


def nearest_rank(values: list[int], share: float) -> int:
    return sorted(values)[max(math.ceil(share * len(values) - 1e-9), 1) - 1]


def test_of_nothing():
    empty = Histogram.of([])
    assert empty.total == 0
    assert math.isnan(empty.quantile(0.5))
    assert merged([]).total == 0
    assert (empty + Histogram.of([5])).quantile(1) == Histogram.of([5]).quantile(1)


def test_zero_has_a_bucket_of_its_own():
    assert bucket_of([0, -3, 1]).tolist() == [ZERO_BUCKET, ZERO_BUCKET, 0]
    assert value_of([ZERO_BUCKET]).tolist() == [0.0]
    assert Histogram.of([0, 0, 0, 1000]).quantile(0.5) == 0


@given(st.integers(1, 2**63 - 1))
def test_a_bucket_holds_what_it_says(value):
    bucket = int(bucket_of(value))
    slack = 1 + 1e-9  # of computing with floats
    assert GAMMA ** (bucket - 1) < value * slack
    assert value < GAMMA**bucket * slack
    assert abs(float(value_of(bucket)) - value) <= RELATIVE_ERROR * value * slack


@given(durations, st.floats(0, 1))
def test_a_quantile_is_the_nearest_rank_within_the_error(values, share):
    exact = nearest_rank(values, share)
    assert Histogram.of(values).quantile(share) == pytest.approx(exact, rel=RELATIVE_ERROR * 1.001)


@given(durations, durations, durations)
def test_merging_is_exact_in_any_order(a, b, c):
    whole = Histogram.of(a + b + c)
    parts = [Histogram.of(part) for part in (a, b, c)]
    for result in (merged(parts), merged(parts[::-1]), parts[1] + (parts[2] + parts[0])):
        assert result.buckets.tolist() == whole.buckets.tolist()
        assert result.counts.tolist() == whole.counts.tolist()


def test_weights_count_as_repetitions():
    values, times = np.array([10, 2000, 300_000]), np.array([1, 5, 2])
    weighted, repeated = Histogram.of(values, times), Histogram.of(np.repeat(values, times))
    assert weighted.counts.tolist() == repeated.counts.tolist()
    assert weighted.quantile(0.5) == repeated.quantile(0.5)


def test_rows_of_a_cube_may_repeat_a_bucket():
    summed = Histogram.summed([7, 3, 7], [1.5, 2, 1])
    assert summed.buckets.tolist() == [3, 7]
    assert summed.counts.tolist() == [2, 2.5]
    assert summed.total == 4.5

"""Slices of a brick are counted exactly, however they lie; and so are the arrays beneath."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from vidlab.histogram import Histogram
from vidlab.workbench.explorer import bricks, durations, pictures
from vidlab.workbench.explorer.bricks import Brick
from vidlab.workbench.explorer.durations import Durations
from vidlab.workbench.explorer.groups import Groups


def groups_of(rates: list[float]) -> Groups:
    count = len(rates)
    return Groups(
        pl.DataFrame(
            {
                "labels": range(count),
                "stream_id": [f"s-{n}" for n in range(count)],
                "codec": ["av1", "hevc"] * (count // 2),
                "gpu": [None, 0, 1, 1] * (count // 4),
                "sample_rate": rates,
            },
            schema_overrides={"labels": pl.UInt32, "gpu": pl.Int16},
        )
    )


class Spans:
    """Spans of random groups, times and durations; a brick of them, and the same by hand."""

    def __init__(self, rates: list[float], count: int = 20_000) -> None:
        random = np.random.default_rng(len(rates))
        self.groups = groups_of(rates)
        labels = pl.Series(random.integers(0, len(rates), count), dtype=pl.UInt32)
        group = self.groups.of(labels)
        t_ns = random.integers(0, 1_000, count) * 1_000  # some at the very ends of TIMES
        order = np.lexsort((t_ns, group))
        self.group, self.t_ns = group[order], t_ns[order]
        self.ns = random.lognormal(14, 1, count).astype(np.int64)
        self.ns[:3] = 0
        self.frame = random.integers(-1, 500, count).astype(np.int32)
        self.brick = Brick(self.groups, self.t_ns, self.ns, self.group, self.frame)

    def by_hand(self, groups: Any, times: Any, frames: Any) -> tuple[Any, Any]:
        mask = np.ones(len(self.ns), bool)
        if groups is not None:
            mask &= groups[self.group]
        if times is not None:
            mask &= (self.t_ns >= times[0]) & (self.t_ns <= times[1])
        if frames is not None:
            mask &= np.isin(self.frame, np.flatnonzero(frames))
        return self.ns[mask], 1 / self.groups.rates[self.group[mask]]


@pytest.fixture(scope="module", params=[[1.0] * 8, [1.0, 0.3, 0.25, 1.0] * 2, [0.1] * 8])
def spans(request: pytest.FixtureRequest) -> Spans:
    return Spans(request.param)


GROUPS = [None, [1, 2, 3], [0, 4, 8], [5], [], [0, 1, 2, 3, 4, 5, 6, 7, 8]]
TIMES = [None, (0, 999_999), (250_000, 250_000), (100_000, 700_000), (999_000, 2_000_000), (5, 4)]


@pytest.mark.parametrize("slices", [bricks._SLICES, 2])
@pytest.mark.parametrize("chosen", GROUPS, ids=str)
def test_a_histogram_of_a_slice(
    spans: Spans, chosen: list[int] | None, slices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bricks, "_SLICES", slices)
    groups = None if chosen is None else np.isin(np.arange(len(spans.groups)), chosen)
    some = np.arange(500) % 3 == 0
    for times in TIMES:
        for frames in (None, some):
            found = spans.brick.histogram(groups, times, frames)
            wanted = Histogram.of(*spans.by_hand(groups, times, frames))
            assert found.buckets.tolist() == wanted.buckets.tolist()
            assert found.counts == pytest.approx(wanted.counts)


@pytest.mark.parametrize("times", TIMES, ids=str)
def test_exact_numbers_of_a_slice(spans: Spans, times: tuple[int, int] | None) -> None:
    ns, weights = spans.by_hand(None, times, None)
    found = spans.brick.exact(None, times, None, 0.9)
    if not len(ns):
        assert found is None
        return
    order = np.argsort(ns)
    running = np.cumsum(weights[order]) / weights.sum()
    wanted = [ns[order][np.searchsorted(running, q - 1e-9)] for q in (0.5, 0.9)]
    assert found is not None
    assert found[0] == round(weights.sum())
    assert list(found[1:3]) == wanted
    assert found[3] == pytest.approx(ns @ weights)


def test_a_brick_of_few_rows_and_of_none() -> None:
    for count in (0, 1, bricks._STRIDE, bricks._STRIDE + 1):
        few = Spans([1.0] * 4, max(count, 3))
        brick = Brick(*(few.groups, few.t_ns[:count], few.ns[:count], few.group[:count],
                        few.frame[:count]))  # fmt: skip
        assert brick.histogram(None, None, None).total == count
        assert brick.histogram(None, (0, 500_000), None).total == (few.t_ns[:count] <= 5e5).sum()
        assert (brick.exact(None, None, None, 0.5) is None) == (count == 0)


def test_ascending_is_a_stable_sort() -> None:
    random = np.random.default_rng(0)
    for values in (
        random.integers(0, 50, 1_000),
        random.integers(0, 1 << 40, 1_000),
        random.integers(-5, 5, 1_000),
        np.array([(1 << 63) - 1, 0, 1 << 62, 65_536, 65_535]),
        np.empty(0, np.int64),
    ):
        wanted = np.argsort(values, kind="stable")
        assert durations.ascending(values).tolist() == wanted.tolist()


def test_rows_of_rows() -> None:
    ns = np.array([40, 10, 30, 20, 20])
    numbers = np.arange(5)
    rows = Durations.ordered(numbers, ns, numbers.astype(np.uint16), numbers.astype(np.int32))
    assert rows.ns.tolist() == [10, 20, 20, 30, 40]
    assert rows.t_ns.tolist() == [1, 3, 4, 2, 0]
    middle = rows.between(20, 30)
    assert middle.frame.tolist() == [3, 4, 2]
    assert middle.where(middle.t_ns != 4).last(1).group.tolist() == [2]
    assert len(rows.between(41, 50)) == len(rows.at(np.empty(0, np.intp)).last(3)) == 0


@pytest.mark.parametrize("count", [1, 7, 3_000, 100_000])
def test_the_worst_of_each_bin(count: int) -> None:
    random = np.random.default_rng(count)
    bin_ = np.minimum(random.integers(0, 12, count), random.integers(0, 12, count))
    bin_[: count // 2] = 11  # whose longest are then far from the longest of all
    found = pictures.worst_of_bins(bin_, 3)
    wanted = [np.flatnonzero(bin_ == n)[-3:] for n in range(12)]
    assert found.tolist() == sorted(np.concatenate(wanted).tolist())


def test_labels_that_the_table_does_not_know() -> None:
    groups = groups_of([1.0, 0.5, 1.0, 1.0])
    found = groups.of(pl.Series([1, 77, None], dtype=pl.UInt32))
    assert groups.table["stream_id"][found.tolist()].to_list() == ["s-1", None, None]
    weights, each = groups.weights(found)
    assert weights is not None
    assert (weights * each).tolist() == [2.0, 1.0, 1.0]
    assert groups.weights(found[:1]) == (None, 2.0)
    chosen = groups.chosen({"stream_id": None, "codec": None, "gpu": 1})
    assert chosen is not None
    assert set(groups.table.filter(chosen)["stream_id"]) == {"s-2", "s-3"}

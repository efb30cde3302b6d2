"""Slices of a brick are counted exactly, however they lie; and so are the arrays beneath."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from vidlab.histogram import Histogram
from vidlab.workbench.explorer import bricks, durations, framed, pictures
from vidlab.workbench.explorer.bricks import Brick
from vidlab.workbench.explorer.durations import Durations
from vidlab.workbench.explorer.flagged import Flagged
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
        rows = np.arange(500, dtype=np.int32)
        self.every = Durations.of(rows, rows, random.choice(self.group, 500), rows)
        self.brick = Brick(self.groups, self.every, self.t_ns, self.ns, self.group, self.frame)

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
    rows = np.arange(500)
    for times in TIMES:
        for frames in (None, rows % 3 == 0, (rows >= 100) & (rows < 499), rows < 0):
            parts = framed.parts(spans.groups, groups, frames, spans.every)
            found = spans.brick.histogram(parts, times)
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
        brick = Brick(*(few.groups, few.every, few.t_ns[:count], few.ns[:count],
                        few.group[:count], few.frame[:count]))  # fmt: skip
        parts = framed.parts(few.groups, None, None, few.every)
        assert brick.histogram(parts, None).total == count
        assert brick.histogram(parts, (0, 500_000)).total == (few.t_ns[:count] <= 5e5).sum()
        all_ = framed.parts(few.groups, None, np.ones(500, bool), few.every)
        assert brick.histogram(all_, None).total == (few.frame[:count] >= 0).sum()
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


@pytest.fixture
def rows() -> Durations:
    t_ns, ns = np.array([1, 3, 4, 2, 0]), np.array([10, 20, 20, 30, 40])
    return Durations.of(t_ns, ns, t_ns.astype(np.uint16), t_ns.astype(np.int32) - 1)


def test_rows_of_rows(rows: Durations) -> None:
    middle = rows.between(20, 30)
    assert middle.frame.tolist() == [2, 3, 1]
    assert middle.flags.tolist() == [False, True, True, True, False]
    assert middle.where(middle.t_ns != 4).last(1).group.tolist() == [2]
    assert middle.at(np.array([0, 2])).ns.tolist() == [20, 30]
    assert len(middle.between(0, 15)) == len(middle.between(35, 99)) == 0
    assert len(rows.between(41, 50)) == len(rows.at(np.empty(0, np.intp)).last(3)) == 0
    assert rows.last(2).ns.tolist() == [30, 40]
    assert rows.last(9).ns.tolist() == rows.ns.tolist()


def test_rows_of_some_groups_and_times(rows: Durations) -> None:
    own = rows.of_groups(np.array([True, False, True, True, True]))
    assert own.t_ns.tolist() == [3, 4, 2, 0]
    assert own.during((2, 3)).ns.tolist() == rows.during((2, 3)).ns.tolist() == [20, 30]
    assert own.during((2, 3)).between(25, 35).flags.tolist() == [False, False, False, True, False]
    one = rows.of_groups(np.array([False, False, True, True, False]))
    assert one.t_ns.tolist() == [3, 2]
    assert [one.last(count).ns.tolist() for count in (0, 1, 2, 9)] == [[], [30], [20, 30], [20, 30]]


def test_the_longest_may_be_far_from_the_longest_of_all() -> None:
    numbers = np.arange(1_000)
    rows = Durations.of(numbers, numbers, numbers.astype(np.uint16), numbers.astype(np.int32))
    for first in (0, 900, 998):
        own = rows.during((first, first + 9))
        assert own.last(3).ns.tolist() == numbers[first : first + 10][-3:].tolist()


def test_rows_in_the_order_of_time(rows: Durations) -> None:
    moments = rows.moments
    assert moments.t_ns.tolist() == [0, 1, 2, 3, 4]
    assert rows.ns[moments.place].tolist() == [40, 10, 30, 20, 20]
    assert moments.of_frames().tolist() == [1, 4]
    assert moments.of_groups(np.arange(5) > 2).during((0, 3)).t_ns.tolist() == [3]
    assert moments.bins(2)[:2] == (0, 3)
    assert moments.bins(2)[2].tolist() == [0, 3, 5]
    none = moments.during((0, 0))
    assert none.of_frames().tolist() == none.during((5, 9)).of_frames().tolist() == []
    assert none.during((5, 9)).bins(2)[2].tolist() == [0, 0, 0]


@pytest.mark.parametrize("count", [1, 7, 3_000, 100_000])
def test_the_worst_of_each_bin(count: int) -> None:
    random = np.random.default_rng(count)
    bin_ = np.minimum(random.integers(0, 12, count), random.integers(0, 12, count))
    bin_[: count // 2] = 11  # whose longest are then far from the longest of all
    frame = random.integers(-1, 5, count).astype(np.int32)
    rows = Durations.of(bin_ * 10, np.arange(count), bin_.astype(np.uint16), frame)
    found = pictures.worst_of_bins(rows, np.array([0, 119]), 12, 3)
    wanted = [np.flatnonzero((bin_ == n) & (frame >= 0))[-3:] for n in range(12)]
    assert found.ns.tolist() == sorted(np.concatenate(wanted).tolist())


@pytest.mark.parametrize("count", [1, 63, 64, 65, 3_000])
def test_rows_that_are_flagged(count: int) -> None:
    random = np.random.default_rng(count)
    for share in (0.0, 0.01, 0.5, 1.0):
        flags = random.random(count) < share
        found = Flagged(flags)
        wanted = np.flatnonzero(flags)
        assert len(found) == len(wanted)
        assert found.places(np.arange(len(wanted))).tolist() == wanted.tolist()
        before = np.cumsum(flags) - flags
        assert found.ranks(np.arange(count)).tolist() == before.tolist()


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

"""Runtime metrics over time: small tables with known answers."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from vidlab.analysis import trends

Build = Callable[..., pl.DataFrame]

S = 1_000_000_000


def readings_of(table: Build) -> pl.DataFrame:
    rows = [
        row
        for n in range(8)
        for row in (
            {"t_ns": n * S, "metric": "a.share", "value": n / 10, "kind": "gauge"},
            {"t_ns": n * S, "metric": "a.count", "value": 5.0 * n * n, "kind": "counter",
             "attribute": "generation=2"},
        )
    ]  # fmt: skip
    return table("runtime_metrics", rows, pid=1)


def test_metrics_are_listed_with_their_values(table: Build) -> None:
    count, share = trends.metrics(readings_of(table)).rows(named=True)
    assert (share["metric"], share["kind"], share["readings"]) == ("a.share", "gauge", 8)
    assert (share["least"], share["median"], share["most"], share["last"]) == (0, 0.35, 0.7, 0.7)
    assert (count["attribute"], count["last"]) == ("generation=2", 245)


def test_over_time_counters_are_rates(table: Build) -> None:
    found = trends.over_time(readings_of(table))
    assert found.filter(metric="a.share")["value"].to_list() == [n / 10 for n in range(8)]
    assert found.filter(metric="a.count")["value"].to_list() == [5.0 * (2 * n - 1)
                                                                 for n in range(1, 8)]  # fmt: skip
    [first, _] = trends.over_time(readings_of(table), ["a.share"], time_bins=2).rows(named=True)
    assert (first["t_ns"], round(first["value"], 9)) == (3 * S // 2, 0.15)


def test_lately_is_the_median_of_the_later_half(table: Build) -> None:
    assert trends.lately(readings_of(table), "a.share").rows(named=True) == [
        {"pid": 1, "attribute": None, "readings": 8, "t_ns": 4 * S, "value": 0.55}
    ]
    assert trends.lately(readings_of(table), "nothing").is_empty()


def test_nothing_in_nothing_out(table: Build) -> None:
    empty = table("runtime_metrics")
    assert trends.metrics(empty).is_empty()
    assert trends.over_time(empty).is_empty()

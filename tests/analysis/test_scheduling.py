"""How long threads waited for a CPU: small tables with known answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from vidlab.analysis import scheduling
from vidlab.errors import InputError

Build = Callable[..., pl.DataFrame]

MS, S = 1_000_000, 1_000_000_000


def window(number: int, **columns: Any) -> dict[str, Any]:
    known = {"cpu_ns": 200 * MS, "runqueue_ns": 50 * MS, "slices": 100, "readings": 20}
    known |= {"p50_delay_ns": 1 * MS, "worst_delay_ns": 4 * MS, "duration_ns": S}
    return {"t_ns": number * S, **known, **columns}


def test_by_thread_adds_windows_up_and_ranks_readings(table: Build) -> None:
    rows = [window(n, tid=5, worst_delay_ns=(20 if n == 9 else 4) * MS) for n in range(10)]
    rows += [window(n, tid=6, runqueue_ns=0, cpu_ns=0, slices=0, readings=20,
                    p50_delay_ns=None, worst_delay_ns=None) for n in range(2)]  # fmt: skip
    busy, idle = scheduling.by_thread(table("thread_waits", rows, pid=1)).rows(named=True)
    assert (busy["tid"], busy["windows"], busy["slices"], busy["readings"]) == (5, 10, 1_000, 200)
    assert busy["cpu_share"] == pytest.approx(0.2)
    assert busy["runqueue_share"] == pytest.approx(0.05)
    assert busy["mean_delay_ns"] == 500_000
    # 190 readings are the median, 9 are 4 ms, one is 20 ms: rank 198 of 200 is 4 ms.
    assert (busy["p50_delay_ns"], busy["p99_delay_ns"]) == (1 * MS, 4 * MS)
    assert busy["worst_delay_ns"] == 20 * MS
    assert (idle["tid"], idle["cpu_share"]) == (6, 0)
    assert idle["p99_delay_ns"] is idle["worst_delay_ns"] is idle["mean_delay_ns"] is None


def test_a_percentile_of_few_readings_is_the_worst(table: Build) -> None:
    rows = [window(0, tid=5, readings=4, worst_delay_ns=30 * MS)]
    [found] = scheduling.by_thread(table("thread_waits", rows, pid=1)).rows(named=True)
    assert found["p99_delay_ns"] == 30 * MS
    assert found["p50_delay_ns"] == 1 * MS


def test_over_time_puts_windows_together(table: Build) -> None:
    rows = [window(n, tid=5, runqueue_ns=n * 100 * MS) for n in range(4)]
    waits = table("thread_waits", rows, pid=1)
    assert scheduling.over_time(waits)["runqueue_share"].to_list() == [0, 0.1, 0.2, 0.3]
    halves = scheduling.over_time(waits, time_bins=2)
    assert halves.select("t_ns", "t_end_ns").rows() == [(0, 2 * S), (2 * S, 4 * S)]
    assert halves["runqueue_share"].to_list() == pytest.approx([0.05, 0.25])


def test_nothing_in_nothing_out(table: Build) -> None:
    waits = table("thread_waits")
    assert scheduling.by_thread(waits).is_empty()
    assert scheduling.over_time(waits).is_empty()
    with pytest.raises(InputError, match="'thread_waits' has no column 'slices'"):
        scheduling.by_thread(waits.drop("slices"))

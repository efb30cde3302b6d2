"""What held a full queue up is told: the stage that is slow, or the one that is away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from vidlab.analysis.holdups import holdups

MS = 1_000_000

Build = Callable[..., pl.DataFrame]


def frame(
    number: int, t_ms: float, filter_ms: float = 1, stream: str = "cam"
) -> list[dict[str, Any]]:
    """A frame's spans: decode, a queue, to_ndarray and filter, a queue, encode."""
    spans = []
    for stage, kind, duration_ms in (
        ("decode", "service", 1),
        ("packets", "queue", 5),
        ("to_ndarray", "service", 0.1),
        ("filter", "service", filter_ms),
        ("frames", "queue", 5),
        ("encode", "service", 1),
    ):
        spans.append(
            {
                "frame": number,
                "stream_id": stream,
                "stage": stage,
                "kind": kind,
                "t_ns": round(t_ms * MS),
                "duration_ns": round(duration_ms * MS),
            }
        )
        t_ms += duration_ms
    return spans


def level(
    name: str, t_ms: int, depth: int, touch: str = "put", stream: str = "cam", capacity: int = 4
) -> dict[str, Any]:
    return {
        "pid": 1,
        "t_ns": t_ms * MS,
        "queue": name,
        "stream_id": stream,
        "depth": depth,
        "capacity": capacity,
        "touch": touch,
    }


def rising_and_falling(
    name: str, begin_ms: int, end_ms: int, **columns: Any
) -> list[dict[str, Any]]:
    """A queue that is empty, then full from begin to end, then empty again."""
    return [
        level(name, begin_ms - 1, 0, "get", **columns),
        level(name, begin_ms, 4, **columns),
        level(name, end_ms, 0, "get", **columns),
    ]


#: Something at both ends of time, so that bins are as told: 100 ms.
ENDS = [level("packets", 0, 0), level("packets", 3000, 0)]


def test_a_stage_that_is_busy_is_slow(table: Build) -> None:
    spans = table("spans", [s for n in range(20) for s in frame(n + 1, 500 + 50 * n, 45)])
    depths = table("queue_depths", [*ENDS, *rising_and_falling("packets", 500, 1500)])
    (found,) = holdups(depths, spans).rows(named=True)
    assert (found["stream_id"], found["queue"], found["stage"]) == ("cam", "packets", "filter")
    assert found["full_ns"] == pytest.approx(1000 * MS, abs=210 * MS)
    assert found["busy_share"] == pytest.approx(0.9, abs=0.03)
    assert found["t_ns"] == pytest.approx(500 * MS, abs=110 * MS)


def test_a_stage_that_is_idle_is_away(table: Build) -> None:
    spans = table("spans", [s for n in range(20) for s in frame(n + 1, 50 * n)])
    depths = table("queue_depths", [*ENDS, *rising_and_falling("packets", 1200, 2200)])
    (found,) = holdups(depths, spans).rows(named=True)
    assert found["busy_share"] == 0
    assert found["duration_ns"] == found["full_ns"]


def test_of_full_queues_the_last_on_the_way_counts(table: Build) -> None:
    spans = table("spans", [s for n in range(60) for s in frame(n + 1, 50 * n)])
    depths = table(
        "queue_depths",
        [
            *ENDS,
            *rising_and_falling("packets", 500, 2500),
            *rising_and_falling("frames", 500, 1500),
        ],
    )
    found = holdups(depths, spans)
    assert found["queue"].to_list() == ["packets", "frames"]
    assert found["stage"].to_list() == ["filter", "encode"]
    # The first queue is blamed for the second half only.
    assert found["t_ns"].to_list() == pytest.approx([1500 * MS, 500 * MS], abs=110 * MS)


def test_streams_and_times_far_apart_are_told_apart(table: Build) -> None:
    spans = table(
        "spans",
        [
            span
            for stream in ("cam", "other")
            for n in range(60)
            for span in frame(n + (1 if stream == "cam" else 100), 50 * n, stream=stream)
        ],
    )
    depths = table(
        "queue_depths",
        [
            *ENDS,
            *rising_and_falling("packets", 300, 700),
            *rising_and_falling("packets", 2000, 2800),
            *rising_and_falling("packets", 300, 1900, stream="other"),
        ],
    )
    found = holdups(depths, spans)
    assert found.select("stream_id", pl.col("t_ns") // (100 * MS)).rows() == [
        ("other", 3),
        ("cam", 20),
        ("cam", 3),
    ]


@pytest.mark.parametrize("capacity", [None, 1])
def test_queues_that_cannot_fill_or_hold_one_are_left_out(
    table: Build, capacity: int | None
) -> None:
    depths = [
        {**row, "capacity": capacity} for row in [*ENDS, *rising_and_falling("packets", 500, 1500)]
    ]
    assert holdups(table("queue_depths", depths), table("spans", frame(1, 0))).height == 0


def test_of_nothing_there_is_nothing(table: Build) -> None:
    assert holdups(table("queue_depths"), table("spans")).height == 0

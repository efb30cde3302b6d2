"""A process that stands still is told from a pipeline that is slow, idle, starting or ending."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from vidlab.analysis.silences import episodes, silences

MS = 1_000_000

Build = Callable[..., pl.DataFrame]


def pipeline(
    streams: int = 8, seconds: float = 3.0, gaps: dict[int, int] | None = None, **columns: Any
) -> list[dict[str, Any]]:
    """Spans of 1 ms, one each 40 ms a stream; at the moments of `gaps`, all are put off."""
    rows, late = [], 0
    for t_ms in range(0, round(seconds * 1000), 40 // streams):
        late += (gaps or {}).get(t_ms, 0)
        rows.append(
            {
                "pid": 1,
                "t_ns": (t_ms + late) * MS,
                "duration_ns": MS,
                "kind": "service",
                "stream_id": f"cam-{t_ms // (40 // streams) % streams}",
                **columns,
            }
        )
    return rows


def test_an_even_pipeline_has_none(table: Build) -> None:
    for streams in (1, 2, 8):
        assert silences(table("spans", pipeline(streams))).height == 0


def test_a_time_in_which_nobody_begins_or_ends_anything_is_one(table: Build) -> None:
    found = silences(table("spans", pipeline(gaps={1000: 80, 2000: 20})))
    # From the end of the span before, 995 ms + 1, to the next: 1000 + 80.
    assert found.rows() == [(1, 996 * MS, 84 * MS, 0, 0)]
    assert found.columns == ["pid", "t_ns", "duration_ns", "gc_ns", "runqueue_ns"]


def test_one_stage_that_takes_long_is_none(table: Build) -> None:
    slow = {"pid": 1, "t_ns": 1000 * MS, "duration_ns": 500 * MS, "kind": "service"}
    assert silences(table("spans", [*pipeline(), slow])).height == 0


def test_waits_do_not_break_a_silence(table: Build) -> None:
    wait = {"pid": 1, "t_ns": 1020 * MS, "duration_ns": 20 * MS, "kind": "queue"}
    found = silences(table("spans", [*pipeline(gaps={1000: 80}), wait]))
    assert found["duration_ns"].to_list() == [84 * MS]


def test_each_process_is_its_own(table: Build) -> None:
    other = [{**row, "pid": 2} for row in pipeline(gaps={1000: 80})]
    found = silences(table("spans", [*pipeline(), *other]))
    assert found["pid"].to_list() == [2]


def test_what_is_usual_in_a_pipeline_of_one_stream_is_none(table: Build) -> None:
    assert silences(table("spans", pipeline(1, gaps={1000: 80}))).height == 0
    assert silences(table("spans", pipeline(1, seconds=10, gaps={5000: 400}))).height == 1


def test_the_end_when_most_streams_are_over_is_none(table: Build) -> None:
    last = [
        {**row, "t_ns": row["t_ns"] + 3000 * MS} for row in pipeline(1, seconds=1, gaps={500: 90})
    ]
    busy = pipeline(seconds=3.0) * 20  # so that what is usual is a busy pipeline's
    assert silences(table("spans", [*busy, *last])).height == 0


def test_what_the_garbage_collector_took_is_known(table: Build) -> None:
    spans = table("spans", pipeline(gaps={1000: 80, 2000: 80}))
    pauses = table(
        "gc_pauses",
        [
            {"pid": 1, "t_ns": 990 * MS, "duration_ns": 50 * MS},
            {"pid": 1, "t_ns": 1050 * MS, "duration_ns": 10 * MS},
            {"pid": 2, "t_ns": 2000 * MS, "duration_ns": 500 * MS},
        ],
    )
    assert silences(spans, pauses)["gc_ns"].to_list() == [(44 + 10) * MS, 0]


def test_how_long_threads_waited_for_a_cpu_is_known(table: Build) -> None:
    stuck = {
        "pid": 1,
        "t_ns": 996 * MS,
        "duration_ns": 84 * MS,
        "kind": "service",
        "runqueue_ns": 63 * MS,
    }
    spans = table("spans", [*pipeline(gaps={1000: 80, 2000: 80}, runqueue_ns=0), stuck])
    assert silences(spans)["runqueue_ns"].to_list() == [63 * MS, 0]


def test_close_silences_of_one_cause_are_one_episode(table: Build) -> None:
    quiet = pl.DataFrame(
        [
            (1, 1000 * MS, 80 * MS, 0, 0),
            (1, 1100 * MS, 90 * MS, 0, 0),
            (1, 1200 * MS, 50 * MS, 45 * MS, 0),
            (1, 1300 * MS, 50 * MS, 0, 40 * MS),
            (1, 2000 * MS, 60 * MS, 0, 10 * MS),
        ],
        schema=["pid", "t_ns", "duration_ns", "gc_ns", "runqueue_ns"],
        orient="row",
    )
    assert episodes(quiet).rows() == [
        (1, "unknown", 1000 * MS, 190 * MS, 170 * MS, 2, 90 * MS),
        (1, "gc", 1200 * MS, 50 * MS, 50 * MS, 1, 50 * MS),
        (1, "cpu", 1300 * MS, 50 * MS, 50 * MS, 1, 50 * MS),
        (1, "unknown", 2000 * MS, 60 * MS, 60 * MS, 1, 60 * MS),
    ]


def test_of_nothing_there_is_nothing(table: Build) -> None:
    quiet = silences(table("spans"), table("gc_pauses"))
    assert quiet.height == 0
    assert episodes(quiet).height == 0

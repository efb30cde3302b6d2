"""Joining pauses with frames: checked against every pair, and on many rows."""

from __future__ import annotations

import numpy as np
import polars as pl

from vidlab.analysis import pauses


def tables(pause_count: int, frame_count: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    rng = np.random.default_rng(seed)
    span = frame_count * 1_000_000
    demux = np.sort(rng.integers(0, span, frame_count))
    gc_pauses = pl.DataFrame(
        {
            "t_ns": rng.integers(0, span, pause_count),
            "pid": rng.integers(1, 3, pause_count).astype(np.int32),
            "generation": rng.integers(0, 3, pause_count).astype(np.uint8),
            "duration_ns": rng.integers(1, 5_000_000, pause_count),
            "collected": rng.integers(0, 9, pause_count),
            "uncollectable": np.zeros(pause_count, np.int64),
            "frame": pl.Series([None] * pause_count, dtype=pl.UInt64),
        }
    )
    frames = pl.DataFrame(
        {
            "frame": np.arange(1, frame_count + 1, dtype=np.uint64),
            "pid": rng.integers(1, 3, frame_count).astype(np.int32),
            "t_demux_ns": demux,
            "t_done_ns": demux + rng.integers(1_000_000, 9_000_000, frame_count),
        }
    )
    return gc_pauses, frames


def test_a_pause_hits_the_frames_in_flight_of_its_process() -> None:
    gc_pauses, frames = tables(60, 80)
    expected = sorted(
        (p["t_ns"], f["frame"], p["generation"], end - begin)
        for p in gc_pauses.to_dicts()
        for f in frames.to_dicts()
        if p["pid"] == f["pid"]
        and (end := min(p["t_ns"] + p["duration_ns"], f["t_done_ns"]))
        > (begin := max(p["t_ns"], f["t_demux_ns"]))
    )
    hit = pauses.frames_hit(gc_pauses.lazy(), frames)
    assert expected
    assert hit.select("t_ns", "frame", "generation", "overlap_ns").rows() == expected


def test_the_frame_at_hand_is_hit_in_a_process_that_did_not_read_it() -> None:
    gc_pauses, frames = tables(1, 1)
    frames = frames.with_columns(
        pid=pl.lit(1, pl.Int32), t_demux_ns=0, t_done_ns=pl.lit(None, pl.Int64)
    )
    gc_pauses = gc_pauses.with_columns(pid=pl.lit(2, pl.Int32), frame=pl.lit(1, pl.UInt64))
    assert pauses.frames_hit(gc_pauses, frames)["frame"].to_list() == [1]
    assert pauses.frames_hit(
        gc_pauses.with_columns(frame=pl.lit(None, pl.UInt64)), frames
    ).is_empty()


def test_a_long_run_is_joined_without_trying_every_pair() -> None:
    gc_pauses, frames = tables(10_000, 100_000)  # every pair would be a thousand million
    assert len(pauses.frames_hit(gc_pauses, frames)) > 10_000


def test_pauses_by_generation_use_the_nearest_rank() -> None:
    gc_pauses, _ = tables(500, 10)
    summary = pauses.by_generation(gc_pauses)
    assert summary["generation"].to_list() == [0, 1, 2]
    for row in summary.to_dicts():
        durations = sorted(gc_pauses.filter(generation=row["generation"])["duration_ns"].to_list())
        assert row["count"] == len(durations)
        assert row["total_ns"] == sum(durations)
        assert (
            row["p99_ns"] == durations[-(-99 * len(durations) // 100) - 1]
        )  # ceil(0.99 n), from one
        assert row["max_ns"] == durations[-1]


MS = 1_000_000


def pauses_of(*durations_ms: int, generation: int = 2, pid: int = 1) -> pl.DataFrame:
    """Pauses a second apart, of these lengths."""
    return pl.DataFrame(
        {
            "t_ns": [n * 1_000 * MS for n in range(len(durations_ms))],
            "pid": pl.Series([pid] * len(durations_ms), dtype=pl.Int32),
            "tid": pl.Series([7] * len(durations_ms), dtype=pl.Int32),
            "generation": pl.Series([generation] * len(durations_ms), dtype=pl.UInt8),
            "duration_ns": [length * MS for length in durations_ms],
            "collected": [0] * len(durations_ms),
            "uncollectable": [0] * len(durations_ms),
        }
    )


def test_a_change_is_from_the_pause_before_of_that_process_and_generation() -> None:
    known = pl.concat(
        [pauses_of(10, 30, 25), pauses_of(100, 90, generation=0), pauses_of(5, 6, pid=2)]
    )
    found = pauses.changes(known.sample(fraction=1, shuffle=True, seed=3))
    changes = found.select("pid", "generation", pl.col("change_ns") / MS).rows()
    assert sorted(changes, key=str) == sorted(
        [(1, 2, None), (1, 2, 20), (1, 2, -5), (1, 0, None), (1, 0, -10), (2, 2, None), (2, 2, 1)],
        key=str,
    )


def test_growing_needs_three_in_a_row_each_longer_by_more_than_the_limit() -> None:
    assert pauses.growing(pauses_of(10, 61, 112, 163)).rows(named=True) == [
        {
            "pid": 1,
            "generation": 2,
            "t_ns": 1_000 * MS,
            "t_end_ns": 3_163 * MS,
            "pauses": 3,
            "before_ns": 10 * MS,
            "last_ns": 163 * MS,
        }
    ]
    assert pauses.growing(pauses_of(10, 61, 112)).is_empty()  # two are longer
    assert pauses.growing(pauses_of(10, 60, 110, 160)).is_empty()  # 50 ms, and no more
    assert pauses.growing(pauses_of(10, 61, 112, 100, 151, 202)).is_empty()  # not in a row
    assert pauses.growing(pauses_of(10, 60, 110, 160), growth_ns=49 * MS).height == 1
    mixed = [pauses_of(10, 61, pid=1), pauses_of(112, 163, pid=2)]
    assert pauses.growing(pl.concat(mixed)).is_empty()


def test_what_the_collector_took_of_other_times() -> None:
    collections = pl.concat([pauses_of(100, 100), pauses_of(500, pid=2)]).with_columns(
        t_ns=pl.col("t_ns") + 5 * 10**14  # a machine that has been up for days
    )
    moments = [(-50, 20), (20, 30), (50, 1_050), (90, 110), (2_000, 2_001), (100, 1_000)]
    times = pl.DataFrame(
        [{"t_ns": 5 * 10**14 + a * MS, "t_end_ns": 5 * 10**14 + b * MS} for a, b in moments]
    ).with_columns(pid=pl.lit(1, pl.Int32))
    assert (pauses.within(times, collections) / MS).to_list() == [20, 10, 100, 10, 0, 0]
    assert pauses.within(times, collections.head(0)).to_list() == [0] * 6

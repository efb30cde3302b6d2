"""The leak verdict on made-up pipelines of which it is known what leaks."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from vidlab.analysis import growth, leaks
from vidlab.errors import InputError
from vidlab.lab.leak_scenarios import Scenario, scenario

SEEDS = 200


def verdicts(made: Scenario, **options) -> pl.DataFrame:
    return leaks.verdicts(made.allocations, made.frames, made.stacks, **options)


def test_the_culprit_is_first_among_sixty_sites():
    first = called = blamed = inside = 0
    for seed in range(SEEDS):
        made = scenario(seed, leak=True)
        found = verdicts(made)
        assert found["stack"].n_unique() >= 58  # a site or two may have had nothing to do
        own = pl.col("stack") == made.culprit
        first += found["stack"][0] == made.culprit
        called += (found.filter(own)["verdict"] == leaks.LEAKING).any()
        blamed += (found.filter(~own)["verdict"] == leaks.LEAKING).any()
        row = found.row(0, named=True)
        inside += row["low"] <= made.leaked_bytes_per_1000 <= row["high"]
    assert first >= 0.95 * SEEDS
    assert called >= 0.7 * SEEDS
    assert blamed <= 0.01 * SEEDS
    assert inside >= 0.9 * SEEDS


def test_what_does_not_leak_is_not_said_to():
    alarms = sum(
        leaks.LEAKING in verdicts(scenario(1_000 + seed))["verdict"] for seed in range(SEEDS)
    )
    assert alarms <= 0.01 * SEEDS


def test_a_cache_that_still_fills_up_is_growing():
    found = []
    for seed in range(60):
        made = scenario(2_000 + seed, filling=True)
        one = verdicts(made).filter(pl.col("stack") == made.filling)
        found.append(one["verdict"].item())
    assert found.count(leaks.GROWING) >= 0.95 * len(found)
    assert set(found) <= {leaks.GROWING, leaks.LEAKING}


def test_a_leak_that_all_streams_share_is_found():
    found = [_of_culprit(scenario(3_000 + seed, leak=True, spread=True)) for seed in range(40)]
    assert sum(first for first, _ in found) >= 0.9 * len(found)
    assert sum(called for _, called in found) >= 0.6 * len(found)


def _of_culprit(made: Scenario) -> tuple[bool, bool]:
    found = verdicts(made)
    own = found.filter(pl.col("stack") == made.culprit)
    return found["stack"][0] == made.culprit, leaks.LEAKING in own["verdict"]


# --- one site at a time ------------------------------------------------------------


def site(table, taken, freed=None, size=1 << 20, total=10_000, **common):
    """Allocations of one site, at these frames of `total`; a frame is a millisecond."""
    freed = [None] * len(taken) if freed is None else freed
    rows = []
    for number, (begin, end) in enumerate(zip(taken, freed, strict=True), 1):
        own = {"generation": number, "size_bytes": size, **common}
        rows.append({**own, "op": "alloc", "t_ns": round(begin * 1e6), "stack": 1})
        if end is not None:
            rows.append({**own, "op": "free", "t_ns": round(end * 1e6), "stack": 9})
    defaults = {"level": "pool", "status": "ok", "pid": 7, "tid": 7, "duration_ns": 10}
    labels = {"stream_id": "cam", "codec": "av1"}
    allocations = table("allocations", rows, **defaults, **labels)
    frames = table(
        "frames",
        [{"frame": n, "t_decoded_ns": n * 1_000_000} for n in range(1, total + 1)],
        **labels,
    )
    return allocations, frames


def test_a_leak_said_in_numbers(table):
    taken = list(np.arange(50, 10_000, 100))
    row = leaks.verdicts(*site(table, taken)).row(0, named=True)
    assert row["verdict"] == leaks.LEAKING
    assert row["bytes_per_1000_frames"] == pytest.approx(10 << 20, rel=0.03)
    assert row["low"] < 10 << 20 < row["high"] < 1.2 * (10 << 20)
    assert (row["live_blocks"], row["live_bytes"]) == (100, 100 << 20)
    assert (row["oldest_frames"], row["newest_frames"], row["frames"]) == (9_950, 50, 10_000)
    assert (row["stream_id"], row["codec"], row["stack"]) == ("cam", "av1", 1)


def test_whose_bytes_says_the_allocation_and_not_the_free(table):
    allocations, frames = site(table, [10, 20], [4_000, None])
    found = leaks.verdicts(allocations, frames)
    assert found["stack"].to_list() == [1]
    assert found["live_blocks"].to_list() == [1]


def test_what_is_given_back_after_the_last_frame_leaked_until_then(table):
    taken = list(np.arange(50, 10_000, 100))
    allocations, frames = site(table, taken, [10_001] * len(taken))
    assert leaks.verdicts(allocations, frames)["verdict"].item() == leaks.LEAKING


@pytest.mark.parametrize(
    ("taken", "freed"),
    [
        (np.arange(0, 10_000, 5.0), np.arange(0, 10_000, 5.0) + 3),  # of a frame
        (np.arange(0, 3_000, 10.0), None),  # warm-up
        (np.arange(0, 10_000, 10.0), np.arange(0, 10_000, 10.0) // 900 * 900 + 900),  # collected
        (np.arange(0, 10_000, 10.0), np.arange(0, 10_000, 10.0) + 2_500),  # a cache that turns over
        ([9_000.0] * 40, None),  # all at once
    ],
)
def test_steady(table, taken, freed):
    allocations, frames = site(table, taken, freed)
    assert leaks.verdicts(allocations, frames)["verdict"].item() == leaks.STEADY


def test_one_buffer_that_is_made_anew_ever_larger_leaks(table):
    taken = np.arange(10, 10_000, 50.0)
    allocations, frames = site(table, taken, [*taken[1:], None])
    sizes = pl.col("generation").cast(pl.Int64) * 4_096
    row = leaks.verdicts(allocations.with_columns(size_bytes=sizes), frames).row(0, named=True)
    assert row["verdict"] == leaks.LEAKING
    assert row["bytes_per_1000_frames"] == pytest.approx(20 * 4_096, rel=0.05)
    assert row["live_blocks"] == 1


def test_what_began_lately_is_growing(table):
    allocations, frames = site(table, list(np.arange(7_000, 10_000, 50.0)))
    assert leaks.verdicts(allocations, frames)["verdict"].item() == leaks.GROWING


def test_a_few_survivors_are_not_enough(table):
    allocations, frames = site(table, [500.0, 2_000, 4_000, 5_500, 7_000, 9_000])
    assert leaks.verdicts(allocations, frames)["verdict"].item() == leaks.UNDECIDED


def test_without_enough_frames_nothing_is_said(table):
    allocations, _ = site(table, list(np.arange(0, 90, 1.0)))
    _, frames = site(table, [], total=99)
    assert leaks.verdicts(allocations, frames)["verdict"].item() == leaks.UNDECIDED
    without = leaks.verdicts(allocations).row(0, named=True)
    assert (without["verdict"], without["frames"]) == (leaks.UNDECIDED, 0)
    assert without["bytes_per_1000_frames"] is without["low"] is None
    assert without["live_blocks"] == 90
    freed, _ = site(table, list(np.arange(0, 90, 1.0)), [100.0] * 89 + [None])
    assert leaks.verdicts(freed)["live_blocks"].item() == 1


def test_growth_in_a_cache_is_growth(table):
    allocations, frames = site(table, list(np.arange(50, 10_000, 100)))
    holders = table(
        "holders",
        [
            {"generation": n, "kind": "cache", "holder": "lru_cache of app.load", "chain": '["a"]'}
            for n in range(1, 60)
        ]
        + [{"generation": n, "kind": "list", "holder": "list app.kept"} for n in range(60, 101)],
        pid=7,
    )
    row = leaks.verdicts(allocations, frames, holders=holders).row(0, named=True)
    assert row["verdict"] == leaks.GROWING
    assert (row["holder"], row["holder_kind"]) == ("lru_cache of app.load", "cache")
    assert row["chain"] == '["a"]'
    other = leaks.verdicts(allocations, frames, holders=holders.with_columns(pid=pl.lit(8)))
    assert other["verdict"].item() == leaks.LEAKING
    assert other["holder"].item() is None


@pytest.mark.parametrize(
    "other",
    [
        {"status": pl.lit("OutOfMemoryError")},
        {"level": pl.lit("driver")},
        {"generation": pl.lit(0, pl.UInt64)},
    ],
)
def test_failed_calls_other_levels_and_older_blocks_do_not_count(table, other):
    allocations, frames = site(table, list(np.arange(50, 10_000, 100)))
    assert leaks.verdicts(allocations, frames).height == 1
    assert leaks.verdicts(allocations.with_columns(**other), frames).height == 0


def test_the_site_is_the_innermost_line_of_the_users(table):
    allocations, frames = site(table, list(np.arange(50, 10_000, 100)))
    lines = [
        ("alloc", "/env/lib/python3.11/site-packages/cupy/cuda/memory.py", 3),
        ("app.decode", "/home/me/app.py", 41),
        ("app.main", "/home/me/app.py", 90),
    ]
    calls = [dict(zip(("function", "file", "line"), line, strict=True)) for line in lines]
    stacks = table("stacks", [{"stack": 1, "frames": calls}])
    assert leaks.verdicts(allocations, frames, stacks)["site"].item() == (
        "app.decode /home/me/app.py:41"
    )
    only_others = table("stacks", [{"stack": 1, "frames": calls[:1]}])
    assert leaks.verdicts(allocations, frames, only_others)["site"].item().startswith("alloc /env")


def test_frames_are_counted_by_those_that_allocate_if_nothing_else_is_known(table):
    taken = np.arange(1, 10_001, 1.0)
    freed = [None if n % 500 == 0 else begin + 0.5 for n, begin in enumerate(taken)]
    allocations, _ = site(table, taken, freed)
    allocations = allocations.with_columns(frame=(pl.col("t_ns") // 1_000_000).cast(pl.UInt64))
    row = leaks.verdicts(allocations).row(0, named=True)
    assert row["frames"] == 10_000
    assert row["bytes_per_1000_frames"] == pytest.approx(2 << 20, rel=0.2)
    assert row["verdict"] == leaks.LEAKING


def test_by_no_labels_and_by_what_is_not_there(table):
    allocations, frames = site(table, list(np.arange(50, 10_000, 100)))
    assert leaks.verdicts(allocations, frames, by=()).columns[:2] == ["verdict", "site"]
    assert leaks.verdicts(allocations, frames, by="codec")["codec"].to_list() == ["av1"]
    with pytest.raises(InputError, match="no column 'region'"):
        leaks.verdicts(allocations, frames, by="region")
    with pytest.raises(InputError, match="warm_up"):
        leaks.verdicts(allocations, frames, warm_up=0.9)


def test_nothing_in_nothing_out(table):
    empty = leaks.verdicts(table("allocations"), table("frames"))
    assert empty.height == 0
    full = leaks.verdicts(*site(table, [1.0]))
    assert empty.columns == full.columns


def test_the_order_of_rows_is_of_no_matter():
    made = scenario(5, leak=True)
    shuffled = made.allocations.sample(fraction=1, shuffle=True, seed=1)
    again = leaks.verdicts(shuffled, made.frames, made.stacks)
    assert again.equals(verdicts(made))


# --- the statistics ----------------------------------------------------------------


def test_a_walk_climbs_no_more_often_than_is_said():
    random = np.random.default_rng(1)
    walks = np.cumsum(random.choice([-1.0, 0, 1], (20_000, 90)), axis=-1)
    chances = growth.chance(walks)
    for level in (0.1, 0.01, 0.001):
        assert np.mean(chances <= level) <= 1.5 * level


def test_the_chance_of_a_climb_without_a_fall_is_that_of_a_sign_test():
    assert growth.chance(np.arange(11.0)[None, :]) == pytest.approx(2.0**-10)
    assert growth.chance(np.arange(11.0)[None, ::-1]) == 1


def test_students_t():
    assert growth.student_t(0.95, 19) == pytest.approx(2.0930, rel=1e-3)
    assert growth.student_t(0.99, 5) == pytest.approx(4.0321, rel=5e-3)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_a_slopes_interval_covers_it_as_often_as_it_says(confidence):
    random = np.random.default_rng(2)
    series = np.cumsum(random.poisson(0.5, (4_000, 121)), axis=-1).astype(float)
    _, low, high = growth.slope(series, confidence)
    assert np.mean((low <= 0.5) & (high >= 0.5)) == pytest.approx(confidence, abs=0.03)


def test_a_falling_rate_is_told_from_a_constant_one():
    random = np.random.default_rng(3)
    moments = np.linspace(0, 1, 128)
    constant = [growth.slows_down(random.poisson(0.2, 128).astype(float), 0.3) for _ in range(300)]
    assert np.mean(constant) <= 0.05
    falling = [
        growth.slows_down(random.poisson(6 * np.exp(-3 * moments)).astype(float), 0.3)
        for _ in range(50)
    ]
    assert np.mean(falling) >= 0.95
    warm = [
        growth.slows_down(random.poisson(np.where(moments < 0.1, 5, 0.3)).astype(float), 0.3)
        for _ in range(100)
    ]
    assert np.mean(warm) <= 0.05

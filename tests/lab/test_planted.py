"""Planted frames: what was done to them is in the run, and blame names it."""

from __future__ import annotations

import gc
import os
import threading
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

import vidlab as vl
from vidlab.analysis import blame, latency
from vidlab.errors import InputError
from vidlab.lab import planted
from vidlab.lab.planted import Truth, record, truth_of
from vidlab.lab.planted_means import HELD_S
from vidlab.lab.planted_plan import CAUSES, PLACES, SPACING, WARM_UP, Walk, plan
from vidlab.lab.planted_score import missed, score
from vidlab.runs.run import Run

hostcuda = pytest.mark.needs("hostcuda")

#: Frames of each cause; and how much of what was planted is to be seen at least where it was:
#: a thread looks at its clocks a little before and after.
EACH, SEEN = 2, 0.9


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """What is planted in a run that several tests look at.

    It is recorded again, twice at most, if a cause is not found on most of its frames, or was
    planted on none: another program may have had the CPUs.
    """
    for _ in range(3):
        found = record(tmp_path_factory.mktemp("planted") / "run", each=EACH, streams=1)
        if not unnamed(found) and set(found.truth["cause"]) == set(CAUSES):
            break
    return found


@pytest.fixture(scope="module")
def run(truth: Truth) -> Run:
    return vl.open_run(truth.path)


def blamed_in(truth: Truth) -> pl.DataFrame:
    run = vl.open_run(truth.path)
    late = latency.late(run.scan("frames"), deadline_ms=planted.DEADLINE_MS)
    return blame.per_frame(run, late)


def unnamed(truth: Truth) -> set[str]:
    """The causes that blame does not name first on half of their frames."""
    told = score(blamed_in(truth), truth.truth)
    return set(told.filter(pl.col("placed_share") < 0.5)["cause"])


def planted_on(truth: Truth, cause: str) -> pl.LazyFrame:
    return truth.truth.lazy().filter(pl.col("cause") == cause).select("frame", "planted_ns")


def spans_of(run: Run, truth: Truth, cause: str, kind: str = "service") -> pl.DataFrame:
    """The spans where the cause was planted, with what was planted."""
    stage, of_kind = pl.col("stage").cast(pl.String), pl.col("kind").cast(pl.String)
    return (
        run.scan("spans")
        .filter(stage == PLACES[cause], of_kind == kind)
        .join(planted_on(truth, cause), on="frame")
        .collect()
    )


@hostcuda
def test_each_cause_is_planted_on_frames_of_the_run(truth: Truth, run: Run) -> None:
    assert truth.truth.height + truth.disturbed == EACH * len(CAUSES)
    assert set(truth.truth["cause"]) <= set(CAUSES)
    frames = run.scan("frames").select("frame", "seq", stream="stream_id").collect()
    found = truth.truth.join(frames, on=["frame", "seq"])
    assert found.height == truth.truth.height
    assert found["stream"].cast(pl.String).to_list() == found["stream_id"].to_list()


@hostcuda
def test_what_was_asked_for_was_done(truth: Truth) -> None:
    asked = truth.truth.filter(pl.col("cause").is_in(["asleep", "allocator", "queue_wait", "work"]))
    assert asked["planted_ns"].min() >= HELD_S * 1e9  # type: ignore[operator]
    gil = planted_on(truth, "gil").collect()
    assert (gil["planted_ns"] >= SEEN * HELD_S * 1e9).all()  # it sleeps a little in between


@hostcuda
def test_the_truth_is_in_the_manifest(truth: Truth) -> None:
    assert truth_of(truth.path).truth.equals(truth.truth)


@hostcuda
def test_a_held_up_frame_is_late_by_what_was_planted(truth: Truth, run: Run) -> None:
    frames = run.scan("frames").join(truth.truth.lazy(), on="frame").collect()
    took = frames["t_done_ns"] - frames["t_demux_ns"]
    assert (took >= SEEN * frames["planted_ns"]).all()
    fates = frames.select("cause", pl.col("fate").cast(pl.String))
    corrupt = fates.filter(pl.col("cause") == "corrupt_input")["fate"]
    assert set(corrupt) == {"corrupt"}
    assert corrupt.len() == (fates["fate"] == "corrupt").sum()


@hostcuda
@pytest.mark.parametrize(
    ("cause", "kind", "seen"),
    [
        ("queue_wait", "queue", pl.col("duration_ns")),
        ("reordering", "reorder", pl.col("duration_ns")),
        ("work", "service", pl.col("cpu_ns")),
        ("run_queue", "service", pl.col("runqueue_ns")),
        ("asleep", "service", pl.col("duration_ns") - pl.col("cpu_ns")),
    ],
)
def test_the_frame_s_span_has_it(
    truth: Truth, run: Run, cause: str, kind: str, seen: pl.Expr
) -> None:
    spans = spans_of(run, truth, cause, kind).select("planted_ns", seen=seen)
    assert spans.height == planted_on(truth, cause).collect().height
    assert (spans["seen"] >= SEEN * spans["planted_ns"]).all()


@hostcuda
@pytest.mark.parametrize("cause", ["garbage_collection", "allocator"])
def test_what_stalled_it_is_a_row_of_its_own(truth: Truth, run: Run, cause: str) -> None:
    if cause == "allocator":
        rows = run.scan("allocations").filter(pl.col("level").cast(pl.String) == "driver")
    else:
        rows = run.scan("gc_pauses")
    longest = rows.group_by("frame").agg(pl.col("duration_ns").max())
    found = planted_on(truth, cause).join(longest, on="frame").collect()
    assert found.height == planted_on(truth, cause).collect().height
    assert (found["duration_ns"] >= SEEN * found["planted_ns"]).all()


@hostcuda
def test_the_probe_waits_for_the_gil_when_the_frame_does(truth: Truth, run: Run) -> None:
    spans = spans_of(run, truth, "gil")
    wakeups = run.scan("wakeups").filter(pl.col("late_ns") > 0).collect()
    late_ns = 0
    for span in spans.iter_rows(named=True):
        late_ns += wakeups.filter(
            pl.col("t_ns") + pl.col("late_ns") > span["t_ns"],
            pl.col("t_ns") < span["t_ns"] + span["duration_ns"],
        )["late_ns"].sum()
    assert late_ns > 0.25 * spans["planted_ns"].sum() > 0


@hostcuda
def test_blame_names_each_cause_where_it_was_planted(truth: Truth) -> None:
    assert not unnamed(truth), missed(blamed_in(truth), truth.truth)


@hostcuda
def test_nothing_is_left_behind(truth: Truth) -> None:
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()
    assert not [thread for thread in threading.enumerate() if thread.name == "hog"]
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    assert not [command for command in commands if b"sched_setaffinity" in command]


def test_score_counts_the_planted_cause_where_it_was_planted() -> None:
    truth = pl.DataFrame(
        {
            "frame": [1, 2, 3, 4],
            "cause": ["work", "work", "work", "gil"],
            "stage": ["filter"] * 4,
            "planted_ns": [100, 100, 200, 50],
        }
    )
    blamed = pl.DataFrame(
        {
            "frame": [1, 1, 2, 2, 3, 9],
            "cause": ["work", "gil", "gil", "work", "work", "gil"],
            "stage": ["filter", "filter", "filter", "filter", "encode", "filter"],
            "blamed_ns": [90, 10, 120, 80, 300, 77],
            "rank": [1, 2, 1, 2, 1, 1],
        }
    )
    told = {row["cause"]: row for row in score(blamed, truth).to_dicts()}
    work = told["work"]
    assert (work["frames"], work["first_share"], work["placed_share"]) == (3, 2 / 3, 1 / 3)
    assert (work["planted_s"], work["blamed_s"]) == pytest.approx((400e-9, 170e-9))
    assert work["ratio"] == pytest.approx(170 / 400)
    assert (told["gil"]["first_share"], told["gil"]["ratio"]) == (0.0, 0.0)
    wrong = missed(blamed, truth)
    assert wrong.select("frame", "first_cause", "first_stage", "blamed_ns").rows() == [
        (2, "gil", "filter", 80),
        (3, "work", "encode", 0),
        (4, None, None, 0),
    ]


def test_score_needs_something_planted() -> None:
    empty = pl.DataFrame(schema={"frame": pl.UInt64, "cause": pl.String, "stage": pl.String})
    with pytest.raises(InputError, match="nothing to compare"):
        score(empty, empty)


#: Every second packet is a B-frame's: it comes out at once, and after it the one it waited for.
PAIRS = WARM_UP + 6 * SPACING
WALK = Walk(
    packets=tuple(number ^ 1 for number in range(PAIRS)),
    shown=tuple(range(PAIRS)),
    out_after=tuple(number if number % 2 == 0 else number + 1 for number in range(PAIRS)),
)


def test_a_plan_has_each_cause_in_turn_and_far_apart() -> None:
    plants = plan(WALK, ["work", "reordering"], 3)
    assert [plant.cause for plant in plants] == ["work", "reordering"] * 3
    packets = [plant.packet for plant in plants]
    assert packets[0] >= WARM_UP
    assert all(later - earlier >= SPACING - 2 for earlier, later in pairwise(packets))
    for plant in plants:
        assert plant.pts in WALK.released_by(plant.packet)
        own = WALK.packets[plant.packet] == plant.pts
        assert own == (plant.cause == "work")


def test_a_plan_says_what_it_cannot_do() -> None:
    with pytest.raises(InputError, match="cannot be planted"):
        plan(WALK, ["bad luck"], 1)
    with pytest.raises(InputError, match="longer clip"):
        plan(WALK, ["work"], 7)
    in_order = Walk(WALK.shown, WALK.shown, tuple(range(1, PAIRS + 1)))
    with pytest.raises(InputError, match="B-frames"):
        plan(in_order, ["reordering"], 1)


@pytest.mark.parametrize("wrong", [{"each": 0}, {"streams": 0}, {"streams": 3}])
def test_record_says_what_it_takes(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least"):
        record(tmp_path / "run", **wrong)


def test_a_run_without_planted_frames_is_told(tmp_path: Path) -> None:
    with vl.record(tmp_path / "run", engines=[]):
        pass
    with pytest.raises(InputError, match="no planted frames"):
        truth_of(tmp_path / "run")

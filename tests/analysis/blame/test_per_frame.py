"""What late frames' time is blamed on, beyond what is typical, and added up."""

from __future__ import annotations

import polars as pl
import pytest

from vidlab.analysis import blame, latency
from vidlab.analysis.punctual import ENOUGH

MS = 1_000_000

pytestmark = pytest.mark.parametrize("table", ["Categorical"], indirect=True)


def frame(number, filter_ms, queue_ms=10, stream="cam-1", stage="filter", **more):
    """A frame of a queue wait and a stage, and its spans."""
    begin = number * 1_000 * MS
    names = {"stream_id": stream, "codec": more.pop("codec", "h264")}
    common = {"frame": number, **names}
    row = {"t_demux_ns": begin, "t_done_ns": begin + (queue_ms + filter_ms) * MS,
           "fate": "delivered", **common, **more}  # fmt: skip
    spans = [
        {"t_ns": begin, "duration_ns": queue_ms * MS, "kind": "queue", "stage": "before filter",
         "span": 2 * number, **common},
        {"t_ns": begin + queue_ms * MS, "duration_ns": filter_ms * MS, "kind": "service",
         "stage": stage, "span": 2 * number + 1, **common},
    ]  # fmt: skip
    return row, spans


def run_of(make_run, frames, **more):
    return make_run(frames=[row for row, _ in frames],
                    spans=[span for _, spans in frames for span in spans], **more)  # fmt: skip


def late(run, deadline_ms=50.0):
    return latency.late(run.scan("frames"), deadline_ms=deadline_ms)


def told(run, frames=None, **more):
    found = blame.per_frame(run, late(run) if frames is None else frames, **more)
    return found.select(
        "frame", "cause", "stage", pl.col("^.*_ns$") // MS, "rank"
    ).rows()  # fmt: skip


PUNCTUAL = [frame(n, 20) for n in range(1, 1 + ENOUGH)]


def test_blamed_is_what_is_beyond_the_median_of_the_groups_punctual_frames(make_run):
    run = run_of(make_run, [*PUNCTUAL, frame(50, 90), frame(51, 21, queue_ms=60)])
    assert told(run) == [
        (50, "work", "filter", 90, 20, 70, 1),
        (50, "queue_wait", "before filter", 10, 10, 0, 2),
        (51, "queue_wait", "before filter", 60, 10, 50, 1),
        (51, "work", "filter", 21, 20, 1, 2),
    ]
    found = blame.per_frame(run, late(run))
    assert found.columns == [
        "frame", "stream_id", "codec", "gpu", "cause", "stage", "total_ns", "typical_ns",
        "blamed_ns", "rank",
    ]  # fmt: skip
    assert set(found["stream_id"]) == {"cam-1"}


def test_less_than_is_typical_is_blamed_on_nothing(make_run):
    run = run_of(make_run, [*PUNCTUAL, frame(50, 5, queue_ms=60)])
    assert told(run)[1] == (50, "work", "filter", 5, 20, 0, 2)


def test_a_stream_of_which_all_are_late_is_held_to_what_is_typical_of_the_run(make_run):
    slow = [frame(n, 90, stream="cam-2", codec="av1") for n in range(50, 52)]
    assert told(run_of(make_run, [*PUNCTUAL, *slow]))[:2] == [
        (50, "work", "filter", 90, 20, 70, 1),
        (50, "queue_wait", "before filter", 10, 10, 0, 2),
    ]


def test_of_the_run_typical_is_what_frames_spent_that_came_by_the_stage(make_run):
    others = [frame(n, 5, stage="other", stream="cam-3") for n in range(20, 50)]
    slow = frame(60, 90, stream="cam-2")
    assert told(run_of(make_run, [*PUNCTUAL, *others, slow]))[0] == (
        60, "work", "filter", 90, 20, 70, 1,
    )  # fmt: skip


def test_without_punctual_frames_all_is_blamed(make_run):
    run = run_of(make_run, [frame(n, 90) for n in range(3)])
    assert told(run)[:2] == [
        (0, "work", "filter", 90, 0, 90, 1),
        (0, "queue_wait", "before filter", 10, 0, 10, 2),
    ]
    few = run_of(make_run, [*PUNCTUAL[: ENOUGH - 1], frame(50, 90)])
    assert [row[4] for row in told(few)] == [0, 0]


def test_overlays_have_a_typical_amount_too(make_run):
    frames = [*PUNCTUAL, frame(50, 90)]
    pauses = [{"t_ns": n * 1_000 * MS + 12 * MS, "duration_ns": 5 * MS, "tid": 9}
              for n in [*range(1, 1 + ENOUGH), 50]]  # fmt: skip
    rows = told(run_of(make_run, frames, gc_pauses=pauses))
    assert (50, "garbage_collection", "filter", 5, 5, 0, 2) in rows
    assert (50, "work", "filter", 85, 15, 70, 1) in rows


def test_a_baseline_may_be_made_of_all_frames_and_used_for_one(make_run):
    run = run_of(make_run, [*PUNCTUAL, frame(50, 90)])
    frames = late(run)
    baseline = blame.typical(run, frames)
    assert told(run, frames.filter(pl.col("frame") == 50), baseline=baseline) == told(run)
    assert told(run, frames.filter(pl.col("frame") == 50))[0][4] == 0


# Reordering, by the type of picture


def picture(number, type_, wait_ms, stream="cam-1"):
    """A frame of a picture that the decoder held back for a while."""
    row, spans = frame(number, 20, stream=stream, picture_type=type_)
    held = {"t_ns": row["t_done_ns"], "duration_ns": wait_ms * MS, "kind": "reorder",
            "stage": "decode", "span": 10_000 + number, "frame": number, "stream_id": stream,
            "codec": "h264"}  # fmt: skip
    row["t_done_ns"] += wait_ms * MS
    return row, [*spans, held]


# More than half are B-frames, which wait for none.
PICTURES = [*(picture(n, "B", 0) for n in range(100, 130)),
            *(picture(n, "P", 15) for n in range(130, 130 + ENOUGH))]  # fmt: skip


def reordering(run, number, **more):
    [found] = [row for row in told(run, **more) if row[0] == number and row[1] == "reordering"]
    return found[3:6]


@pytest.mark.parametrize(
    ("type_", "typical", "others"),
    [
        ("P", 15, []),
        ("B", 0, []),
        ("I", 15, []),  # too few: like P
        ("I", 5, [picture(n, "I", 5) for n in range(200, 200 + ENOUGH)]),
        (None, 0, []),  # of all of the group
    ],
)
def test_a_picture_is_held_to_how_long_those_of_its_type_are_held_back(
    make_run, type_, typical, others
):
    run = run_of(make_run, [*PICTURES, *others, picture(300, type_, 55)])
    assert reordering(run, 300) == (55, typical, 55 - typical)
    baseline = blame.typical(run, late(run))
    same = {"stream_id": "cam-1", "codec": "h264", "gpu": None, "picture_type": type_}
    found = baseline.of(same).filter(cause="reordering")
    assert found["typical_ns"].sum() == typical * MS
    # All else is told by all pictures together.
    assert baseline.of(same).filter(cause="work")["typical_ns"].to_list() == [20 * MS]


def test_with_too_few_pictures_of_a_type_those_of_all_types_tell_reordering(make_run):
    few = [*PICTURES[:9], *(picture(n, "P", 15) for n in range(130, 139))]
    run = run_of(make_run, [*few[:8], *few[9:], picture(300, "P", 55)])
    assert reordering(run, 300) == (55, 15, 40)
    # A stream without punctual frames: as of those of the run that were held back.
    run = run_of(make_run, [*PICTURES, picture(300, "P", 55, stream="cam-2")])
    assert reordering(run, 300) == (55, 15, 40)
    known = blame.typical(run, late(run))
    assert known.of({"stream_id": "cam-2"}).equals(known.of_run)


def test_types_of_pictures_that_are_not_given_are_none(make_run):
    run = run_of(make_run, [*PICTURES, picture(300, "P", 55)])
    without = late(run).drop("picture_type")
    assert reordering(run, 300, frames=without) == (55, 0, 55)


def test_so_many_frames_that_they_are_taken_apart_in_turns_are_told_the_same(make_run, monkeypatch):
    frames = [*PUNCTUAL, frame(50, 90), frame(51, 21, queue_ms=60, stage="other"), frame(52, 80),
              corrupt(60)]  # fmt: skip
    run = run_of(make_run, frames, gc_pauses=[{"t_ns": 50_020 * MS, "duration_ns": 5 * MS}])
    whole = blame.per_frame(run, late(run))
    assert whole["frame"].n_unique() == 4
    for module in ("amounts", "perframe"):
        monkeypatch.setattr(f"vidlab.analysis.blame.{module}.AT_A_TIME", 3)
    assert blame.per_frame(run, late(run)).equals(whole)


def test_no_late_frames_no_blame(make_run):
    run = run_of(make_run, PUNCTUAL)
    assert told(run) == []
    assert blame.ranked(blame.per_frame(run, late(run))).rows() == []
    assert told(make_run()) == []


def test_a_frame_of_which_is_not_known_whether_it_was_late_is_no_late_one(make_run):
    run = run_of(make_run, [*PUNCTUAL, frame(50, 90)])
    unknown = late(run).with_columns(late=pl.lit(None, pl.Boolean))
    assert told(run, unknown) == []


# Corrupt frames


def corrupt(number, stream="cam-1", **more):
    row, spans = frame(number, 30, queue_ms=5, stream=stream)
    return {**row, "fate": "corrupt", "lost_at": "decode", **more}, spans


def test_what_was_spent_on_a_corrupt_frame_was_in_vain(make_run):
    row, spans = corrupt(50)
    row["t_done_ns"] += 500 * MS  # that it would not come was found out later
    run = run_of(make_run, [*PUNCTUAL, (row, spans)])
    assert told(run) == [(50, "corrupt_input", "decode", 35, 0, 35, 1)]


@pytest.mark.parametrize("more", [{"t_done_ns": None}, {}])
def test_a_corrupt_frame_without_an_end_or_without_spans_counts(make_run, more):
    row, spans = corrupt(50, **more)
    run = run_of(make_run, [*PUNCTUAL, (row, spans if more else [])])
    assert told(run) == [(50, "corrupt_input", "decode", 35 if more else 0, 0, 35 * bool(more), 1)]
    ranked = blame.ranked(blame.per_frame(run, late(run)), ["stage"])
    assert ranked.select("cause", "frames", "first").rows() == [("corrupt_input", 1, 1)]


def test_corrupt_frames_of_other_streams_than_those_asked_for_are_left_out(make_run):
    run = run_of(make_run, [*PUNCTUAL, corrupt(50), corrupt(51, stream="cam-2")])
    frames = late(run)
    assert {row[0] for row in told(run, frames)} == {50}
    assert {row[0] for row in told(run, frames.head(0))} == {50, 51}


# Added up


def test_causes_are_added_up_the_worst_first(make_run):
    frames = [*PUNCTUAL, frame(50, 90), frame(51, 80, gpu=1), frame(52, 21, queue_ms=60)]
    run = run_of(make_run, frames)
    blamed = blame.per_frame(run, late(run))
    found = blame.ranked(blamed, "stage")
    assert found.columns == ["stage", "cause", "frames", "first", "seconds", "share"]
    # That of GPU 1 is a group of its own with too few frames: of the run, 20 ms.
    seconds, share = [0.131, 0.050], [131 / 181, 50 / 181]
    assert found["seconds"].to_list() == pytest.approx(seconds)
    assert found["share"].to_list() == pytest.approx(share)
    assert found.drop("seconds", "share").rows() == [
        ("filter", "work", 3, 2), ("before filter", "queue_wait", 1, 1),
    ]  # fmt: skip
    by_all = blame.ranked(blamed)
    assert by_all.columns[:5] == ["stream_id", "codec", "gpu", "stage", "cause"]
    assert by_all["gpu"].to_list() == [None, 1, None]
    alone = blame.ranked(blamed, ())
    assert alone.columns[0] == "cause"
    assert alone["share"].sum() == pytest.approx(1)


def test_a_sampled_frame_counts_for_all_that_it_stands_for(make_run):
    punctual = [frame(n, 20, sample_rate=0.5) for n in range(1, 21)]
    run = run_of(make_run, [*punctual, frame(50, 90, sample_rate=0.1),
                            frame(51, 120, sample_rate=1.0)])  # fmt: skip
    blamed = blame.per_frame(run, late(run))
    assert blamed.unique("frame").sort("frame")["sample_rate"].to_list() == pytest.approx([0.1, 1])
    found = blame.ranked(blamed, "stage")
    assert found.select("frames", "first").rows() == [(11, 11)]
    assert found["seconds"].item() == pytest.approx(10 * 0.070 + 0.100)


def test_medians_count_sampled_frames_for_what_they_stand_for(make_run):
    often = [frame(n, 20, sample_rate=1.0) for n in range(1, 12)]
    seldom = [frame(n, 30, sample_rate=0.01) for n in range(20, 23)]
    run = run_of(make_run, [*often, *seldom, frame(50, 90, sample_rate=1.0)])
    assert told(run)[0] == (50, "work", "filter", 90, 30, 60, 1)


# What is missing, and what is behind


def test_engines_that_were_not_on_are_told(make_run):
    assert blame.untold(make_run())["engine"].to_list() == [
        "Frames", "Runtime", "GpuMemory", "KernelEvents", "Profiles",
    ]  # fmt: skip
    run = make_run(engines=("frames", "runtime", "gpu_memory", "kernel_events"),
                   spans=[], wakeups=[])  # fmt: skip
    found = blame.untold(run)  # no collection and no allocation is no missing engine
    assert found["engine"].to_list() == ["KernelEvents", "Profiles"]
    assert "sched" in found["would_tell"][0]
    whole = make_run(spans=[], wakeups=[], gc_pauses=[], allocations=[], kernel_offcpu=[],
                     profile_samples=[])  # fmt: skip
    assert blame.untold(whole).rows() == []


def test_the_rows_behind_a_frame_are_those_that_overlap_it_where_it_was(make_run):
    def between(t_ms, lasted_ms, **more):
        return {"t_ns": t_ms * MS, "duration_ns": lasted_ms * MS, **more}

    run = run_of(
        make_run, [frame(1, 30), frame(2, 30)],
        gc_pauses=[between(900, 50), between(990, 20, tid=9), between(1_000, 5, pid=9)],
        wakeups=[{"t_ns": 1_005 * MS, "asked_ns": 5, "late_ns": 3 * MS, "gil_ns": 3 * MS,
                  "runqueue_ns": 0},
                 {"t_ns": 1_006 * MS, "asked_ns": 5, "late_ns": 0}],
        allocations=[between(1_015, 2), between(1_015, 2, tid=5), between(1_042, 2)],
        thread_waits=[between(500, 1_000)],
        queue_depths=[{"t_ns": 1_010 * MS, "stream_id": "cam-1"},
                      {"t_ns": 1_011 * MS, "stream_id": "cam-2"},
                      {"t_ns": 2_010 * MS, "stream_id": "cam-1"}],
        findings=[{"t_ns": 1_010 * MS, "frame": 1, "kind": "x"},
                  {"t_ns": 1_010 * MS, "frame": 2, "kind": "y"}],
    )  # fmt: skip
    found = blame.evidence(run, 1)
    both = blame.OneFrame(run, 1)
    assert both.parts.equals(blame.waterfall(run, 1))
    assert {name: rows.rows() for name, rows in both.evidence.items()} == {
        name: rows.rows() for name, rows in found.items()
    }
    assert {name: rows.height for name, rows in found.items()} == {
        "frames": 1, "spans": 2, "findings": 1, "gc_pauses": 1, "wakeups": 1, "allocations": 1,
        "thread_waits": 1, "queue_depths": 1,
    }  # fmt: skip
    overlaps = {name: rows["overlap_ns"].to_list() for name, rows in found.items()
                if "overlap_ns" in rows.columns}  # fmt: skip
    assert overlaps == {"gc_pauses": [10 * MS], "wakeups": [3 * MS], "allocations": [2 * MS],
                        "thread_waits": [40 * MS]}  # fmt: skip
    assert found["frames"].schema["stream_id"] == pl.String

"""A frame's life in parts: each cause, and each overlap of two, to the nanosecond."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from vidlab.analysis import blame
from vidlab.errors import InputError

pytestmark = pytest.mark.parametrize("table", ["Categorical"], indirect=True)

FRAME = {"frame": 7, "t_demux_ns": 1_000, "t_done_ns": 2_000, "fate": "delivered"}


def span(t_ns: int, end_ns: int, stage: str = "filter", kind: str = "service", **more: Any):
    return {"t_ns": t_ns, "duration_ns": end_ns - t_ns, "stage": stage, "kind": kind,
            "frame": 7, "span": t_ns, **more}  # fmt: skip


def between(t_ns: int, end_ns: int, **more: Any):
    return {"t_ns": t_ns, "duration_ns": end_ns - t_ns, **more}


def probe(t_ns: int, gil_ns: int, runqueue_ns: int = 0, asked_ns: int = 50):
    """A wake-up that was due at this time."""
    return {"t_ns": t_ns, "asked_ns": asked_ns, "late_ns": gil_ns + runqueue_ns,
            "runqueue_ns": runqueue_ns, "gil_ns": gil_ns}  # fmt: skip


def parts(run, frame=7):
    """The parts: from when to when, the cause, and at which stage."""
    found = blame.waterfall(run, frame)
    rows = found.select("t_ns", "duration_ns", "cause", "stage").rows()
    return [(begin, begin + lasted, cause, stage) for begin, lasted, cause, stage in rows]


def spent(run, stage=None):
    """How much each cause took."""
    total: dict[str, int] = {}
    for begin, end, cause, where in parts(run):
        if stage in (None, where):
            total[cause] = total.get(cause, 0) + end - begin
    return total


WHOLE = span(1_000, 2_000)  # one stage has the frame all its life; its clocks are not known
IDLE = span(1_000, 2_000, cpu_ns=100, runqueue_ns=0)
BUSY = span(1_000, 2_000, cpu_ns=1_000, runqueue_ns=0)
QUEUED = span(1_000, 2_000, "before encode", "queue")


def test_a_life_without_disturbance_is_its_spans_and_what_is_between(make_run):
    run = make_run(frames=[FRAME], spans=[
        span(1_000, 1_100, "decode", cpu_ns=60, runqueue_ns=30),
        span(1_100, 1_200, "decode", "reorder"),
        span(1_210, 1_500, "before filter", "queue"),
        span(1_500, 1_600, "filter"),
        span(1_600, 1_950, "encode", "encoder_lag"),
        span(1_950, 2_000, "mux", cpu_ns=50, runqueue_ns=0),
    ])  # fmt: skip
    assert parts(run) == [
        (1_000, 1_030, "run_queue", "decode"),
        (1_030, 1_090, "work", "decode"),
        (1_090, 1_100, "asleep", "decode"),
        (1_100, 1_200, "reordering", "decode"),
        (1_200, 1_210, "unexplained", "(between stages)"),
        (1_210, 1_500, "queue_wait", "before filter"),
        (1_500, 1_600, "work", "filter"),
        (1_600, 1_950, "encoder_lag", "encode"),
        (1_950, 2_000, "work", "mux"),
    ]
    found = blame.waterfall(run, 7)
    assert found["exact"].to_list() == [False] * 3 + [True] * 3 + [False, True, False]
    assert found["kind"].to_list() == [
        *["service"] * 3, "reorder", "none", "queue", "service", "encoder_lag", "service",
    ]  # fmt: skip
    assert found["evidence"].to_list() == ["spans"] * 4 + ["frames"] + ["spans"] * 4
    assert found["span"].to_list() == [1_000] * 3 + [1_100, None, 1_210, 1_500, 1_600, 1_950]
    assert found["tid"].to_list() == [1] * 4 + [None] + [1] * 4
    assert found["pid"].to_list() == [1] * 9


def test_the_innermost_span_names_the_stage_and_the_clocks_are_its_own(make_run):
    run = make_run(frames=[FRAME], spans=[
        span(1_000, 2_000, "filter", cpu_ns=500, runqueue_ns=100),
        span(1_200, 1_600, "blur", parent=1_000, cpu_ns=250, runqueue_ns=60),
        span(1_300, 1_400, "copy", parent=1_200, cpu_ns=100, runqueue_ns=0),
    ])  # fmt: skip
    assert spent(run, "copy") == {"work": 100}
    assert spent(run, "blur") == {"work": 150, "run_queue": 60, "asleep": 90}
    assert spent(run, "filter") == {"work": 250, "run_queue": 40, "asleep": 310}
    found = blame.waterfall(run, 7)
    assert set(found["within"]) == {"filter"}
    assert set(found["stage"]) == {"filter", "blur", "copy"}


def test_an_inner_span_that_begins_and_ends_with_its_outer_one_has_it(make_run):
    run = make_run(frames=[FRAME], spans=[
        {**span(1_000, 2_000, "blur", parent=5), "span": 6},
        {**span(1_000, 2_000, "filter"), "span": 5},
    ])  # fmt: skip
    assert parts(run) == [(1_000, 2_000, "work", "blur")]


def test_of_spans_that_begin_together_the_shorter_one_is_the_inner_one(make_run):
    pieces = [{**span(1_000, 1_400, "blur", parent=6), "span": 5},
              {**span(1_000, 2_000, "filter"), "span": 6}]  # fmt: skip
    run = make_run(frames=[FRAME], spans=pieces)
    assert parts(run) == [(1_000, 1_400, "work", "blur"), (1_400, 2_000, "work", "filter")]


# The garbage collector


@pytest.mark.parametrize(("piece", "stage"), [(WHOLE, "filter"), (QUEUED, "before encode")])
def test_the_collector_has_what_it_stopped(make_run, piece, stage):
    pauses = [between(1_100, 1_300, tid=2), between(1_900, 2_100, tid=2)]
    run = make_run(frames=[FRAME], spans=[piece], gc_pauses=pauses)
    assert [part for part in parts(run) if part[2] == "garbage_collection"] == [
        (1_100, 1_300, "garbage_collection", stage),
        (1_900, 2_000, "garbage_collection", stage),
    ]
    found = blame.waterfall(run, 7)
    assert set(found.filter(cause="garbage_collection")["evidence"]) == {"gc_pauses"}


def test_the_collector_has_time_between_stages_too(make_run):
    pieces = [span(1_000, 1_200), span(1_600, 2_000)]
    run = make_run(frames=[FRAME], spans=pieces, gc_pauses=[between(1_300, 1_500, tid=2)])
    assert spent(run, "(between stages)") == {"garbage_collection": 200, "unexplained": 200}


def test_a_thread_that_had_a_cpu_all_the_time_was_not_stopped_by_another_ones_collection(make_run):
    run = make_run(frames=[FRAME], spans=[BUSY], gc_pauses=[between(1_100, 1_300, tid=2)])
    assert spent(run) == {"work": 1_000}
    own = make_run(frames=[FRAME], spans=[BUSY], gc_pauses=[between(1_100, 1_300, tid=1)])
    assert spent(own) == {"work": 800, "garbage_collection": 200}
    piece = span(1_000, 2_000, cpu_ns=600, runqueue_ns=0)  # of it 200 for the collector
    both = make_run(frames=[FRAME], spans=[piece], gc_pauses=[between(1_100, 1_300, tid=1)])
    assert spent(both) == {"work": 400, "garbage_collection": 200, "asleep": 400}


def test_no_more_of_a_pause_counts_than_its_thread_was_off_the_cpu_and_it_is_the_end(make_run):
    piece = span(1_000, 2_000, cpu_ns=850, runqueue_ns=0)
    run = make_run(frames=[FRAME], spans=[piece], gc_pauses=[between(1_100, 1_300, tid=2)])
    assert parts(run) == [
        (1_000, 1_150, "work", "filter"),
        (1_150, 1_300, "garbage_collection", "filter"),
        (1_300, 2_000, "work", "filter"),
    ]


def test_a_pause_of_another_process_is_none_of_its(make_run):
    pauses = [between(1_100, 1_300, tid=2, pid=9)]
    run = make_run(frames=[FRAME], spans=[WHOLE], gc_pauses=pauses)
    assert spent(run) == {"work": 1_000}


def test_a_frame_that_goes_from_one_process_to_another_is_held_up_by_that_ones_pauses(make_run):
    pieces = [span(1_000, 1_400), {**span(1_600, 2_000, "encode"), "pid": 9}]
    pauses = [between(1_300, 1_700, tid=2, pid=9)]
    run = make_run(frames=[FRAME], spans=pieces, gc_pauses=pauses)
    assert spent(run, "encode") == {"garbage_collection": 100, "work": 300}
    assert spent(run, "(between stages)") == {"unexplained": 200}


# GPU memory


def test_the_driver_has_its_calls_and_the_pool_around_them_not(make_run):
    calls = [
        between(1_100, 1_500, op="alloc", level="pool"),
        between(1_200, 1_400, op="alloc", level="driver"),
        between(1_700, 1_800, op="free", level="driver"),
        between(1_850, 1_900, op="alloc", level="driver", tid=3),
    ]
    run = make_run(frames=[FRAME], spans=[WHOLE], allocations=calls)
    assert [part[:3] for part in parts(run)] == [
        (1_000, 1_200, "work"),
        (1_200, 1_400, "allocator"),
        (1_400, 1_700, "work"),
        (1_700, 1_800, "allocator"),
        (1_800, 2_000, "work"),
    ]


def test_memory_taken_for_the_frame_between_stages_is_told_by_the_frame(make_run):
    calls = [
        between(1_300, 1_400, op="alloc", level="driver", frame=7),
        between(1_500, 1_550, op="alloc", level="driver", frame=8),
    ]
    pieces = [span(1_000, 1_200), span(1_600, 2_000)]
    run = make_run(frames=[FRAME], spans=pieces, allocations=calls)
    assert spent(run, "(between stages)") == {"allocator": 100, "unexplained": 300}


def test_memory_of_the_driver_does_not_hold_up_a_frame_in_a_queue(make_run):
    calls = [between(1_200, 1_400, op="alloc", level="driver")]
    assert spent(make_run(frames=[FRAME], spans=[QUEUED], allocations=calls)) == {
        "queue_wait": 1_000
    }


def test_what_does_not_fit_beside_a_driver_call_was_within_it(make_run):
    piece = span(1_000, 2_000, cpu_ns=700, runqueue_ns=300)
    calls = [between(1_200, 1_700, op="alloc", level="driver")]
    run = make_run(frames=[FRAME], spans=[piece], allocations=calls)
    assert spent(run) == {"allocator": 500, "run_queue": 300, "work": 200}


# The kernel


def off(t_ns: int, end_ns: int, state: str = "sleeping", runqueue_ns: int | None = 0, **more: Any):
    return between(t_ns, end_ns, state=state, runqueue_ns=runqueue_ns, **more)


SEEN = [off(0, 100, tid=9), off(5_000, 5_100, tid=9)]  # all was seen from 0 to 5,100


def test_the_kernel_says_what_a_stage_waited_for_and_when(make_run):
    waits = [
        off(1_100, 1_300, runqueue_ns=50),
        off(1_400, 1_500, "disk", runqueue_ns=20),
        off(1_600, 1_700, "preempted", runqueue_ns=100),
        off(1_800, 1_850, runqueue_ns=None),
        off(1_900, 1_950, tid=2),
    ]
    run = make_run(frames=[FRAME], spans=[IDLE], kernel_offcpu=[*SEEN, *waits])
    assert [part[:3] for part in parts(run)] == [
        (1_000, 1_100, "work"),
        (1_100, 1_250, "asleep"),
        (1_250, 1_300, "run_queue"),
        (1_300, 1_400, "work"),
        (1_400, 1_480, "io"),
        (1_480, 1_500, "run_queue"),
        (1_500, 1_600, "work"),
        (1_600, 1_700, "run_queue"),
        (1_700, 1_800, "work"),
        (1_800, 1_850, "asleep"),
        (1_850, 2_000, "work"),
    ]
    found = blame.waterfall(run, 7)
    assert found["exact"].all()
    assert set(found["evidence"]) == {"kernel_offcpu"}


@pytest.mark.parametrize("how", ["lost", "sampled", "not seen yet"])
def test_where_waits_may_be_missing_clocks_tell_the_rest(make_run, how):
    waits = [off(1_100, 1_300, runqueue_ns=50)]
    probes = [{"into": "kernel_offcpu", "filtered": 0, "lost": 0,
               "sampled_out": 5 * (how == "sampled")}]  # fmt: skip
    losses = {"kernel_offcpu": {"lost": 3}} if how == "lost" else {}
    seen = [] if how == "not seen yet" else SEEN
    piece = span(1_000, 2_000, cpu_ns=300, runqueue_ns=80)
    run = make_run(losses, frames=[FRAME], spans=[piece], kernel_offcpu=[*seen, *waits],
                   kernel_probes=probes)  # fmt: skip
    assert spent(run) == {"run_queue": 80, "asleep": 620, "work": 300}
    found = blame.waterfall(run, 7)
    assert found.filter(cause="run_queue").rows() != []
    assert found.filter(cause="run_queue")["exact"].to_list() == [True, False] or (
        sorted(found.filter(cause="run_queue")["exact"]) == [False, True]
    )


def test_a_frame_in_a_queue_waits_for_the_cpu_of_the_thread_that_takes_it(make_run):
    waits = [off(1_100, 1_300, runqueue_ns=150), off(1_400, 1_500, "disk")]
    run = make_run(frames=[FRAME], spans=[QUEUED], kernel_offcpu=[*SEEN, *waits])
    assert parts(run) == [
        (1_000, 1_150, "queue_wait", "before encode"),
        (1_150, 1_300, "run_queue", "before encode"),
        (1_300, 2_000, "queue_wait", "before encode"),
    ]


# The GIL


def test_a_wait_for_the_gil_counts_as_it_is_in_a_queue(make_run):
    run = make_run(frames=[FRAME], spans=[QUEUED], wakeups=[probe(1_100, 200, runqueue_ns=70)])
    assert parts(run) == [
        (1_000, 1_100, "queue_wait", "before encode"),
        (1_100, 1_300, "gil", "before encode"),
        (1_300, 2_000, "queue_wait", "before encode"),
    ]


def test_a_wait_for_the_gil_counts_in_a_stage_as_far_as_its_thread_had_no_cpu(make_run):
    wakeups = [probe(1_100, 200)]
    assert spent(make_run(frames=[FRAME], spans=[BUSY], wakeups=wakeups)) == {"work": 1_000}
    assert spent(make_run(frames=[FRAME], spans=[IDLE], wakeups=wakeups)) == {
        "gil": 200, "work": 100, "asleep": 700,
    }  # fmt: skip
    piece = span(1_000, 2_000, cpu_ns=850, runqueue_ns=0)
    assert spent(make_run(frames=[FRAME], spans=[piece], wakeups=wakeups)) == {
        "gil": 150, "work": 850,
    }  # fmt: skip


def test_an_estimated_wait_for_the_gil_takes_nothing_of_what_the_kernel_counted(make_run):
    piece = span(1_000, 2_000, cpu_ns=300, runqueue_ns=600)
    run = make_run(frames=[FRAME], spans=[piece], wakeups=[probe(1_100, 400)])
    assert spent(run) == {"work": 300, "run_queue": 600, "gil": 100}
    collected = make_run(frames=[FRAME], spans=[piece], wakeups=[probe(1_100, 400)],
                         gc_pauses=[between(1_600, 1_650, tid=2)])  # fmt: skip
    assert spent(collected) == {
        "garbage_collection": 50, "work": 300, "run_queue": 600, "gil": 50,
    }  # fmt: skip


def test_by_the_kernel_a_thread_waits_for_the_gil_asleep(make_run):
    waits = [off(1_100, 1_300, runqueue_ns=60)]
    run = make_run(frames=[FRAME], spans=[IDLE], kernel_offcpu=[*SEEN, *waits],
                   wakeups=[probe(1_050, 400)])  # fmt: skip
    assert spent(run) == {"work": 800, "gil": 140, "run_queue": 60}


def test_what_the_collector_took_is_no_wait_for_the_gil(make_run):
    run = make_run(frames=[FRAME], spans=[QUEUED], wakeups=[probe(1_100, 200)],
                   gc_pauses=[between(1_150, 1_250, tid=2)])  # fmt: skip
    assert spent(run) == {"garbage_collection": 100, "gil": 100, "queue_wait": 800}


MS = 1_000_000
LONG = {"frame": 7, "t_demux_ns": 0, "t_done_ns": 1_000 * MS, "fate": "delivered"}


def held(make_run, moments):
    """How long before a probe due at 500 ms the GIL was held, if Python ran at these moments."""
    others = [{"t_ns": at, "duration_ns": 0, "frame": 8, "span": n + 10, "stage": "x",
               "kind": "service", "tid": 5} for n, at in enumerate(moments)]  # fmt: skip
    queued = {"t_ns": 0, "duration_ns": 1_000 * MS, "frame": 7, "span": 1, "kind": "queue",
              "stage": "q"}  # fmt: skip
    wakeups = [probe(500 * MS, 60 * MS, asked_ns=50 * MS)]
    run = make_run(frames=[LONG], spans=[queued, *others], wakeups=wakeups)
    [begin] = [begin for begin, _, cause, _ in parts(run) if cause == "gil"]
    return (500 * MS - begin) / MS


def test_a_long_wait_for_the_gil_began_after_the_last_moment_at_which_python_ran(make_run):
    # Every 5 ms until 30 ms before it was due: 2.5 ms ago the last one is on average.
    assert held(make_run, [n * 5 * MS for n in range(95)]) == pytest.approx(27.5, abs=0.01)
    # Just before.
    assert held(make_run, [499 * MS]) == pytest.approx(0.5, abs=0.01)
    # Never since the probe went to sleep: half of that time.
    assert held(make_run, [100 * MS]) == pytest.approx(25, abs=0.01)


def test_moments_hours_apart_make_no_number_too_large(make_run):
    hour = 3_600_000 * MS
    frames = [{"frame": 7, "t_demux_ns": 0, "t_done_ns": 9 * hour, "fate": "delivered"}]
    others = [{"t_ns": at, "duration_ns": 0, "frame": 8, "span": n + 10, "stage": "x",
               "kind": "service", "tid": 5}
              for n, at in enumerate([hour, 5 * hour])]  # fmt: skip
    queued = {"t_ns": 0, "duration_ns": 9 * hour, "frame": 7, "span": 1, "kind": "queue",
              "stage": "q"}  # fmt: skip
    wakeups = [probe(6 * hour, 60 * MS, asked_ns=2 * hour)]
    run = make_run(frames=frames, spans=[queued, *others], wakeups=wakeups)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = blame.waterfall(run, 7).filter(cause="gil")
    # Once only since the probe slept: half of the time since then.
    assert found["t_ns"].to_list() == [5 * hour + hour // 2]


def test_a_short_wait_for_the_gil_is_what_was_seen_of_it(make_run):
    queued = {"t_ns": 0, "duration_ns": 1_000 * MS, "frame": 7, "span": 1, "kind": "queue",
              "stage": "q"}  # fmt: skip
    wakeups = [probe(500 * MS, 4 * MS, asked_ns=50 * MS)]
    run = make_run(frames=[LONG], spans=[queued], wakeups=wakeups)
    assert spent(run)["gil"] == 4 * MS


# Which has it where several are at once


def test_what_several_causes_have_at_once_is_the_first_ones(make_run):
    run = make_run(
        frames=[FRAME], spans=[IDLE],
        gc_pauses=[between(1_100, 1_200)],
        allocations=[between(1_150, 1_300, op="alloc", level="driver")],
        kernel_offcpu=[*SEEN, off(1_250, 1_400, "preempted", runqueue_ns=150),
                       off(1_400, 1_500), off(1_500, 1_600, "disk")],
        wakeups=[probe(1_100, 450)],
    )  # fmt: skip
    assert [part[:3] for part in parts(run)] == [
        (1_000, 1_100, "work"),
        (1_100, 1_200, "garbage_collection"),
        (1_200, 1_300, "allocator"),
        (1_300, 1_400, "run_queue"),
        (1_400, 1_550, "gil"),
        (1_550, 1_600, "io"),
        (1_600, 2_000, "work"),
    ]


# Odd lives


def test_two_spans_at_once_never_count_for_more_than_the_life(make_run):
    pieces = [span(1_000, 1_800, "filter"), {**span(1_300, 2_000, "encode"), "tid": 2}]
    run = make_run(frames=[FRAME], spans=pieces)
    assert parts(run) == [(1_000, 1_300, "work", "filter"), (1_300, 2_000, "work", "encode")]


def test_a_span_of_which_only_a_part_counts_brings_as_much_of_its_clocks(make_run):
    piece = span(1_500, 2_500, "mux", cpu_ns=600, runqueue_ns=200)
    run = make_run(frames=[FRAME], spans=[span(900, 1_500, "decode", "queue"), piece])
    assert spent(run, "decode") == {"queue_wait": 500}
    assert spent(run, "mux") == {"work": 300, "run_queue": 100, "asleep": 100}


def test_spans_after_delivery_and_before_the_read_are_not_of_its_life(make_run):
    run = make_run(frames=[FRAME], spans=[span(500, 1_000), span(2_000, 2_400), span(1_200, 1_200)])
    assert parts(run) == [(1_000, 2_000, "unexplained", "(between stages)")]


def test_a_frame_without_spans_is_unexplained_but_for_what_stopped_its_process(make_run):
    frames = [{**FRAME, "pid": 1}]
    assert spent(make_run(frames=frames)) == {"unexplained": 1_000}
    run = make_run(frames=frames, gc_pauses=[between(1_100, 1_300, tid=2)])
    assert spent(run) == {"unexplained": 800, "garbage_collection": 200}


def test_a_frame_without_an_end_lives_until_its_last_span_ends(make_run):
    frames = [{"frame": 7, "t_demux_ns": 1_000, "fate": "unfinished"}]
    run = make_run(frames=frames, spans=[span(1_100, 1_300), span(1_500, 1_700)])
    assert sum(end - begin for begin, end, *_ in parts(run)) == 700
    assert parts(make_run(frames=frames)) == []


def test_a_frame_that_took_no_time_has_no_parts(make_run):
    frames = [{**FRAME, "t_done_ns": 1_000}]
    found = blame.waterfall(make_run(frames=frames, spans=[WHOLE]), 7)
    assert found.rows() == []
    assert found.columns == [
        "t_ns", "duration_ns", "stage", "within", "kind", "cause", "exact", "pid", "tid", "span",
        "evidence",
    ]  # fmt: skip


@pytest.mark.parametrize("frame", [8, -1, "7", 7.0, True, None])
def test_a_frame_that_is_not_there_is_told_how_to_find_one(make_run, frame):
    with pytest.raises(InputError, match=r"latency\.slowest"):
        blame.waterfall(make_run(frames=[FRAME]), frame)

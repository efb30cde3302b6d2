"""Samples as rows: whose they are, when they were, and folded when there are too many."""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.capture.profiles.conftest import Writer, profile, push
from vidlab import labelsets
from vidlab.capture.profiles.labeltags import LABELS_TAG
from vidlab.capture.profiles.pushes import read_push
from vidlab.capture.profiles.storing import Store
from vidlab.capture.profiles.tags import SPAN_TAG, OfSpan
from vidlab.capture.runtime import pacing
from vidlab.clock import now_ns
from vidlab.runs import background
from vidlab.schema.profiling import OWN_THREADS

F, G = ("f", "app.py", 3), ("g", "app.py", 9)
MS = 1_000_000


def store(writer: Writer, samples: Any, *, spans: Any = None, **options: Any) -> Store:
    made = Store(writer, lambda: spans or {}, **options)  # type: ignore[arg-type]
    made.store(read_push(push(profile(samples)), True))
    return made


def test_the_deepest_set_counts_and_nothing_else(writer: Writer) -> None:
    outer = labelsets.intern({"stream_id": "outer"})
    inner = labelsets.intern({"stream_id": "inner"})
    tags = [
        {LABELS_TAG: f"0.{outer}"},
        {LABELS_TAG: f"3.{inner}", "stream_id": "outer", "thread_name": "worker"},
        {LABELS_TAG: "0.123456789"},  # of no set that is known
        {LABELS_TAG: "nonsense", SPAN_TAG: "1"},
        {LABELS_TAG: f"0.{1 << 64}", SPAN_TAG: "9" * 5000 + ".1"},
        {},
    ]
    store(writer, [((F, G), (10 * MS * (n + 1),), tag) for n, tag in enumerate(tags)])
    rows = writer.samples()
    assert [row["labels"] for row in rows] == [outer, inner, 0, 0, 0, 0]
    assert [row["samples"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {row["span"] for row in rows} == {0}
    assert [row["thread"] for row in rows[:3]] == ["(other)", "worker", "(other)"]  # 0: not told
    assert {(row["profile"], row["type"], row["unit"]) for row in rows} == {
        ("process_cpu", "cpu", "nanoseconds")
    }
    assert {row["stack"] for row in rows} == {(F, G)}
    assert len(writer.defined) == 1


def test_a_span_brings_its_frame_and_that_ones_labels(writer: Writer) -> None:
    born = labelsets.intern({"stream_id": "cam", "codec": "h264"})
    here = labelsets.intern({"stream_id": "other", "gpu": 1})
    spans = {7: OfSpan(8, 99, born), 9: OfSpan(0, 0, 0)}
    tags = [
        {LABELS_TAG: f"0.{here}", SPAN_TAG: "0.7"},
        {LABELS_TAG: f"0.{here}", SPAN_TAG: "0.9"},
        {LABELS_TAG: f"0.{here}", SPAN_TAG: "0.11"},
    ]
    store(writer, [((F,), (10 * MS,), tag) for tag in tags], spans=spans)
    first, second, third = writer.samples()
    assert (first["span"], first["frame"]) == (8, 99)
    known = labelsets.get(first["labels"]).values
    assert dict(known) == {"stream_id": "cam", "codec": "h264", "gpu": 1}
    assert (second["span"], second["frame"], second["labels"]) == (0, 0, here)
    assert (third["span"], third["labels"]) == (11, here)  # its frame is not remembered


def test_threads_of_vidlab_are_told_apart(writer: Writer) -> None:
    pace = ("Paced._run", pacing.__file__, 47)
    beat = ("Background._run", background.__file__, 88)
    script = ("<module>", pacing.__file__, 1)
    stacks = [(F, beat), (pace,), (beat, F), (F, script), (F, (*beat[:1], "background.py", 88))]
    store(writer, [(stack, (MS,), {"thread_name": "x"}) for stack in stacks])
    found = {row["stack"]: row["thread"] for row in writer.samples()}
    assert [found[stack] for stack in stacks] == [OWN_THREADS, OWN_THREADS, "x", "x", "x"]


def test_each_value_that_is_not_zero_is_a_row(writer: Writer) -> None:
    types = [("alloc_objects", "count"), ("alloc_space", "bytes"), ("inuse_space", "bytes")]
    samples = [((F,), (3, 300, 0), {}), ((), (0, 0, 5), {})]
    body = push(profile(samples, types), name="memory")
    made = Store(writer, dict)  # type: ignore[arg-type]
    assert made.store(read_push(body, True)) == 2
    rows = [(row["type"], row["value"], row["samples"], row["stack"]) for row in writer.samples()]
    assert rows == [
        ("alloc_objects", 3, 0, (F,)),
        ("alloc_space", 300, 0, (F,)),
        ("inuse_space", 5, 0, ()),
    ]


def test_the_wall_clock_becomes_ours(writer: Writer) -> None:
    made = Store(writer, dict)  # type: ignore[arg-type]
    for duration in (-(1 << 63), (1 << 63) - 1):
        samples = [((F,), (1,), {})]
        made.store(read_push(push(profile(samples, duration_nanos=duration)), True))
    assert {0 <= row["duration_ns"] < 1 << 43 for row in writer.samples()} == {True}
    writer.__init__()  # type: ignore[misc]
    made = Store(writer, dict)  # type: ignore[arg-type]
    before_ns = now_ns()
    for began in (time.time_ns() - 2_000 * MS, 5, time.time_ns() + 10**15):
        samples = [((F,), (1,), {})]
        made.store(read_push(push(profile(samples, time_nanos=began)), True))
    after_ns = now_ns()
    first, *others = (row["t_ns"] for row in writer.samples())
    assert before_ns - 2_100 * MS < first < after_ns - 1_900 * MS
    for other in others:  # else: it has just ended
        assert before_ns - 1_100 * MS < other < after_ns - 900 * MS


def test_a_thread_without_a_name_tag_is_known_by_its_number(writer: Writer) -> None:
    tags = [{"thread_id": str(threading.get_ident())}, {"thread_id": "1"}]
    store(writer, [((F,), (MS,), tag) for tag in tags])
    name = threading.current_thread().name
    assert [row["thread"] for row in writer.samples()] == [name, "(other)"]


def test_many_thread_names_do_not_use_up_the_names(writer: Writer) -> None:
    store(writer, [((F,), (MS,), {"thread_name": f"t{n}"}) for n in range(1200)])
    names = {row["thread"] for row in writer.samples()}
    assert len(names) == 1000 + 1
    assert "(other threads)" in names


def test_beyond_the_limit_equal_stacks_are_added_up_per_minute(writer: Writer) -> None:
    clock = [1_000 * MS]
    made = Store(writer, dict, 3 * 64 + 200, lambda: clock[0])  # type: ignore[arg-type]
    cam = labelsets.intern({"stream_id": "cam"})
    tags = {LABELS_TAG: f"0.{cam}", "thread_name": "t"}
    deep = tuple(("f", "app.py", line) for line in range(3))
    body = read_push(
        push(
            profile(
                [
                    (deep, (10 * MS,), {**tags, SPAN_TAG: "0.5"}),
                    ((F,), (20 * MS,), tags),
                    ((("f", "app.py", 4),), (30 * MS,), tags),
                    ((F,), (40 * MS,), {}),
                ]
            )
        ),
        True,
    )
    assert made.store(body) == 4
    assert made.folding
    assert [row["kind"] for name, row in writer.all_rows if name == "findings"] == [
        "profiles_folded"
    ]
    before = writer.samples()
    assert len(before) == 4

    for second in range(1, 60):
        clock[0] = (1_000 + 1_000 * second) * MS
        made.store(body)
    assert writer.samples() == before  # nothing is written until the minute is over
    clock[0] = 61_000 * MS
    made.store(body)
    folded = [row for row in writer.samples() if row not in before]
    assert {(row["t_ns"], row["duration_ns"]) for row in folded} == {(1_000 * MS, 60_000 * MS)}
    by_stack = {(row["stack"], row["labels"]): row for row in folded}
    assert len(by_stack) == len(folded) == 3
    plain = ("f", "app.py", 0)
    assert by_stack[(plain,), cam]["value"] == 60 * 50 * MS
    assert by_stack[(plain,), cam]["samples"] == 60 * 5
    assert by_stack[(plain,) * 3, cam]["value"] == 60 * 10 * MS
    assert by_stack[(plain,), 0]["value"] == 60 * 40 * MS
    assert {row["span"] for row in folded} == {0}

    made.store(body)
    made.flush()
    total = sum(row["value"] for row in writer.samples())
    assert total == (1 + 60 + 1) * 100 * MS

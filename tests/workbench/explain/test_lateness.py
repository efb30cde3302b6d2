"""Late frames: what is to blame is named first, with its numbers; and what is missing."""

from __future__ import annotations

import json

import pytest

from tests.workbench.made_runs import CAM_1, LIMIT, MS, Story, made_run, story
from vidlab.runs.run import Run
from vidlab.workbench.explain import frameids, numbers
from vidlab.workbench.explain.frame import Explanation
from vidlab.workbench.explain.lateness import LateExplanation
from vidlab.workbench.explain.topics import Topic, weight
from vidlab.workbench.slices import Slice


def late(run: Run | None = None, **narrowed: object) -> LateExplanation:
    return LateExplanation(Slice(run or made_run(), **narrowed))  # type: ignore[arg-type]


def struck(topic: Topic) -> int:
    return weight(topic.blamed.unique("frame"))


def one(name: str, run: Run | None = None) -> Explanation:
    part = Slice(run or made_run())
    return Explanation(part, frameids.found(part, name))


def test_the_causes_come_in_order_with_their_numbers() -> None:
    told = late()
    assert told.headline() == (
        "7 of 80 delivered frames were late (beyond 100 ms), 1 was lost as corrupt"
    )
    assert [(topic.cause, topic.stage, struck(topic)) for topic in told.topics[:3]] == [
        ("queue_wait", "before encode", 5),
        ("garbage_collection", "filter", 1),
        ("work", "filter", 1),
    ]
    queue, collection, work = (sentence for _, sentence in told.sentences()[:3])
    assert queue.startswith("stream cam-3 (av1): queue wait before encode, 2.0 s in 5 frames")
    assert f"depth at its limit of {LIMIT} (encode was at work " in queue
    assert "1 collection, the longest 300 ms, of generation 2" in collection
    assert "work of filter" in work
    assert "260 ms a frame, usually 10 ms" in work


def test_a_late_frame_counts_for_all_that_it_stands_for() -> None:
    whole, sampled = story(), story()
    for rows in sampled.tables.values():
        for row in rows:
            row["sample_rate"] = 0.1
    told, known = late(made_run(sampled)), late(made_run(whole))
    assert (told.delivered, told.late, told.corrupt) == (800, 70, 10)
    assert told.seconds == pytest.approx(10 * known.seconds)
    assert [struck(t) for t in told.topics] == [10 * struck(t) for t in known.topics]


def test_json_holds_each_cause_once_and_adds_up() -> None:
    told = late()
    facts = json.loads(json.dumps(told.facts()))
    assert (facts["frames"], facts["late"], facts["corrupt"], facts["deadline_ms"]) == (
        80,
        7,
        1,
        100,
    )
    shares = [cause["share"] for cause in facts["causes"]]
    assert sum(shares) + facts["rest"]["share"] == pytest.approx(1, abs=1e-4)
    assert shares == sorted(shares, reverse=True)
    first = facts["causes"][0]
    keys = {"cause", "share", "seconds", "stream_id", "codec", "gpu", "stage", "evidence"}
    assert keys <= set(first)
    assert (first["stream_id"], first["codec"], first["gpu"]) == ("cam-3", "av1", None)
    evidence = first["evidence"]
    assert evidence["table"] == "queue_depths"
    assert (evidence["capacity"], evidence["max_depth"]) == (LIMIT, LIMIT)
    assert evidence["taken_by"] == "encode"
    assert 0 < evidence["at_work_share"] < 0.5
    assert evidence["late_ms"] == 400
    assert evidence["usual_ms"] == 5
    assert evidence["frames"][0].startswith("cam-3:3")


def test_the_examples_of_the_evidence_can_be_explained() -> None:
    run = made_run()
    for cause in late(run).facts()["causes"]:
        for name in cause["evidence"]["frames"]:
            assert one(name, run).name == name


def test_a_slice_hears_of_its_own_frames_only() -> None:
    told = late(codec="h264")
    assert (told.delivered, told.late, told.corrupt) == (40, 2, 1)
    assert "cam-3" not in str(told)
    assert {cause["codec"] for cause in told.facts()["causes"]} == {"h264"}
    other = late(stream_id="cam-3")
    assert other.corrupt == 0
    assert {cause["cause"] for cause in other.facts()["causes"]} == {"queue_wait"}


def test_one_cause_of_many_streams_is_told_once() -> None:
    made = Story()
    for number in range(6):
        first = CAM_1 + (number << 32)
        made.stream(first, f"cam-{number}", "hevc", number + 1)
        for seq in range(20):
            made.frame(first, seq, [("filter", "service", 300 if seq == 7 else 10)])
    told = late(made_run(made))
    [(share, sentence)] = told.sentences()
    assert share == "100%"
    assert sentence.startswith("all 6 streams: work of filter, 1.7 s in 6 frames")
    assert len(told.facts()["causes"]) == 6


def test_a_stream_with_most_of_a_cause_is_told_alone() -> None:
    made = Story()
    for number in range(4):
        first = CAM_1 + (number << 32)
        made.stream(first, f"cam-{number}", "hevc", number + 1)
        for seq in range(30):
            slow = seq < (12 if number == 2 else 2)
            made.frame(first, seq, [("filter", "service", 300 if slow else 10)])
    said = [sentence.partition(":")[0] for _, sentence in late(made_run(made)).sentences()]
    assert said == ["stream cam-2 (hevc)", "streams cam-0, cam-1, cam-3"]


def test_what_strikes_a_whole_process_is_told_once_and_other_causes_by_stage() -> None:
    made = Story()
    made.stream(CAM_1, "cam-1", "h264", 1)
    made.tables["gc_pauses"] = []
    for seq in range(40):
        slow = {5: (300, 10), 6: (10, 200)}.get(seq, (10, 10))
        struck = {15: (310, 10), 25: (10, 210)}.get(seq, slow)
        way = [("filter", "service", struck[0]), ("encode", "service", struck[1])]
        begin = made.frame(CAM_1, seq, way)
        if seq in (15, 25):
            after = (struck[0] if seq == 25 else 0) + 5
            pause = {"t_ns": begin + after * MS, "duration_ns": (max(struck) - 10) * MS}
            made.tables["gc_pauses"].append({**pause, "generation": 2, "tid": int(seq == 25)})
    found = late(made_run(made))
    assert [(topic.cause, topic.stage) for topic in found.topics] == [
        ("garbage_collection", "filter"), ("work", "filter"), ("work", "encode"),
    ]  # fmt: skip
    first = found.sentences()[0][1]
    assert "garbage collection (most of it in filter), 0.5 s in 2 frames; 2 collections" in first


def test_it_says_what_is_not_explained_and_what_another_engine_would_have_told() -> None:
    made = story()
    gap = next(row for row in made.tables["spans"] if row["frame"] == CAM_1 + 20
               and row["stage"] == "filter")  # fmt: skip
    made.tables["gc_pauses"] = []
    made.tables["spans"].remove(gap)
    told = late(made_run(made))
    assert 0.05 < told.unexplained < 0.2
    assert f"not explained: {told.unexplained:.0%}" in str(told)
    assert told.facts()["unexplained_share"] == pytest.approx(told.unexplained, abs=1e-5)
    said = " ".join(str(told).split())
    assert "KernelEvents would have told when threads had no CPU" in said
    assert "off as well: Runtime, GpuMemory, Profiles" in said
    assert {row["engine"] for row in told.facts()["untold"]} >= {"KernelEvents", "GpuMemory"}


def test_the_evidence_names_who_had_the_gil_and_what_was_asked_of_the_driver() -> None:
    made = story()
    second = 10**9
    slow = next(row for row in made.tables["spans"] if row["frame"] == CAM_1 + 10
                and row["stage"] == "filter")  # fmt: skip
    slow["cpu_ns"] = 20 * MS
    late_ns = 150 * MS
    wait = {"t_ns": slow["t_ns"] + 20 * MS, "asked_ns": MS, "late_ns": late_ns,
            "runqueue_ns": 0, "gil_ns": late_ns}  # fmt: skip
    made.tables["wakeups"] = [wait]
    made.tables["threads"] = [
        {"t_ns": 0, "tid": tid, "op": "began", "name": name, "python": True}
        for tid, name in ((7, "indexer"), (8, "idle"))
    ]
    made.tables["thread_waits"] = [
        {"t_ns": slow["t_ns"] - MS, "duration_ns": second, "cpu_ns": cpu_ns, "tid": tid}
        for tid, cpu_ns in ((7, 900 * MS), (8, 100 * MS))
    ]
    call = {"op": "alloc", "kind": "device", "level": "driver", "frame": CAM_1 + 20}
    first = next(row for row in made.tables["spans"] if row["frame"] == CAM_1 + 20)
    made.tables["gc_pauses"] = []
    made.tables["allocations"] = [
        {**call, "t_ns": first["t_ns"] + 50 * MS, "duration_ns": 200 * MS, "size_bytes": 8 << 20,
         "tid": 1, "labels": 1}
    ]  # fmt: skip
    engines = ("frames", "runtime", "gpu_memory")
    found = late(made_run(made, engines=engines))
    told = {
        topic.cause: numbers.said(topic.cause, facts)
        for topic, facts in zip(found.topics, found.evidence, strict=True)
    }
    assert told["gil"] == "by estimate; indexer had the CPU in 90% of the waits"
    assert told["allocator"] == (
        "1 driver allocation of device memory, 8 MiB typically, the longest took 200 ms"
    )


def test_advice_is_of_the_causes_that_are_told() -> None:
    advice = late().advice()
    assert [line.partition(":")[0] for line in advice] == ["encode", "garbage collection"]


def test_no_late_frames_no_deadline_and_no_frames_are_told_apart() -> None:
    none = late(deadline_ms=10_000.0)
    assert none.headline().startswith("None of 80 delivered frames was late (beyond 10000 ms)")
    made = story()
    made.tables["streams"] = []
    assert "not known" in late(made_run(made, parameters={})).headline()
    assert "3 frame intervals" in late(made_run(parameters={})).headline()
    empty = late(made_run(Story()))
    assert "has no frames" in empty.headline()
    for told in (none, empty):
        assert str(told)
        assert told.facts()["late"] == 0
        assert told.chart() is not None


def test_it_warns_of_losses_of_a_run_cut_short_and_of_nothing_to_compare_with() -> None:
    killed = str(late(made_run(state="killed", losses={"spans": {"lost": 12, "let_go": 0}})))
    assert "! this run is killed: its end is missing" in killed
    assert "! lost while recording: 12 of spans" in killed
    assert "! this run goes on" in str(late(made_run(state="recording")))
    all_late = late(deadline_ms=1.0)
    assert "! no frame was punctual" in str(all_late)
    assert all_late.facts()["causes"][0]["evidence"]["usual_ms"] is None
    assert "usually" not in " ".join(sentence for _, sentence in all_late.sentences())


def test_lines_fit_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (80, 110):
        monkeypatch.setenv("COLUMNS", str(columns))
        for said in (str(late()), str(one("cam-1:10"))):
            assert max(map(len, said.splitlines())) <= columns


def test_a_notebook_shows_the_sentences_and_hides_no_markup() -> None:
    made = story()
    for rows in made.tables.values():
        for row in rows:
            if row.get("stream_id") == "cam-3":
                row["stream_id"] = "<b>cam</b>"
    page = late(made_run(made))._repr_html_()
    assert "&lt;b&gt;cam&lt;/b&gt;" in page
    assert "<b>" not in page
    assert "queue wait before encode" in page

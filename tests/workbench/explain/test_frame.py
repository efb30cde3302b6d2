"""One frame: where its time went, beside what is usual."""

from __future__ import annotations

import json

import pytest

from tests.workbench.made_runs import CAM_1, MS, made_run
from vidlab.runs.run import Run
from vidlab.workbench.explain import frameids
from vidlab.workbench.explain.frame import Explanation
from vidlab.workbench.slices import Slice


def one(name: str, run: Run | None = None) -> Explanation:
    part = Slice(run or made_run())
    return Explanation(part, frameids.found(part, name))


def test_one_frame_is_compared_with_what_is_usual() -> None:
    told = one("cam-3:31")
    assert told.headline() == (
        "cam-3:31 (av1): 420 ms from the read of its packet to the sink, 320 ms beyond its "
        "deadline of 100 ms"
    )
    assert told.sentence() == "beyond the usual: queue wait before encode +395 ms (100%)"
    first = told.causes.row(0, named=True)
    assert (first["total_ns"], first["usual_ns"]) == (400 * MS, 5 * MS)
    assert told.parts["duration_ns"].sum() == 420 * MS
    assert set(told.evidence) >= {"spans", "queue_depths"}
    said = str(told)
    assert "before encode" in said
    assert "█" in said


def test_one_frame_as_json_adds_up() -> None:
    facts = json.loads(json.dumps(one("cam-1:20").facts()))
    assert (facts["frame"], facts["number"]) == ("cam-1:20", str(CAM_1 + 20))
    assert (facts["frames"], facts["late"], facts["deadline_ms"]) == (1, 1, 100)
    assert sum(part["ms"] for part in facts["parts"]) == pytest.approx(facts["latency_ms"]) == 320
    [pause] = [part for part in facts["parts"] if part["cause"] == "garbage_collection"]
    assert (pause["stage"], pause["ms"], pause["evidence"]) == ("filter", 300, "gc_pauses")
    assert facts["causes"][0]["cause"] == "garbage_collection"


def test_a_punctual_and_a_lost_frame_say_so() -> None:
    assert "in time: its deadline is 100 ms" in one("cam-1:3").headline()
    lost = one("cam-1:99")
    assert "lost as corrupt at decode" in lost.headline()
    assert lost.facts()["late"] == 0
    assert str(lost)


def test_an_explanation_shows_itself_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display

    shown: list[object] = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    one("cam-1:20")._ipython_display_()
    assert len(shown) >= 4
    assert "garbage collection during filter" in repr(shown[0])

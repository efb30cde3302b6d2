"""The explorer's half in the kernel: what is sent to the page, and what is made of its answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import vidlab as vl
from vidlab import datasets
from vidlab.charts import boxes
from vidlab.charts import explorer as charts
from vidlab.errors import InputError, RunError
from vidlab.lab.synthetic import write_run
from vidlab.workbench.explorer import causes, profiled, signals, views
from vidlab.workbench.explorer.board import PANELS, Explorer
from vidlab.workbench.explorer.drawn import TABLES, drawn
from vidlab.workbench.explorer.view import packed
from vidlab.workbench.explorer.words import EMPTY, TITLES
from vidlab.workbench.notebooks import REPORT_VARIABLE

VIEWS = [view for panel in PANELS for tab in panel["tabs"] for view in tab["views"]]


@pytest.fixture
def explorer(path: Path) -> Explorer:
    return vl.explore(path)


def rows(explorer: Explorer, name: str) -> dict[str, list[Any]]:
    """What the page has of a data set, as `view.js` reads it."""
    found = {}
    for column, part in getattr(explorer._board, f"set_{name}")["columns"].items():
        if "numbers" in part:
            found[column] = np.frombuffer(part["numbers"]).tolist()
        else:
            codes = np.frombuffer(part["codes"], np.int32)
            found[column] = [None if code < 0 else part["values"][code] for code in codes]
    return found


def receive(explorer: Explorer, content: object) -> list[Any]:
    """As if the page had sent it; returns what it is sent back."""
    sent: list[Any] = []
    explorer._board.send = sent.append
    explorer._board._receive(None, content, None)
    return sent


def test_what_is_packed_can_be_read_again() -> None:
    frame = pl.DataFrame(
        {
            "number": pl.Series([1, None, 3], dtype=pl.UInt64),
            "text": ["b", None, "a"],
            "flag": [True, None, False],
        }
    )
    sent = packed(frame)
    assert sent["rows"] == 3
    numbers = np.frombuffer(sent["columns"]["number"]["numbers"])
    np.testing.assert_array_equal(numbers, [1, np.nan, 3])
    for name, values, codes in (
        ("text", ["a", "b"], [1, -1, 0]),
        ("flag", [False, True], [1, -1, 0]),
    ):
        assert sent["columns"][name]["values"] == values
        assert np.frombuffer(sent["columns"][name]["codes"], np.int32).tolist() == codes


def test_an_empty_table_is_packed() -> None:
    assert packed(pl.DataFrame()) == {"rows": 0, "columns": {}}


def test_every_view_has_a_chart_or_a_table_and_words() -> None:
    specifications = charts.specifications()
    assert set(VIEWS) == set(specifications) | set(TABLES)
    assert set(VIEWS) == set(TITLES) == set(EMPTY)
    for specification in specifications.values():
        assert json.loads(json.dumps(specification)) == specification


def test_only_what_is_seen_is_asked_for(explorer: Explorer) -> None:
    assert rows(explorer, "stages")
    assert not explorer._board.set_streams
    explorer._board.tabs = [0, 0, 1]
    assert len(rows(explorer, "streams")["stream_id"]) == 8


def test_few_marks_are_drawn_at_a_time(explorer: Explorer) -> None:
    def drawn() -> int:
        seen = [view for view in explorer._seen() if view not in TABLES]
        heights = {view: explorer._frames[view].height for view in seen}
        return sum(heights.values()) + explorer._frames["worst"].height + heights["overview"]

    for frame in (None, rows(explorer, "worst")["frame"][0]):
        explorer.state = {"frame": frame}
        for over_time in range(len(PANELS[1]["tabs"])):
            for details in range(len(PANELS[2]["tabs"])):
                explorer._board.tabs = [0, over_time, details]
                assert 0 < drawn() <= 5_000


def test_the_limits_of_all_views_together_are_few_marks() -> None:
    over_time = signals._SHOWN * (signals._TOLD + 1)
    frames = views._CELLS + views._WORST_BINS * views._WORST_EACH + 2 * views._OVERVIEW_BINS
    details = max(2 * profiled.MOST_BOXES, 2 * views.STREAMS, causes._MOST)
    assert frames + over_time + details <= 5_000


def test_what_does_not_depend_on_a_change_is_not_sent_again(explorer: Explorer) -> None:
    before = explorer._board.set_latency, explorer._board.set_stages
    explorer.state = {"quantile": 0.5}
    assert explorer._board.set_latency is before[0]
    assert explorer._board.set_stages is not before[1]


def test_a_question_of_the_page_is_answered(explorer: Explorer) -> None:
    assert receive(explorer, {"ask": {"time_s": [1.0, 2.0]}}) == [{"answered": True}]
    assert explorer.state["time_s"] == [1.0, 2.0]
    assert explorer._controls.time_s.value == (1.0, 2.0)
    assert min(rows(explorer, "latency")["t_s"]) >= 0.9


@pytest.mark.parametrize("change", [{"codek": "av1"}, {"quantile": 7}, {"frame": "x"}])
def test_a_wrong_question_is_said_and_changes_nothing(
    explorer: Explorer, change: dict[str, Any]
) -> None:
    before = explorer.state
    assert receive(explorer, {"ask": change}) == [{"answered": True}]
    assert explorer.state == before
    assert next(iter(change)) in explorer._board.notice


def test_an_error_that_nobody_expected_is_said(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(explorer._open(), "answers", broken)
    assert receive(explorer, {"ask": {"quantile": 0.5}}) == [{"answered": True}]
    assert "ZeroDivisionError: of all things" in explorer._board.notice


def test_a_frame_opens_its_tab(explorer: Explorer) -> None:
    frame = rows(explorer, "worst")["frame"][0]
    receive(explorer, {"ask": {"frame": frame}})
    assert explorer._board.tabs == [0, 0, 4]
    shown = rows(explorer, "waterfall")
    assert sum(shown["ms"]) == pytest.approx(rows(explorer, "worst")["latency_ms"][0])


def test_controls_and_state_follow_each_other(explorer: Explorer) -> None:
    controls = explorer._controls
    controls.codec.value = "av1"
    assert explorer.state["codec"] == "av1"
    controls.latency_ms.value = (10.0, 1e9)
    assert explorer.state["latency_ms"] == [10.0, 1e9]
    explorer.state = {"stream_id": "cam-03", "quantile": 0.9, "deadline_ms": 40.0}
    assert controls.stream_id.value == "cam-03"
    assert controls.codec.value == ""
    assert controls.quantile.value == 0.9
    assert controls.deadline_ms.value == "40"
    assert json.loads(controls.state.value)["stream_id"] == "cam-03"
    controls.state.value = '{"gpu": 1}'
    assert explorer.state["gpu"] == 1
    assert explorer.state["stream_id"] is None


def test_the_deadline_is_the_runs_own_until_another_is_chosen(explorer: Explorer) -> None:
    field = explorer._controls.deadline_ms
    assert (field.value, field.placeholder) == ("", "three frames")
    for nonsense in ("soon", "-1", "0", "nan", "1e300"):
        field.value = nonsense
        assert explorer.state["deadline_ms"] is None
        assert "deadline_ms is positive milliseconds" in explorer._board.notice
        assert field.value == ""
    field.value = " 12.5 "
    assert explorer.state["deadline_ms"] == 12.5
    assert field.value == "12.5"
    field.value = ""
    assert explorer.state["deadline_ms"] is None
    assert vl.explore(datasets.load("everything"))._controls.deadline_ms.placeholder == (
        "200 (the run's)"
    )


def test_a_state_can_be_shared(explorer: Explorer, path: Path) -> None:
    explorer.state = {"codec": "av1", "time_s": [1, 3]}
    shared = json.loads(json.dumps(explorer.state))
    assert vl.explore(path, state=shared).state == explorer.state


def test_another_run_can_be_chosen(path: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", frames=300, streams=1, seed=4)
    explorer = vl.explore([path, other], state={"codec": "av1", "time_s": [1, 2]})
    explorer._controls.run.value = 1
    assert explorer.state["run"] == 1
    assert explorer.state["time_s"] is None
    assert len(explorer._controls.stream_id.options) == 1


def test_a_run_that_is_deleted_is_said(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    explorer = vl.explore(copy)
    shutil.rmtree(copy)
    explorer.refresh()
    assert "no longer there" in explorer._board.notice
    before = explorer._board.number
    explorer.state = {"quantile": 0.5}
    assert explorer._board.number > before


def test_three_frames_are_explored(tmp_path: Path) -> None:
    explorer = vl.explore(write_run(tmp_path / "run", frames=3, streams=1, seed=1))
    assert sum(rows(explorer, "latency")["frames"]) <= 3
    assert "No GPU memory events" in explorer._board.said["memory"]["note"]


def test_nothing_to_explore_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run to explore"):
        vl.explore([])
    with pytest.raises(RunError):
        vl.explore(tmp_path / "nowhere")


def test_where_nobody_could_work_it_there_is_a_sentence(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REPORT_VARIABLE, "1")
    assert list(explorer._repr_mimebundle_()) == ["text/plain"]
    assert "JupyterLab" in explorer._repr_mimebundle_()["text/plain"]


def test_altair_is_not_imported_where_the_charts_are_kept(explorer: Explorer, path: Path) -> None:
    assert explorer._board.library.charts  # by now they are kept
    code = (
        "import sys, vidlab as vl\n"
        f"vl.explore({str(path)!r})\n"
        "print([name for name in ('altair', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_flame_graph_is_laid_out_as_in_reports() -> None:
    tree = pl.DataFrame(
        {
            "id": [0, 1, 2, 3],
            "parent": [None, 0, 0, 2],
            "name": ["all", "f", "g", "h"],
            "layer": ["all", "stack", "gpu", "stack"],
            "depth": [0, 1, 1, 2],
            "total_ns": [10, 3, 5, 5],
        }
    )
    wanted = boxes.layout(tree.with_columns(pl.lit(0, pl.Int32).alias("step")), "total_ns", 10.0)
    found = drawn("flame", tree).rows(named=True)
    assert [box["name"] for box in found] == [box["name"] for box in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine["layer"], mine["depth"]) == (theirs["layer"], theirs["depth"])
        assert [mine["x0"], mine["x1"]] == pytest.approx([*theirs["x0"], *theirs["x1"]])

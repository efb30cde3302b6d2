"""In which order an answer comes to the page, and what the page has before and after it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import vidlab as vl
from vidlab.errors import InputError
from vidlab.workbench.explorer.board import Explorer


@pytest.fixture
def explorer(path: Path) -> Explorer:
    return vl.explore(path)


def test_the_first_panel_is_answered_before_the_others(explorer: Explorer) -> None:
    board, seen = explorer._board, []
    board.observe(lambda _: seen.append((board.number, list(board.awaited))), "awaited")
    before = board.number
    latency, stages = board.set_latency, board.set_stages
    explorer.state = {"codec": "h264"}
    assert [set(awaited) for _, awaited in seen] == [{"memory", "stages", "tail"}, set()]
    assert board.number == before + 1  # an answer in parts is one answer
    assert board.set_latency != latency
    assert board.set_stages != stages


def test_while_a_part_is_awaited_nothing_new_is_said_of_it(explorer: Explorer) -> None:
    board, said = explorer._board, []
    before = board.said["tail"]["alt"]
    board.observe(lambda _: said.append(board.said["tail"]["alt"]), "awaited")
    explorer.state = {"stage": "decode"}
    first, last = said
    assert first == before != last


def test_an_answer_that_fails_half_way_leaves_nothing_awaited(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(state: object) -> None:
        raise InputError("no tail today")

    monkeypatch.setitem(explorer._open()._asked, "tail", fails)
    explorer.state = {"codec": "hevc"}
    assert explorer._board.notice == "no tail today"
    assert explorer._board.awaited == []
    monkeypatch.undo()
    explorer.state = {"codec": "hevc"}  # and is asked for again
    assert explorer._board.notice != "no tail today"


def test_what_is_asked_next_is_begun_when_the_page_has_drawn(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    monkeypatch.setattr(explorer._open(), "ahead", lambda: begun.append(True))
    explorer.state = {"codec": "h264"}
    assert not begun
    explorer._board._receive(None, {"drawn": True}, None)
    assert begun == [True]


def test_the_page_gets_its_means_before_polars_is_imported(path: Path) -> None:
    code = (
        "import sys\n"
        "from vidlab.workbench.explorer.library import the_library\n"
        "the_library()\n"
        "print([name for name in ('polars', 'altair', 'vidlab.runs.run') if name in sys.modules])"
    )
    the_kept = vl.explore(path)  # by now the charts are kept
    assert the_kept._board.library.charts
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_kernel_sends_its_means_once(path: Path) -> None:
    assert vl.explore(path)._board.library is vl.explore(path)._board.library


def test_charts_come_compiled_in_both_looks(explorer: Explorer) -> None:
    charts = explorer._board.library.charts
    assert charts["light"].keys() == charts["dark"].keys()
    assert charts["light"]["latency"]["marks"] != charts["dark"]["latency"]["marks"]
    for spec in charts["light"].values():
        assert "/schema/vega/" in spec["$schema"]
        told = json.dumps(spec["marks"])  # not a text for each of thousands of marks
        assert "format(datum" not in told
        assert "description" not in told
        for number, tip in enumerate(spec["usermeta"]["tips"]):
            assert f"{{datum: datum, tip: {number}}}" in told
            assert "datum[" in tip
    assert charts["light"]["latency"]["usermeta"]["tips"]

"""A state is checked, whole, and survives a trip through JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vidlab.errors import InputError
from vidlab.workbench.explorer import state as states
from vidlab.workbench.explorer.answers import VIEWS


def test_what_is_left_out_is_chosen_as_at_first() -> None:
    assert states.checked(None) == dict(states.FIRST)
    some = states.checked({"codec": "av1", "time_s": (3, 1)}, runs=2)
    assert some == {**states.FIRST, "codec": "av1", "time_s": [1.0, 3.0]}


def test_it_can_be_shared() -> None:
    chosen = {"gpu": 1, "latency_ms": [5, 9.5], "frame": (1 << 63) + 1, "run": 1, "quantile": 0.5}
    state = states.checked(chosen, runs=2)
    assert states.checked(json.loads(json.dumps(state)), runs=2) == state


def test_a_frame_may_be_text_for_the_sake_of_javascript() -> None:
    assert states.checked({"frame": "4503625397174292"})["frame"] == 4503625397174292


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"codek": "av1"}, "knows nothing of 'codek': it has version, run, stream_id"),
        ({"version": 2}, "of version 2"),
        ({"stream_id": 7}, "a text such as 'cam-1', or None, not 7"),
        ({"gpu": "0"}, "the number of a device"),
        ({"gpu": True}, "the number of a device"),
        ({"run": 2}, "from 0 to 1, not 2"),
        ({"run": None}, "from 0 to 1"),
        ({"time_s": [1]}, "time_s is a pair of numbers"),
        ({"time_s": 5}, "time_s is a pair of numbers"),
        ({"latency_ms": [0, float("nan")]}, "latency_ms is a pair of numbers"),
        ({"latency_ms": [None, 3]}, "latency_ms is a pair of numbers"),
        ({"quantile": 0}, "above 0 and at most 1"),
        ({"quantile": 99}, "above 0 and at most 1"),
        ({"quantile": None}, "above 0 and at most 1"),
        ({"deadline_ms": 0}, "positive milliseconds"),
        ({"deadline_ms": "fast"}, "positive milliseconds"),
        ({"frame": -1}, "a frame's number"),
        ({"frame": "first"}, "a frame's number"),
        ({"frame": 1 << 64}, "a frame's number"),
    ],
)
def test_what_is_not_possible_is_said(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        states.checked(wrong, runs=2)


def test_a_view_is_the_same_where_what_it_depends_on_is() -> None:
    before = states.checked({"time_s": [1, 2]})
    after = {**before, "quantile": 0.5, "frame": 7}
    changed = {view for view in VIEWS if states.key(view, before) != states.key(view, after)}
    assert changed == {
        *("stages", "streams", "beyond", "beyond_flame", "beyond_memory"),
        *("waterfall", "stacks", "frame_memory"),
    }
    later = {**before, "time_s": [1, 3]}
    same = {view for view in VIEWS if states.key(view, before) == states.key(view, later)}
    assert same == {"overview", "waterfall", "stacks", "frame_memory"}

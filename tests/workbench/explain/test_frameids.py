"""Frames are found by what they are called, and called what they are found by."""

from __future__ import annotations

import pytest

from tests.workbench.made_runs import CAM_3, Story, made_run, story
from vidlab.errors import InputError
from vidlab.workbench.explain import frameids
from vidlab.workbench.slices import Slice


def test_frames_are_called_by_stream_and_packet_unless_that_is_not_one() -> None:
    made = story()
    again = CAM_3 + (5 << 32)
    made.stream(again, "cam-3", "av1", 9)
    made.frame(again, 4, [("decode", "service", 10)])
    run = made_run(made)
    names = frameids.called(run, [CAM_3 + 4, CAM_3 + 5, again + 4, 12345])
    assert names == {CAM_3 + 4: str(CAM_3 + 4), CAM_3 + 5: "cam-3:5",
                     again + 4: str(again + 4), 12345: "12345"}  # fmt: skip
    with pytest.raises(InputError, match="2 frames are called cam-3:4"):
        frameids.found(Slice(run), "cam-3:4")
    assert frameids.found(Slice(run), str(again + 4))["frame"].item() == again + 4


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("cam-3:4000", "such as cam-1:0; its streams are cam-1, cam-3"),
        (f"cam-3:{10**19}", "there is no frame"),
        ("cam-9:1", "its streams are cam-1, cam-3"),
        ("7", "there is no frame 7"),
        (2**70, "names no frame"),
        (2**64 - 2, "there is no frame"),
        (-1, "names no frame"),
        ("", "names no frame"),
        (":5", "names no frame"),
        ("cam-3:", "names no frame"),
        ("cam-3:4.5", "names no frame"),
    ],
)
def test_a_frame_that_is_not_there_is_told_with_those_that_are(
    wanted: int | str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        frameids.found(Slice(made_run()), wanted)


def test_a_frame_of_a_run_without_frames_is_told_what_to_record() -> None:
    with pytest.raises(InputError, match="record with the engine Frames"):
        frameids.found(Slice(made_run(Story())), "cam-1:1")

"""What to do about a cause fits what the run has."""

from __future__ import annotations

import pytest

from tests.workbench.made_runs import CAM_3, Story, made_run
from vidlab.workbench.explain import frameids
from vidlab.workbench.explain.frame import Explanation
from vidlab.workbench.explain.lateness import LateExplanation
from vidlab.workbench.slices import Slice

SLOW = range(30, 50)


@pytest.mark.parametrize(
    ("picture", "said"), [("B", "encode the input without B-frames"), ("P", "has no B-frames")]
)
def test_reordering_is_only_put_down_to_b_frames_that_are_there(picture: str, said: str) -> None:
    made = Story()
    made.stream(CAM_3, "cam-3", "av1", 3)
    for seq in range(60):
        kept = 250 if seq in SLOW else 10
        made.frame(CAM_3, seq, [("decode", "service", 2), ("decode", "reorder", kept)])
        made.tables["frames"][-1]["picture_type"] = picture
    part = Slice(made_run(made))
    [of_all] = LateExplanation(part).advice()
    assert said in of_all
    assert said in Explanation(part, frameids.found(part, f"cam-3:{min(SLOW)}")).advice()

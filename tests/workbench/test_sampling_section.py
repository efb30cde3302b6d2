"""The section on sampling: there where not all was recorded, and silent elsewhere."""

from __future__ import annotations

from pathlib import Path

import vidlab as vl
from vidlab.lab.clips import CLIPS, make_clips
from vidlab.lab.synthetic import write_run
from vidlab.workbench.sampling_section import SamplingSection
from vidlab.workbench.slices import Slice


def test_a_whole_run_has_no_such_section(tmp_path: Path) -> None:
    run = vl.open_run(write_run(tmp_path / "run", frames=60, streams=1, seed=1))
    section = SamplingSection(Slice(run, None, None, None, None))
    assert section.section() is None
    assert section.timeline() is None
    assert section.kept() is None


def test_a_sampled_run_says_how_much_was_recorded(tmp_path: Path) -> None:
    [clip] = make_clips([CLIPS[0]])
    engines = [vl.Frames(sampling=vl.Adaptive(base=0.05, busy=0.05))]
    path = tmp_path / "run"
    with (
        vl.record(path, engines=engines, parameters={"deadline_ms": 1000}),
        vl.labels(codec="h264"),
        vl.open_video(clip, stream_id="cam") as video,
    ):
        for frame in video.frames():
            vl.deliver(frame)
    section = SamplingSection(Slice(vl.open_run(path), None, None, None, None))
    heading = section.section()
    assert heading is not None
    assert "of about" in repr(heading)
    assert section.timeline() is not None
    assert section.kept() is not None

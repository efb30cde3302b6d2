"""The frame engine as a whole: started, stopped, and made anew in a child process."""

from __future__ import annotations

import json
import queue
import sys

import av
import cv2
import pytest

from vidlab.capture.frames import opencv, queues, stages, video
from vidlab.capture.frames.engine import Frames
from vidlab.errors import InputError


@pytest.fixture
def writer(recorded):
    """A writer that nobody records to yet."""
    recorded.stop()
    return recorded.writer


def state() -> list[dict[str, object]]:
    """All that the engine may replace."""
    owners = [
        *(queue.Queue, cv2, cv2.VideoCapture, cv2.VideoWriter, cv2.dnn, cv2.dnn.Net),
        *(av.container.InputContainer, av.container.OutputContainer, av.packet.Packet),
        *(av.frame.Frame, av.VideoFrame, av.codec.context.CodecContext),
        *(av.video.codeccontext.VideoCodecContext, av.filter.context.FilterContext),
        *(stages, stages.Idle, queues, video, sys.modules["asyncio.events"]),
    ]
    entries = [{**vars(owner)} for owner in owners]
    return [{k: v for k, v in entry.items() if k != "_idle"} for entry in entries]


def test_one_recording_after_another_leaves_all_as_it_was(writer) -> None:
    before = state()
    for _ in range(2):
        engine = Frames()
        engine.start(writer)
        assert stages.active is not None
        assert state() != before
        engine.stop()
        engine.stop()  # once more does nothing
        assert stages.active is None
        after = state()
        for entry, known in zip(after, before, strict=True):
            assert entry.keys() == known.keys()
            assert all(entry[name] is known[name] for name in known)


def test_an_engine_that_fails_to_start_leaves_all_as_it_was(writer, monkeypatch) -> None:
    def fail(*args: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(opencv, "install", fail)
    before = state()
    with pytest.raises(OSError, match="no"):
        Frames().start(writer)
    assert all(
        entry[name] is known[name]
        for entry, known in zip(state(), before, strict=True)
        for name in known
    )


def test_parameters_make_another_one_like_it() -> None:
    parameters = Frames(sampling={"playback": 0.01}, clocks="never").parameters()
    again = Frames(**json.loads(json.dumps(parameters)))
    assert again.parameters() == parameters == {"sampling": {"playback": 0.01}, "clocks": "never"}


def test_parameters_are_checked() -> None:
    with pytest.raises(InputError, match="one of auto, always, never"):
        Frames(clocks="often")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sampling rate of 'x'"):
        Frames(sampling={"x": 2})

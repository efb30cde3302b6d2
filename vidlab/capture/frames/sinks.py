"""Sinks of a program's own: where its frames are delivered to."""

from __future__ import annotations

from typing import Any

from ...schema import DELIVERED
from . import stages
from .refs import find_ref


def deliver(frame: Any) -> None:
    """Say that a frame has reached its end: it was shown, sent, or its result was used.

    Only where vidlab cannot see it itself: muxing with PyAV and writing with
    `cv2.VideoWriter` deliver a frame by themselves. Nothing happens while nothing is
    recorded.

    Parameters
    ----------
    frame
        The frame, packet, image, `Traced` or `FrameRef`, or a tuple, list or dict with
        one in it.
    """
    recorder = stages.active
    if recorder is None:
        return
    try:
        ref = find_ref(frame) or stages.ref_here(recorder)
        if ref is not None:
            recorder.event(ref, DELIVERED, recorder.kind("deliver").number)
    except Exception:
        recorder.failed()

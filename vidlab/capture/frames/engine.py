"""The frame engine: what happened to each frame of a program's video pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from ...errors import InputError
from ..patching import Patches
from . import ffmpeg, opencv, queues, stages, video
from .pyav import PyAV
from .recorder import SpanRecorder
from .sampling import Sampling
from .spans import Clocks
from .threadstate import Writer


class Frames:
    """Records stages, and the frames of PyAV, OpenCV and queues, of this process.

    Parameters
    ----------
    sampling : Mapping[str, float], optional
        The share of frames that is recorded, per operation: the value of the label
        `operation`. By default all.
    clocks : {"auto", "always", "never"}
        Whether a stage reads the thread's CPU time and run-queue wait, which takes
        1.3 µs and more. "auto": if it takes more than 100 µs on average.

    Examples
    --------
    >>> Frames(sampling={"playback": 0.01}).parameters()
    {'sampling': {'playback': 0.01}, 'clocks': 'auto'}
    """

    name = "frames"

    def __init__(
        self, sampling: Mapping[str, float] | None = None, clocks: Clocks = "auto"
    ) -> None:
        if clocks not in get_args(Clocks):
            raise InputError(f"clocks is one of {', '.join(get_args(Clocks))}, not {clocks!r}")
        self._sampling = Sampling(sampling or {})
        self._clocks: Clocks = clocks
        self._patches: Patches | None = None
        self._pyav: PyAV | None = None
        self._recorder: SpanRecorder | None = None

    def parameters(self) -> dict[str, Any]:
        """Return the keyword arguments that make another one like it."""
        return {"sampling": self._sampling.rates, "clocks": self._clocks}

    def start(self, writer: Writer) -> None:
        """Begin to record into this run."""
        patches = Patches()
        recorder = SpanRecorder(writer, self._clocks, self._sampling.rates)
        self._patches, self._recorder = patches, recorder
        try:
            stages.activate(patches, recorder)
            self._pyav = PyAV(patches, recorder)
            patches.set(video, "recorded", self._pyav)
            queues.install(patches, recorder)
            opencv.install(patches, recorder)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Leave the program's packages as they were."""
        ffmpeg.end_children()
        pyav, patches = self._pyav, self._patches
        self._pyav = self._patches = None
        if patches is not None:
            patches.restore()
        if pyav is not None:
            pyav.close()
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            recorder.close()

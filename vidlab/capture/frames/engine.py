"""The frame engine: what happened to each frame of a program's video pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast, get_args

from ...errors import InputError
from ...runs.thinning import ADAPTIVE
from ..patching import Patches
from . import ffmpeg, opencv, queues, stages, video
from .adaptive import Adaptive
from .pyav import PyAV
from .recorder import SpanRecorder
from .sampling import Sampling
from .spans import Clocks
from .threadstate import Writer

if TYPE_CHECKING:
    from ...runs.writer import RunWriter


class Frames:
    """Records stages, and the frames of PyAV, OpenCV and queues, of this process.

    Parameters
    ----------
    sampling : Mapping[str, float] or Adaptive, optional
        The share of frames that is recorded: per operation, the value of the label
        `operation`, and decided as a frame is born; or adaptive, with all frames that went
        wrong. By default all frames are.
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
        self,
        sampling: Mapping[str, float] | Mapping[str, Any] | Adaptive | None = None,
        clocks: Clocks = "auto",
    ) -> None:
        if clocks not in get_args(Clocks):
            raise InputError(f"clocks is one of {', '.join(get_args(Clocks))}, not {clocks!r}")
        self._sampling = _sampling(sampling)
        self._clocks: Clocks = clocks
        self._patches: Patches | None = None
        self._pyav: PyAV | None = None
        self._recorder: SpanRecorder | None = None

    def parameters(self) -> dict[str, Any]:
        """Return the keyword arguments that make another one like it."""
        return {"sampling": self._sampling.parameters(), "clocks": self._clocks}

    def start(self, writer: Writer) -> None:
        """Begin to record into this run."""
        patches = Patches()
        recorder = self._new_recorder(writer)
        self._patches, self._recorder = patches, recorder
        try:
            stages.activate(patches, recorder)
            self._pyav = PyAV(patches, recorder)
            patches.set(video, "recorded", self._pyav)
            queues.install(patches, recorder)
            opencv.install(patches, recorder)
            recorder.start()
        except BaseException:
            self.stop()
            raise

    def _new_recorder(self, writer: Writer) -> SpanRecorder:
        if isinstance(self._sampling, Sampling):
            return SpanRecorder(writer, self._clocks, self._sampling)
        from .exceptional import AdaptiveRecorder  # most programs do without

        return AdaptiveRecorder(cast("RunWriter", writer), self._clocks, self._sampling)

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


def _sampling(given: Mapping[str, Any] | Adaptive | None) -> Sampling | Adaptive:
    if isinstance(given, Adaptive):
        return given
    if given and isinstance(given.get(ADAPTIVE), Mapping):  # as a child process is told
        return Adaptive.from_parameters(given)
    return Sampling(given or {})

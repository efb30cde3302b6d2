"""A small pipeline whose CPU goes where one can say, for notebooks to look into.

Two streams of different codecs are decoded, resized with NumPy and searched in Python, each in
a thread of its own. Three things are planted: the search of one stream does three times as
much; every so often a resize takes a slow way; and a thread of no stream computes all along,
which a sampling profiler takes to be waiting of the others.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..capture.engine import Engine
from ..capture.frames.engine import Frames
from ..capture.frames.sinks import deliver
from ..capture.frames.stages import stage
from ..capture.frames.video import open_video
from ..capture.profiles.engine import Profiles
from ..capture.runtime.engine import Runtime
from ..recording import record
from .clips import Clip, make_clips

Image = npt.NDArray[np.uint8]

#: The streams: a clip each, of these codecs.
STREAMS = {
    "cam-1": Clip("h264", "libx264", {"preset": "veryfast", "bf": "2"}, 640, 360, 25, 2.0),
    "cam-2": Clip("mpeg2video", "mpeg2video", {"b:v": "2M"}, 640, 360, 25, 2.0),
}

#: The stream whose search does so many times as much as the other's.
EAGER_STREAM, EAGER = "cam-2", 3

#: Every so many frames a resize takes the slow way.
SLOW_EVERY = 10

#: Names of functions that profiles show.
SLOW_FUNCTION, SEARCH_FUNCTION = "resize_slowly", "search"


def resize(image: Image) -> Image:
    """Return the image in half its size: the mean of four pixels each."""
    height, width = image.shape[:2]
    quarters = image[: height // 2 * 2, : width // 2 * 2].astype(np.float32)
    means = (
        quarters[::2, ::2] + quarters[1::2, ::2] + quarters[::2, 1::2] + quarters[1::2, 1::2]
    ) / 4
    return means.astype(np.uint8)


def resize_slowly(image: Image) -> Image:
    """Return the same, by sorting each row first for no good reason."""
    np.sort(image.reshape(image.shape[0], -1), axis=1)
    return resize(image)


def search(image: Image, rounds: int) -> int:
    """Look for the brightest of some pixels, in Python."""
    brightest = 0
    pixels = image[::2, ::2].ravel().tolist()
    for _ in range(rounds):
        for pixel in pixels:
            if pixel > brightest:
                brightest = pixel
    return brightest


class _Stream(threading.Thread):
    """One stream: a thread that decodes, resizes and searches."""

    def __init__(self, stream_id: str, clip: Path, passes: int) -> None:
        super().__init__(name=stream_id)
        self._clip = clip
        self._passes = passes
        self._rounds = EAGER if stream_id == EAGER_STREAM else 1
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            for _ in range(self._passes):
                self._process()
        except Exception as error:
            self.failure = error

    def _process(self) -> None:
        with open_video(self._clip, stream_id=self.name) as video:
            for number, frame in enumerate(video.frames()):
                with stage("resize", frame):
                    image = frame.to_ndarray(format="rgb24")
                    slow = number % SLOW_EVERY == SLOW_EVERY - 1
                    small = resize_slowly(image) if slow else resize(image)
                with stage("search", frame):
                    search(small, self._rounds)
                deliver(frame)


@contextmanager
def _neighbour() -> Iterator[None]:
    """Have a thread of no stream that computes."""
    over = threading.Event()

    def compute() -> None:
        numbers = list(range(20_000))
        while not over.wait(0.005):
            sum(numbers)

    thread = threading.Thread(target=compute, name="neighbour")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def record_profiled_run(
    path: str | os.PathLike[str], passes: int = 6, sample_rate: int = 100
) -> Path:
    """Record the pipeline into a new run, with profiles of CPU and memory; return its folder.

    Parameters
    ----------
    path : path
        The run's folder; a run that is there is replaced.
    passes : int
        How often each clip, of 50 frames, is gone through.
    sample_rate : int
        Samples a second.

    Raises
    ------
    MissingDependencyError
        If PyAV or pyroscope-io is not installed.
    """
    engines: list[Engine] = [
        Frames(),
        Runtime(),
        Profiles(sample_rate=sample_rate, memory=True),
    ]
    with tempfile.TemporaryDirectory(prefix="vidlab-") as folder:
        clips = make_clips(STREAMS.values(), Path(folder))
        streams = [_Stream(name, clip, passes) for name, clip in zip(STREAMS, clips, strict=True)]
        with record(path, engines=engines, overwrite=True) as recording, _neighbour():
            for stream in streams:
                stream.start()
            for stream in streams:
                stream.join()
    for stream in streams:
        if stream.failure is not None:
            raise stream.failure
    return recording.path

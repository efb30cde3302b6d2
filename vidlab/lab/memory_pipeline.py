"""A small pipeline that works in GPU memory, and leaks some of it, for notebooks to look into.

Each stream has two threads: one decodes and uploads each picture, the other turns it into
a network's input. The program is written as a user would write it, with CuPy and plain
queues. It keeps memory in three ways: pictures that wait in a queue, a background model of
the last inputs, which is full after a second, and, of one codec only, a list of suspects
that nobody ever empties. The last one is the leak.
"""

from __future__ import annotations

import os
import queue
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..capture.engine import Engine
from ..capture.frames.engine import Frames
from ..capture.frames.sinks import deliver
from ..capture.frames.stages import stage
from ..capture.frames.video import open_video
from ..capture.gpu import hostcuda
from ..capture.gpu.devices.sampler import GpuSampler
from ..capture.gpu.engine import GpuMemory
from ..capture.gpu.hostcuda.installing import working_gpu
from ..labelsets import labels
from ..recording import record
from .clips import Clip, make_clips
from .packages import cupy_module

#: The codec whose frames leak, and which of its frames do: one in so many.
LEAKY_CODEC, LEAK_EVERY = "hevc", 8

#: The streams: a clip each, of these codecs.
STREAMS = {
    "cam-1": Clip("h264", "libx264", {"preset": "veryfast", "bf": "2"}, 160, 90, 25, 20.0),
    "cam-2": Clip(
        LEAKY_CODEC,
        "libx265",
        {"preset": "ultrafast", "x265-params": "log-level=none"},
        160,
        90,
        25,
        20.0,
    ),
    "cam-3": Clip("mpeg2video", "mpeg2video", {"b:v": "300k"}, 160, 90, 25, 20.0),
}

#: Pictures that wait between the two threads at most; inputs that a background model keeps.
QUEUE_SIZE, BACKGROUND = 8, 24

#: Frames a second of each stream: faster than life, so that a minute's leak shows in seconds.
RATE = 100.0


class Stream:
    """One stream: a thread that decodes and uploads, and one that prepares for inference."""

    def __init__(self, stream_id: str, path: Path, leaks: bool) -> None:
        self._stream_id = stream_id
        self._path = path
        self._leaks = leaks
        self._uploaded: queue.Queue[Any] = queue.Queue(QUEUE_SIZE)
        self._background: deque[Any] = deque(maxlen=BACKGROUND)
        self._suspects: list[Any] = []
        self._failures: list[Exception] = []
        self._threads = [threading.Thread(target=self._guarded, args=(step,)) for step in (0, 1)]

    def start(self) -> None:
        """Start its threads."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for its threads; raise what one of them failed with."""
        for thread in self._threads:
            thread.join()
        for failure in self._failures:
            raise failure

    def _guarded(self, step: int) -> None:
        try:
            (self.decode, self.prepare)[step]()
        except Exception as error:
            self._failures.append(error)
            for _ in iter(self._uploaded.get, None) if step else ():
                pass  # so that the other thread does not wait for room
        finally:
            if step == 0:
                self._uploaded.put(None)

    def decode(self) -> None:
        """Decode the clip at its pace and upload each picture."""
        cupy = cupy_module()
        begin = time.monotonic()
        with (
            labels(gpu=0),
            open_video(self._path, stream_id=self._stream_id) as video,
        ):
            for number, frame in enumerate(video.frames()):
                time.sleep(max(0.0, begin + number / RATE - time.monotonic()))
                with stage("upload", frame):
                    image = frame.to_ndarray(format="rgb24")
                    picture = cupy.empty(image.shape, image.dtype)
                    picture.set(image)
                self._uploaded.put((frame, picture))

    def prepare(self) -> None:
        """Turn each picture into a network's input, and remember some of them."""
        cupy = cupy_module()
        for number, (frame, picture) in enumerate(iter(self._uploaded.get, None)):
            with stage("prepare", frame):
                planes = cupy.asnumpy(picture).transpose(2, 0, 1)
                tensor = cupy.empty(planes.shape, "float32")
                tensor.set(planes.astype("float32"))
                self._background.append(tensor)
                if self._leaks and number % LEAK_EVERY == 0:
                    self._suspects.append(tensor)
            deliver(frame)


def run_pipeline(clips: Mapping[str, Path]) -> list[Stream]:
    """Process these clips, by stream, at once; the streams still hold what they have kept."""
    streams = [
        Stream(name, path, leaks=STREAMS[name].name == LEAKY_CODEC) for name, path in clips.items()
    ]
    for stream in streams:
        stream.start()
    for stream in streams:
        stream.join()
    return streams


def record_memory_run(path: str | os.PathLike[str], seconds: float = 5.0) -> Path:
    """Record the leaking pipeline into a new run, and return its folder.

    On a machine where no GPU works it is recorded in host memory (`vl.hostcuda`).

    Parameters
    ----------
    path : path
        The run's folder; a run that is there is replaced.
    seconds : float
        How long the pipeline works.

    Raises
    ------
    MissingDependencyError
        If CuPy or PyAV, or where no GPU works a C compiler, is not installed.
    """
    if working_gpu() is None:
        hostcuda.install()
    wanted = [replace(clip, seconds=seconds * RATE / clip.rate) for clip in STREAMS.values()]
    with tempfile.TemporaryDirectory(prefix="vidlab-") as folder:
        clips = dict(zip(STREAMS, make_clips(wanted, Path(folder)), strict=True))
        engines: list[Engine] = [Frames(), GpuMemory(), GpuSampler(period_s=0.05)]
        with record(path, engines=engines, overwrite=True) as recording:
            kept = run_pipeline(clips)
        del kept  # what leaked lives as long as the recording, to be found at its end
    return recording.path

"""A small pipeline with a story that only the kernel can tell, for notebooks to look into.

Three cameras are read over TCP, decoded, and worked on with CuPy. Four things are planted:
the cameras fall silent for a while; a neighbour takes the CPUs away for a while; one stage
waits for a lock that another thread holds; and a library of the process takes device memory
past CuPy.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..capture.ebpf.engine import KernelEvents
from ..capture.engine import Engine
from ..capture.frames.engine import Frames
from ..capture.frames.sinks import deliver
from ..capture.frames.stages import stage
from ..capture.frames.video import open_video
from ..capture.gpu import hostcuda
from ..capture.gpu.engine import GpuMemory
from ..capture.gpu.hostcuda.installing import working_gpu
from ..clock import now_ns
from ..labelsets import labels
from ..recording import record
from .camera import Cameras
from .clips import Clip, make_clips, transport_stream
from .packages import cupy_module

#: The streams: a clip each, of these codecs.
STREAMS = {
    "cam-1": Clip("h264", "libx264", {"preset": "veryfast", "bf": "2"}, 320, 180, 25, 20.0),
    "cam-2": Clip(
        "hevc",
        "libx265",
        {"preset": "ultrafast", "x265-params": "log-level=none"},
        320,
        180,
        25,
        20.0,
    ),
    "cam-3": Clip("mpeg2video", "mpeg2video", {"b:v": "600k"}, 320, 180, 25, 20.0),
}

#: Frames a second of each stream.
RATE = 20.0

#: For so long the cameras are silent, and a neighbour takes the CPUs.
SILENCE_S, NEIGHBOUR_S = 1.0, 1.0

#: For so long, every so many seconds, a thread holds the lock that `SLOW_STAGE` needs.
HELD_S, HELD_EVERY_S = 0.03, 0.25
SLOW_STAGE = "annotate"

#: What a library takes past CuPy.
TAKEN_BYTES = 96 << 20


@dataclass(frozen=True)
class Planted:
    """What was planted in a run, for tests and notebooks to find again.

    Attributes
    ----------
    path : Path
        The run's folder.
    silence_ns : int
        For so long each camera sent nothing.
    neighbour_ns : tuple of int
        From when to when the neighbour took the CPUs.
    held_ns : tuple of (int, int)
        From when to when each time somebody held the lock that `SLOW_STAGE` needs.
    taken_bytes : int
        What was taken past CuPy.
    """

    path: Path
    silence_ns: int
    neighbour_ns: tuple[int, int]
    held_ns: tuple[tuple[int, int], ...]
    taken_bytes: int


class _Stream:
    """One stream: a thread that reads, decodes, uploads and annotates."""

    def __init__(self, stream_id: str, url: str, lock: threading.Lock) -> None:
        self._stream_id = stream_id
        self._url = url
        self._lock = lock
        self.failure: Exception | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._process()
        except Exception as error:
            self.failure = error

    def _process(self) -> None:
        cupy = cupy_module()
        with labels(gpu=0), open_video(self._url, stream_id=self._stream_id) as video:
            for frame in video.frames():
                with stage("upload", frame):
                    image = frame.to_ndarray(format="rgb24")
                    picture = cupy.empty(image.shape, image.dtype)
                    picture.set(image)
                with stage("prepare", frame):
                    tensor = cupy.empty(image.shape, "float32")
                    tensor.set(cupy.asnumpy(picture).astype("float32"))
                    previous = cupy.empty_like(tensor)
                    cupy.cuda.runtime.memcpy(previous.data.ptr, tensor.data.ptr, tensor.nbytes, 3)
                with stage(SLOW_STAGE, frame), self._lock:
                    image[:8] = 255
                deliver(frame)


@contextmanager
def _lock_taken_now_and_then(lock: threading.Lock) -> Iterator[list[tuple[int, int]]]:
    """Hold the lock for a while every now and then; the list gets from when to when."""
    held: list[tuple[int, int]] = []
    ended = threading.Event()

    def hold() -> None:
        while not ended.wait(HELD_EVERY_S):
            with lock:
                begin = now_ns()
                time.sleep(HELD_S)
                held.append((begin, now_ns()))

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield held
    finally:
        ended.set()
        thread.join()


def _neighbours(seconds: float) -> list[subprocess.Popen[bytes]]:
    """Start processes that keep all our CPUs busy for a while."""
    spin = f"import time; end = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
    return [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", spin])
        for _ in range(2 * len(os.sched_getaffinity(0)))
    ]


def record_kernel_run(path: str | os.PathLike[str], seconds: float = 5.0) -> Planted:
    """Record the pipeline into a new run, kernel events included, and return what was planted.

    On a machine where no GPU works, CuPy is on host memory (`vl.hostcuda`).

    Parameters
    ----------
    path : path
        The run's folder; a run that is there is replaced.
    seconds : float
        How long the cameras send.

    Raises
    ------
    MissingDependencyError
        If CuPy or PyAV, or where no GPU works a C compiler, is not installed.
    """
    if working_gpu() is None:
        hostcuda.install()
    cupy_module().zeros(1)  # its libraries are loaded before the recording begins
    cupy_module().get_default_memory_pool().free_all_blocks()  # so that there is some to take
    wanted = [replace(clip, seconds=seconds * RATE / clip.rate) for clip in STREAMS.values()]
    with tempfile.TemporaryDirectory(prefix="vidlab-") as folder:
        clips = [transport_stream(clip) for clip in make_clips(wanted, Path(folder))]
        engines: list[Engine] = [
            Frames(),
            GpuMemory(),
            KernelEvents(["cuda", "libav", "sched", "tcp"]),
        ]
        with Cameras(clips, seconds, SILENCE_S) as cameras:
            urls = dict(zip(STREAMS, cameras.urls, strict=True))
            with record(path, engines=engines, overwrite=True) as recording:
                held, neighbour = _run(urls, seconds)
    return Planted(recording.path, round(SILENCE_S * 1e9), neighbour, tuple(held), TAKEN_BYTES)


def _run(urls: Mapping[str, str], seconds: float) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Run it; return when the lock was held, and when the neighbour was there."""
    lock = threading.Lock()
    streams = [_Stream(name, url, lock) for name, url in urls.items()]
    taken = _Taken(TAKEN_BYTES)
    try:
        with _lock_taken_now_and_then(lock) as held:
            for stream in streams:
                stream.thread.start()
            time.sleep(0.2 * seconds)
            begin = now_ns()
            for neighbour in _neighbours(NEIGHBOUR_S):
                neighbour.wait()
            end = now_ns()
            for stream in streams:
                stream.thread.join()
    finally:
        taken.free()
    for stream in streams:
        if stream.failure is not None:
            raise stream.failure
    return held, (begin, end)


class _Taken:
    """Device memory that was taken as a library of C does, by calling CUDA itself."""

    def __init__(self, size_bytes: int) -> None:
        if hostcuda.installed():
            library, take, self._give_back = hostcuda.library(), "cudaMalloc", "cudaFree"
        else:  # CuPy has made a context current in this thread
            library, take, self._give_back = (
                ctypes.CDLL("libcuda.so.1"),
                "cuMemAlloc_v2",
                "cuMemFree_v2",
            )
        self._library = library
        self._address = ctypes.c_void_p()
        status = library[take](ctypes.byref(self._address), ctypes.c_size_t(size_bytes))
        if status or self._address.value is None:
            raise MemoryError(f"{take} said {status}")

    def free(self) -> None:
        self._library[self._give_back](self._address)

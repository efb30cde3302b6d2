"""Work of four kinds whose CPU is known from outside: does vidlab find out the same?

One thread decodes video, sorts arrays with NumPy, computes in Python and sleeps, in turns,
each under a label of its own. How much CPU each took is read from the kernel by another way
than vidlab's: `getrusage(RUSAGE_THREAD)` around it. Other threads want the interpreter's lock
meanwhile, as in a busy service: a sampling profiler then takes waiting for running.
"""

from __future__ import annotations

import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..capture.engine import Engine
from ..capture.frames.engine import Frames
from ..capture.frames.stages import stage
from ..capture.profiles.engine import Profiles
from ..capture.runtime.engine import Runtime
from ..errors import missing_extra
from ..labelsets import labels
from ..recording import record
from .clips import Clip, make_clips

#: The label that tells the kinds of work apart.
LABEL = "work"

#: The kinds of work.
DECODE, NUMPY, PYTHON, SLEEP = KINDS = ("decode", "numpy", "python", "sleep")

_CLIP = Clip("h264", "libx264", {"preset": "veryfast", "bf": "2"}, 640, 360, 25, 1.0)
_SLEEP_S = 0.05


@dataclass(frozen=True)
class Known:
    """A recorded run, and what each kind of work took.

    Attributes
    ----------
    path : Path
        The run's folder.
    cpu_ns : mapping of str to int
        The CPU of each kind, in nanoseconds.
    took_ns : mapping of str to int
        How long each kind went on.
    """

    path: Path
    cpu_ns: Mapping[str, int]
    took_ns: Mapping[str, int]


def record_known_work(
    path: str | os.PathLike[str], seconds: float = 5.0, neighbours: int = 0, sample_rate: int = 100
) -> Known:
    """Record the work into a new run, with profiles, and return what it took.

    Parameters
    ----------
    path : path
        The run's folder; a run that is there is replaced.
    seconds : float
        For how long to go on, at least; each kind has one turn at least.
    neighbours : int
        How many other threads compute in Python meanwhile.
    sample_rate : int
        Samples a second.

    Raises
    ------
    MissingDependencyError
        If PyAV or pyroscope-io is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="vidlab-") as folder:
        (clip,) = make_clips([_CLIP], Path(folder))
        kinds = {
            DECODE: _decoder(clip),
            NUMPY: _sorter(),
            PYTHON: _count,
            SLEEP: lambda: time.sleep(_SLEEP_S),
        }
        engines: list[Engine] = [Frames(), Runtime(), Profiles(sample_rate=sample_rate)]
        with record(path, engines=engines, overwrite=True) as recording, _busy(neighbours):
            worker = _Worker(kinds, seconds)
            worker.start()
            worker.join()
    if worker.failure is not None:
        raise worker.failure
    return Known(recording.path, worker.cpu_ns, worker.took_ns)


class _Worker(threading.Thread):
    """Works, and notes what the kernel says that each kind took."""

    def __init__(self, kinds: Mapping[str, Callable[[], object]], seconds: float) -> None:
        super().__init__(name="worker")
        self._kinds = kinds
        self._seconds = seconds
        self.cpu_ns = dict.fromkeys(kinds, 0)
        self.took_ns = dict.fromkeys(kinds, 0)
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            until = time.monotonic() + self._seconds
            while True:
                for kind, work in self._kinds.items():
                    self._turn(kind, work)
                if time.monotonic() >= until:
                    return
        except Exception as error:
            self.failure = error

    def _turn(self, kind: str, work: Callable[[], object]) -> None:
        began_ns, before_ns = time.monotonic_ns(), _thread_cpu_ns()
        with labels(**{LABEL: kind}), stage(kind):
            work()
        self.cpu_ns[kind] += _thread_cpu_ns() - before_ns
        self.took_ns[kind] += time.monotonic_ns() - began_ns


def _thread_cpu_ns() -> int:
    """What the calling thread has run, as getrusage counts it."""
    used = resource.getrusage(resource.RUSAGE_THREAD)
    return round((used.ru_utime + used.ru_stime) * 1e9)


def _decoder(clip: Path) -> Callable[[], object]:
    try:
        import av
    except ImportError as error:
        raise missing_extra("av", "video") from error

    def decode() -> None:
        with av.open(str(clip)) as container:
            container.streams.video[0].thread_count = 1  # all of it in this thread
            for _ in container.decode(video=0):
                pass

    return decode


def _sorter() -> Callable[[], object]:
    numbers = np.random.default_rng(1).random((1000, 1000))
    return lambda: np.sort(numbers, axis=1)


def _count() -> int:
    total = 0
    for number in range(400_000):
        total += number
    return total


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Have so many threads that compute in Python all the time."""
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            _count()

    neighbours = [threading.Thread(target=compute, name=f"neighbour-{n}") for n in range(count)]
    for neighbour in neighbours:
        neighbour.start()
    try:
        yield
    finally:
        over.set()
        for neighbour in neighbours:
            neighbour.join()

"""The classic faults of a Python video service, planted to be found, each with a healthy twin.

A scenario is a small program of `health_programs` or `health_tasks` that has one fault; its
twin is the same program with the fault mended. `record_scenarios` records either, or several
at once. `analysis.health` is to name what each has planted, and nothing in the twins.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..analysis.thresholds import Thresholds
from ..capture.engine import Engine
from ..capture.frames.engine import Frames
from ..capture.runtime.engine import Runtime
from ..capture.runtime.profiles import DEBUG
from ..errors import InputError
from ..recording import record
from . import health_programs, health_tasks
from .clips import Clip, make_clips
from .health_programs import RATE


@dataclass(frozen=True)
class Scenario:
    """A program with a fault.

    Attributes
    ----------
    kind : str
        The verdict that is to find it.
    subjects : tuple of str
        What the verdicts are to name, or a part of it.
    program : callable
        Takes a clip, and whether the fault is mended; returns when the clip is over.
    """

    kind: str
    subjects: tuple[str, ...]
    program: Callable[[Path, bool], None]

    @property
    def name(self) -> str:
        """What it is called: its program's name."""
        return self.program.__name__

    @property
    def about(self) -> str:
        """What is wrong with it, in a sentence."""
        return (self.program.__doc__ or "").partition("\n")[0]

    def run(self, path: str | os.PathLike[str], seconds: float = 4.0) -> Path:
        """Record the program with its fault into a new run, and return the run's folder."""
        return record_scenarios(path, [self.name], seconds)

    def run_healthy(self, path: str | os.PathLike[str], seconds: float = 4.0) -> Path:
        """Record the mended program into a new run, and return the run's folder."""
        return record_scenarios(path, [self.name], seconds, healthy=True)


#: How often each run is looked through for what holds objects: enough to see them grow.
CENSUSES = 10

#: All scenarios by name.
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("unbounded_queue", ("health_programs.py:",), health_programs.unbounded_queue),
        Scenario(
            "context_variable_growth", ("last_picture",), health_tasks.context_variable_growth
        ),
        Scenario(
            "task_never_ends",
            (health_tasks.until_gone.__qualname__,),
            health_tasks.task_never_ends,
        ),
        Scenario(
            "cache_growth",
            ("health_programs.THUMBNAILS", "health_programs.every_caption"),
            health_programs.cache_growth,
        ),
        Scenario("gil_hog", ("native-sorter",), health_programs.native_gil_hog),
        Scenario("gil_hog", ("rule-engine",), health_programs.python_gil_hog),
        Scenario("slow_generation_2", ("process",), health_programs.slow_generation_2),
    )
}


def record_scenarios(
    path: str | os.PathLike[str],
    names: Sequence[str],
    seconds: float = 4.0,
    healthy: bool = False,
) -> Path:
    """Record these scenarios, all at once, into one new run, and return the run's folder.

    Parameters
    ----------
    path : path
        The run's folder; a run that is there is replaced.
    names : sequence of str
        Keys of `SCENARIOS`.
    seconds : float
        How long each runs: at least 1, since a growth needs some readings to be seen.
    healthy : bool
        Record their healthy twins instead.

    Raises
    ------
    InputError
        If there is no such scenario, or the time is too short.
    MissingDependencyError
        If PyAV is not installed.
    """
    known = ", ".join(SCENARIOS)
    if not names:
        raise InputError(f"which scenarios are to be recorded? Choose among {known}")
    for name in names:
        if name not in SCENARIOS:
            raise InputError(f"there is no scenario {name!r}: choose among {known}")
    if seconds < 1:
        raise InputError(f"seconds is {seconds}: give at least 1, to see something grow")
    with tempfile.TemporaryDirectory(prefix="vidlab-") as folder:
        made = Clip("clip", "mpeg4", {"b:v": "300k"}, 160, 90, RATE, seconds)
        (clip,) = make_clips([made], Path(folder))
        services = [_Service(SCENARIOS[name], clip, healthy) for name in names]
        profile = replace(DEBUG, census=seconds / CENSUSES, tracing=None, most_share=0.5)
        engines: list[Engine] = [Frames(), Runtime(profile=profile)]
        try:
            with record(path, engines=engines, overwrite=True) as recording:
                for service in services:
                    service.start()
                for service in services:
                    service.join()
        finally:
            health_programs.forget()
    for service in services:
        if service.failure is not None:
            raise service.failure
    return recording.path


def thresholds(seconds: float) -> Thresholds:
    """Return the thresholds for a run of so few seconds: what grows has not come far in it.

    >>> thresholds(2.0).task_age_seconds
    0.5
    """
    usual = Thresholds()
    return replace(
        usual,
        item_growth=round(RATE * seconds / 4),
        task_age_seconds=min(seconds / 4, usual.task_age_seconds),
    )


class _Service(threading.Thread):
    """A scenario's program in a thread of its own."""

    def __init__(self, scenario: Scenario, clip: Path, healthy: bool) -> None:
        super().__init__(name=f"main of {scenario.name}")
        self._scenario = scenario
        self._clip = clip
        self._healthy = healthy
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            self._scenario.program(self._clip, self._healthy)
        except Exception as error:
            self.failure = error

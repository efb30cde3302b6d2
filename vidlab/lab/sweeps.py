"""Fault sweeps: a pipeline is run once for each allocation that could fail, and looked at."""

from __future__ import annotations

import contextlib
import gc
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..capture.gpu.engine import GpuMemory
from ..capture.gpu.faults import OUT_OF_MEMORY, fail_allocation
from ..capture.gpu.tracking import tracker
from ..capture.gpu.tracking.live import Block
from ..errors import RecordingError
from ..labelsets import LabelValue
from ..progress import progress
from ..recording import record
from ..schema import POOL


@dataclass(frozen=True)
class Trial:
    """One run of a pipeline with one allocation that failed.

    Attributes
    ----------
    nth : int
        Which of the allocations failed.
    recovered : bool
        The pipeline came to its end all the same.
    raised : str or None
        The error that left the pipeline: its type and what it says.
    left_bytes : int
        What is in use afterwards, beyond what was before: 0 if memory came back.
    places : tuple of str
        Where what is left was taken.
    """

    nth: int
    recovered: bool
    raised: str | None
    left_bytes: int
    places: tuple[str, ...] = ()

    def __str__(self) -> str:
        end = "recovered" if self.recovered else f"raised {self.raised}"
        left = "memory came back"
        if self.left_bytes:
            left = f"{self.left_bytes:,} bytes left, taken at {', '.join(self.places)}"
        return f"allocation {self.nth} fails: {end}; {left}"


@dataclass(frozen=True)
class Sweep:
    """What a sweep has shown, a trial for each allocation that was reached."""

    trials: tuple[Trial, ...]

    @property
    def leaking(self) -> tuple[Trial, ...]:
        """The trials after which memory did not come back."""
        return tuple(trial for trial in self.trials if trial.left_bytes)

    def __str__(self) -> str:
        recovered = sum(trial.recovered for trial in self.trials)
        lines = [
            f"{len(self.trials)} allocations failed, one at a time: the pipeline recovered from "
            f"{recovered}, and memory did not come back after {len(self.leaking)}"
        ]
        return "\n".join([*lines, *(f"  - {trial}" for trial in self.leaking)])


def sweep(
    pipeline: Callable[[], Any],
    n: Iterable[int] = range(1, 201),
    *,
    larger_than: int = 0,
    level: Literal["pool", "driver"] = "pool",
    labels: Mapping[str, LabelValue] | None = None,
    error: str = OUT_OF_MEMORY,
) -> Sweep:
    """Run a pipeline once for each n, with its nth allocation failing, and look what is left.

    It ends early at an n that the pipeline does not come to. Where `GpuMemory` does not
    record already, it does during the sweep, so that what is left has a place.

    Parameters
    ----------
    pipeline : callable
        Runs it from its beginning to its end, without arguments. What it keeps from one
        call to the next (caches, pools) is to be filled before: it is called once for that.
    n : iterable of int
        Which allocations are to fail, from 1.
    larger_than, level, labels, error
        As of `fail_allocation`.

    Raises
    ------
    InputError
        If an argument cannot be used.
    RecordingError
        If a recording without `GpuMemory` is running.

    Examples
    --------
    >>> import cupy
    >>> def pipeline():
    ...     return cupy.empty(1000).size + cupy.empty(2000).size
    >>> print(sweep(pipeline, range(1, 50)))
    2 allocations failed, one at a time: …
    """
    numbers = list(n)
    for number in numbers:  # a mistake is said before the first run
        fail_allocation(number, larger_than=larger_than, level=level, labels=labels, error=error)
    trials = []
    with _followed(), progress("sweeping", len(numbers), "run") as advance:
        pipeline()
        gc.collect()
        before = _in_use()
        for number in numbers:
            fault = fail_allocation(
                number, larger_than=larger_than, level=level, labels=labels, error=error
            )
            raised = _run(pipeline, fault)
            advance(1)
            if not fault.failed:
                break
            if _in_use().keys() - before.keys():
                gc.collect()  # which takes a while: only if something may be garbage
            after = _in_use()
            left = [block for generation, block in after.items() if generation not in before]
            trials.append(_trial(number, raised, left))
            before = after
    return Sweep(tuple(trials))


def _run(pipeline: Callable[[], Any], fault: fail_allocation) -> str | None:
    """Return what the pipeline raised, as text: the error itself holds what it was raised in."""
    try:
        with fault:
            pipeline()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _trial(nth: int, raised: str | None, left: list[Block]) -> Trial:
    assert tracker.active is not None
    places = dict.fromkeys(tracker.active.stacks.place(block.stack) for block in left)
    return Trial(nth, raised is None, raised, sum(b.size_bytes for b in left), tuple(places))


def _in_use() -> dict[int, Block]:
    """The blocks that the program has in use, by generation."""
    assert tracker.active is not None
    return {block.generation: block for block in tracker.active.live.blocks(POOL)}


@contextlib.contextmanager
def _followed() -> Any:
    """See to it that GPU memory is recorded."""
    if tracker.active is not None:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="vidlab-") as folder:
        recording = record(Path(folder) / "sweep", engines=[GpuMemory(holders=False)])
        with recording:
            if tracker.active is None:
                raise RecordingError(
                    "GPU memory is not recorded: is CuPy here, with a GPU or on hostcuda? "
                    "See vidlab doctor"
                )
            yield

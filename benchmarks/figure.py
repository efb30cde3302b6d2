"""A measured figure: ours, the peer's, and whether the target is met. Less is always better."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One line of `make bench`.

    `target` bounds `ratio` (ours / peer) where there is a peer, else `ours`
    itself; it is None for a figure that is only reported.
    """

    name: str
    ours: float
    unit: str
    peer: float | None = None
    target: float | None = None

    @property
    def ratio(self) -> float | None:
        """Ours divided by the peer's."""
        return None if self.peer is None else self.ours / self.peer

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target."""
        measured = self.ours if self.ratio is None else self.ratio
        return None if self.target is None else measured <= self.target

    def as_json(self) -> dict[str, object]:
        """Return it as an object of `results.json`."""
        return {**dataclasses.asdict(self), "ratio": self.ratio, "met": self.met}

    def __str__(self) -> str:
        verdict = {True: "met", False: "MISSED", None: ""}[self.met]
        peer = "" if self.ratio is None else f"peer {self.peer:,.4g}  ratio {self.ratio:.4f}  "
        target = "" if self.target is None else f"target {self.target:.4g}  "
        return f"{self.name:<58} {self.ours:>10,.4g} {self.unit:<8} {peer}{target}{verdict}"


def report(figures: Sequence[Figure]) -> None:
    """Print the figures of one benchmark, a JSON object a line, for `python -m benchmarks`."""
    for figure in figures:
        print(json.dumps(figure.as_json()), flush=True)


def memory_mb(what: str) -> float:
    """Return `VmRSS` (now) or `VmHWM` (the peak) of this process, in MB.

    Not getrusage: its peak is handed down by the process that started this one.
    """
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def median_cpu_ns(
    contenders: dict[str, Callable[[int], None]], count: int, rounds: int = 7
) -> dict[str, float]:
    """Return each contender's process CPU in ns per repetition, the median of the rounds.

    The contenders take turns within each round, so that a machine that slows down
    slows them all.
    """
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender(count // 10)
    for _ in range(rounds):
        for name, contender in contenders.items():
            before = time.process_time_ns()
            contender(count)
            spent[name].append((time.process_time_ns() - before) / count)
    return {name: statistics.median(values) for name, values in spent.items()}

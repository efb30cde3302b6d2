"""What the tests of the runtime engine share: a writer in memory, and a clock that stands."""

from __future__ import annotations

from typing import Any

import pytest

from vidlab.capture.runtime import loops, sampler, tasks, wakeups


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.t_ns = 1_000_000_000_000
        self.cpu_ns = 0

    def now_ns(self) -> int:
        return self.t_ns

    def thread_cpu_ns(self) -> int:
        return self.cpu_ns

    def pass_s(self, seconds: float) -> int:
        self.t_ns += round(seconds * 1e9)
        return self.t_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (loops, sampler, tasks, wakeups):
        monkeypatch.setattr(module, "now_ns", made.now_ns)
        if hasattr(module, "thread_cpu_ns"):
            monkeypatch.setattr(module, "thread_cpu_ns", made.thread_cpu_ns)
    return made


@pytest.fixture
def writer(recorded: Any) -> Any:
    """A writer into memory; `recorded` reads it."""
    return recorded.writer

"""The explorer's answers, in the kernel: a run of 10 million spans, opened, sliced and brushed.

What a person waits for on the page is measured by `benchmarks.explorer_browser`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from vidlab.lab import synthetic
from vidlab.runs.run import open_run
from vidlab.workbench.explorer import state as states
from vidlab.workbench.explorer.answers import Explored

from .figure import Figure, memory_mb, report

SPANS, STREAMS = 10_000_000, 64

#: What is seen at first: the other views are behind tabs.
FIRST = ("overview", "latency", "worst", "stages", "tail", "memory")

#: How often each is changed.
_ROUNDS = 5


def changes(seconds: float, n: int) -> dict[str, dict[str, Any]]:
    """Return what may be chosen next, by what is changed; each `n` chooses differently."""
    part = seconds * n / 20
    return {
        "a stream": {"stream_id": f"cam-{n:02d}"},
        "a codec": {"codec": ("av1", "h264", "hevc", "vp9", "av1")[n % 5]},
        "a brush over half the run": {"time_s": [part, part + seconds / 2]},
        "a brush over 1 % of the run": {"time_s": [part, part + seconds / 100]},
        "a box of time and latency": {
            "time_s": [part, part + seconds / 4],
            "latency_ms": [60, 900],
        },
        "the quantile": {"quantile": 0.9 + n / 100},
        "a stage": {"stage": ("decode", "encode", "filter", "mux", "demux")[n % 5]},
    }


def ms_of(explored: Explored, state: Mapping[str, Any]) -> float:
    """Return how long all views take that are not the same as at first."""
    before, after = states.checked(None), states.checked(state)
    touched = [v for v in states.DEPENDS if states.key(v, before) != states.key(v, after)]
    begin = time.perf_counter()
    explored.answers(after, touched)
    return (time.perf_counter() - begin) * 1e3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        synthetic.write_run(path, spans=SPANS, streams=STREAMS)
        begin = time.perf_counter()
        explored = Explored(open_run(path))
        explored.answers({}, FIRST)
        first = time.perf_counter() - begin
        for row in explored.stages.table["row"]:  # which a thread puts in order
            assert len(explored.stages.of(row))
        ready = time.perf_counter() - begin
        explored.answers({})
        taken: dict[str, list[float]] = {}
        for n in range(_ROUNDS):
            for what, state in changes(explored.seconds, n).items():
                taken.setdefault(what, []).append(ms_of(explored, state))
    report(
        [
            Figure("the explorer at 1e7 spans: first answers", first, "s", None, 1.2),
            Figure("the explorer: all spans at hand", ready, "s"),
            *(
                Figure(f"the explorer: {what}", median(values), "ms", None, 60)
                for what, values in taken.items()
            ),
            Figure(
                "the explorer: peak memory, polars included", memory_mb("VmHWM"), "MB", None, 1500
            ),
        ]
    )


if __name__ == "__main__":
    main()

"""How much of a frame's end-to-end time no span covers, in a threaded, paced pipeline."""

from __future__ import annotations

import tempfile
from pathlib import Path

import vidlab as vl
from vidlab.lab.faults import Saboteur
from vidlab.lab.pipeline import probe, run_pipeline

from .decode import make_clip
from .figure import Figure, report

ROUNDS = 3


def main() -> None:
    """The round that the rest of the machine disturbed least counts."""
    p99, p50 = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = probe(make_clip(folder / "clip.mp4", "320x180", 150), "cam-1")
        for round_ in range(ROUNDS):
            with vl.record(folder / f"run-{round_}", engines=[vl.Frames()]):
                run_pipeline([source], folder, Saboteur([]), lambda steps: None)
            run = vl.open_run(folder / f"run-{round_}")
            closure = vl.analysis.closure.closure(run.scan("frames"), run.scan("spans"))
            residual = closure["residual_ns"].abs() / 1e3
            p99.append(float(residual.quantile(0.99, "lower") or 0))
            p50.append(float(residual.median()))
    report(
        [
            Figure("what no span covers of a frame's time: p99", min(p99), "µs", None, 100),
            Figure("what no span covers of a frame's time: median", min(p50), "µs"),
        ]
    )


if __name__ == "__main__":
    main()

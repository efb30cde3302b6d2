"""How much of a frame's end-to-end time no span covers, in a threaded, paced pipeline."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.identity.clips import CODECS, make_clip
from tests.identity.test_closure import LENGTH, record, residuals

from .figure import Figure, report

ROUNDS = 7


def main() -> None:
    """Measure the pipeline of the closure test; the round disturbed least counts."""
    h264 = next(codec for codec in CODECS if codec.name == "h264")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_clip(folder / "clip.mp4", h264, LENGTH)
        rounds = [residuals(record(folder, f"run {n}")) / 1e3 for n in range(ROUNDS)]
    p99 = min(float(residual.quantile(0.99, "lower") or 0) for residual in rounds)
    median = min(float(residual.median()) for residual in rounds)
    report(
        [
            Figure("what no span covers of a frame's time: p99", p99, "µs", None, 100),
            Figure("what no span covers of a frame's time: median", median, "µs"),
        ]
    )


if __name__ == "__main__":
    main()

"""What a run takes on disk, and what finishing it takes in memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from vidlab.lab import synthetic

from .figure import Figure, report

SPANS = 10_000_000

COMPACT = """
import sys
from benchmarks.figure import memory_mb
from vidlab.runs.compaction import compact
compact(sys.argv[1])
print(memory_mb("VmHWM"))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        synthetic.write_segments(run, spans=SPANS)
        begin = time.perf_counter()
        peak = subprocess.run(
            [sys.executable, "-c", COMPACT, run], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        seconds = time.perf_counter() - begin
        spans = run / "spans.parquet"
        rows = pq.read_metadata(spans).num_rows
        report(
            [
                Figure("a span at rest", spans.stat().st_size / rows, "bytes", None, 16),
                Figure("compacting 1e7 spans: peak memory", float(peak), "MB", None, 512),
                Figure("compacting 1e7 spans: time", seconds, "s"),
            ]
        )


if __name__ == "__main__":
    main()

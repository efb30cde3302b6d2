"""Run all benchmarks, or those named: a line a figure, and `benchmarks/results.json`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from .figure import Figure

BENCHMARKS = (
    "spans",
    "decode",
    "closure",
    "storage",
    "percentiles",
    "memory",
    "kernel_events",
    "probes",
    "runtime",
    "profiles",
    "explain",
    "report",
    "explorer_browser",
    "explorer",
)
RESULTS = Path(__file__).with_name("results.json")


def main(names: list[str]) -> int:
    """Run each benchmark in a process of its own; return how many targets were missed."""
    measured = {}
    if names and RESULTS.exists():
        measured = {figure["name"]: figure for figure in json.loads(RESULTS.read_text())}
    for name in names or BENCHMARKS:
        run = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}"], stdout=subprocess.PIPE, text=True
        )
        if run.returncode:
            print(f"benchmarks.{name} failed with exit code {run.returncode}", file=sys.stderr)
            return run.returncode
        for line in run.stdout.splitlines():
            figure = json.loads(line)
            measured[figure["name"]] = figure
            known = {key: figure[key] for key in ("name", "ours", "unit", "peer", "target")}
            print(Figure(**known), flush=True)
    RESULTS.write_text(json.dumps(list(measured.values()), indent=2) + "\n")
    missed = sum(figure["met"] is False for figure in measured.values())
    print(f"{len(measured)} figures, {missed} targets missed; written to {RESULTS}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

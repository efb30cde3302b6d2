"""Percentiles by (stage, codec) over 10 million spans on disk, beside DuckDB."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import duckdb

from vidlab.analysis import latency
from vidlab.lab import synthetic
from vidlab.runs.run import open_run

from .figure import Figure, report

SPANS = 10_000_000
QUANTILES = (0.5, 0.9, 0.99, 0.999)
BY = ("stage", "kind", "codec")


def seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        synthetic.write_run(path, spans=SPANS)
        run = open_run(path)
        query = (
            f"select stage, kind, codec, count(*), quantile_disc(duration_ns, {list(QUANTILES)}) "
            f"from '{path}/spans.parquet' group by all"
        )
        contenders: dict[str, Callable[[], Any]] = {
            "duckdb": lambda: duckdb.sql(query).fetchall(),
            "exact": lambda: latency.percentiles(run.scan("spans"), by=BY, quantiles=QUANTILES),
            "cube": lambda: latency.from_cube(run.cube(), by=BY, quantiles=QUANTILES),
        }
        taken: dict[str, list[float]] = {name: [] for name in contenders}
        for round_ in range(8):
            for name, contender in contenders.items():
                spent = seconds(contender)
                if round_:  # the first warms the page cache
                    taken[name].append(spent)
        # The cube also holds the frames' end-to-end times, which are no stage's.
        both = contenders["exact"]().join(contenders["cube"](), on=BY, suffix="_cube")
        error = max(
            abs(row[f"{column}_cube"] - row[column]) / row[column]
            for row in both.to_dicts()
            for column in ("p50_ns", "p90_ns", "p99_ns", "p99_9_ns")
        )
        mid = {name: median(values) for name, values in taken.items()}
        report(
            [
                Figure("exact percentiles / DuckDB", mid["exact"], "s", mid["duckdb"], 3),
                Figure("percentiles from the cube / exact", mid["cube"], "s", mid["exact"], 1 / 20),
                Figure("largest error of the cube's percentiles", 100 * error, "%", None, 2),
            ]
        )


if __name__ == "__main__":
    main()

"""The verbs `health`, `metrics`, `import-pprof` and `labels`."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import vidlab

from .. import sizes
from ..workbench import arguments
from ..workbench.text import aligned


def add_verbs(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the verbs `health`, `metrics`, `import-pprof` and `labels`."""
    health = verb(
        "health",
        _health,
        "what the interpreter, its threads, its tasks and its heap did wrong",
        """
        vidlab health runs/demo
        vidlab health runs/soak --threshold delay_p99_ms=5 --threshold fragmentation=0.2
        """,
    )
    arguments.add_run(health)
    arguments.add_thresholds(health)
    arguments.add_json(health)
    metrics = verb(
        "metrics",
        _metrics,
        "the metrics of runtime health: names, kinds, units and meanings",
        "vidlab metrics",
    )
    arguments.add_json(metrics)
    imported = verb(
        "import-pprof",
        _import_pprof,
        "bring a pprof file, whoever wrote it, into a run of its own",
        """
        vidlab import-pprof cpu.pprof
        vidlab import-pprof heap.pb.gz -o runs/heap
        """,
    )
    imported.add_argument("file", type=Path, metavar="FILE", help="the pprof file")
    arguments.add_output(imported)
    labels = verb(
        "labels",
        _labels,
        "what each label key costs: values, rows, bytes and memory",
        "vidlab labels runs/demo",
    )
    arguments.add_run(labels)
    arguments.add_json(labels)


def _health(options: argparse.Namespace) -> int:
    from ..workbench.health_summary import HealthSummary

    found = HealthSummary(vidlab.open_run(options.run), arguments.thresholds(options))
    print(json.dumps(found.facts(), indent=2) if options.json else found)
    return 0


def _metrics(options: argparse.Namespace) -> int:
    from ..schema.metrics import METRICS

    if options.json:
        print(json.dumps([dataclasses.asdict(metric) for metric in METRICS], indent=2))
        return 0
    rows = [(metric.name, metric.kind, metric.unit, metric.meaning) for metric in METRICS]
    print("\n".join(aligned(("metric", "kind", "unit", "meaning"), rows)))
    return 0


def _import_pprof(options: argparse.Namespace) -> int:
    from ..workbench import importing, scripts

    output = options.output or scripts.new_run(options.file.name.partition(".")[0])
    run = importing.import_pprof(options.file, output, overwrite=options.overwrite)
    print(importing.summary(run))
    return 0


def _labels(options: argparse.Namespace) -> int:
    from ..analysis import labelcosts

    costs = labelcosts.costs(vidlab.open_run(options.run))
    if options.json:
        print(json.dumps(costs.to_dicts(), indent=2))
        return 0
    rows = [
        (
            row["key"],
            f"{row['values']:,}",
            f"{row['rows']:,}",
            "not compacted yet" if row["bytes"] is None else sizes.say(row["bytes"]),
            sizes.say(row["memory_bytes"]),
            f"{row['folded']:,} by {row['rules']}" if row["rules"] else "",
        )
        for row in costs.iter_rows(named=True)
    ]
    heads = ("label", "values", "rows with it", "on disk", "memory", "values changed")
    print("\n".join(aligned(heads, rows)) if rows else f"{options.run}: no row has a label")
    return 0

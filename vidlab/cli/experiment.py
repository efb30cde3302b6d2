"""The verb `experiment`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from ..workbench import arguments


def add_verb(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the verb `experiment`; its options are the parameters of the notebook of that name."""
    added = verb(
        "experiment",
        _experiment,
        "run a pipeline, record it, plant faults, and say why its frames were late",
        """
        vidlab experiment --streams 8 --faults all
        vidlab experiment --codec av1,h264 --faults slow_stage --engines frames,kernel
        vidlab experiment --input a.mp4,b.mkv --streams 6 --backend cpu --deadline-ms 120
        """,
    )
    added.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("runs/experiment"),
        metavar="RUN",
        help="(%(default)s); a run that is there is replaced",
    )
    added.add_argument(
        "--input", default="", metavar="FILE,…", help="your own clips (clips are made)"
    )
    added.add_argument(
        "--streams", type=int, metavar="N", help="how many at once (one of each input, or 4)"
    )
    added.add_argument(
        "--codec", default="", metavar="NAME,…", help="of the clips that are made (all)"
    )
    added.add_argument(
        "--gpu", type=int, metavar="INDEX", help="all streams' device, and their label"
    )
    added.add_argument(
        "--backend", default="auto", help="GPU memory: auto, cuda, hostcuda, or cpu for none"
    )
    added.add_argument(
        "--engines",
        default="frames,gpu,runtime",
        metavar="NAME,…",
        help="what to record with: kernel and profiles too, or all (%(default)s)",
    )
    added.add_argument(
        "--faults",
        default="",
        metavar="KIND,…",
        help="what to plant: slow_stage, corrupt_packets, queue_backs_up, gc_stall, gil_hog, "
        "leak, or all (none)",
    )
    arguments.add_deadline(added)
    added.add_argument("--seconds", type=float, metavar="S", help="how much of each clip (all)")
    arguments.add_json(added)


def _experiment(options: argparse.Namespace) -> int:
    from ..lab.experiment import run_experiment

    shown = run_experiment(
        options.output,
        input=options.input,
        streams=options.streams,
        codec=options.codec,
        gpu=options.gpu,
        backend=options.backend,
        engines=options.engines,
        faults=options.faults,
        deadline_ms=options.deadline_ms,
        seconds=options.seconds,
    )
    print(json.dumps(shown.facts(), indent=2) if options.json else shown)
    return 0

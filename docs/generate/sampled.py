"""The run that the gallery shows sampling on: `python -m docs.generate.sampled` records it anew.

The demo's pipeline of three streams, one of which has corrupt packets and another of which is
held up for two seconds, with `vl.Adaptive`: a frame in ten, and all that went wrong.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import vidlab as vl
from vidlab.lab import faults
from vidlab.lab.clips import CLIPS, make_clips
from vidlab.lab.faults import Fault, Saboteur
from vidlab.lab.neutral import neutralise
from vidlab.lab.pipeline import probe, run_pipeline
from vidlab.lab.setups import DEADLINE_MS
from vidlab.lab.sources import corrupted

RUN = Path("docs/runs/sampled")

STREAMS = {"cam-1": corrupted(CLIPS[0]), "cam-2": CLIPS[1], "cam-3": CLIPS[2]}

FAULTS = [
    Fault(faults.CORRUPT_PACKETS, stream_id="cam-1"),
    Fault(faults.QUEUE_BACKS_UP, stream_id="cam-2", stage="encode", begins_s=1.0, ends_s=3.0),
]

#: Windows of a second, for a recording of seconds.
SAMPLING = vl.Adaptive(base=0.1, cpu_seconds=1.0, error_seconds=1.0, error_rate=0.01)


def main() -> None:
    """Record the run, and put it where the gallery reads it."""
    paths = make_clips(STREAMS.values())
    sources = [probe(path, name, 6.0) for name, path in zip(STREAMS, paths, strict=True)]
    with tempfile.TemporaryDirectory(prefix="vidlab-") as folder:
        path = Path(folder, RUN.name)
        with vl.record(
            path,
            engines=[vl.Frames(sampling=SAMPLING)],
            parameters={"deadline_ms": DEADLINE_MS},
        ):
            run_pipeline(sources, Path(folder), Saboteur(FAULTS), lambda _: None)
        neutralise(path, ("python", "-m", "docs.generate.sampled"))
        shutil.rmtree(RUN, ignore_errors=True)
        RUN.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, RUN)


if __name__ == "__main__":
    main()

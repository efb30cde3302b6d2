"""The recorded runs that come with vidlab: what each is, and how it is made anew.

    python -m vidlab.lab.recordings everything datasets

records the run `everything` into the folder `datasets/everything`, with its README. What was
planted is in the run's manifest; a run in which the analyses do not name all of it, and nothing
else, is recorded again: another program may have had the CPUs. `vl.datasets` opens them.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..capture.ebpf.engine import KernelEvents
from ..capture.engine import Engine
from ..capture.frames.engine import Frames
from ..capture.gpu.devices.sampler import GpuSampler
from ..capture.gpu.engine import GpuMemory
from ..capture.gpu.hostcuda.installing import working_gpu
from ..capture.profiles.engine import Profiles
from ..capture.runtime.engine import Runtime
from ..errors import InputError, MissingDependencyError, VidlabError, missing_extra
from ..progress import progress
from ..recording import record
from ..runs.run import Run, open_run
from ..runs.verification import verify
from ..workbench.slices import Slice
from . import faults, health_scenarios, kernel_pipeline, memory_pipeline, profile_pipeline, uploads
from .clips import CLIPS, Clip, make_clips
from .diagnosis import diagnose, matched
from .faults import Fault, Saboteur
from .leaflets import write_leaflet
from .neutral import neutralise
from .pipeline import probe, run_pipeline
from .setups import SAMPLE_RATE, usual_deadline_ms
from .sources import corrupted

#: How long each pipeline is recorded.
SECONDS = 8.0

#: How often a run is recorded at most until it is as planted.
TRIES = 5

#: The share of frames that may be late at most: to the others, late ones are compared.
MOST_LATE = 0.6

#: The streams of most of these runs; the last is of the codec that some faults strike.
STREAMS = {"cam-1": CLIPS[0], "cam-2": CLIPS[1], "cam-3": CLIPS[2]}

#: One fault a run; all at once in `everything`, so none at the time of another.
FAULTS = (
    Fault(faults.SLOW_STAGE, codec="av1", stage="filter"),
    Fault(faults.QUEUE_BACKS_UP, stream_id="cam-2", stage="encode", begins_s=1.0, ends_s=2.8),
    Fault(faults.GC_STALL, begins_s=4.0, ends_s=4.3),
    Fault(faults.GIL_HOG, begins_s=5.5, ends_s=6.3),
    Fault(faults.CORRUPT_PACKETS, stream_id="cam-1"),
)

#: What the services of `runtime_health` have wrong with them: keys of `health_scenarios`.
SCENARIOS = ("unbounded_queue", "cache_growth", "context_variable_growth", "task_never_ends")


@dataclass(frozen=True)
class Dataset:
    """A recorded run that comes with vidlab.

    Attributes
    ----------
    name : str
    about : str
        What is in it, in a line.
    make : callable
        Records it into a folder that is not there yet.
    story : str
        What is wrong in it, unless the run's manifest says so.
    """

    name: str
    about: str
    make: Callable[[Path], object]
    story: str = ""


def planted(run: Run) -> list[Fault]:
    """Return the faults that were planted in a run, as its manifest has them."""
    return [Fault(**facts) for facts in run.manifest.parameters.get("planted", [])]


def named(run: Run) -> list[Fault]:
    """Return those of the planted faults that the analyses name."""
    first_ns = run.scan("frames").select("t_demux_ns").min().collect().item()
    return matched(planted(run), diagnose(run), first_ns)


def as_planted(run: Run) -> bool:
    """Return whether the analyses name all that was planted in a run, and nothing else.

    Without a fault no frame may be late; with some, most are to be punctual.
    """
    faults_here, kinds = planted(run), {cause.kind for cause in diagnose(run)}
    late = Slice(run).late_frames()["late"].mean()
    assert isinstance(late, float)
    return (
        named(run) == faults_here
        and kinds <= {fault.kind for fault in faults_here}
        and late <= (MOST_LATE if faults_here else 0.0)
    )


# --- how each is recorded -----------------------------------------------------------


def _pipeline(
    path: Path,
    *planted: Fault,
    streams: dict[str, Clip] = STREAMS,
    engines: Sequence[Engine] = (),
    on_gpu: bool = False,
) -> None:
    """Record the demo's pipeline with these faults, again if they are not named."""
    paths = make_clips(streams.values())
    sources = [probe(path, name, SECONDS) for name, path in zip(streams, paths, strict=True)]
    parameters: dict[str, object] = {"deadline_ms": usual_deadline_ms(sources)}
    if on_gpu:
        parameters["device"] = uploads.device()
        engines = [*engines, GpuMemory(), GpuSampler()]
    parameters["planted"] = [fault.facts() for fault in planted]
    frames = sum(source.frame_count for source in sources)
    for _ in range(TRIES):
        saboteur = Saboteur(planted)
        with (
            tempfile.TemporaryDirectory(prefix="vidlab-") as folder,
            record(path, engines=[Frames(), *engines], parameters=parameters, overwrite=True),
            progress("recording", frames, "frame") as advance,
        ):
            kept = run_pipeline(sources, Path(folder), saboteur, advance, on_gpu)
        del kept  # what leaked lives as long as the recording
        if as_planted(open_run(path)):
            return
    raise VidlabError(
        f"in {TRIES} recordings the analyses named more than was planted, or less, or too many "
        "frames were late: record while no other program has the CPUs"
    )


def _clean(path: Path) -> None:
    _pipeline(path, engines=[Runtime()], on_gpu=True)


def _fault(fault: Fault) -> Dataset:
    struck = STREAMS
    if fault.kind == faults.CORRUPT_PACKETS:
        struck = {**STREAMS, "cam-1": corrupted(CLIPS[0])}
    about = {
        faults.SLOW_STAGE: "a stage takes 45 ms longer a frame, for one codec",
        faults.QUEUE_BACKS_UP: "a stage leaves its queue full for more than a second",
        faults.GC_STALL: "the garbage collector goes through a large heap",
        faults.GIL_HOG: "a thread computes for most of a second and lets no other run Python",
        faults.CORRUPT_PACKETS: "three packets of a stream arrive damaged",
    }[fault.kind]

    def make(path: Path) -> None:
        _pipeline(path, fault, streams=struck, engines=[Runtime()])

    return Dataset(fault.kind, about, make)


def _leak(holder: str) -> Dataset:
    fault = Fault(faults.LEAK, codec="av1", holder=holder)

    def make(path: Path) -> None:
        streams = {name: STREAMS[name] for name in ("cam-1", "cam-3")}
        _pipeline(path, fault, streams=streams, on_gpu=True)

    held = {"container": "list"}.get(holder, holder)
    name = f"leak_{held.replace(' ', '_')}"
    return Dataset(name, f"GPU memory leaks for one codec, held by a {held}", make)


def _everything(path: Path) -> None:
    if importlib.util.find_spec("pyroscope") is None:
        raise missing_extra("pyroscope", "profile")
    streams = {**STREAMS, "cam-1": corrupted(CLIPS[0])}
    engines: list[Engine] = [
        Runtime("staging"),
        Profiles(sample_rate=SAMPLE_RATE),
        KernelEvents(["sched", "libav"]),
    ]
    leak = Fault(faults.LEAK, codec="hevc", holder="queue")
    _pipeline(path, *FAULTS, leak, streams=streams, engines=engines, on_gpu=True)


def _gpu(path: Path) -> None:
    if working_gpu() is None:
        raise MissingDependencyError(
            "no GPU works here, and this run is to show a real one: record it where "
            "`vidlab doctor` finds one, after pip install 'vidlab[gpu,video,workbench]'"
        )
    memory_pipeline.record_memory_run(path)


#: What is wrong in the runs of `memory_pipeline`.
LEAKY = (
    "One in eight of the hevc stream's frames stays in a list, `Stream._suspects`, that nobody "
    "empties. What waits in queues, and a background model of 24 inputs a stream, is no leak."
)

DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset("clean", "three streams, and nothing is wrong", _clean),
        *map(_fault, FAULTS),
        *map(_leak, uploads.MEMORIES),
        Dataset(
            "gpu_memory",
            "three streams in GPU memory; a list holds what one of them leaks",
            memory_pipeline.record_memory_run,
            LEAKY,
        ),
        Dataset(
            "kernel_events",
            "cameras over TCP, seen from the kernel: a silence, a busy machine, a lock",
            lambda path: kernel_pipeline.record_kernel_run(path, seconds=SECONDS),
            "The cameras fall silent for a second. For another, processes take all CPUs. A thread "
            "holds the lock that the stage `annotate` needs for 30 ms, four times a second. A "
            "library takes 96 MiB of device memory past CuPy.",
        ),
        Dataset(
            "profiles",
            "CPU profiles: one stream searches three times as hard, a resize is slow at times",
            lambda path: profile_pipeline.record_profiled_run(path, passes=3),
            "The stage `search` of cam-2 does three times as much as that of cam-1. One frame in "
            "ten is resized by `resize_slowly`. A thread of no stream, `neighbour`, computes.",
        ),
        Dataset(
            "runtime_health",
            "small services with faults of the runtime: what grows, and what never ends",
            lambda path: health_scenarios.record_scenarios(path, SCENARIOS, seconds=6),
            "\n".join(
                f"- `{name}`: {health_scenarios.SCENARIOS[name].about}" for name in SCENARIOS
            ),
        ),
        Dataset(
            "everything",
            "all engines, five faults and a leak: what a late frame went through",
            _everything,
        ),
        Dataset("gpu", "GPU memory of a real GPU, with the leak of gpu_memory", _gpu, LEAKY),
    )
}


def make(name: str, folder: Path) -> Path:
    """Record a data set anew into `folder/name`, and return its path.

    What was there is replaced. Nothing in it tells on which machine it was recorded.

    Raises
    ------
    InputError
        If there is no data set of this name.
    VidlabError
        If it cannot be recorded here, or its run is not clean; then what was there stays.
    """
    if name not in DATASETS:
        raise InputError(f"there is no data set {name!r}: choose among {', '.join(DATASETS)}")
    dataset = DATASETS[name]
    with tempfile.TemporaryDirectory(prefix="vidlab-") as scratch:
        path = Path(scratch, name)
        dataset.make(path)
        neutralise(path, ("-m", "vidlab.lab.recordings", name, "datasets"))
        problems = verify(path)
        if problems:
            raise VidlabError(f"{name} was recorded, but: {'; '.join(map(str, problems))}")
        write_leaflet(path, dataset.about, dataset.story)
        target = Path(folder, name)
        if target.exists():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
    return target


def main(argv: Sequence[str] | None = None) -> int:
    """Record a data set, as `python -m vidlab.lab.recordings NAME FOLDER` does."""
    parser = argparse.ArgumentParser(
        prog="python -m vidlab.lab.recordings", description="Record a data set anew."
    )
    parser.add_argument("name", metavar="NAME", help=", ".join(DATASETS))
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to: FOLDER/NAME")
    options = parser.parse_args(argv)
    try:
        path = make(options.name, options.folder)
    except VidlabError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(path)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())

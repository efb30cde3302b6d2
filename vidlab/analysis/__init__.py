"""Analyses: polars tables in, polars tables out, one question per module.

They take LazyFrames or DataFrames with the columns of `vidlab.schema`, as `Run.scan`
returns them, and know nothing of runs, files or charts:

* `latency`: how long do stages and frames take, which frames are late, when?
* `closure`: where did a frame's time go, and what made the late ones late?
* `blame`: which causes made a frame late, and by how much? (one frame, and all of a run)
* `losses`: which frames were lost, where, and what did a lost key frame take along?
* `stutter`: how evenly do frames come out?
* `queues`: which queues are full, and how long do frames wait in them?
* `throughput`: does a stream keep its nominal rate?
* `sampling`: which share of frames was recorded, when and why?
* `startup`: how long until the first frame?
* `pauses`: which frames did the garbage collector hold up?
* `silences`: when did a whole process stand still, and why?
* `holdups`: what held a full queue up, a slow stage or one that was away?
* `memory`: how much GPU memory is in use, when, and by whom?
* `livesets`: what is alive at a moment, and what lived on until another?
* `leaks`: which site leaks?
* `fragmentation`: how is the pools' free memory cut up?
* `bill`: does what a device says it uses add up?
* `flame`: where do memory and GPU time go, by device, labels and stack?
* `kernel`: under which stage and frame did a kernel event happen?
* `offcpu`: what did threads wait for while they were not on a CPU?
* `pointers`: which driver memory did CuPy's tracker see, and which another library take?
* `memory_graph`: what was copied between which blocks of device memory?
* `decodetimes`: how much of decoding is FFmpeg's own time?
* `connections`: whose TCP connections, and how long were their round trips?
* `metrics`: what did the kernel count without an event each?
* `health`: what did the interpreter, its threads, its tasks and its heap do wrong?
* `scheduling`: how long did threads wait for a CPU?
* `wakeups`: how long does Python wait for the GIL, and who holds it?
* `loops`: how late do event loops run, and what blocks them?
* `threads`: which threads and tasks are there, and which task never ends?
* `accumulation`: which caches, queues and context variables grow without end?
* `heap`: which lines of the program hold host memory?
* `trends`: how do the metrics of runtime health go?
* `cpu`: how much CPU time did each label take, exactly, and by samples?
* `profiles`: where does CPU time or memory go, by label and stack, and what is different?
* `labelcosts`: what does each label key cost, and what did rules do to it?

Moments are columns `t_…ns`, durations other columns `…_ns`: Int64 nanoseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import missing_extra

try:
    import polars  # noqa: F401  # all of them need it; a service that is recorded does not have it
except ImportError as error:
    raise missing_extra("polars", "workbench") from error

if TYPE_CHECKING:
    from . import (
        accumulation,
        bill,
        blame,
        closure,
        connections,
        cpu,
        decodetimes,
        flame,
        fragmentation,
        health,
        heap,
        holdups,
        kernel,
        labelcosts,
        latency,
        leaks,
        livesets,
        loops,
        losses,
        memory,
        memory_graph,
        metrics,
        offcpu,
        pauses,
        pointers,
        profiles,
        queues,
        sampling,
        scheduling,
        silences,
        startup,
        stutter,
        threads,
        throughput,
        trends,
        wakeups,
    )

__all__ = [
    "accumulation",
    "bill",
    "blame",
    "closure",
    "connections",
    "cpu",
    "decodetimes",
    "flame",
    "fragmentation",
    "health",
    "heap",
    "holdups",
    "kernel",
    "labelcosts",
    "latency",
    "leaks",
    "livesets",
    "loops",
    "losses",
    "memory",
    "memory_graph",
    "metrics",
    "offcpu",
    "pauses",
    "pointers",
    "profiles",
    "queues",
    "sampling",
    "scheduling",
    "silences",
    "startup",
    "stutter",
    "threads",
    "throughput",
    "trends",
    "wakeups",
]


def __getattr__(name: str) -> Any:
    # Each comes when it is first asked for: to import all of them takes a fifth of a second.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

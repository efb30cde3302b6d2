"""Analyses: polars tables in, polars tables out, one question per module.

They take LazyFrames or DataFrames with the columns of `vidlab.schema`, as `Run.scan`
returns them, and know nothing of runs, files or charts:

* `latency`: how long do stages and frames take, which frames are late, when?
* `closure`: where did a frame's time go, and what made the late ones late?
* `losses`: which frames were lost, where, and what did a lost key frame take along?
* `stutter`: how evenly do frames come out?
* `queues`: which queues are full, and how long do frames wait in them?
* `throughput`: does a stream keep its nominal rate?
* `startup`: how long until the first frame?
* `pauses`: which frames did the garbage collector hold up?
* `silences`: when did a whole process stand still, and why?
* `holdups`: what held a full queue up, a slow stage or one that was away?

Moments are columns `t_…ns`, durations other columns `…_ns`: Int64 nanoseconds.
"""

from ..errors import missing_extra

try:
    import polars  # noqa: F401  # all of them need it; a service that is recorded does not have it
except ImportError as error:
    raise missing_extra("polars", "workbench") from error

from . import (
    closure,
    holdups,
    latency,
    losses,
    pauses,
    queues,
    silences,
    startup,
    stutter,
    throughput,
)

__all__ = [
    "closure",
    "holdups",
    "latency",
    "losses",
    "pauses",
    "queues",
    "silences",
    "startup",
    "stutter",
    "throughput",
]

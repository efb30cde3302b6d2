"""Charts: an analysis' table in, an altair chart out.

`charts.<module>.<function>` draws what `analysis.<module>` computed. Nothing here
reads files or computes what an analysis should. All charts take `lost`, the number
of rows lost while recording the tables behind them, and show it.
"""

from ..errors import missing_extra

try:
    import altair  # noqa: F401  # all of them need it; a service that is recorded does not have it
except ImportError as error:
    raise missing_extra("altair", "workbench") from error

from . import (
    accumulation,
    bill,
    blame,
    closure,
    connections,
    cpu,
    cube,
    decodetimes,
    flame,
    fragmentation,
    health,
    labelcosts,
    latency,
    leaks,
    livesets,
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
    startup,
    stutter,
    tasks,
    theme,
    throughput,
    timeline,
    trends,
    waterfall,
)

__all__ = [
    "accumulation",
    "bill",
    "blame",
    "closure",
    "connections",
    "cpu",
    "cube",
    "decodetimes",
    "flame",
    "fragmentation",
    "health",
    "labelcosts",
    "latency",
    "leaks",
    "livesets",
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
    "startup",
    "stutter",
    "tasks",
    "theme",
    "throughput",
    "timeline",
    "trends",
    "waterfall",
]

"""Every metric of runtime health: its name, kind, unit and meaning. `vidlab metrics` prints it.

Names, kinds, units and attributes are those of OpenTelemetry's semantic conventions
(https://opentelemetry.io/docs/specs/semconv/, `process` and `cpython`, both in development)
where these know the metric, and begin with `vidlab.` where not. Units are UCUM's, as there.

Readings are rows of `runtime_metrics`. A histogram is made of a table's column, whose rows
are single events: these keep more than a histogram would.
"""

from __future__ import annotations

from dataclasses import dataclass

from .runtime import COUNTER, GAUGE, METRIC_KINDS, UPDOWNCOUNTER

_GAUGE, _UPDOWNCOUNTER, _COUNTER = (
    METRIC_KINDS[GAUGE],
    METRIC_KINDS[UPDOWNCOUNTER],
    METRIC_KINDS[COUNTER],
)
_HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Metric:
    """A metric: what is measured, and where a run has it.

    Attributes
    ----------
    name : str
        Stable, and the only metric of this name.
    kind : str
        gauge, updowncounter or counter (see `METRIC_KINDS`), or histogram.
    unit : str
        In UCUM: s, By, 1 for a share, {thread} for a number of threads.
    meaning : str
        In a line.
    attribute : str
        The key of what tells its readings apart; '' if there is one reading at a time. In
        `runtime_metrics.attribute`, ``cpython.gc.generation`` is written ``generation=2``.
    part : str
        Which part of the runtime engine reads it; a profile has a period for each.
    table, column : str
        Where its values are. Those of a histogram are nanoseconds there, not seconds.
    """

    name: str
    kind: str
    unit: str
    meaning: str
    attribute: str = ""
    part: str = "process"
    table: str = "runtime_metrics"
    column: str = "value"

    def attribute_text(self, value: object) -> str:
        """Return how `runtime_metrics` writes a value of the attribute.

        >>> by_name("cpython.gc.collections").attribute_text(2)
        'generation=2'
        """
        return f"{self.attribute.rpartition('.')[2]}={value}"


METRICS = (
    Metric("process.cpu.time", _COUNTER, "s", "CPU time of the process", "cpu.mode"),
    Metric("process.memory.usage", _UPDOWNCOUNTER, "By", "memory of the process that is resident"),
    Metric("process.memory.virtual", _UPDOWNCOUNTER, "By", "address space of the process"),
    Metric(
        "process.paging.faults",
        _COUNTER,
        "{fault}",
        "page faults: a major one waited for the disk",
        "system.paging.fault.type",
    ),
    Metric(
        "process.context_switches",
        _COUNTER,
        "{context_switch}",
        "times that a thread left its CPU: involuntary, if it would have gone on",
        "process.context_switch.type",
    ),
    Metric(
        "process.unix.file_descriptor.count",
        _UPDOWNCOUNTER,
        "{file_descriptor}",
        "open files, vidlab's own among them",
    ),
    Metric(
        "process.thread.count",
        _UPDOWNCOUNTER,
        "{thread}",
        "threads, those that Python does not know and vidlab's own among them",
    ),
    Metric(
        "vidlab.runtime.cpu.time",
        _COUNTER,
        "s",
        "CPU time that the runtime engine's own threads have used",
        "vidlab.runtime.thread",
    ),
    Metric(
        "vidlab.runtime.census.duration",
        _GAUGE,
        "s",
        "how long a stretch of a look at what holds objects ran: the program may wait for the GIL",
        part="census",
    ),
    Metric(
        "vidlab.runtime.tracing.duration",
        _GAUGE,
        "s",
        "how long a stretch of a look at tracemalloc ran: the program may wait for the GIL",
        part="tracing",
    ),
    Metric(
        "vidlab.thread.runqueue.time",
        _COUNTER,
        "s",
        "time that the process's threads were ready to run and waited for a CPU, added up",
        part="scheduler",
    ),
    Metric(
        "cpython.gc.collections",
        _COUNTER,
        "{collection}",
        "garbage collections",
        "cpython.gc.generation",
        "interpreter",
    ),
    Metric(
        "cpython.gc.collected_objects",
        _COUNTER,
        "{object}",
        "objects that the garbage collector freed",
        "cpython.gc.generation",
        "interpreter",
    ),
    Metric(
        "cpython.gc.uncollectable_objects",
        _COUNTER,
        "{object}",
        "objects that the garbage collector found and could not free",
        "cpython.gc.generation",
        "interpreter",
    ),
    Metric(
        "vidlab.cpython.allocated_blocks",
        _UPDOWNCOUNTER,
        "{block}",
        "blocks of memory that Python's own allocator has given out",
        part="blocks",
    ),
    Metric(
        "vidlab.malloc.arena",
        _UPDOWNCOUNTER,
        "By",
        "memory that malloc has taken for its arenas",
        part="heap",
    ),
    Metric(
        "vidlab.malloc.used",
        _UPDOWNCOUNTER,
        "By",
        "memory of malloc's arenas that is in use",
        part="heap",
    ),
    Metric(
        "vidlab.malloc.free",
        _UPDOWNCOUNTER,
        "By",
        "memory of malloc's arenas that is free, and not given back to the system",
        part="heap",
    ),
    Metric(
        "vidlab.malloc.mapped",
        _UPDOWNCOUNTER,
        "By",
        "memory that malloc has mapped for single large blocks",
        part="heap",
    ),
    Metric(
        "vidlab.malloc.fragmentation",
        _GAUGE,
        "1",
        "the share of malloc's arenas that is free",
        part="heap",
    ),
    Metric(
        "vidlab.cupy.pool.total",
        _UPDOWNCOUNTER,
        "By",
        "device memory that CuPy's default pool holds",
        "vidlab.gpu",
        "pools",
    ),
    Metric(
        "vidlab.cupy.pool.used",
        _UPDOWNCOUNTER,
        "By",
        "device memory of CuPy's default pool that is in use",
        "vidlab.gpu",
        "pools",
    ),
    Metric(
        "vidlab.cupy.pool.free",
        _UPDOWNCOUNTER,
        "By",
        "device memory of CuPy's default pool that is free, and not given back to the driver",
        "vidlab.gpu",
        "pools",
    ),
    Metric(
        "vidlab.cupy.pool.fragmentation",
        _GAUGE,
        "1",
        "the share of CuPy's default pool that is free",
        "vidlab.gpu",
        "pools",
    ),
    Metric(
        "vidlab.cupy.pinned_pool.free_blocks",
        _UPDOWNCOUNTER,
        "{block}",
        "blocks of pinned host memory that CuPy's pool holds free",
        part="pools",
    ),
    Metric(
        "vidlab.asyncio.task.count",
        _UPDOWNCOUNTER,
        "{task}",
        "asyncio tasks that are not done, by event loop",
        "vidlab.loop",
        "tasks",
    ),
    Metric(
        "vidlab.tracemalloc.used",
        _UPDOWNCOUNTER,
        "By",
        "memory that tracemalloc has seen given out and not freed",
        part="tracing",
    ),
    Metric(
        "vidlab.tracemalloc.overhead",
        _UPDOWNCOUNTER,
        "By",
        "memory that tracemalloc itself takes",
        part="tracing",
    ),
    Metric(
        "vidlab.cpython.gc.duration",
        _HISTOGRAM,
        "s",
        "how long garbage collections held up the process",
        "cpython.gc.generation",
        "collector",
        "gc_pauses",
        "duration_ns",
    ),
    Metric(
        "vidlab.thread.runqueue.wait",
        _HISTOGRAM,
        "s",
        "how long threads waited for a CPU each time that they were ready to run, on average",
        "",
        "scheduler",
        "thread_waits",
        "p50_delay_ns",
    ),
    Metric(
        "vidlab.thread.wakeup.delay",
        _HISTOGRAM,
        "s",
        "how much later than asked a sleeping thread ran Python again",
        "",
        "wakeups",
        "wakeups",
        "late_ns",
    ),
    Metric(
        "vidlab.cpython.gil.wait",
        _HISTOGRAM,
        "s",
        "how long a thread that wakes waits for the GIL: an estimate",
        "",
        "wakeups",
        "wakeups",
        "gil_ns",
    ),
    Metric(
        "vidlab.asyncio.loop.delay",
        _HISTOGRAM,
        "s",
        "how much later than due an event loop ran a timer",
        "vidlab.loop",
        "loops",
        "loop_delays",
        "delay_ns",
    ),
)

_BY_NAME = {metric.name: metric for metric in METRICS}


def by_name(name: str) -> Metric:
    """Return the metric of this name; a KeyError if there is none."""
    return _BY_NAME[name]


def kind_of(name: str) -> int:
    """Return the number of a metric's kind in `METRIC_KINDS`."""
    return METRIC_KINDS.index(by_name(name).kind)

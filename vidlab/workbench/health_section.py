"""What a notebook says about the runtime's health: each answer in one call, of a run."""

from __future__ import annotations

import html
from functools import cached_property
from typing import Any

import polars as pl

from ..analysis import (
    accumulation,
    health,
    heap,
    latency,
    loops,
    pauses,
    scheduling,
    threadnames,
    threads,
    trends,
    wakeups,
)
from ..analysis.thresholds import Thresholds
from ..charts import accumulation as accumulation_charts
from ..charts import health as health_charts
from ..charts import scheduling as scheduling_charts
from ..charts import sizes
from ..charts import tasks as task_charts
from ..charts import trends as trend_charts
from .slices import Slice
from .tables import Table
from .text import Line, Section

#: What a run without runtime health shows.
NOTHING = (
    "No runtime health was recorded: record with <code>engines=[vl.Frames(), vl.Runtime()]</code>, "
    "and for caches, context variables and queues "
    '<code>vl.Runtime(profile="debug")</code>.'
)

#: What is of the runtime's health alone: the collector's pauses are in every run of the engine.
_TABLES = ("wakeups", "thread_waits", "loop_delays", "tasks", "objects", "runtime_metrics")

#: The metrics that a report shows; a notebook can show all.
MAIN_METRICS = (
    "process.memory.usage",
    "vidlab.malloc.fragmentation",
    "vidlab.cupy.pool.used",
    "vidlab.cupy.pool.fragmentation",
    "process.thread.count",
    "process.unix.file_descriptor.count",
    "process.context_switches",
    "process.paging.faults",
)

_BINS = 160

#: What Python waits for when it is late.
_WAITS = {"late": "all", "runqueue": "a CPU", "gil": "the GIL, by estimate"}

#: Threads with a smaller share of the waits for the GIL are left out.
_WORTH_A_ROW = 0.02

#: Rows of the tables of threads, tasks and holders.
_ROWS = 25


class HealthSection:
    """The answers on the runtime of a run: of whole processes, whatever the slice.

    Without what they are made of they are None.

    Parameters
    ----------
    part : Slice
        Of which frames the latency is shown.
    thresholds : Thresholds, optional
        From when on something is worth a word.
    """

    def __init__(self, part: Slice, thresholds: Thresholds | None = None) -> None:
        self.part = part
        self.thresholds = thresholds or Thresholds()

    @cached_property
    def recorded(self) -> list[str]:
        """The tables of the runtime's health that have rows."""
        return [name for name in _TABLES if self._has(name)]

    @cached_property
    def verdicts(self) -> pl.DataFrame:
        """What is wrong with the runtime (`analysis.health.verdicts`)."""
        return health.verdicts(self.part.run, self.thresholds)

    def section(self) -> Section | None:
        """Return the heading of a report's section and the headline, or None without tables."""
        if not self.recorded:
            return None
        return Section("What the runtime did", self.headline().text)

    def headline(self) -> Line:
        """Return what is wrong with the runtime, in words."""
        if not self.recorded and not self.verdicts.height:
            return Line(NOTHING)
        found = self.verdicts
        if not found.height:
            return Line("Nothing about the runtime is beyond its threshold.")
        kinds = [
            f"{kind.replace('_', ' ')} ({html.escape(', '.join(subjects))})"
            for kind, subjects in found.group_by("kind", maintain_order=True)
            .agg(pl.col("subject").unique(maintain_order=True).head(3))
            .iter_rows()
        ]
        return Line(f"Beyond their thresholds: {', '.join(kinds)}.")

    def told(self) -> Table | None:
        """Return the verdicts: what was seen, and what to do about it."""
        if not self.verdicts.height:
            return None
        shown = self.verdicts.select("severity", "kind", "subject", "message").with_columns(
            pl.col("kind").str.replace_all("_", " ")
        )
        return Table(shown, "What is wrong with the runtime", {"message": "what, and what to do"})

    def beyond(self) -> Any:
        """Return how far beyond its threshold each verdict is."""
        return health_charts.verdicts(self.verdicts) if self.verdicts.height else None

    def timeline(self) -> Any:
        """Return what the runtime did while frames were under way, on one time axis."""
        if not self.recorded:
            return None
        run = self.part.run
        collections = run.scan("gc_pauses").collect()
        frames = latency.as_spans(self.part.scan("frames"))
        waits = scheduling.over_time(run.scan("thread_waits"), _BINS)
        return health_charts.timeline(
            latency.over_time(frames, time_bins=_BINS),
            collections,
            wakeups.over_time(run.scan("wakeups"), collections, _BINS, run.scan("runtime_metrics")),
            threadnames.without_ours(
                threadnames.named(waits, threadnames.known(run.scan("threads")))
            ),
            loops.over_time(run.scan("loop_delays"), _BINS),
            start_ns=self.part.start_ns,
            lost=self.part.lost("frames", "gc_pauses", "wakeups", "thread_waits", "loop_delays"),
        )

    def collections(self) -> Table | None:
        """Return the garbage collections by generation, and how many frames each held up."""
        run = self.part.run
        found = pauses.by_generation(run.scan("gc_pauses"))
        if not found.height:
            return None
        hit = pauses.frames_hit(run.scan("gc_pauses"), run.scan("frames"))
        frames = pauses.count_hit(hit, "generation")
        return Table(
            found.join(frames, on="generation", how="left", maintain_order="left").with_columns(
                pl.col("frames_hit").fill_null(0)
            ),
            "Garbage collections by generation, and how many frames waited for them",
        )

    def wakeups(self) -> Table | None:
        """Return how late Python ran, and what it waited for, by process."""
        run = self.part.run
        found = wakeups.by_process(*map(run.scan, ("wakeups", "gc_pauses", "runtime_metrics")))
        if not found.height:
            return None
        columns = ("p50_ns", "p99_ns", "max_ns")
        waits = [
            found.select(
                "pid",
                pl.lit(said).alias("late for"),
                *(pl.col(f"{part}_{column}").alias(column) for column in columns),
            )
            for part, said in _WAITS.items()
        ]
        return Table(pl.concat(waits).sort("pid", maintain_order=True),
                     "How late Python ran when it was due, and what it waited for")  # fmt: skip

    def holders_of_the_gil(self) -> Table | None:
        """Return which threads had the CPU while Python waited for the GIL."""
        run = self.part.run
        tables = ("wakeups", "thread_waits", "threads", "gc_pauses", "runtime_metrics")
        found = wakeups.holders(*map(run.scan, tables))
        shown = found.filter(pl.col("share") >= _WORTH_A_ROW).drop("tid").head(_ROWS)
        if not shown.height:
            return None
        return Table(
            shown.rename({"share": "share of the waits", "cpu_share": "share of a CPU"}),
            "Who had the CPU while Python waited for the GIL: an estimate",
        )

    def scheduling(self) -> Any:
        """Return how much of its time each thread ran, and waited for a CPU."""
        known = threadnames.without_ours(self._threads)
        return scheduling_charts.by_thread(known, lost=self._lost("thread_waits")) if (
            known["cpu_ns"].count()
        ) else None  # fmt: skip

    def threads(self) -> Table | None:
        """Return every thread: when it lived, and how it fared."""
        known = self._threads
        if not known.height:
            return None
        columns = ("python", "daemon", "cpu_ns", "runqueue_ns", "p99_delay_ns", "worst_delay_ns")
        start = self.part.start_ns
        return Table(
            known.select("pid", "tid", "name", _at("t_ns", start).alias("since, s"),
                         _at("t_end_ns", start).alias("until, s"), *columns).head(_ROWS),
            f"Threads, those that ran most first: {min(_ROWS, known.height)} of {known.height}",
            {"cpu_ns": "on a CPU, ms", "runqueue_ns": "waited for one, ms",
             "p99_delay_ns": "p99 wait, ms", "worst_delay_ns": "worst wait, ms"},
        )  # fmt: skip

    def loops(self) -> Table | None:
        """Return how late event loops ran what was due."""
        found = loops.by_loop(self.part.run.scan("loop_delays"))
        return Table(found, "Event loops: how late they ran what was due") if found.height else None

    def tasks(self) -> Any:
        """Return from when to when each asyncio task was there, and whether it moved."""
        found = threads.tasks(self.part.run.scan("tasks"))
        if not found.height:
            return None
        return task_charts.lives(found, start_ns=self.part.start_ns, lost=self._lost("tasks"))

    def holders(self) -> Any:
        """Return what caches, context variables and queues held: those that grow, the largest."""
        objects = self.part.run.scan("objects")
        held = accumulation.holders(objects)
        if not held.height:
            return None
        grows = pl.col("items_grow") | pl.col("bytes_grow")
        ranked = held.sort(grows, "most_bytes", descending=True, maintain_order=True)
        names = ranked["name"].head(accumulation_charts.MAX_LINES).to_list()
        return accumulation_charts.over_time(
            accumulation.over_time(objects, names),
            ranked,
            start_ns=self.part.start_ns,
            lost=self._lost("objects"),
        )

    def lines(self) -> Table | None:
        """Return the lines of the program that hold most of the host's memory."""
        found = heap.lines(self.part.run.scan("host_allocations"))
        if not found.height:
            return None
        shown = found.head(_ROWS).select(
            pl.format("{}:{}", "file", "line").alias("line"),
            sizes.text(pl.col("first_bytes").cast(pl.Float64)).alias("at first"),
            sizes.text(pl.col("last_bytes").cast(pl.Float64)).alias("at last"),
            "blocks",
            "grows",
        )
        return Table(shown, "Lines whose allocations take most of the host's memory")

    def metrics(self, names: tuple[str, ...] | None = MAIN_METRICS) -> Any:
        """Return runtime metrics over time; None for all."""
        found = trends.over_time(self.part.run.scan("runtime_metrics"), names, _BINS)
        if not found.height:
            return None
        return trend_charts.over_time(
            found, start_ns=self.part.start_ns, lost=self._lost("runtime_metrics")
        )

    @cached_property
    def _threads(self) -> pl.DataFrame:
        run = self.part.run
        return threads.by_thread(run.scan("threads"), run.scan("thread_waits"))

    def _has(self, table: str) -> bool:
        return bool(self.part.run.scan(table).select(pl.len()).collect().item())

    def _lost(self, table: str) -> int:
        return self.part.lost(table)


def _at(column: str, start_ns: int) -> pl.Expr:
    """Return a moment in seconds since the recording began."""
    return ((pl.col(column) - start_ns) / 1e9).round(1)

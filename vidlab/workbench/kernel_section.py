"""What a notebook says about kernel and driver events: each answer in one call, of a slice."""

from __future__ import annotations

import html
from functools import cached_property
from typing import Any

import polars as pl

from ..analysis import (
    connections,
    decodetimes,
    kernel,
    memory_graph,
    metrics,
    offcpu,
    pointers,
)
from ..charts import connections as connection_charts
from ..charts import decodetimes as decode_charts
from ..charts import memory_graph as graph_charts
from ..charts import metrics as metric_charts
from ..charts import offcpu as offcpu_charts
from ..charts import pointers as pointer_charts
from ..charts import sizes
from ..schema.kernel import PREFIX
from .slices import Slice
from .tables import Table
from .text import Line, Section

#: What a run without kernel events shows.
NOTHING = (
    "No kernel events were recorded: record with <code>engines=[vl.Frames(), "
    "vl.KernelEvents()]</code>. What that needs, and what this machine has of it, says "
    "<code>vidlab doctor</code>."
)

#: What is no table of events, though it is called like one.
_COUNTED = ("kernel_probes", "kernel_metrics")

#: How long calls that decode video took, in µs: a metric of the probe set `libav`.
DECODE_METRIC = "ebpf_video_decode_us"

_BINS = 120

#: Rows of a table of probes: those that were hit.
_PROBES = 25


class KernelSection:
    """The answers on kernel events of a slice of a run. Without the events they are None.

    Parameters
    ----------
    part : Slice
        Of which streams, codecs and GPUs the waits, decoding and connections are; memory and
        copies are always the whole device's.
    """

    def __init__(self, part: Slice) -> None:
        self.part = part
        self._known: dict[str, pl.DataFrame | None] = {}

    @cached_property
    def spans(self) -> pl.DataFrame:
        """The spans of the whole run: threads work for more than one stream."""
        return self.part.run.scan("spans").collect()

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many events there are of each kind that has some."""
        run = self.part.run
        names = [name for name in run.tables() if name.startswith(PREFIX) and name not in _COUNTED]
        counts = {name: run.scan(name).select(pl.len()).collect().item() for name in names}
        return {name: count for name, count in counts.items() if count}

    def section(self) -> Section | None:
        """Return the heading of a report's section and the headline, or None without events."""
        if not self.counts:
            return None
        return Section("Kernel events", self.headline().text)

    def headline(self) -> Line:
        """Return how many events there are, and what threads waited for most, in words."""
        if not self.counts:
            return Line(self._refused() or NOTHING)
        total, kinds = sum(self.counts.values()), len(self.counts)
        text = f"{total:,} event{'s' * (total != 1)} of {kinds} kind{'s' * (kinds != 1)}."
        waits = self._waits
        if waits is not None:
            first = waits.filter(pl.col("stage") != offcpu.OUTSIDE).head(1)
            if first.height:
                stage, state, total_ns = first.select("stage", "state", "total_ns").row(0)
                text += (
                    f" Stages were off the CPU most in {html.escape(stage)} "
                    f"({html.escape(state or 'unknown')}, {total_ns / 1e9:.1f} s)."
                )
        return Line(text)

    def offcpu(self) -> Any:
        """Return how long stages were off the CPU, and in which state.

        Of a process that has no stages, as one that was watched from outside, all of it.
        """
        waits = self._waits
        if waits is None:
            return None
        inside = waits.filter(pl.col("stage") != offcpu.OUTSIDE)
        shown = inside if self.spans.height else waits
        return offcpu_charts.by_stage(shown, lost=self._lost("offcpu"))

    def offcpu_over_time(self) -> Any:
        """Return how many threads in stages were off the CPU, over time."""
        events = self._of_slice
        if events is None:
            return None
        inside = kernel.identified(events, self.spans).filter(pl.col("stage").is_not_null())
        shown = inside if self.spans.height else events
        return offcpu_charts.over_time(
            offcpu.over_time(shown, _BINS),
            start_ns=self.part.start_ns,
            lost=self._lost("offcpu"),
        )

    def wakeups(self) -> Table | None:
        """Return how long threads that could run waited for a CPU, by stage."""
        events = self._of_slice
        if events is None:
            return None
        return Table(
            offcpu.wakeups(events, self.spans).sort("p99_ns", descending=True),
            "From ready to running: how long threads waited for a CPU",
        )

    def decode(self) -> Any:
        """Return how much of decoding was FFmpeg's own time."""
        events = self._events("libav")
        if events is None:
            return None
        found = decodetimes.by_stream(events, self.spans)
        return decode_charts.by_stream(self._chosen(found), lost=self._lost("libav"))

    def decode_counted(self) -> Any:
        """Return how long each call that decoded video took, as the kernel counted them."""
        return self.counted(DECODE_METRIC)

    def counted(self, metric: str) -> Any:
        """Return where the values of a histogram lie, by stream and codec."""
        known = self._events("metrics")
        if known is None:
            return None
        return metric_charts.distribution(
            self._chosen(metrics.distribution(known, metric)),
            self._chosen(metrics.percentiles(known, quantiles=(0.5, 0.99))),
            lost=self._lost("metrics"),
        )

    def counters(self) -> Table | None:
        """Return what the counters came to, by stream and codec; None if they counted nothing."""
        known = self._events("metrics")
        if known is None:
            return None
        found = self._chosen(metrics.counters(known))
        return Table(found, "Counted in the kernel") if found.height else None

    def memory(self) -> Any:
        """Return which driver memory was taken, by which function, and who saw it."""
        events = self._events("cuda_memory")
        if events is None:
            return None
        seen = pointers.seen_by(events, self.part.run.scan("allocations"))
        return pointer_charts.summary(pointers.summary(seen), lost=self._lost("cuda_memory"))

    def copies(self) -> Any:
        """Return what was copied between which blocks of device memory."""
        memory, copied = self._events("cuda_memory"), self._events("cuda_copies")
        if memory is None or copied is None:
            return None
        graph = memory_graph.MemoryGraph()
        graph.add(memory, copied, end=True)
        return graph_charts.copies(graph.nodes(), graph.edges(), lost=self._lost("cuda_copies"))

    def connections(self) -> Any:
        """Return the TCP connections over time, with their round trips."""
        events = self._events("tcp")
        if events is None:
            return None
        found = self._chosen(connections.connections(events, self.spans))
        ended = self.part.run.manifest.ended
        return connection_charts.over_time(
            found,
            start_ns=self.part.start_ns,
            end_ns=None if ended is None else ended.monotonic_ns,
            lost=self._lost("tcp"),
        )

    def by_connection(self) -> Table | None:
        """Return what went over each stream's connections."""
        events = self._events("tcp")
        if events is None:
            return None
        found = self._chosen(connections.by_stream(events, self.spans)).with_columns(
            sent=sizes.text(pl.col("bytes_sent").cast(pl.Float64)),
            received=sizes.text(pl.col("bytes_received").cast(pl.Float64)),
        )
        return Table(
            found.drop("bytes_sent", "bytes_received"),
            "TCP by stream",
            headings={"srtt_us": "round trip, µs", "srtt_max_us": "longest, µs"},
        )

    def probes(self) -> Table | None:
        """Return what was attached and hit, and what became of the hits."""
        known = self._events("probes")
        if known is None:
            return None
        shown = (
            known.filter((pl.col("hits") > 0) | (pl.col("lost") > 0))
            .sort("hits", descending=True)
            .select("into", "symbol", "how", "hits", "emitted", "filtered", "sampled_out", "lost")
        )
        idle = known.height - shown.height
        return Table(
            shown.head(_PROBES),
            f"Probes that were hit, of {known.height:,} attached ({idle:,} never were)",
            headings={"into": "table"},
        )

    @cached_property
    def _waits(self) -> pl.DataFrame | None:
        events = self._of_slice
        return None if events is None else offcpu.by_stage(events, self.spans)

    @cached_property
    def _of_slice(self) -> pl.DataFrame | None:
        """The waits of the slice's streams, codecs and GPUs."""
        events = self._events("offcpu")
        chosen = [
            pl.col(name).cast(pl.String) == str(value)
            for name in ("stream_id", "codec", "gpu")
            if (value := getattr(self.part, name)) is not None
        ]
        if events is None or not chosen:
            return events
        found = kernel.identified(events, self.spans).filter(chosen)
        return found.select(events.columns).collect()

    def _events(self, name: str) -> pl.DataFrame | None:
        """Return a table of events, whole; None if there are none."""
        table = PREFIX + name
        if table not in self._known:
            has_it = table in self.part.run.tables()
            events = self.part.run.scan(table).collect() if has_it else pl.DataFrame()
            self._known[table] = events if events.height else None
        return self._known[table]

    def _chosen(self, found: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of the slice's stream and codec."""
        for name in ("stream_id", "codec"):
            value = getattr(self.part, name)
            if value is not None and name in found.columns:
                found = found.filter(pl.col(name) == value)
        return found

    def _lost(self, name: str) -> int:
        return self.part.lost(f"kernel_{name}")

    def _refused(self) -> str:
        """Return why kernel events were asked for and could not be had."""
        found = (
            self.part.run.scan("findings")
            .filter(pl.col("kind").cast(pl.String) == "no_kernel_events")
            .select("message")
            .collect()
        )
        return html.escape(found.item(0, 0)) if found.height else ""

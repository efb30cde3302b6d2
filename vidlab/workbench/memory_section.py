"""What a report and a notebook say about GPU memory: each answer in one call, of a slice."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import polars as pl

from ..analysis import (
    bill,
    flame,
    fragmentation,
    growthcurves,
    latency,
    leaks,
    livesets,
    memory,
    tables,
)
from ..charts import bill as bill_charts
from ..charts import flame as flame_charts
from ..charts import fragmentation as fragmentation_charts
from ..charts import leaks as leaks_charts
from ..charts import livesets as livesets_charts
from ..charts import memory as memory_charts
from ..charts import names, sizes, timeline
from .slices import Slice
from .tables import Table
from .text import Line

#: What a run without allocations shows.
NOTHING = (
    "No GPU memory was recorded: record with <code>engines=[vl.Frames(), vl.GpuMemory()]</code>."
)

#: What lives longer than this share of the run is long-lived, up to thirty seconds.
_LONG = 0.2

#: Bins of charts over time, and moments of a flame graph's slider.
_BINS, _STEPS = 250, 24

#: Leaking sites that the headline names.
_NAMED = 3


class MemorySection:
    """The answers on GPU memory of a slice of a run. Without allocations they are None.

    Parameters
    ----------
    part : Slice
        What was taken for these streams, codecs and GPUs; the bill, the pools and the calls of
        the driver are always the whole device's.
    """

    def __init__(self, part: Slice) -> None:
        self.part = part

    @cached_property
    def allocations(self) -> pl.DataFrame:
        """The table `allocations`, whole: a free's labels are not those of the block."""
        return self.part.run.scan("allocations").collect()

    @cached_property
    def stacks(self) -> pl.DataFrame:
        """The table `stacks`."""
        return self.part.run.scan("stacks").collect()

    @cached_property
    def where(self) -> dict[str, Any]:
        """What an analysis is asked to narrow allocations to."""
        chosen = {name: getattr(self.part, name) for name in ("stream_id", "codec", "gpu")}
        return {name: value for name, value in chosen.items() if value is not None}

    @cached_property
    def verdicts(self) -> pl.DataFrame:
        """What `analysis.leaks.verdicts` says of the slice."""
        run = self.part.run
        by = ("stream_id", "codec", *(["gpu"] if "gpu" in self.where else []))
        found = leaks.verdicts(
            self.allocations, run.scan("frames"), self.stacks, run.scan("holders"), by
        )
        return self._narrowed(found)

    def headline(self) -> Line:
        """Return the most that was in use, and which sites leak, in words."""
        if not self.allocations.height:
            return Line(NOTHING)
        peak = memory.peak(self.allocations, where=self.where)
        if not peak.height:
            return Line("Nothing of this slice took GPU memory.")
        most = sizes.say(peak["peak_bytes"][0])
        leaking = self.verdicts.filter(pl.col("verdict") == leaks.LEAKING)
        ends = "No allocation site leaks."
        if leaking.height:
            ends = (
                f"{leaking.height} allocation site{'s leak' if leaking.height > 1 else ' leaks'}: "
            )
            ends += "; ".join(self._sentence(row) for row in leaking.head(_NAMED).iter_slices(1))
            ends += "; and more." if leaking.height > _NAMED else "."
        return Line(f"At most {most} were in use at once. {ends}")

    def _sentence(self, row: pl.DataFrame) -> str:
        """Say of a leaking site where it is, whose, how fast, and what holds what it took."""
        site, labels, rate, holder = row.select(
            names.site().alias("name"),
            pl.concat_str(names.of(["stream_id", "codec"]), separator=", ", ignore_nulls=True),
            sizes.text(pl.col("bytes_per_1000_frames")).alias("rate"),
            pl.col("holder").cast(pl.String),
        ).row(0)
        held = f", held by {holder}" if holder else ""
        whose = f" ({labels})" if labels else ""
        return html.escape(f"{site}{whose}, {rate} per 1,000 frames{held}")

    def bill(self) -> Any:
        """Return what each device's memory is used for, over time."""
        samples = self.part.run.scan("gpu_samples").collect()
        if not self.allocations.height or not samples.height:
            return None
        found = bill.bill(samples, self.allocations)
        return bill_charts.stack(
            found,
            alarms=bill.alarms(found),
            start_ns=self.part.start_ns,
            lost=self._lost("gpu_samples"),
        )

    def in_use(self, *by: str) -> Any:
        """Return the bytes in use over time, by stream and codec unless other labels are named.

        A label may also be `stage`: that in which a block was taken.
        """
        if not self.allocations.height:
            return None
        keys = by or ("stream_id", "codec")
        return memory_charts.in_use(
            memory.in_use(self._staged(keys), keys, time_bins=_BINS, where=self.where),
            peak=memory.peak(self.allocations, where=self.where),
            start_ns=self.part.start_ns,
            lost=self._lost(),
        )

    def peaks(self, *by: str) -> Any:
        """Return the most that each group had in use, and when, as a table."""
        if not self.allocations.height:
            return None
        found = memory.peak(self._staged(by), by, where=self.where)
        since = (pl.col("t_ns") - self.part.start_ns) / 1e9
        shown = found.select(
            *by, sizes.text(pl.col("peak_bytes")).alias("at most"), since.alias("at, s")
        )
        return Table(shown, "The most that was in use, and when")

    def holders(self) -> Any:
        """Return what holds the blocks that were left at the end, as a table."""
        labels = ["stream_id", "codec", "gpu"]
        taken = tables.plain(self.allocations.filter(pl.col("op").cast(pl.String) == "alloc"))
        holders = self._narrowed(
            tables.plain(self.part.run.scan("holders").drop(labels).collect()).join(
                taken.filter(pl.col("generation") > 0).select("pid", "generation", *labels),
                on=["pid", "generation"],
                how="left",
            )
        )
        chain = pl.col("chain").str.json_decode(pl.List(pl.String)).list.join(" → ")
        found = holders.group_by("stream_id", "codec", "kind", "chain").agg(
            pl.len().alias("blocks"), pl.col("size_bytes").sum()
        )
        shown = found.sort("size_bytes", descending=True).select(
            "stream_id",
            "codec",
            "kind",
            "blocks",
            sizes.text(pl.col("size_bytes")).alias("size"),
            chain,
        )
        return Table(shown, "What holds the blocks that are left", {"chain": "from the root on"})

    def _staged(self, by: Sequence[str]) -> pl.DataFrame | pl.LazyFrame:
        if "stage" not in by:
            return self.allocations
        return memory.with_stage(self.allocations, self.part.run.scan("spans"))

    def lived_on(self, seconds: float | None = None) -> Any:
        """Return what was taken after the run's first fifth and is long-lived at its end.

        Long-lived is what is older than so many seconds; by default than 30, or a fifth of a
        shorter run.
        """
        if not self.allocations.height:
            return None
        first, last = self.allocations.select(
            pl.col("t_ns").min().alias("first"), pl.col("t_ns").max().alias("last")
        ).row(0)
        age = min(livesets.LONG_LIVED, (last - first) / 1e9 * _LONG) if seconds is None else seconds
        begin = int(first + (last - first) * _LONG)
        by = ("stream_id", "codec")
        found = livesets.diff(
            self.allocations, begin, last, self.stacks, self.part.run.scan("frames"), by, age
        )
        shown = self._narrowed(found)
        return livesets_charts.diff(shown, seconds=round(age, 1), lost=self._lost())

    def leaks(self) -> Any:
        """Return the verdict on each allocation site, and what holds what it took."""
        if not self.allocations.height:
            return None
        return leaks_charts.verdicts(self.verdicts, lost=self._lost("frames"))

    def growth(self) -> Any:
        """Return what the sites that hold the most have in use, frame by frame."""
        if not self.allocations.height:
            return None
        found = growthcurves.by_site(
            self.allocations, self.part.run.scan("frames"), self.stacks, top=40
        )
        return leaks_charts.growth(self._narrowed(found), lost=self._lost("frames"))

    def fragmentation(self) -> Any:
        """Return how the pools' free memory is cut up."""
        if not self.allocations.height:
            return None
        found = fragmentation.over_time(self.allocations)
        return fragmentation_charts.over_time(found, start_ns=self.part.start_ns, lost=self._lost())

    def hit_rate(self) -> Any:
        """Return how often the pools served an allocation without asking the driver."""
        if not self.allocations.height:
            return None
        return memory_charts.hit_rate(memory.hit_rate(self.allocations), lost=self._lost())

    def flame(self, measure: str = "in_use") -> Any:
        """Return the flame graph of `in_use` (with a time slider), `peak`, `allocated` bytes or
        `gpu_time`, or a line that says that no stage was timed."""
        if measure == "gpu_time":
            timed = flame.gpu_time(self.part.scan("spans"))
            if not timed.height:
                return Line("No stage was timed on a GPU.")
            return flame_charts.flame(timed, lost=self._lost("spans"))
        if not self.allocations.height:
            return None
        tree = (
            flame.memory_over_time(self.allocations, self.stacks, _STEPS, where=self.where)
            if measure == "in_use"
            else flame.memory(
                self.allocations, self.stacks, measure, where=self.where, prune=flame.PRUNED
            )
        )
        return flame_charts.flame(
            tree, measure=measure, start_ns=self.part.start_ns, lost=self._lost()
        )

    def timeline(self) -> Any:
        """Return allocations beside frames."""
        if not self.allocations.height:
            return None
        frames = tables.plain(latency.as_spans(self.part.scan("frames")).collect())
        return timeline.allocations(
            frames,
            memory.in_use(self.allocations, "codec", time_bins=_BINS, where=self.where),
            self.allocations.filter(pl.col("level").cast(pl.String) == "driver"),
            start_ns=self.part.start_ns,
            lost=self._lost("frames"),
        )

    def _narrowed(self, found: pl.DataFrame) -> pl.DataFrame:
        """Return those rows of an analysis by labels that belong to the slice."""
        chosen = [
            pl.col(name).cast(pl.String) == str(value)
            for name, value in self.where.items()
            if name in found.columns
        ]
        return found.filter(chosen) if chosen else found

    def _lost(self, *others: str) -> int:
        return self.part.lost("allocations", *others)

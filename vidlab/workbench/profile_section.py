"""What a report and a notebook say about profiles: each answer in one call, of a slice."""

from __future__ import annotations

import html
from functools import cached_property
from typing import Any

import polars as pl

from ..analysis import cpu, offcpu, profiles, sampling, tables
from ..charts import cpu as cpu_charts
from ..charts import profiles as profile_charts
from ..charts import sizes
from ..runs.run import Run
from .slices import Slice
from .tables import Table
from .text import Line, Section

#: What a run without profiles shows.
NOTHING = (
    "No profiles were recorded: record with <code>engines=[vl.Frames(), vl.Runtime(), "
    "vl.Profiles()]</code>, for which <code>pip install vidlab[profile]</code>."
)

#: Types of memory profiles, and what a flame graph of each shows.
MEMORY = {
    "inuse_space": "Which calls took the Python memory that is in use at the end",
    "inuse_objects": "Which calls made the objects that are alive at the end",
    "alloc_space": "Which calls took Python memory, given back or not",
    "alloc_objects": "Which calls made objects, alive or not",
}

_LABELS = ("stream_id", "codec", "gpu")
_TABLES = ("profile_samples", "spans")

#: Stacks that a table lists.
_STACKS = 12


class ProfileSection:
    """The answers on profiles of a slice of a run. Without samples they are None.

    Parameters
    ----------
    part : Slice
        Of which streams, codecs and GPUs the CPU is; threads and memory are the whole run's.
    """

    def __init__(self, part: Slice) -> None:
        self.part = part
        self._known: dict[tuple[str, ...], pl.DataFrame] = {}

    @cached_property
    def samples(self) -> pl.DataFrame:
        """The samples of the whole run."""
        return self.part.run.scan("profile_samples").collect()

    @cached_property
    def spans(self) -> pl.DataFrame:
        """The spans of the whole run: threads work for more than one stream."""
        return self.part.run.scan("spans").collect()

    @cached_property
    def stacks(self) -> pl.DataFrame:
        """The stacks of the whole run."""
        return self.part.run.scan("stacks").collect()

    def section(self) -> Section | None:
        """Return the heading of a report's section and the headline, or None without samples."""
        return Section("Profiles", self.headline().text) if self.samples.height else None

    def headline(self) -> Line:
        """Return how many samples there are, and which stage took the most CPU, in words."""
        if not self.samples.height:
            return Line(NOTHING)
        kinds = ", ".join(sorted(self.samples["type"].cast(pl.String).drop_nulls().unique()))
        text = f"{self.samples['samples'].clip(1).sum():,} samples ({html.escape(kinds)})."
        found = self._narrowed(self._cpu("stage", *_LABELS))
        by_stage = found.group_by("stage").agg(pl.col("cpu_ns", "sampled_ns").sum())
        staged = by_stage.filter(pl.col("stage") != offcpu.OUTSIDE)
        if not staged["cpu_ns"].sum():
            return Line(f"{text} No stage's clocks were read: CPU is as samples say.")
        first = staged.sort("cpu_ns", "stage", descending=[True, False]).row(0, named=True)
        total, sampled = staged.select(pl.col("cpu_ns", "sampled_ns").sum()).row(0)
        return Line(
            f"{text} Stages took {total / 1e9:.2f} s of CPU, most of it "
            f"{html.escape(first['stage'] or 'unknown')} ({first['cpu_ns'] / 1e9:.2f} s). "
            f"Samples alone would make it {sampled / 1e9:.2f} s."
        )

    def by_label(self, *by: str) -> Any:
        """Return the CPU by stream and codec, or by others, beside what samples say of it."""
        if not self.samples.height:
            return None
        keys = by or ("stream_id", "codec")
        wanted = [*keys, *(key for key in self._where if key not in keys)]
        found = self._narrowed(self._cpu(*wanted))
        if wanted != [*keys]:
            found = found.drop(key for key in wanted if key not in keys)
        return cpu_charts.by_label(found, lost=self._lost("thread_waits"))

    def by_stage(self) -> Any:
        """Return the CPU by stage, beside what samples say of it."""
        return self.by_label("stage")

    def by_thread(self) -> Any:
        """Return the CPU of each thread of the whole run, in stages and outside of them."""
        if not self.samples.height:
            return None
        return cpu_charts.by_label(self._cpu("thread"), lost=self._lost("thread_waits"))

    def table(self, *by: str) -> Table | None:
        """Return the numbers behind `by_label`."""
        if not self.samples.height:
            return None
        keys = [*(by or ("stream_id", "codec", "stage"))]
        wanted = [*keys, *(key for key in self._where if key not in keys)]
        found = self._narrowed(self._cpu(*wanted)).select(
            *keys,
            "cpu_ns",
            "sampled_ns",
            "samples",
            pl.col("coverage").alias("coverage share"),
            "spans",
            "unread",
        )
        return Table(
            found,
            "CPU by the clocks, and by samples",
            {"cpu_ns": "CPU, ms", "sampled_ns": "by samples, ms", "coverage share": "coverage"},
        )

    def flame(self, *layers: str) -> Any:
        """Return the flame graph of CPU, by stream and codec unless other layers are named."""
        if not self.samples.height:
            return None
        keys = layers or ("stream_id", "codec")
        found = self._narrowed(self._profile(*keys, *self._where))
        native = ~pl.col("staged") & (pl.col("samples") == 0)
        (other_ns,) = found.filter(native).select(pl.col("cpu_ns").sum()).row(0)
        other_ms = other_ns / 1e6
        return profile_charts.flame(
            profiles.flame(found.filter(~native), keys),
            note=f"threads that are not Python's took {other_ms:,.0f} ms more" if other_ms else "",
            lost=self._lost(),
        )

    def memory(self, type: str = "inuse_space") -> Any:
        """Return the flame graph of memory that the profiler saw, of one of `MEMORY`."""
        if not (self.samples["type"].cast(pl.String) == type).any():
            return None
        found = profiles.of_type(self.samples, self.stacks, type)
        return profile_charts.flame(
            profiles.flame(found), title=MEMORY.get(type, type), lost=self._lost()
        )

    def difference(self, key: str = "stream_id", before: str = "", after: str = "") -> Any:
        """Return what two values of a label spend differently: for each frame, if they have any.

        By default those two with the most CPU.
        """
        if not self.samples.height:
            return None
        found = self._narrowed(self._profile(key, *self._where))
        names = pl.col(key).cast(pl.String)
        ranked = (
            found.filter(pl.col(key).is_not_null())
            .group_by(names)
            .agg(pl.col("cpu_ns").sum())
            .sort("cpu_ns", key, descending=[True, False])[key]
            .to_list()
        )
        chosen = [value for value in (before, after) if value]
        both = (chosen + [value for value in ranked if value not in chosen])[:2]
        both = both if chosen else sorted(both)
        if len(both) < 2:
            return Line(f"There are no two values of {html.escape(key)} to compare.")
        frames = self._frames(self.part.run, key, both)
        first, second = (found.filter(names == value) for value in both)
        compared = profiles.difference(first, second, frames=frames)
        return profile_charts.difference(
            compared, before=both[0], after=both[1], per_frame=bool(frames), lost=self._lost()
        )

    def against(self, other: Run) -> Any:
        """Return what this run spends differently than another one, for each frame."""
        sides = (ProfileSection(Slice(other, **self._where)), self)
        if not all(side.samples.height for side in sides):
            return None
        before, after = (side._narrowed(side._profile(*_LABELS, lines=False)) for side in sides)
        first, second = (
            sampling.coverage(tables.delivered(side.part.scan("frames")))["frames"].item()
            for side in sides
        )
        frames = (first, second) if first and second else None
        return profile_charts.difference(
            profiles.difference(before, after, frames=frames),
            before=other.manifest.run_id,
            after=self.part.run.manifest.run_id,
            per_frame=frames is not None,
            lost=sum(side._lost() for side in sides),
        )

    def slow(self, stage: str = "", share: float = 0.1) -> Any:
        """Return what the slowest spans of a stage spend more on than its other ones.

        By default of the stage that took the most CPU. Both are scaled to the same total.
        """
        name = stage or self._busiest
        if name is None:
            return None
        slow, rest = profiles.slow_and_rest(self.part.scan("spans"), name, share)
        first, second = (
            profiles.of_spans(self.samples, self.stacks, self.spans, side) for side in (rest, slow)
        )
        return profile_charts.difference(
            profiles.difference(first, second),
            before=f"the others ({len(rest):,})",
            after=f"the slowest spans of {name} ({len(slow):,})",
            lost=self._lost(),
        )

    def slowest(self, stage: str = "") -> Table | None:
        """Return the stacks that were seen in the slowest span of a stage that has samples."""
        name = stage or self._busiest
        if name is None:
            return None
        seen = self.samples["span"].drop_nulls().unique()
        spans = self.part.scan("spans").filter(pl.col("stage").cast(pl.String) == name)
        first = (
            spans.filter(pl.col("span").is_in(seen.implode()))
            .sort("duration_ns", descending=True)
            .select("span", "frame", "duration_ns", "t_ns")
            .head(1)
            .collect()
        )
        if not first.height:
            return None
        span, frame, duration_ns, t_ns = first.row(0)
        return self.stacks_of_span(
            span,
            f"The slowest span of {name} that was sampled: {duration_ns / 1e6:,.1f} ms, frame "
            f"{'unknown' if frame is None else frame}, "
            f"{(t_ns - self.part.start_ns) / 1e9:.2f} s after the beginning",
        )

    def stacks_of_span(self, span: int, caption: str = "") -> Table:
        """Return the stacks that were seen while a span was open."""
        found = profiles.of_spans(self.samples, self.stacks, self.spans, [span])
        shown = profiles.stacks_of(found, _STACKS)
        return Table(shown, caption or f"Stacks seen in span {span}", {"cpu_ns": "CPU, ms"})

    def stacks_of_frame(self, frame: int) -> Table:
        """Return the stacks that were seen while threads worked on a frame."""
        spans = self.spans.filter(pl.col("frame") == frame)["span"].to_list()
        found = profiles.of_spans(self.samples, self.stacks, self.spans, spans, "stage")
        shown = profiles.stacks_of(found, _STACKS)
        return Table(shown, f"Stacks seen while frame {frame} was worked on", {"cpu_ns": "CPU, ms"})

    def pushes(self) -> Table | None:
        """Return what the profiler sent, and what became of it."""
        table = self.part.run.scan("profile_pushes")
        found = (
            tables.as_text(table, ["status", "profile"])
            .group_by("status", "profile", "folded")
            .agg(
                pl.len().alias("pushes"),
                pl.col("size_bytes").sum().cast(pl.Float64),
                pl.col("samples").sum(),
                pl.col("took_ns").max().alias("longest_ns"),
            )
            .sort("pushes", "status", descending=[True, False])
            .collect()
        )
        if not found.height:
            return None
        shown = found.with_columns(sizes.text(pl.col("size_bytes")).alias("size_bytes"))
        return Table(shown, "What the profiler sent", {"size_bytes": "size, compressed"})

    @cached_property
    def _where(self) -> dict[str, Any]:
        chosen = {name: getattr(self.part, name) for name in _LABELS}
        return {name: value for name, value in chosen.items() if value is not None}

    @cached_property
    def _busiest(self) -> str | None:
        """The stage of the slice that took the most CPU."""
        if not self.samples.height:
            return None
        found = self._narrowed(self._cpu("stage", *_LABELS))
        ranked = (
            found.filter((pl.col("stage") != offcpu.OUTSIDE) & (pl.col("samples") > 0))
            .group_by("stage")
            .agg(pl.col("cpu_ns").sum())
            .sort("cpu_ns", "stage", descending=[True, False])
        )
        return str(ranked["stage"][0]) if ranked.height else None

    @cached_property
    def _clocks(self) -> dict[str, pl.DataFrame]:
        run = self.part.run
        return {name: run.scan(name).collect() for name in ("thread_waits", "threads")}

    def _cpu(self, *keys: str) -> pl.DataFrame:
        if keys not in self._known:
            self._known[keys] = cpu.by_label(self.spans, self.samples, keys, **self._clocks)
        return self._known[keys]

    def _profile(self, *keys: str, lines: bool = True) -> pl.DataFrame:
        by = list(dict.fromkeys(keys))
        return profiles.of_cpu(
            self.samples, self.stacks, self.spans, by, **self._clocks, lines=lines
        )

    def _narrowed(self, found: pl.DataFrame) -> pl.DataFrame:
        chosen = [pl.col(name).cast(pl.String) == str(v) for name, v in self._where.items()]
        return found.filter(chosen) if chosen else found

    @staticmethod
    def _frames(run: Run, key: str, values: list[str]) -> tuple[int, int] | None:
        """How many delivered frames each value of a label has; None if one has none."""
        frames = run.scan("frames")
        if not tables.has(frames, key):
            return None
        counted = (
            tables.as_text(tables.delivered(frames, [key]), [key])
            .pipe(tables.weighted)
            .group_by(pl.col(key).cast(pl.String))
            .agg(tables.whole_number(pl.col(tables.WEIGHT).sum()))
            .collect()
        )
        known = dict(counted.iter_rows())
        first, second = (known.get(value, 0) for value in values)
        return (first, second) if first and second else None

    def _lost(self, *others: str) -> int:
        return self.part.lost(*_TABLES, *others)

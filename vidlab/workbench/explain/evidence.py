"""What stands behind a cause: a few numbers of the run's tables, for people and machines.

One look at the tables serves both: `Evidence.of` returns the numbers, and `numbers.said` puts
them into words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from ...analysis import tables, wakeups
from ...analysis.blame import causes
from ...analysis.blame.intervals import Disjoint, disjoint, overlaps
from ...runs.run import Run
from . import advice, deeds, frameids, unions, ways

#: Frames of a cause that are looked at more closely: those it took most of.
LOOKED_AT = 200

#: Frames that are named as examples.
EXAMPLES = 3

#: Causes of which the run's tables are read: it takes a moment each.
MOST = 12

#: The table by which each cause is known, unless a finer one was recorded.
_TABLES = {
    causes.QUEUE_WAIT: "queue_depths",
    causes.GARBAGE_COLLECTION: "gc_pauses",
    causes.GIL: "wakeups",
    causes.ALLOCATOR: "allocations",
    causes.IO: "kernel_offcpu",
    causes.CORRUPT_INPUT: "frames",
}

Facts = dict[str, Any]


class Evidence:
    """The evidence on the causes of a run's late frames.

    Parameters
    ----------
    run : Run
    frames : polars.DataFrame
        `frame`, `stream_id`, `seq`, `pid`, `t_demux_ns` and `t_done_ns` of those that are
        blamed on something.
    blamed : polars.DataFrame
        What `analysis.blame.per_frame` returned of them.
    compared : bool
        Whether there are punctual frames, by which it is known what is usual.
    """

    def __init__(
        self, run: Run, frames: pl.DataFrame, blamed: pl.DataFrame, compared: bool = True
    ) -> None:
        self.run = run
        self.frames = frames
        self._blamed = blamed
        self._compared = compared
        self._names: dict[int, str] = {}
        self._more: dict[str, Callable[[pl.DataFrame], Facts]] = {
            causes.QUEUE_WAIT: self._queue,
            causes.GARBAGE_COLLECTION: self._collections,
            causes.GIL: self._gil,
            causes.ALLOCATOR: self._allocations,
            causes.IO: self._io,
            causes.RUN_QUEUE: self._cpus,
            causes.REORDERING: self._reordering,
        }

    def of(self, topics: Sequence[pl.DataFrame], most: int = MOST) -> list[Facts]:
        """Return what stands behind causes, as JSON values.

        Parameters
        ----------
        topics : sequence of polars.DataFrame
            Rows of what `analysis.blame.per_frame` returned, each of one cause: of one or more
            stages, of one or more streams.
        most : int
            Of how many the run's tables are read, from the first on.

        Returns
        -------
        list of dict
            `table` (by which the cause is known), `frames` (examples, as
            `vidlab explain --frame` takes them), `late_ms` and `usual_ms` (the medians of one
            frame; `usual_ms` is null if no frame was punctual); of the first, `rows` (of the
            table, that were looked at) and what else is known of such a cause. Of a wait that
            is `stage_did` and `bottleneck_did` (`deeds.Did.facts`: of the stage after the
            queue, and of the one that all waited for, `bottleneck`).
        """
        if not topics:
            return []
        durations = ("total_ns", "typical_ns", "blamed_ns")
        numbered = pl.concat(
            [rows.select("frame", *durations, topic=pl.lit(n)) for n, rows in enumerate(topics)]
        )
        each = numbered.group_by("topic", "frame").agg(pl.col(durations).sum())
        ranked = each.sort("topic", "blamed_ns", "frame", descending=[False, True, False])
        looked_at = ranked.group_by("topic", maintain_order=True).head(LOOKED_AT)
        medians = each.group_by("topic").agg(pl.col("total_ns", "typical_ns").median())
        examples = ranked.group_by("topic", maintain_order=True).head(EXAMPLES)
        names = self._called(examples["frame"])
        found: list[Facts] = []
        for topic, total_ns, typical_ns in medians.sort("topic").iter_rows():
            cause = topics[topic]["cause"][0]
            shown = examples.filter(pl.col("topic") == topic)["frame"]
            found.append(
                {
                    "table": _TABLES.get(cause, "spans"),
                    "frames": [names[frame] for frame in shown],
                    "late_ms": _in_ms(total_ns),
                    "usual_ms": _in_ms(typical_ns) if self._compared else None,
                }
            )
        for topic, rows in enumerate(topics[:most]):
            more = self._more.get(rows["cause"][0])
            own = looked_at.filter(pl.col("topic") == topic).select("frame")
            found[topic] |= more(rows.join(own, on="frame", how="semi")) if more else {}
        return found

    def worst(self, blamed: pl.DataFrame) -> str | None:
        """Return what the frame is called that most time is blamed on; None without frames."""
        sums = blamed.group_by("frame").agg(pl.col("blamed_ns").sum())
        most = sums.sort("blamed_ns", "frame", descending=[True, False])["frame"].head(1)
        return self._called(most)[most[0]] if most.len() else None

    def _called(self, frames: pl.Series) -> dict[int, str]:
        """What these frames are called: as of `frameids.called`."""
        if not all(frame in self._names for frame in frames):
            rows = self.frames.filter(pl.col("frame").is_in(frames.implode()))
            named = frameids.named(self.run, rows)
            self._names |= {frame: str(frame) for frame in frames} | named
        return self._names

    # --- waits ------------------------------------------------------------------

    def _queue(self, blamed: pl.DataFrame) -> Facts:
        """How full the queue was while these frames waited, and what took from it meanwhile.

        Of the queue, and the stream, that they waited for most.
        """
        queue, stream, way = self._most(blamed)
        during = self._during_of(way, blamed, queue, "queue")
        if not during:
            return {}
        facts: Facts = {"queue": queue, "stream_id": stream, **way.depth(queue, during)}
        chain = way.chain(queue, during)
        if chain:
            facts |= {"taken_by": chain[0].stage, "at_work_share": round(chain[0].at_work, 4)}
        return facts | _bottleneck(chain)

    def _reordering(self, blamed: pl.DataFrame) -> Facts:
        """Whether the decoder itself was held up meanwhile, and whether there are B-frames."""
        stage, stream, way = self._most(blamed)
        stream_of = pl.col("stream_id").cast(pl.String).eq_missing(pl.lit(stream, pl.String))
        b_frames = advice.has_b_frames(self.run.scan("frames").filter(stream_of))
        facts: Facts = {"stream_id": stream}
        facts |= {} if b_frames is None else {"b_frames": b_frames}
        during = self._during_of(way, blamed, stage, "reorder")
        if not during:
            return facts
        before = way.steps.filter(pl.col("kind") == "reorder", pl.col("stage") == stage)["before"]
        chain = way.chain(before.mode().sort()[0], during)
        held = bool(chain) and chain[0].most == deeds.HELD_UP
        return facts | (_bottleneck(chain) if held else {})

    def _most(self, blamed: pl.DataFrame) -> tuple[str, str | None, ways.Way]:
        """The stage or queue, and the stream, with most of it; and the way of its frames."""
        place = ["stage", "stream_id"]
        most = blamed.group_by(place).agg(pl.col("blamed_ns").sum())
        stage, stream, _ = most.sort("blamed_ns", *place, descending=[True, False, False]).row(0)
        own = blamed.filter(pl.col("stream_id").eq_missing(pl.lit(stream, pl.String)))
        frames = own["frame"].unique()
        spans = ways.spans_of(self.run, frames, *self._lives(frames))
        return stage, stream, ways.Way(self.run, spans, stream, self._blamed, self._queues)

    @cached_property
    def _queues(self) -> list[str]:
        return ways.queues_of(self.run)

    def _during_of(self, way: ways.Way, blamed: pl.DataFrame, stage: str, kind: str) -> Disjoint:
        """When these frames were in this queue, or held back by this stage."""
        own = blamed.filter(pl.col("stage") == stage)["frame"].unique().implode()
        waits = pl.col("frame").is_in(own) & (pl.col("kind") == kind) & (pl.col("stage") == stage)
        return unions.times_of(way.steps.filter(waits))

    # --- the interpreter, the machine, the driver -------------------------------

    def _collections(self, blamed: pl.DataFrame) -> Facts:
        """Which collections there were while these frames were on their way."""
        since, until = self._lives(blamed["frame"])
        end_ns = pl.col("t_ns") + pl.col("duration_ns")
        found = (
            self.run.scan("gc_pauses").filter(pl.col("t_ns") < until, end_ns > since)
            .select("pid", "t_ns", "duration_ns", "generation").collect()
        )  # fmt: skip
        hit = self._during(found, blamed["frame"])
        if not hit.height:
            return {"rows": 0}
        longest = hit.sort("duration_ns").row(-1, named=True)
        return {
            "rows": hit.height,
            "longest_ms": _in_ms(longest["duration_ns"]),
            "generation": longest["generation"],
        }

    def _gil(self, blamed: pl.DataFrame) -> Facts:
        """Which thread had the CPU most while Python waited for the GIL."""
        since, until = self._lives(blamed["frame"])
        own = pl.col("t_ns").is_between(since - _SECOND, until)
        run = self.run
        found = wakeups.holders(
            run.scan("wakeups").filter(own),
            run.scan("thread_waits").filter(own),
            run.scan("threads"),
            run.scan("gc_pauses").filter(own),
            run.scan("runtime_metrics").filter(own),
        ).drop_nulls("share")
        rows = run.scan("wakeups").filter(own).select(pl.len()).collect().item()
        facts: Facts = {"rows": rows, "estimate": True}
        if found.height:
            held = found.sort("share", descending=True, maintain_order=True).row(0, named=True)
            facts |= {"held_by": held["name"], "held_share": round(held["share"], 4)}
        return facts

    def _allocations(self, blamed: pl.DataFrame) -> Facts:
        """What was asked of the driver for these frames, and given back to it."""
        calls = (
            tables.as_text(self.run.scan("allocations"), ["level", "op", "kind"])
            .filter(pl.col("level") == "driver",
                    pl.col("frame").is_in(blamed["frame"].unique().implode()))
            .select("op", "kind", "size_bytes", "duration_ns").collect()
        )  # fmt: skip
        asked = calls.filter(pl.col("op") == "alloc")
        if not asked.height:
            return {"rows": calls.height}
        return {
            "rows": calls.height,
            "allocated": asked.height,
            "kind": asked["kind"].mode().sort()[0],
            "median_bytes": int(asked["size_bytes"].median() or 0),  # type: ignore[arg-type]
            "longest_ms": _in_ms(calls["duration_ns"].max()),
        }

    def _io(self, blamed: pl.DataFrame) -> Facts:
        """The longest wait for storage or a device of the threads that worked on these frames."""
        if "kernel_offcpu" not in self.run.tables():
            return {"rows": 0}
        since, until = self._lives(blamed["frame"])
        found = (
            tables.as_text(self.run.scan("kernel_offcpu"), ["state"])
            .filter(pl.col("t_ns").is_between(since, until), pl.col("state") == "disk")
            .select(pl.len(), pl.col("duration_ns").max()).collect()
        )  # fmt: skip
        rows, longest = found.row(0)
        return {"rows": rows, "longest_ms": _in_ms(longest)}

    def _cpus(self, blamed: pl.DataFrame) -> Facts:
        """How many CPUs there were for those that waited for one."""
        return {"cpus": self.run.manifest.host.get("cpus")}

    # --- when -------------------------------------------------------------------

    def _lives(self, frames: pl.Series) -> tuple[int, int]:
        """When the first of these frames began, and the last ended."""
        own = self.frames.filter(pl.col("frame").is_in(frames.implode()))
        since, until = own.select(pl.col("t_demux_ns").min(), pl.col("t_done_ns").max()).row(0)
        return (0, 0) if since is None or until is None else (int(since), int(until))

    def _during(self, events: pl.DataFrame, frames: pl.Series) -> pl.DataFrame:
        """The events that happened in a process while one of these frames was in it."""
        own = self.frames.filter(
            pl.col("frame").is_in(frames.implode()), pl.col("t_done_ns").is_not_null()
        )
        lives = disjoint(*(own[name].to_numpy().astype(np.int64) for name in
                           ("pid", "t_demux_ns", "t_done_ns")))  # fmt: skip
        rows, _, _ = overlaps(
            events["pid"].to_numpy().astype(np.int64), events["t_ns"].to_numpy(),
            (events["t_ns"] + events["duration_ns"]).to_numpy(), lives,
        )  # fmt: skip
        return events[np.unique(rows)]


_SECOND = 1_000_000_000


def _bottleneck(chain: list[deeds.Did]) -> Facts:
    """What the stage did, and which one, further down, all of it waited for."""
    if not chain:
        return {}
    facts: Facts = {"stage_did": chain[0].facts(), "bottleneck": None, "bottleneck_did": None}
    # A last one that is held up has a queue behind it that nothing is known to take from.
    if chain[-1].most not in (deeds.HELD_UP, deeds.UNKNOWN):
        facts |= {"bottleneck": chain[-1].stage, "bottleneck_did": chain[-1].facts()}
    return facts


def _in_ms(ns: Any) -> float | None:
    return None if ns is None else round(float(ns) / 1e6, 3)

"""What stands behind a cause: a few numbers of the run's tables, for people and machines.

One look at the tables serves both: `Evidence.of` returns the numbers, `said` puts them into
words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from .. import sizes
from ..analysis import blame, tables, wakeups
from ..analysis.blame import causes
from ..analysis.blame.intervals import Disjoint, disjoint, overlaps
from ..analysis.saying import ms, times
from ..runs.run import Run
from . import covered, frameids, stage_did

#: Frames of a cause that are looked at more closely: those it took most of.
LOOKED_AT = 200

#: Frames that are named as examples.
EXAMPLES = 3

#: Causes of which the run's tables are read: it takes a moment each.
MOST = 12

#: A thread that has the CPU in fewer of the waits for the GIL is not named.
_HOLDS = 0.2

#: A queue is at its limit if it is for this share of the time.
_FULL = 0.5

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
        `frame`, `pid`, `t_demux_ns` and `t_done_ns` of those that are blamed on something.
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
            is `stage_did` and `bottleneck_did` (`stage_did.Did.facts`: of the stage after the
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
        names = frameids.called(self.run, examples["frame"])
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
        return frameids.called(self.run, most)[most[0]] if most.len() else None

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
        facts: Facts = {"stream_id": stream, **self._pictures(stream)}
        during = self._during_of(way, blamed, stage, "reorder")
        if not during:
            return facts
        before = way.steps.filter(pl.col("kind") == "reorder", pl.col("stage") == stage)["before"]
        chain = way.chain(before.mode().sort()[0], during)
        held = bool(chain) and chain[0].most == stage_did.HELD_UP
        return facts | (_bottleneck(chain) if held else {})

    def _most(self, blamed: pl.DataFrame) -> tuple[str, str | None, stage_did.Way]:
        """The stage or queue, and the stream, with most of it; and the way of its frames."""
        place = ["stage", "stream_id"]
        most = blamed.group_by(place).agg(pl.col("blamed_ns").sum())
        stage, stream, _ = most.sort("blamed_ns", *place, descending=[True, False, False]).row(0)
        own = blamed.filter(pl.col("stream_id").eq_missing(pl.lit(stream, pl.String)))
        frames = own["frame"].unique()
        spans = stage_did.spans_of(self.run, frames, *self._lives(frames))
        return stage, stream, stage_did.Way(self.run, spans, stream, self._blamed, self._queues)

    @cached_property
    def _queues(self) -> list[str]:
        return stage_did.queues_of(self.run)

    def _during_of(
        self, way: stage_did.Way, blamed: pl.DataFrame, stage: str, kind: str
    ) -> Disjoint:
        """When these frames were in this queue, or held back by this stage."""
        own = blamed.filter(pl.col("stage") == stage)["frame"].unique().implode()
        waits = pl.col("frame").is_in(own) & (pl.col("kind") == kind) & (pl.col("stage") == stage)
        return covered.times_of(way.steps.filter(waits))

    def _pictures(self, stream: str | None) -> Facts:
        """Whether a stream has pictures that are shown in another order than they come."""
        own = pl.col("stream_id").cast(pl.String).eq_missing(pl.lit(stream, pl.String))
        kind = pl.col("picture_type").cast(pl.String)
        known, b_frames, reordered = (
            self.run.scan("frames").filter(own)
            .select(kind.count(), (kind == "B").sum().alias("b"), pl.col("reordered").sum())
            .collect().row(0)
        )  # fmt: skip
        return {"b_frames": bool(b_frames or reordered)} if known else {}

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


def words(cause: str, stage: str | None) -> str:
    """Return a cause and where it struck: "queue wait before encode"."""
    told = blame.CAUSES[cause].said(stage)
    # The names of some queues say where they are: "in before encode" is no English.
    return re.sub(rf" (in|during|of|by) (?={'|'.join(stage_did.PLACES)})", " ", told)


def said(cause: str, facts: Facts) -> str:
    """Return the numbers behind a cause in words, "" if there are none worth them."""
    if cause == causes.QUEUE_WAIT:
        return _queue_said(facts)
    if cause == causes.GARBAGE_COLLECTION and facts.get("longest_ms"):
        longest = (
            f"the longest {_said_ms(facts['longest_ms'])}, of generation {facts['generation']}"
        )
        return f"{times(facts['rows'], 'collection')}, {longest}"
    if cause == causes.GIL:
        held = (f"; {facts['held_by']} had the CPU in {facts['held_share']:.0%} of the waits"
                if facts.get("held_share", 0) >= _HOLDS else "")  # fmt: skip
        return f"by estimate{held}"
    if cause == causes.ALLOCATOR and facts.get("median_bytes"):
        return (f"{times(facts['allocated'], 'driver allocation')} of {facts['kind']} memory, "
                f"{sizes.say(facts['median_bytes'])} typically, "
                f"the longest took {_said_ms(facts['longest_ms'])}")  # fmt: skip
    if cause == causes.IO and facts.get("longest_ms"):
        return f"the longest wait {_said_ms(facts['longest_ms'])}"
    usual = _usual_said(facts)
    if cause == causes.RUN_QUEUE and facts.get("cpus"):
        return f"{usual}; the machine has {times(facts['cpus'], 'CPU')}"
    return usual


def _usual_said(facts: Facts) -> str:
    if facts["late_ms"] is None:
        return ""
    usually = {None: "", 0.0: ", usually none"}.get(
        facts["usual_ms"], f", usually {_said_ms(facts['usual_ms'] or 0)}"
    )
    return f"{_said_ms(facts['late_ms'])} a frame{usually}"


def _queue_said(facts: Facts) -> str:
    depth, did = depth_said(facts), facts.get("stage_did")
    taker = stage_did.said(did) if did else ""
    last = facts.get("bottleneck_did")
    if did and last and last["stage"] != did["stage"]:
        taker += f"; {stage_did.said(last)}"
    return f"{depth} ({taker})" if depth and taker else depth or taker


def depth_said(facts: Facts) -> str:
    """Return how full a queue was, in words; "" if that is not known."""
    if facts.get("full_share", 0) >= _FULL:
        return f"depth at its limit of {facts['capacity']}"
    if facts.get("capacity"):
        return f"{facts['mean_depth']:.1f} of {facts['capacity']} places taken"
    if facts.get("max_depth"):
        return f"up to {facts['max_depth']} frames in it, and no limit"
    return ""


def _bottleneck(chain: list[stage_did.Did]) -> Facts:
    """What the stage did, and which one, further down, all of it waited for."""
    if not chain:
        return {}
    facts: Facts = {"stage_did": chain[0].facts(), "bottleneck": None, "bottleneck_did": None}
    # A last one that is held up has a queue behind it that nothing is known to take from.
    if chain[-1].most not in (stage_did.HELD_UP, stage_did.UNKNOWN):
        facts |= {"bottleneck": chain[-1].stage, "bottleneck_did": chain[-1].facts()}
    return facts


def _in_ms(ns: Any) -> float | None:
    return None if ns is None else round(float(ns) / 1e6, 3)


def _said_ms(value: float) -> str:
    return ms(value * 1e6)

"""What a stage did while frames waited for it: was it at work, or held up itself, or away?

A full queue holds up the stage before it, and then the queue before that one fills up too.
So one slow stage shows as waits in several queues. Which stage it is, is followed from the
queue that frames waited in down their way, as far as stages were held up themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from ..analysis import tables
from ..analysis.blame.intervals import Disjoint, overlaps
from ..runs.run import Run
from .covered import length, shared, times_of, without

#: What a stage did most of the time.
AT_WORK, HELD_UP, ELSEWHERE, AWAY = "at work", "held up", "elsewhere", "away"

#: It was not at work, and how full the queue behind it was is not known.
UNKNOWN = "unknown"

#: Among so many touches each queue is touched.
_TOUCHES = 200_000

#: How many spans may be around another.
_DEEPEST = 8

#: What the names of queues begin with that say where they are.
PLACES = ("before ", "after ", "between ")

_SECOND = 1_000_000_000

#: How many numbers a stream's frames have between them, each time that it is opened.
_OPENED = 1 << 32

Facts = dict[str, Any]


@dataclass(frozen=True)
class Did:
    """What a stage did in some time.

    Attributes
    ----------
    stage : str
        That which takes most time of those that follow a queue.
    stages : tuple of str
        All of them, and those within them.
    queue, held_up_by : str or None
        The queue that it takes from, and the one behind it.
    at_work, held_up, elsewhere : float
        Shares of that time: at work on frames of these streams; not at work, while the queue
        behind it was full; its threads were in another span. The rest of the time it did
        nothing of this: it was away.
    depths_known : bool
        Whether it is known how full the queue behind it was, if there is one.
    spent_ms : dict of str to float
        What it spent a late frame's time on, by cause, the most first; empty if unknown.
    """

    stage: str
    stages: tuple[str, ...]
    queue: str | None
    held_up_by: str | None
    at_work: float
    held_up: float
    elsewhere: float
    depths_known: bool
    spent_ms: dict[str, float]

    @property
    def most(self) -> str:
        """What it did most: `AT_WORK`, `HELD_UP`, `ELSEWHERE`, `AWAY`; or `UNKNOWN`."""
        shares = {
            AT_WORK: self.at_work,
            HELD_UP: self.held_up,
            ELSEWHERE: self.elsewhere,
            (AWAY if self.depths_known else UNKNOWN): self.away,
        }
        return max(shares, key=lambda name: shares[name])

    @property
    def away(self) -> float:
        """The share of the time in which nothing is known of it."""
        return max(0.0, 1 - self.at_work - self.held_up - self.elsewhere)

    def facts(self) -> Facts:
        """Return the same as JSON values."""
        return {
            "stage": self.stage,
            "stages": list(self.stages),
            "did": self.most,
            "at_work_share": round(self.at_work, 4),
            "held_up_share": round(self.held_up, 4),
            "held_up_by": self.held_up_by if self.held_up > 0 else None,
            "elsewhere_share": round(self.elsewhere, 4),
            "away_share": round(self.away, 4),
            "spent_ms": self.spent_ms,
        }


#: What a stage does, for each cause that is inside of one.
_DOING = {
    "work": "on the CPU",
    "asleep": "asleep",
    "io": "waiting for storage or a device",
    "run_queue": "waiting for a CPU",
    "gil": "waiting for the GIL (an estimate)",
    "garbage_collection": "stopped by the garbage collector",
    "allocator": "asking the driver for memory",
}


def said(did: Facts) -> str:
    """Return what a stage did (`Did.facts`), in words."""
    stage, at_work = did["stage"], f"{did['at_work_share']:.0%}"
    if did["did"] == HELD_UP:
        full = f"{named(did['held_up_by'])} was full {did['held_up_share']:.0%} of that time"
        return f"{stage} was held up: {full}"
    if did["did"] == ELSEWHERE:
        return f"{stage}'s thread was at work elsewhere {did['elsewhere_share']:.0%} of that time"
    if did["did"] == AWAY:
        return f"{stage} was at work {at_work} of that time, and took nothing otherwise"
    if did["did"] == UNKNOWN:
        return f"{stage} was at work {at_work} of that time"
    return f"{stage} was at work {at_work} of that time{_spent_said(did['spent_ms'])}"


def named(queue: str) -> str:
    """Return what a queue is called within a sentence: "the queue before encode"."""
    return f"the queue {queue}" if queue.startswith(PLACES) else f"the queue {queue!r}"


def most_spent(did: Facts) -> str:
    """Return the cause that took half of a late frame's time in a stage, or more; "" if none."""
    cause, most = next(iter(did["spent_ms"].items()), ("", 0.0))
    return cause if most and most >= sum(did["spent_ms"].values()) / 2 else ""


def _spent_said(spent_ms: dict[str, float]) -> str:
    cause = most_spent({"spent_ms": spent_ms})
    if not cause:
        return ""
    most, total = spent_ms[cause], sum(spent_ms.values())
    return f", {_DOING[cause]} {most / total:.0%} of it, {_number(most)} ms a frame"


def _number(ms: float) -> str:
    return f"{ms:,.0f}" if ms >= 10 else f"{ms:.1f}"


class Way:
    """The way of a stream's frames through queues and stages, and what each of them did.

    Parameters
    ----------
    run : Run
    spans : polars.DataFrame
        Those of the stream's frames: what `spans_of` returned.
    stream_id : str or None
        Whose queues to look at.
    blamed : polars.DataFrame
        What late frames spent: rows of what `analysis.blame.per_frame` returned.
    queues : sequence of str
        The queues whose depths are known: what `queues_of` returned.
    """

    def __init__(
        self,
        run: Run,
        spans: pl.DataFrame,
        stream_id: str | None,
        blamed: pl.DataFrame,
        queues: Sequence[str],
    ) -> None:
        self._run = run
        self._stream = stream_id
        self._blamed = blamed
        self._spans = spans
        self._queues = queues
        self._depths: dict[tuple[str, int, int], pl.DataFrame] = {}

    @cached_property
    def steps(self) -> pl.DataFrame:
        """The spans with no other around them, each with the queue `before` and `behind` it.

        Waits without a queue that has depths are not counted as one: such as for what an
        iterator has ready until its own thread asks for it.
        """
        is_queue = pl.col("kind") == "queue"
        if self._queues:
            is_queue &= pl.col("stage").is_in(list(self._queues))
        queue = pl.when(is_queue).then("stage")
        return (
            self._spans.filter(pl.col("parent").fill_null(0) == 0)
            .sort("frame", "t_ns", maintain_order=True)
            .with_columns(
                before=queue.forward_fill().over("frame"),
                behind=queue.backward_fill().over("frame"),
            )
        )

    def chain(self, queue: str | None, during: Disjoint) -> list[Did]:
        """Return what the stage after a queue did, then the one that held it up, and so on.

        Parameters
        ----------
        queue : str or None
            None for what is done before the first queue.
        during : Disjoint
            When, under the key 0.
        """
        found: list[Did] = []
        while queue not in (did.queue for did in found):
            did = self._did(queue, during)
            if did is None:
                break
            found.append(did)
            if did.most != HELD_UP:
                break
            queue = did.held_up_by
        return found

    def _did(self, queue: str | None, during: Disjoint) -> Did | None:
        """What followed this queue did; None if nothing is known to follow it."""
        total = length(during)
        after = self.steps.filter(
            pl.col("before").eq_missing(pl.lit(queue, pl.String)), pl.col("kind") == "service"
        )
        if not after.height or not total:
            return None
        took = after.group_by("stage").agg(pl.col("duration_ns").sum()).sort("duration_ns", "stage")
        stage = took["stage"][-1]
        behind = after["behind"].drop_nulls().mode().sort()
        work = shared(times_of(after), during)
        held, elsewhere, by, known = 0, 0, None, True
        if behind.len():
            by = behind[0]
            known = self.depths(by, during).height > 0
            held = length(without(shared(self.full(by, during), during), work))
        left = total - length(work) - held
        if left > max(length(work), held):
            elsewhere = min(
                left, length(shared(self._others(after, during), without(during, work)))
            )
        stages = self._within(after)
        return Did(
            stage, tuple(stages), queue, by, length(work) / total, held / total,
            elsewhere / total, known, self._spent(stages, after["frame"]),
        )  # fmt: skip

    def _others(self, steps: pl.DataFrame, during: Disjoint) -> Disjoint:
        """When the threads of these spans were in service spans of other streams, or of none."""
        begins, ends = during[0]
        opened = steps["frame"] // _OPENED
        found = self._run.scan("spans").filter(
            pl.col("t_ns").is_between(int(begins[0]) - _SECOND, int(ends[-1])),
            pl.col("tid").is_in(steps["tid"].unique().implode()),
            pl.col("pid").is_in(steps["pid"].unique().implode()),
            pl.col("kind").cast(pl.String) == "service",
            ~(pl.col("frame").fill_null(0) // _OPENED).is_in(opened.unique().implode()),
        )
        return times_of(found.select("t_ns", "duration_ns").collect())

    def _within(self, steps: pl.DataFrame) -> list[str]:
        """The stages of these spans, and of those inside them."""
        inner = self._spans.filter(pl.col("parent").fill_null(0) != 0)
        names, around = set(steps["stage"]), steps["span"]
        for _ in range(_DEEPEST):
            found = inner.filter(pl.col("parent").is_in(around.implode()))
            if not found.height:
                break
            names |= set(found["stage"])
            around = found["span"]
        return sorted(names)

    def _spent(self, stages: list[str], frames: pl.Series) -> dict[str, float]:
        """What late ones of these frames spent time on in these stages: ms a frame, by cause."""
        own = self._blamed.filter(
            pl.col("stage").is_in(stages),
            pl.col("frame").is_in(frames.unique().implode()),
            pl.col("cause").is_in(list(_DOING)),
        )
        count = own["frame"].n_unique()
        sums = own.group_by("cause").agg(pl.col("total_ns").sum())
        ranked = sums.sort("total_ns", "cause", descending=[True, False])
        return {cause: round(ns / count / 1e6, 3) for cause, ns in ranked.iter_rows()}

    # --- how full queues were ---------------------------------------------------

    def full(self, queue: str, during: Disjoint) -> Disjoint:
        """Return when a queue was at its limit."""
        steps = self.depths(queue, during)
        capacity = steps["capacity"].max()
        if not capacity:
            return {}
        # A put that waits finds the place at once that a get leaves behind.
        least = int(capacity) - (int(capacity) > 1)  # type: ignore[arg-type]
        return times_of(steps.filter(pl.col("depth") >= least))

    def depth(self, queue: str, during: Disjoint) -> Facts:
        """Return how full a queue was in that time, as JSON values."""
        steps = self.depths(queue, during)
        since = steps["t_ns"].to_numpy()
        until = since + steps["duration_ns"].to_numpy()
        rows, low, high = overlaps(np.zeros(steps.height, np.int64), since, until, during)
        depth, lasted = steps["depth"].to_numpy()[rows], high - low
        if not lasted.size:
            return {"rows": 0}
        capacity = int(steps["capacity"].max() or 0)  # type: ignore[arg-type]
        facts: Facts = {
            "rows": len(np.unique(rows)),
            "capacity": capacity or None,
            "mean_depth": round(float((depth * lasted).sum() / lasted.sum()), 2),
            "max_depth": int(depth.max()),
        }
        if capacity:
            full = length(shared(self.full(queue, during), during))
            facts["full_share"] = round(full / int(lasted.sum()), 4)
        return facts

    def depths(self, queue: str, during: Disjoint) -> pl.DataFrame:
        """Return a queue's depths about that time: `t_ns`, `duration_ns`, `depth`, `capacity`."""
        since, last = int(during[0][0][0]) - _SECOND, int(during[0][1][-1])
        known = self._depths.get((queue, since, last))
        if known is not None:
            return known
        table = self._run.scan("queue_depths").filter(
            pl.col("queue").cast(pl.String) == queue, pl.col("t_ns").is_between(since, last)
        )
        columns = ("t_ns", "depth", "capacity")
        stream = pl.col("stream_id").cast(pl.String) == self._stream
        sets = self._run.scan("labels").filter(stream).select("labels").collect()["labels"]
        own = table.filter(pl.col("labels").is_in(sets.implode()))
        touches = own.select(columns).collect()
        if not touches.height:  # a queue that all streams share
            touches = table.select(columns).collect()
        until = pl.col("t_ns").shift(-1).fill_null(last)
        steps = touches.sort("t_ns", maintain_order=True)
        found = steps.with_columns(duration_ns=until - pl.col("t_ns"))
        self._depths[queue, since, last] = found
        return found


def queues_of(run: Run) -> list[str]:
    """Return the names of queues whose depths are known, by the first touches."""
    touches = run.scan("queue_depths").select("queue").head(_TOUCHES).collect()
    return touches["queue"].cast(pl.String).unique().sort().to_list()


def spans_of(run: Run, frames: pl.Series, since: int, until: int) -> pl.DataFrame:
    """Return the spans of the streams of these frames between two times.

    `frame`, `t_ns`, `duration_ns`, `stage` and `kind` (String), `span`, `parent`, `pid`, `tid`.
    """
    # A range of numbers, so that only a part of the file is read.
    opened = (frames // _OPENED).unique().sort().to_list()
    of_streams = pl.any_horizontal(
        pl.col("frame").is_between(number * _OPENED, (number + 1) * _OPENED - 1)
        for number in opened
    )
    needed = ("frame", "t_ns", "duration_ns", "stage", "kind", "span", "parent", "pid", "tid")
    table = tables.lazy(run.scan("spans"), "spans", needed).filter(
        of_streams, pl.col("t_ns") < until, pl.col("t_ns") + pl.col("duration_ns") > since
    )
    return tables.plain(table.select(needed).collect())

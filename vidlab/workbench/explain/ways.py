"""The way of frames through queues and stages, and what each of these did meanwhile.

A full queue holds up the stage before it, and then the queue before that one fills up too.
So one slow stage shows as waits in several queues. Which stage it is, is followed from the
queue that frames waited in down their way, as far as stages were held up themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import polars as pl

from ...analysis import tables
from ...analysis.blame.intervals import Disjoint, overlaps
from ...runs.run import Run
from .deeds import DOING, HELD_UP, Did, Facts
from .unions import length, shared, times_of, without

#: Among so many touches each queue is touched.
_TOUCHES = 200_000

#: How many spans may be around another.
_DEEPEST = 8

_SECOND = 1_000_000_000

#: How many numbers a stream's frames have between them, each time that it is opened.
_OPENED = 1 << 32


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
    def _label_sets(self) -> pl.Series:
        own = pl.col("stream_id").cast(pl.String) == self._stream
        return self._run.scan("labels").filter(own).select("labels").collect()["labels"]

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
            pl.col("cause").is_in(list(DOING)),
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
        table = self._run.scan("queue_depths").filter(pl.col("t_ns").is_between(since, last))
        named = pl.col("queue").cast(pl.String) == queue
        columns = ("t_ns", "depth", "capacity")
        sets = self._label_sets
        # A range, so that only a part of the file is read; text is compared in what is left.
        number = pl.col("labels")
        mine = table.filter(number.is_between(sets.min(), sets.max()), number.is_in(sets.implode()))
        touches = mine.select(*columns, "queue").collect().filter(named).select(columns)
        if not touches.height:  # a queue that all streams share
            touches = table.filter(named).select(columns).collect()
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

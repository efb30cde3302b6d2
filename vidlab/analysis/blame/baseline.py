"""What is typical: how long punctual frames spend on each cause at each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ...runs.run import Run
from .. import punctual, tables
from ..punctual import ENOUGH
from ..tables import AnyTable
from .amounts import Amounts, amounts
from .causes import PRIORITY, REORDERING
from .intervals import Ints

#: What makes a group.
GROUP = ("stream_id", "codec", "gpu")

#: A decoder holds back each type of picture for another time: B-frames for none, others until
#: the B-frames before them are out. What is typical of reordering is so told by type.
PICTURE = "picture_type"
LABELS = (*GROUP, PICTURE)

#: What is read of frames.
NEEDED = ("frame", "t_demux_ns", "t_done_ns", "late", *GROUP)

#: Up to so many punctual frames of a group, evenly spaced, tell what is typical of it; and so
#: many of all groups, as far as each has `ENOUGH`.
SAMPLE, SAMPLE_OF_ALL = 300, 20_000

_CAUSE = ("cause", "stage")


@dataclass(frozen=True)
class Baseline:
    """What punctual frames spend on each cause at each stage.

    Attributes
    ----------
    groups : polars.DataFrame
        `stream_id`, `codec` and `gpu` of the groups with `ENOUGH` punctual frames.
    own : polars.DataFrame
        Of these groups, `cause`, `stage` and `typical_ns`, the median over their punctual
        frames. One that spent nothing counts.
    of_run : polars.DataFrame
        `cause`, `stage` and `typical_ns`, the median over the punctual frames of all groups
        that came by the stage, if there are enough of them.
    pictures : polars.DataFrame
        `stream_id`, `codec`, `gpu` and `picture_type` of those with `ENOUGH` punctual frames.
    reordering : polars.DataFrame
        Of these, `stage` and `typical_ns` of the cause reordering.
    """

    groups: pl.DataFrame
    own: pl.DataFrame
    of_run: pl.DataFrame
    pictures: pl.DataFrame
    reordering: pl.DataFrame

    def of(self, frame: Mapping[str, object]) -> pl.DataFrame:
        """Return what is typical of frames like one: `cause`, `stage` and `typical_ns`.

        Parameters
        ----------
        frame : mapping
            Its `stream_id`, `codec` and `gpu`, and its `picture_type` if known.
        """
        types = {name: self.groups.schema.get(name, pl.String()) for name in LABELS}
        alone = pl.DataFrame({name: [frame.get(name)] for name in LABELS}, schema=types)
        if not alone.join(self.groups, on=GROUP, nulls_equal=True).height:
            return self.of_run
        return self.of_each(alone.with_row_index("number")).drop("number")

    def of_each(self, numbered: pl.DataFrame) -> pl.DataFrame:
        """Return what is typical of each of several kinds of frames that have a group's own.

        Parameters
        ----------
        numbered : polars.DataFrame
            `number` and `LABELS`.

        Returns
        -------
        polars.DataFrame
            `number`, `cause`, `stage` and `typical_ns`; what is missing is 0.
        """
        columns = ["number", *_CAUSE, "typical_ns"]
        own = self.own.join(numbered, on=GROUP, nulls_equal=True).select(columns)
        alike = self._alike(numbered)
        by_type = self.reordering.join(alike, on=LABELS, nulls_equal=True).with_columns(
            cause=pl.lit(REORDERING)
        )
        told = (pl.col("cause") == REORDERING) & pl.col("number").is_in(alike["number"].implode())
        return pl.concat([own.filter(~told), by_type.select(columns)])

    def _alike(self, numbered: pl.DataFrame) -> pl.DataFrame:
        """Those of which frames with the same type of picture tell, or with the most like it."""
        same = numbered.join(self.pictures, on=LABELS, how="semi", nulls_equal=True)
        # Few pictures are I frames; like P frames, they are shown after B-frames that follow.
        others = (
            numbered.join(same, on="number", how="anti")
            .filter(pl.col(PICTURE) != "B")
            .with_columns(pl.lit("P").alias(PICTURE))
        )
        return pl.concat(
            [same, others.join(self.pictures, on=LABELS, how="semi", nulls_equal=True)]
        )


def typical(run: Run, frames: AnyTable) -> Baseline:
    """Return how long punctual frames spend on each cause at each stage.

    Up to `SAMPLE` frames a group are looked at.

    Parameters
    ----------
    run : Run
    frames : polars.LazyFrame or polars.DataFrame
        What `latency.late` returned. A sampled frame counts for all that it stands for.
    """
    some = sample(judged(frames))
    return medians(some, amounts(run, some))


def sample(known: pl.DataFrame) -> pl.DataFrame:
    """Return the punctual frames that tell what is typical, of those that `judged` returned."""
    in_time = known.filter(~pl.col("late"))
    groups = in_time.select(GROUP).unique().height
    most = max(ENOUGH, min(SAMPLE, SAMPLE_OF_ALL // max(groups, 1)))
    return punctual.evenly(in_time.lazy(), GROUP, most).collect()


def medians(some: pl.DataFrame, spent: Amounts) -> Baseline:
    """Return what is typical of a sample, of which `amounts` returned what was spent."""
    each = (
        some.select(*LABELS, tables.WEIGHT)[spent.life]
        .with_columns(
            pl.Series("life", spent.life),
            pl.Series("cause", spent.cause),
            pl.Series("stage", spent.stage),
            pl.Series("spent_ns", spent.total_ns),
        )
        .lazy()
    )
    groups, own = _medians(each, some, GROUP, _CAUSE)
    reordered = each.filter(pl.col("cause") == PRIORITY.index(REORDERING))
    known = some.filter(pl.col(PICTURE).is_not_null())
    pictures, reordering = _medians(reordered, known, LABELS, ["stage"])
    came_by = each.unique(["life", "stage"]).filter(pl.len().over("stage") >= ENOUGH)
    of_run = punctual.medians(each, punctual.counted(came_by, ["stage"]), ["stage"], ["cause"])
    found = pl.collect_all([own, of_run, reordering])
    own_rows, run_rows, reordering_rows = (_named(rows, spent.stages) for rows in found)
    return Baseline(groups, own_rows, run_rows, pictures, reordering_rows)


def _medians(
    each: pl.LazyFrame, among: pl.DataFrame, group: Sequence[str], by: Sequence[str]
) -> tuple[pl.DataFrame, pl.LazyFrame]:
    """The groups with enough frames, and the medians of what these spent."""
    enough = among.group_by(group).agg(pl.len()).filter(pl.col("len") >= ENOUGH).select(group)
    own = among.lazy().join(enough.lazy(), on=group, how="semi", nulls_equal=True)
    return enough, punctual.medians(each, punctual.counted(own, group), group, by)


def _named(found: pl.DataFrame, stages: pl.Series) -> pl.DataFrame:
    """The rows with stages, and causes if they have them, by their names."""
    named = found.with_columns(stages[found["stage"]].alias("stage"))
    if "cause" not in found.columns:
        return named
    return named.with_columns(pl.Series("cause", PRIORITY)[found["cause"]])


def typical_of(frames: pl.DataFrame, spent: Amounts, baseline: Baseline) -> Ints:
    """Return what is typical for each of these amounts; 0 where that is not known.

    Parameters
    ----------
    frames : polars.DataFrame
        `LABELS` of each frame.
    spent : Amounts
    baseline : Baseline
    """
    numbers = frames.unique().with_row_index("number")
    of_life = frames.join(numbers, on=LABELS, how="left", nulls_equal=True, maintain_order="left")
    places = len(PRIORITY) * len(spent.stages)
    causes = pl.DataFrame({"cause": PRIORITY, "nth": range(len(PRIORITY))})
    stages = pl.DataFrame({"stage": spent.stages, "at": range(len(spent.stages))})
    place = (pl.col("nth") * len(spent.stages) + pl.col("at")).cast(pl.Int64)

    def placed(typical: pl.DataFrame) -> pl.DataFrame:
        return typical.join(causes, on="cause").join(stages, on="stage").with_columns(place=place)

    at = spent.cause * len(spent.stages) + spent.stage
    number = of_life["number"].to_numpy().astype(np.int64)[spent.life]
    of_run = placed(baseline.of_run)
    result = np.zeros(places, np.int64)
    result[of_run["place"].to_numpy()] = of_run["typical_ns"].to_numpy()
    has_own = numbers.join(baseline.groups, on=GROUP, how="semi", nulls_equal=True)["number"]
    is_own = np.zeros(numbers.height, bool)
    is_own[has_own.to_numpy()] = True
    own = placed(baseline.of_each(numbers)).select(
        key=pl.col("number").cast(pl.Int64) * places + pl.col("place"), typical="typical_ns"
    )
    found = (
        pl.DataFrame({"key": number * places + at})
        .join(own, on="key", how="left", maintain_order="left")["typical"]
        .fill_null(0)
        .to_numpy()
    )
    return np.where(is_own[number], found, result[at])


def judged(frames: AnyTable) -> pl.DataFrame:
    """Return frames of which it is known whether they were late.

    With `NEEDED`, `pid` and `picture_type` (null where not known), and the weight.
    """
    table = tables.lazy(frames, "frames", NEEDED)
    there = table.collect_schema()
    known = [
        pl.col(name).cast(dtype) if name in there else pl.lit(None, dtype).alias(name)
        for name, dtype in (("pid", pl.Int32), (PICTURE, pl.String))
    ]
    return (
        tables.as_text(tables.weighted(table), GROUP)
        .filter(pl.col("late").is_not_null(), pl.col("t_done_ns").is_not_null())
        .select(*NEEDED, *known, tables.WEIGHT)
        .collect()
    )

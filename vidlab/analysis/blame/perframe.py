"""What made each late frame late, and what corrupt frames cost."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl

from ...runs.run import Run
from .. import tables
from ..tables import AnyTable
from .amounts import AT_A_TIME, Amounts, amounts
from .baseline import GROUP, LABELS, Baseline, judged, medians, sample, typical_of
from .causes import CORRUPT_INPUT, NO_STAGE, PRIORITY
from .intervals import Ints

#: The columns of `per_frame`, but for `sample_rate`.
COLUMNS = (
    "frame", "stream_id", "codec", "gpu", "cause", "stage", "total_ns", "typical_ns",
    "blamed_ns", "rank",
)  # fmt: skip

_KEYS = ("frame", *GROUP, tables.WEIGHT)


def per_frame(run: Run, frames: AnyTable, baseline: Baseline | None = None) -> pl.DataFrame:
    """Return what each late frame spent its time on, and how much of that made it late.

    Parameters
    ----------
    run : Run
    frames : polars.LazyFrame or polars.DataFrame
        What `latency.late` returned, or some of it. Corrupt frames of the same streams are
        added from the run, or all there are if there is no frame.
    baseline : Baseline, optional
        What `typical` returned of all frames; by default it is made of these.

    Returns
    -------
    polars.DataFrame
        A row for each frame, cause and stage: `frame`, `stream_id`, `codec`, `gpu`, `cause`,
        `stage`, `total_ns`, `typical_ns` (what punctual frames spend: those of its group or,
        if it has too few, of the run), `blamed_ns` (what `total_ns` is beyond that) and
        `rank` (1: the most blamed); and `sample_rate`, if the frames have it. `total_ns` adds
        up to the frame's latency. A corrupt frame has one row: `total_ns` is what its spans
        took, in vain, and all of it is blamed. Late frames come by number, each frame's rows
        together by rank; then corrupt ones.
    """
    known = judged(frames)
    late = known.filter("late").sort("frame")
    lost = _corrupt(run, known)
    some = known.head(0) if baseline is not None else sample(known)
    # All at once: spans are read once.
    columns = ["frame", "t_demux_ns", "t_done_ns", "pid"]
    spent = amounts(run, pl.concat([table.select(columns) for table in (late, lost, some)]))
    edges = np.cumsum([0, late.height, lost.height, some.height])
    of_late, of_lost, of_some = (spent.of(*pair) for pair in itertools.pairwise(edges))
    told = baseline if baseline is not None else medians(some, of_some)
    blamed = [_blamed(late.head(0), of_late.of(0, 0), told)]
    for first in range(0, late.height, AT_A_TIME):
        some_late = late.slice(first, AT_A_TIME)
        blamed.append(_blamed(some_late, of_late.of(first, first + some_late.height), told))
    rate = []
    if tables.has(frames.lazy(), "sample_rate"):
        rate = [(1.0 / pl.col(tables.WEIGHT)).alias("sample_rate")]
    return pl.concat([*blamed, _in_vain(lost, of_lost)]).select(*COLUMNS, *rate)


def _blamed(late: pl.DataFrame, spent: Amounts, baseline: Baseline) -> pl.DataFrame:
    """Late frames' rows, each frame's by rank."""
    typical_ns = typical_of(late.select(LABELS), spent, baseline)
    blamed_ns = np.maximum(spent.total_ns - typical_ns, 0)
    order = _most_first(spent.life, blamed_ns)
    life = spent.life[order]
    count = np.bincount(life, minlength=late.height)
    first = (np.cumsum(count) - count)[life]
    return late.select(_KEYS)[life].with_columns(
        pl.Series("cause", PRIORITY, pl.String)[spent.cause[order]],
        spent.stages[spent.stage[order]].alias("stage"),
        pl.Series("total_ns", spent.total_ns[order], pl.Int64),
        pl.Series("typical_ns", typical_ns[order], pl.Int64),
        pl.Series("blamed_ns", blamed_ns[order], pl.Int64),
        pl.Series("rank", np.arange(len(life)) - first + 1, pl.Int64),
    )


def _most_first(life: Ints, blamed_ns: Ints) -> Ints:
    """The order by life and, within it, by what is blamed; the same of equals."""
    # One number is sorted several times as fast as two. Beyond what it holds, hours, all is equal.
    bits = 62 - int(life.max(initial=0)).bit_length()
    least = (1 << bits) - 1 - np.minimum(blamed_ns, (1 << bits) - 1)
    return np.argsort((life << bits) + least, kind="stable")


def _corrupt(run: Run, known: pl.DataFrame) -> pl.DataFrame:
    """The corrupt frames of these frames' streams."""
    wanted = ("frame", "fate", "lost_at", "t_demux_ns", "t_done_ns", "pid", *GROUP)
    table = tables.weighted(tables.lazy(run.scan("frames"), "frames", wanted))
    lost = (
        tables.as_text(
            table.filter(pl.col("fate").cast(pl.String) == "corrupt"), ("lost_at", *GROUP)
        )
        .select(*wanted, tables.WEIGHT)
        .collect()
    )
    if not known.height:
        return lost
    stream = ["stream_id", "codec"]
    return lost.join(known.select(stream).unique(), on=stream, how="semi", nulls_equal=True)


def _in_vain(lost: pl.DataFrame, spent: Amounts) -> pl.DataFrame:
    """What was spent on corrupt frames: one row each."""
    covered = (spent.stages != NO_STAGE).to_numpy()[spent.stage]
    total = np.bincount(spent.life[covered], spent.total_ns[covered], lost.height)
    total_ns = np.rint(total).astype(np.int64)
    return lost.select(
        *_KEYS,
        pl.lit(CORRUPT_INPUT).alias("cause"),
        pl.col("lost_at").fill_null(NO_STAGE).alias("stage"),
        pl.Series("total_ns", total_ns, pl.Int64),
        pl.lit(0, pl.Int64).alias("typical_ns"),
        pl.Series("blamed_ns", total_ns, pl.Int64),
        pl.lit(1, pl.Int64).alias("rank"),
    )

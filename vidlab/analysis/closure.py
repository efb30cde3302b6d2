"""Where a frame's time went: its end-to-end latency, taken apart so that it adds up.

    end_to_end = reorder + queue + encoder_lag + service + residual

The parts are the frame's top-level spans, summed by kind; the residual is what no span
covers. It is small where every step of a frame's way is recorded, and negative where
spans overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ..schema import SPAN_KINDS
from . import punctual, tables
from .punctual import ENOUGH, SAMPLE
from .tables import AnyTable

__all__ = ["ENOUGH", "SAMPLE", "by_cause", "closure", "means", "ranking"]

#: Time of a frame that no span covers, among stages and kinds.
UNACCOUNTED, RESIDUAL = "unaccounted", "residual"

_CAUSE = ("stage", "kind")
_LABELS = ("stream_id", "codec", "gpu")
_PARTS = ("reorder_ns", "queue_ns", "encoder_lag_ns", "service_ns", "residual_ns")
_DURATIONS = ("total_ns", "typical_ns", "excess_ns", "cpu_ns", "runqueue_ns")
_UNCOVERED = (pl.lit(UNACCOUNTED).alias("stage"), pl.lit(RESIDUAL).alias("kind"))
# A column of our own, the same for every frame: the group of the whole run.
_ALL = "all frames"


def closure(frames: AnyTable, spans: AnyTable) -> pl.DataFrame:
    """Return each delivered frame's latency by the kind of what it was spent on.

    Spans that begin after a frame was delivered are not part of its latency.

    Parameters
    ----------
    frames, spans : polars.LazyFrame or polars.DataFrame
        The tables of these names.

    Returns
    -------
    polars.DataFrame
        `frame`, `stream_id`, `codec`, `gpu`, `t_demux_ns`, `t_done_ns`, `end_to_end_ns`,
        and its parts `reorder_ns`, `queue_ns`, `encoder_lag_ns`, `service_ns` and
        `residual_ns`, whose sum it is; and `sample_rate`, if the frames have it. Sorted by
        `t_demux_ns`.

    Examples
    --------
    >>> frames = pl.DataFrame(
    ...     {"frame": [1], "fate": ["delivered"], "t_demux_ns": [100], "t_done_ns": [190],
    ...      "stream_id": ["cam"], "codec": ["av1"], "gpu": [None]}
    ... )
    >>> spans = pl.DataFrame(
    ...     {"t_ns": [100, 120, 150], "duration_ns": [20, 30, 35], "frame": [1, 1, 1],
    ...      "parent": [None, None, None], "stage": ["decode", "decoded", "encode"],
    ...      "kind": ["service", "queue", "service"]}
    ... )
    >>> closure(frames, spans).select("queue_ns", "service_ns", "residual_ns").row(0)
    (30, 55, 5)
    """
    delivered = tables.delivered(frames, ["frame", *_LABELS])
    rate = ["sample_rate"] if tables.has(delivered, "sample_rate") else []
    whole = delivered.select("frame", *_LABELS, "t_demux_ns", "t_done_ns", "end_to_end_ns", *rate)
    spent = _spent(spans, whole.select("frame", "t_done_ns"))
    kind = pl.col("kind").cast(pl.String)
    parts = spent.group_by("frame").agg(
        pl.when(kind == name).then("duration_ns").otherwise(0).sum().alias(f"{name}_ns")
        for name in SPAN_KINDS
    )
    result = (
        tables.as_text(whole, _LABELS)
        .join(parts, on="frame", how="left")
        .with_columns(pl.col(f"{name}_ns").fill_null(0) for name in SPAN_KINDS)
        .with_columns(
            residual_ns=pl.col("end_to_end_ns")
            - pl.sum_horizontal(f"{name}_ns" for name in SPAN_KINDS)
        )
    )
    times = ("t_demux_ns", "t_done_ns", "end_to_end_ns", *_PARTS)
    return (
        result.select("frame", *_LABELS, *times, *rate)
        .sort("t_demux_ns", "frame")
        .collect(engine="streaming")
    )


def means(closed: AnyTable, by: str | Sequence[str] = ("stream_id", "codec")) -> pl.DataFrame:
    """Return where the time of an average frame went.

    Parameters
    ----------
    closed : polars.LazyFrame or polars.DataFrame
        What `closure` returned. A sampled frame counts for all that it stands for.
    by : str or sequence of str

    Returns
    -------
    polars.DataFrame
        `by`, `frames`, and the means of `end_to_end_ns` and its parts, Float64; sorted by `by`.
    """
    keys = tables.names(by)
    table = tables.lazy(closed, "frames", [*keys, "end_to_end_ns", *_PARTS])
    weight = pl.col(tables.WEIGHT)
    sums = [
        tables.whole_number(weight.sum()).alias("frames"),
        *((pl.col(name) * weight).sum() / weight.sum() for name in ("end_to_end_ns", *_PARTS)),
    ]
    found = tables.weighted(table).with_columns(pl.lit(0).alias(_ALL)).group_by(*keys, _ALL)
    return tables.plain(found.agg(sums).drop(_ALL).collect()).sort(keys or "frames")


def by_cause(
    late_frames: AnyTable, spans: AnyTable, by: str | Sequence[str] = _LABELS
) -> pl.DataFrame:
    """Return where the time of late frames went, beyond what is typical.

    For each stage and kind, and for the time that no span covers, `total_ns` is what all
    late frames spent on it, and `excess_ns` how much of that is more than they would have
    spent had each taken the typical time: the median of punctual frames, of which up to
    `SAMPLE` a group are looked at. (A frame that didn't come by a stage spent zero on it.)

    Parameters
    ----------
    late_frames : polars.LazyFrame or polars.DataFrame
        What `latency.late` returned: delivered frames, each late or not.
    spans : polars.LazyFrame or polars.DataFrame
        The table `spans`.
    by : str or sequence of str
        Which labels of a frame make a group; none for all frames together.

    Returns
    -------
    polars.DataFrame
        `by`, `stage`, `kind`, `late_frames` (of the group), `total_ns`, `typical_ns` (of one
        frame), `excess_ns`, `cpu_ns` and `runqueue_ns` (of `total_ns`, as far as that was
        read; else null), and `baseline`: whose punctual frames `typical_ns` is of: "group";
        "run" if the group has fewer than `ENOUGH`; "none", and `typical_ns` 0, if the run
        has too few as well. Over a group, `total_ns` adds up to the late frames' end-to-end
        latency. A sampled frame counts for all that it stands for. The greatest excess
        comes first.
    """
    keys = tables.names(by)
    needs = ["frame", "t_demux_ns", "t_done_ns", "end_to_end_ns", "late", *keys]
    frames = (
        tables.weighted(tables.lazy(late_frames, "frames", needs))
        .select(*needs, tables.WEIGHT, pl.lit(0).alias(_ALL))
        .pipe(tables.as_text, keys)
        .collect()
    )
    group = [*keys, _ALL]
    late = frames.lazy().filter("late")
    sample = punctual.evenly(frames.lazy().filter(~pl.col("late")), group).collect().lazy()
    spent = _per_frame(sample, spans, group)
    own, of_run = (
        punctual.medians(spent, punctual.counted(sample, level), level, _CAUSE)
        for level in (group, [_ALL])
    )
    enough = [
        sample.group_by(level).agg((pl.len() >= ENOUGH).alias(name))
        for level, name in ((group, "own"), ([_ALL], "of_run"))
    ]
    weight = pl.col(tables.WEIGHT)
    return (
        _totals(late, spans, group)
        .join(own, on=[*group, *_CAUSE], how="left", nulls_equal=True)
        .join(of_run, on=[_ALL, *_CAUSE], how="left", suffix="_of_run")
        .join(enough[0], on=group, how="left", nulls_equal=True)
        .join(enough[1], on=_ALL, how="left")
        .with_columns(
            typical_ns=pl.when("own")
            .then("typical_ns")
            .when("of_run")
            .then("typical_ns_of_run")
            .fill_null(0),
            baseline=pl.when("own")
            .then(pl.lit("group"))
            .when("of_run")
            .then(pl.lit("run"))
            .otherwise(pl.lit("none")),
        )
        .with_columns(excess_ns=pl.col("total_ns") - pl.col("typical_ns") * weight)
        .select(
            *keys,
            *_CAUSE,
            tables.whole_number(weight).alias("late_frames"),
            *map(tables.whole_number, map(pl.col, _DURATIONS)),
            "baseline",
        )
        .sort("excess_ns", *keys, *_CAUSE, descending=[True, *[False] * (len(keys) + 2)])
        .collect()
    )


def ranking(causes: pl.DataFrame, n: int = 12) -> pl.DataFrame:
    """Return the causes that made frames late, the worst first.

    Parameters
    ----------
    causes : polars.DataFrame
        What `by_cause` returned.
    n : int
        The most rows.

    Returns
    -------
    polars.DataFrame
        The rows of `causes` with a positive excess, and `share` (of all positive excess),
        `share_of_group` (of that of the same labels) and `excess_per_frame_ns`.
    """
    excess = pl.col("excess_ns")
    labels = causes.columns[: causes.columns.index("stage")]
    return (
        causes.filter(excess > 0)
        .with_columns(
            share=excess / excess.sum(),
            share_of_group=excess / excess.sum().over(labels or [pl.lit(0)]),
            excess_per_frame_ns=tables.whole_number(excess / pl.col("late_frames")),
        )
        .sort("excess_ns", descending=True, maintain_order=True)
        .head(n)
    )


def _spent(spans: AnyTable, frames: pl.LazyFrame) -> pl.LazyFrame:
    """The top-level spans of these frames up to `t_done_ns`, with the frames' columns."""
    return (
        tables.top_level(spans, ["t_ns", *_CAUSE])
        .select("frame", "t_ns", "duration_ns", *_CAUSE, *_clocks(spans.lazy()))
        .join(frames, on="frame", how="inner")
        .filter(pl.col("t_ns") < pl.col("t_done_ns"))
    )


def _clocks(spans: pl.LazyFrame) -> list[pl.Expr]:
    """`cpu_ns` and `runqueue_ns` of the spans, null where the table has no such column."""
    return [
        pl.col(name) if tables.has(spans, name) else pl.lit(None, pl.Int64).alias(name)
        for name in ("cpu_ns", "runqueue_ns")
    ]


def _totals(late: pl.LazyFrame, spans: AnyTable, group: list[str]) -> pl.LazyFrame:
    """What late frames spent, by group and cause; their weight is the group's."""
    weight = pl.col(tables.WEIGHT)
    stages = (
        _spent(spans, late.select("frame", "t_done_ns", tables.WEIGHT, *group))
        .group_by(*group, *_CAUSE)
        .agg(
            (pl.col("duration_ns") * weight).sum().alias("total_ns"),
            # The sum of nothing read is 0, and would say that no CPU was used.
            *(
                pl.when(pl.col(name).count() > 0).then((pl.col(name) * weight).sum()).alias(name)
                for name in ("cpu_ns", "runqueue_ns")
            ),
        )
        .pipe(tables.as_text, _CAUSE)
        .collect(engine="streaming")
        .lazy()
    )
    whole = late.group_by(group).agg(
        weight.sum(), (pl.col("end_to_end_ns") * weight).sum().alias("total_ns")
    )
    covered = stages.group_by(group).agg(pl.col("total_ns").sum().alias("covered_ns"))
    rest = whole.join(covered, on=group, how="left", nulls_equal=True).select(
        *group,
        *_UNCOVERED,
        tables.WEIGHT,
        pl.col("total_ns") - pl.col("covered_ns").fill_null(0),
    )
    weights = whole.select(*group, tables.WEIGHT)
    return pl.concat(
        [stages.join(weights, on=group, nulls_equal=True), rest], how="diagonal_relaxed"
    )


def _per_frame(frames: pl.LazyFrame, spans: AnyTable, group: list[str]) -> pl.LazyFrame:
    """What each of these frames spent on each cause: `spent_ns`, and the frame's weight."""
    stages = (
        _spent(spans, frames.select("frame", "t_done_ns", tables.WEIGHT, *group))
        .group_by("frame", *group, tables.WEIGHT, *_CAUSE)
        .agg(pl.col("duration_ns").sum().alias("spent_ns"))
        .pipe(tables.as_text, _CAUSE)
        .collect(engine="streaming")
        .lazy()
    )
    covered = stages.group_by("frame").agg(pl.col("spent_ns").sum())
    rest = frames.join(covered, on="frame", how="left").select(
        "frame",
        *group,
        tables.WEIGHT,
        *_UNCOVERED,
        pl.col("end_to_end_ns") - pl.col("spent_ns").fill_null(0),
    )
    return pl.concat([stages, rest.rename({"end_to_end_ns": "spent_ns"})], how="vertical_relaxed")

"""How long stages, and whole frames, take: percentiles, late frames, the slowest, over time."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from ..errors import InputError
from . import bins, tables
from . import quantiles as nearest_rank
from .quantiles import DEFAULT
from .tables import AnyTable

#: The stage and the kind under which whole frames appear among spans, as in a run's cube.
END_TO_END, FRAME = "end to end", "frame"

#: A frame is late beyond this many nominal frame intervals, unless a deadline is given.
INTERVALS = 3


def percentiles(
    spans: AnyTable,
    by: str | Sequence[str] = ("stage", "codec"),
    quantiles: Sequence[float] = DEFAULT,
) -> pl.DataFrame:
    """Return the exact nearest-rank percentiles of span durations.

    Parameters
    ----------
    spans : polars.LazyFrame or polars.DataFrame
        The table `spans`. A span counts 1 / `sample_rate`, if it has that column.
    by : str or sequence of str
        The columns that make a group. A stage's work is never mixed with the waits that
        go under its name: by `stage` is by `kind` as well.
    quantiles : sequence of float
        Between 0 and 1.

    Returns
    -------
    polars.DataFrame
        `by`, `count`, `mean_ns`, `p50_ns`, `p90_ns`, `p99_ns`, `p99_9_ns` (by the
        quantiles) and `max_ns`, sorted by `by`.

    Raises
    ------
    InputError
        If a column is missing or a quantile is not between 0 and 1.

    Examples
    --------
    >>> spans = pl.DataFrame(
    ...     {
    ...         "stage": ["decode"] * 4,
    ...         "kind": ["service"] * 3 + ["reorder"],
    ...         "codec": ["h264"] * 4,
    ...         "duration_ns": [3_000, 1_000, 2_000, 40_000],
    ...     }
    ... )
    >>> percentiles(spans, quantiles=[0.5]).rows()
    [('decode', 'reorder', 'h264', 1, 40000, 40000, 40000), \
('decode', 'service', 'h264', 3, 2000, 2000, 3000)]
    """
    keys = _by_kind(tables.names(by))
    table = tables.lazy(spans, "spans", [*keys, "duration_ns"])
    return nearest_rank.grouped(table, keys, quantiles)


def from_cube(
    cube: AnyTable,
    by: str | Sequence[str] = ("stage", "codec"),
    quantiles: Sequence[float] = DEFAULT,
) -> pl.DataFrame:
    """Return the percentiles of span durations from a run's cube: fast, and within 1 %.

    Parameters
    ----------
    cube : polars.LazyFrame or polars.DataFrame
        `Run.cube()`, or those of several runs, concatenated.
    by, quantiles
        As of `percentiles`; `by` among stage, kind, codec, gpu and stream_id.

    Returns
    -------
    polars.DataFrame
        As of `percentiles`. `count` and `mean_ns` are exact. By `stage` (or `kind`) there
        are rows of whole frames too: stage "end to end", kind "frame".
    """
    keys = _by_kind(tables.names(by))
    table = _cube(cube, keys)
    if "kind" not in keys:
        table = table.filter(pl.col("kind").cast(pl.String) != FRAME)
    return nearest_rank.of_histograms(table, keys, quantiles)


def end_to_end(
    frames: AnyTable,
    by: str | Sequence[str] = ("codec", "stream_id"),
    quantiles: Sequence[float] = DEFAULT,
) -> pl.DataFrame:
    """Return the exact percentiles of delivered frames' latency, from demux to sink.

    Parameters
    ----------
    frames : polars.LazyFrame or polars.DataFrame
        The table `frames`.
    by, quantiles
        As of `percentiles`.

    Returns
    -------
    polars.DataFrame
        As of `percentiles`.

    Examples
    --------
    >>> end_to_end(run.scan("frames"), by="codec", quantiles=[0.5, 0.99]).columns
    ['codec', 'count', 'mean_ns', 'p50_ns', 'p99_ns', 'max_ns']
    """
    keys = tables.names(by)
    table = tables.delivered(frames, keys)
    return nearest_rank.grouped(table, keys, quantiles, value="end_to_end_ns")


def end_to_end_from_cube(
    cube: AnyTable,
    by: str | Sequence[str] = ("codec", "stream_id"),
    quantiles: Sequence[float] = DEFAULT,
) -> pl.DataFrame:
    """Return the percentiles of delivered frames' latency from a run's cube, within 1 %."""
    keys = tables.names(by)
    frames = _cube(cube, keys).filter(pl.col("kind").cast(pl.String) == FRAME)
    return nearest_rank.of_histograms(frames, keys, quantiles)


def as_spans(frames: AnyTable) -> pl.LazyFrame:
    """Return each delivered frame as one span, stage "end to end", from demux to sink.

    What this module does with spans it so does with whole frames:
    `over_time(as_spans(frames))`.
    """
    return tables.delivered(frames).with_columns(
        t_ns=pl.col("t_demux_ns"),
        duration_ns=pl.col("end_to_end_ns"),
        stage=pl.lit(END_TO_END),
        kind=pl.lit(FRAME),
    )


def late(
    frames: AnyTable, streams: AnyTable | None = None, deadline_ms: float | None = None
) -> pl.DataFrame:
    """Return the delivered frames and whether each was late.

    Parameters
    ----------
    frames : polars.LazyFrame or polars.DataFrame
        The table `frames`.
    streams : polars.LazyFrame or polars.DataFrame, optional
        The table `streams`, for the nominal rates; not needed with `deadline_ms`.
    deadline_ms : float, optional
        The latency beyond which a frame is late, in milliseconds. By default three
        nominal frame intervals of its stream.

    Returns
    -------
    polars.DataFrame
        The columns of `frames`, and `end_to_end_ns`, `deadline_ns` Int64 and `late`
        Boolean. Both are null where the stream's nominal rate is not known.

    Raises
    ------
    InputError
        If there is neither a deadline nor `streams`, or the deadline is not positive.
    """
    delivered = tables.delivered(frames, ["stream_id"])
    delivered = tables.as_text(delivered, delivered.collect_schema())
    if deadline_ms is not None:
        if not deadline_ms > 0:
            raise InputError(f"deadline_ms is in milliseconds and positive, not {deadline_ms!r}")
        known = delivered.with_columns(deadline_ns=pl.lit(round(deadline_ms * 1e6), pl.Int64))
    elif streams is not None:
        deadlines = tables.nominal_rates(streams).select(
            "stream_id",
            (INTERVALS * 1e9 / pl.col("nominal_rate")).round().cast(pl.Int64).alias("deadline_ns"),
        )
        known = delivered.join(deadlines, on="stream_id", how="left", maintain_order="left")
    else:
        raise InputError(
            "whether a frame is late depends on a deadline: pass deadline_ms=…, or the table "
            "streams for its nominal rates"
        )
    return known.with_columns(late=pl.col("end_to_end_ns") > pl.col("deadline_ns")).collect()


def late_summary(
    late_frames: AnyTable, by: str | Sequence[str] = ("stream_id", "codec")
) -> pl.DataFrame:
    """Return how many frames were late, and how late the worst was.

    Parameters
    ----------
    late_frames : polars.LazyFrame or polars.DataFrame
        What `late` returned.
    by : str or sequence of str

    Returns
    -------
    polars.DataFrame
        `by`, `delivered` and `late` (frames), `late_share` (of those with a deadline;
        null if there are none), `deadline_ns` (the shortest), `p99_ns` and `worst_ns`
        (latencies), most late first.

    Examples
    --------
    >>> frames = late(run.scan("frames"), run.scan("streams"), deadline_ms=100)
    >>> late_summary(frames).select("stream_id", "codec", "delivered", "late").head(2).rows()
    [('cam-02', 'av1', 299, 258), ('cam-03', 'vp9', 300, 128)]
    """
    keys = tables.names(by)
    table = tables.lazy(
        late_frames, "frames", [*keys, "end_to_end_ns", "deadline_ns", "late"]
    ).pipe(tables.weighted)
    weight = pl.col(tables.WEIGHT)
    is_late = pl.when(pl.col("late")).then(weight).otherwise(0.0).sum()
    dated = pl.when(pl.col("late").is_not_null()).then(weight).otherwise(0.0).sum()
    counts = (
        tables.as_text(table, keys)
        .group_by(keys)
        .agg(
            tables.whole_number(weight.sum()).alias("delivered"),
            tables.whole_number(is_late).alias("late"),
            pl.when(dated > 0).then(is_late / dated).alias("late_share"),
            pl.col("deadline_ns").min(),
        )
    )
    worst = nearest_rank.grouped(table, keys, [0.99], value="end_to_end_ns").select(
        *keys, "p99_ns", pl.col("max_ns").alias("worst_ns")
    )
    return (
        counts.join(worst.lazy(), on=keys, how="left", nulls_equal=True)
        .sort("late", *keys, descending=[True, *[False] * len(keys)])
        .collect()
    )


def slowest(frames: AnyTable, n: int = 20) -> pl.DataFrame:
    """Return the `n` delivered frames that took longest, the slowest first.

    Returns
    -------
    polars.DataFrame
        The columns of `frames`, and `end_to_end_ns`.
    """
    ranked = tables.delivered(frames, ["frame"]).sort(
        "end_to_end_ns", "frame", descending=[True, False]
    )
    return tables.plain(ranked.head(n).collect())


def over_time(
    spans: AnyTable, stage: str | None = None, time_bins: int = 200, cells: int = 5_000
) -> pl.DataFrame:
    """Return a heatmap of durations over time: how many spans began when and took how long.

    Parameters
    ----------
    spans : polars.LazyFrame or polars.DataFrame
        The table `spans`, or `as_spans(frames)`.
    stage : str, optional
        Only this stage.
    time_bins : int
        How many parts the time from the first to the last span is cut into.
    cells : int
        The most cells of one stage and kind: the duration bins, up to 24 a decade and
        equally wide on a logarithmic axis, are made as coarse as that takes.

    Returns
    -------
    polars.DataFrame
        `stage`, `kind`, `t_ns` and `t_end_ns` (the cell's time), `low_ns` and `high_ns`
        (its durations: low <= duration < high), `count`. Empty cells are left out.

    Raises
    ------
    InputError
        If a column is missing, or there are fewer cells than time bins.
    """
    table = tables.lazy(spans, "spans", ("t_ns", "duration_ns", "stage", "kind"))
    if stage is not None:
        table = table.filter(pl.col("stage").cast(pl.String) == stage)
    return bins.heatmap(table, ("stage", "kind"), time_bins, cells)


def _by_kind(by: list[str]) -> list[str]:
    if "stage" in by and "kind" not in by:
        place = by.index("stage") + 1
        return [*by[:place], "kind", *by[place:]]
    return by


def _cube(cube: AnyTable, keys: list[str]) -> pl.LazyFrame:
    table = cube.lazy()
    have = table.collect_schema()
    missing = [name for name in keys if name not in have]
    if missing:
        raise InputError(
            f"the cube knows nothing of {', '.join(map(repr, missing))}: choose among stage, "
            "kind, codec, gpu and stream_id, or use the exact analysis of the spans or frames"
        )
    return table

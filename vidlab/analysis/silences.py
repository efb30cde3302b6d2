"""When did a whole process stand still?

In a busy pipeline some thread begins or ends a span every millisecond. If for
tens of milliseconds none does, no Python code ran that records: the garbage
collector ran (`gc_pauses` knows), the process got no CPU (spans know how long
their threads were ready to run and waited), or something held the GIL. A single
slow stage does not show here, since the other threads go on.
"""

from __future__ import annotations

import polars as pl

from . import tables
from .tables import AnyTable

#: A silence is at least this long …
LEAST_NS = 30_000_000

#: … and this many times as long as what is usual: a single stream at 25 frames a second is
#: quiet between any two frames, which is nothing to report.
TIMES_USUAL = 5

#: Nine in ten of the gaps between ticks in which something happened, while at least half of
#: the streams are at work, are no longer than usual.
_USUAL, _TICK_NS = 0.9, LEAST_NS // 3

#: Silences with no more than this between them are one episode.
TOGETHER_NS = 250_000_000

#: So long a time in which fewer than half of the usual number of streams do anything is the
#: begin or the end of a pipeline: silences there mean nothing.
_AROUND_NS = 200_000_000

#: Where only a sample of frames is recorded, gaps come at random: a time in which no frame
#: was recorded is a silence if so many were to be expected in it, which happens by chance once
#: in e^18 gaps. And up to this time is looked at for streams at work.
_EXPECTED, _WIDEST_NS = 18, 1_000_000_000

_NEEDED = ("pid", "t_ns", "duration_ns", "stream_id")
_COLUMNS = ("pid", "t_ns", "duration_ns", "gc_ns", "runqueue_ns")


def silences(spans: AnyTable, gc_pauses: AnyTable | None = None) -> pl.DataFrame:
    """Return the times in which no thread of a process began or ended a span.

    Of a sampled recording only those are told that are long beside the gaps between what was
    recorded, and they begin and end up to such a gap sooner and later than the silence did.

    Parameters
    ----------
    spans : polars.LazyFrame or polars.DataFrame
        The table `spans`, not a slice by stream: other streams' work is what breaks a
        silence.
    gc_pauses : polars.LazyFrame or polars.DataFrame, optional
        The table `gc_pauses`.

    Returns
    -------
    polars.DataFrame
        `pid`, `t_ns`, `duration_ns`, `gc_ns` (how much of it the garbage collector took)
        and `runqueue_ns` (how long, at most, a thread at work then waited for a CPU), all
        Int64 but for `pid`; by process and time.
    """
    table = tables.lazy(spans, "spans", [*_NEEDED, "kind", "runqueue_ns"])
    # A wait is not work, and its ends coincide with those of the work around it.
    work = table.filter(pl.col("kind").cast(pl.String) == "service")
    begin = pl.col("t_ns")
    least_share, even, share = _sampled(work)
    moments = pl.concat(
        work.select("pid", "stream_id", t_ns=moment, even=even, share=pl.when(even).then(share))
        for moment in (begin, begin + pl.col("duration_ns"))
    )
    # Ticks are few, whatever the number of spans. A silence begins with the last moment of one
    # and ends with the first moment of another.
    ticks = (
        moments.group_by("pid", "stream_id", (begin // _TICK_NS).alias("tick"))
        .agg(
            begin.min().alias("first_ns"),
            begin.max().alias("last_ns"),
            pl.col("even").any(),
            pl.col("share").min(),
        )
        .collect(engine="streaming")
        .lazy()
    )
    ends = (
        ticks.group_by("pid", "tick")
        .agg(
            pl.col("first_ns").min(),
            pl.col("last_ns").max(),
            pl.col("even").any(),
            pl.col("share").min(),
        )
        .with_columns(pl.col("share").forward_fill().backward_fill().over("pid", order_by="tick"))
    )
    around_ns = min(round(_AROUND_NS / least_share), _WIDEST_NS)
    usual = _gaps(ends.filter("even")).pipe(_amid_work, ticks, around_ns)
    long = pl.max_horizontal(pl.col("usual_ns") * TIMES_USUAL, "unlikely_ns", pl.lit(LEAST_NS))
    gaps = _gaps(ends).with_columns(unlikely_ns=pl.lit(None, pl.Float64))
    if least_share < 1.0:
        unlikely = _unlikely(work.filter(even), share, ends)
        gaps = gaps.drop("unlikely_ns").join(unlikely, on=["pid", "share"], how="left")
    quiet = (
        gaps.pipe(_amid_work, ticks, around_ns)
        .join(
            usual.group_by("pid", "share").agg(
                pl.col("duration_ns").quantile(_USUAL, "nearest").alias("usual_ns")
            ),
            on=["pid", "share"],
            how="left",
            nulls_equal=True,
        )
        .filter(pl.col("duration_ns") >= long)
        .sort("pid", "t_ns")
        .collect()
        .lazy()
    )
    with_waits = _with_waits(quiet, work)
    if gc_pauses is None:
        return with_waits.with_columns(gc_ns=pl.lit(0, pl.Int64)).select(_COLUMNS).collect()
    pauses = tables.lazy(gc_pauses, "gc_pauses", ["pid", "t_ns", "duration_ns"])
    return _with_collections(with_waits, pauses).select(_COLUMNS).collect()


def _sampled(work: pl.LazyFrame) -> tuple[float, pl.Expr, pl.Expr]:
    """The least share of frames that was recorded, whether a span is one of an even sample
    (not of a frame kept for what became of it), and the share of its frames."""
    if not tables.has(work, "sample_rate"):
        return 1.0, pl.lit(True), pl.lit(1.0)
    share = pl.col("sample_rate")
    sampled = (
        work.filter(share < 1.0)
        .group_by(tables.opened().alias("opened"))
        .agg(share.min())
        .collect(engine="streaming")
    )
    if not sampled.height:
        return 1.0, pl.lit(True), pl.lit(1.0)
    of_sampled = tables.opened().is_in(sampled["opened"].implode()).fill_null(value=False)
    return float(sampled["sample_rate"].to_numpy().min()), ~of_sampled | (share < 1.0), share


def _unlikely(work: pl.LazyFrame, share: pl.Expr, ends: pl.LazyFrame) -> pl.LazyFrame:
    """For each process and share below 1, how long a gap is that does not come by chance."""
    begin = pl.col("first_ns")
    lasted = (begin.shift(-1) - begin).over("pid", order_by="tick")
    lengths = ends.select("pid", "share", lasted_ns=lasted)
    frames = (
        work.with_columns(share=share)
        .filter(pl.col("share") < 1.0)
        .group_by("pid", "share")
        .agg(pl.col("frame").n_unique())
    )
    return (
        lengths.group_by("pid", "share")
        .agg(pl.col("lasted_ns").sum())
        .join(frames, on=["pid", "share"], how="inner")
        .select("pid", "share", unlikely_ns=pl.col("lasted_ns") * _EXPECTED / pl.col("frame"))
    )


def _gaps(ends: pl.LazyFrame) -> pl.LazyFrame:
    """The times between a tick's last moment and the next one's first."""
    following = pl.col("first_ns").shift(-1).over("pid", order_by="tick")
    return ends.select("pid", "share", t_ns="last_ns", duration_ns=following - pl.col("last_ns"))


def _amid_work(quiet: pl.LazyFrame, ticks: pl.LazyFrame, around_ns: int) -> pl.LazyFrame:
    """Those gaps before and after which at least half of the usual streams are at work."""
    part = pl.col("t_ns") // around_ns
    in_part = (pl.col("tick") * _TICK_NS // around_ns).alias("part")
    at_work = ticks.group_by("pid", in_part).agg(pl.col("stream_id").n_unique())
    usual = pl.col("stream_id").max().over("pid")
    busy = at_work.filter(2 * pl.col("stream_id") >= usual).select("pid", "part")
    after = (pl.col("t_ns") + pl.col("duration_ns")) // around_ns
    return (
        quiet.with_columns(before=part, after=after)
        .join(busy, left_on=["pid", "before"], right_on=["pid", "part"], how="semi")
        .join(busy, left_on=["pid", "after"], right_on=["pid", "part"], how="semi")
        .drop("before", "after")
    )


def _with_collections(quiet: pl.LazyFrame, pauses: pl.LazyFrame) -> pl.LazyFrame:
    overlapping = _overlapping(quiet, pauses.select("pid", "t_ns", "duration_ns"))
    taken = overlapping.group_by("pid", "t_ns").agg(pl.col("overlap_ns").sum().alias("gc_ns"))
    joined = quiet.join(taken, on=["pid", "t_ns"], how="left", maintain_order="left")
    return joined.with_columns(pl.col("gc_ns").fill_null(0))


def _with_waits(quiet: pl.LazyFrame, work: pl.LazyFrame) -> pl.LazyFrame:
    # When in a span its thread waited is not known: evenly, then.
    waiting = work.filter(pl.col("runqueue_ns") > 0).select(
        "pid", "t_ns", "duration_ns", share=pl.col("runqueue_ns") / pl.col("duration_ns")
    )
    longest = (pl.col("overlap_ns") * pl.col("share")).max().cast(pl.Int64).alias("runqueue_ns")
    waited = _overlapping(quiet, waiting).group_by("pid", "t_ns").agg(longest)
    joined = quiet.join(waited, on=["pid", "t_ns"], how="left", maintain_order="left")
    return joined.with_columns(pl.col("runqueue_ns").fill_null(0))


def _overlapping(quiet: pl.LazyFrame, others: pl.LazyFrame) -> pl.LazyFrame:
    """Each silence with each of these times of its process that it overlaps, and by how much."""
    end = pl.col("t_ns") + pl.col("duration_ns")
    silent = quiet.select("pid", "t_ns", end.alias("end_ns"))
    times = others.with_columns(
        pl.col("t_ns").alias("other_t_ns"), end.alias("other_end_ns"), pl.col("pid").alias("other")
    ).drop("pid", "t_ns", "duration_ns")
    overlap = pl.min_horizontal("end_ns", "other_end_ns") - pl.max_horizontal("t_ns", "other_t_ns")
    # Two inequalities and nothing else, so that polars sorts instead of trying every pair.
    return (
        silent.join_where(
            times, pl.col("t_ns") < pl.col("other_end_ns"), pl.col("end_ns") > pl.col("other_t_ns")
        )
        .filter(pl.col("pid") == pl.col("other"))
        .with_columns(overlap_ns=overlap)
    )


def episodes(quiet: AnyTable) -> pl.DataFrame:
    """Return silences that are close together as one, by what caused them.

    Parameters
    ----------
    quiet : polars.LazyFrame or polars.DataFrame
        What `silences` returned.

    Returns
    -------
    polars.DataFrame
        `pid`, `cause`, `t_ns`, `duration_ns` (from the first silence's start to the last
        one's end), `silent_ns`, `count` (of silences) and `longest_ns`; by process and time.
        The cause is "gc" where the garbage collector took most of the silence, "cpu" where
        a thread waited for a CPU most of it, else "unknown": something held the GIL.
    """
    grouping = ["pid", "cause"]
    end = pl.col("t_ns") + pl.col("duration_ns")
    after = pl.col("t_ns") - end.shift(1).over(grouping, order_by="t_ns")
    most = pl.col("duration_ns") // 2
    cause = (
        pl.when(pl.col("gc_ns") > most)
        .then(pl.lit("gc"))
        .when(pl.col("runqueue_ns") > most)
        .then(pl.lit("cpu"))
    )
    return (
        quiet.lazy()
        .with_columns(cause=cause.otherwise(pl.lit("unknown")))
        .with_columns(apart=(after > TOGETHER_NS).fill_null(value=True))
        .with_columns(number=pl.col("apart").cum_sum().over(grouping, order_by="t_ns"))
        .group_by(*grouping, "number")
        .agg(
            pl.col("t_ns").min(),
            (end.max() - pl.col("t_ns").min()).alias("lasted_ns"),
            pl.col("duration_ns").sum().alias("silent_ns"),
            pl.len().alias("count"),
            pl.col("duration_ns").max().alias("longest_ns"),
        )
        .rename({"lasted_ns": "duration_ns"})
        .drop("number")
        .sort("pid", "t_ns")
        .collect()
    )

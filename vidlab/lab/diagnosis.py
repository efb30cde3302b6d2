"""What was wrong with a pipeline, by the analyses of its run, in a sentence each.

Each `Cause` is named by one analysis and knows nothing of what was planted;
`matched` then compares causes with the ground truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from .. import sizes
from ..analysis import holdups, latency, leaks, losses, pauses, silences
from ..runs.run import Run
from . import faults
from .faults import Fault

#: A stage is slow for a codec if it takes this much longer than for others, and this many
#: times as long.
SLOWER_NS, SLOWER_TIMES = 10_000_000, 4

#: Collections shorter than this go unmentioned.
LONG_PAUSE_NS = 50_000_000

#: A process that stands still for less than this in all goes unmentioned.
STANDSTILL_NS = 300_000_000

#: A queue that is full for less than this goes unmentioned.
FULL_NS = 500_000_000

#: Beyond this share of the time, a stage is too busy to be blamed for not taking frames.
BUSY = 0.5

#: What an episode's cause is here, and in words.
_REASONS = {
    "cpu": ("no_cpu", "they waited for a CPU"),
    "unknown": (faults.GIL_HOG, "something held the GIL, and not the garbage collector"),
}


@dataclass(frozen=True)
class Cause:
    """Something that made frames late, or lost them.

    Attributes
    ----------
    kind : str
        One of the kinds of `faults`, or no_cpu.
    sentence : str
        What happened, with its numbers.
    stream_id, codec, stage : str or None
        What it struck; None: all.
    t_ns, end_ns : int or None
        When, if not all the time.
    holder : str or None
        The kind of what holds leaked memory, as the table `holders` names it.
    """

    kind: str
    sentence: str
    stream_id: str | None = None
    codec: str | None = None
    stage: str | None = None
    t_ns: int | None = None
    end_ns: int | None = None
    holder: str | None = None


def diagnose(run: Run) -> list[Cause]:
    """Return what the analyses find wrong in a run, in no particular order."""
    quiet = silences.silences(run.scan("spans"), run.scan("gc_pauses"))
    standstills = silences.episodes(quiet).filter(pl.col("silent_ns") >= STANDSTILL_NS)
    return [
        *_slow_stages(run),
        *_held_up_queues(run, standstills),
        *_standstills(standstills),
        *_long_pauses(run),
        *_corruption(run),
        *_leaks(run),
    ]


def _slow_stages(run: Run) -> Iterator[Cause]:
    # What a stage waited for a CPU is not the stage's own: on a busy machine all wait alike.
    waited = pl.col("runqueue_ns").fill_null(0)
    spans = run.scan("spans").with_columns(duration_ns=pl.col("duration_ns") - waited)
    times = latency.percentiles(spans, ["stage", "codec"], [0.1, 0.5])
    own = times.filter(pl.col("kind") == "service", pl.col("codec").is_not_null())
    others = own.select("stage", codec_other="codec", other_ns="p50_ns", least_ns="p10_ns")
    # Compared are the fast ones of each: the others may have waited for the GIL.
    compared = (
        own.join(others, on="stage")
        .filter(pl.col("codec") != pl.col("codec_other"))
        .group_by("stage", "codec")
        .agg(pl.col("p10_ns", "p50_ns").first(), pl.col("other_ns", "least_ns").median())
        .filter(
            pl.col("p10_ns") - pl.col("least_ns") >= SLOWER_NS,
            pl.col("p10_ns") >= SLOWER_TIMES * pl.col("least_ns"),
        )
        .sort("p50_ns", descending=True)
    )
    for row in compared.iter_rows(named=True):
        yield Cause(
            faults.SLOW_STAGE,
            f"{row['stage']} takes {_ms(row['p50_ns'])} a frame, on a CPU or asleep, for "
            f"{row['codec']}, {_ms(row['other_ns'])} for other codecs",
            codec=row["codec"],
            stage=row["stage"],
        )


def _held_up_queues(run: Run, standstills: pl.DataFrame) -> Iterator[Cause]:
    found = holdups.holdups(run.scan("queue_depths"), run.scan("spans")).filter(
        pl.col("full_ns") >= FULL_NS, pl.col("busy_share") < BUSY
    )
    end = pl.col("t_ns") + pl.col("duration_ns")
    for row in found.iter_rows(named=True):
        t_ns, end_ns = row["t_ns"], row["t_ns"] + row["duration_ns"]
        # While the whole process stood still, no stage took frames.
        silent_ns = standstills.filter(pl.col("t_ns") < end_ns, end > t_ns)["silent_ns"].sum()
        if silent_ns > BUSY * row["full_ns"]:
            continue
        yield Cause(
            faults.QUEUE_BACKS_UP,
            f"{row['stream_id']}: {row['stage']} left the queue {row['queue']!r} full for "
            f"{row['full_ns'] / 1e9:.1f} s, and was at work {row['busy_share']:.0%} of that time",
            stream_id=row["stream_id"],
            stage=row["stage"],
            t_ns=t_ns,
            end_ns=end_ns,
        )


def _standstills(standstills: pl.DataFrame) -> Iterator[Cause]:
    for row in standstills.filter(pl.col("cause") != "gc").iter_rows(named=True):
        kind, reason = _REASONS[row["cause"]]
        yield Cause(
            kind,
            f"all threads stood still {_times(row['count'])} within "
            f"{row['duration_ns'] / 1e9:.1f} s, {row['silent_ns'] / 1e9:.1f} s in all: {reason}",
            t_ns=row["t_ns"],
            end_ns=row["t_ns"] + row["duration_ns"],
        )


def _long_pauses(run: Run) -> Iterator[Cause]:
    long = run.scan("gc_pauses").filter(pl.col("duration_ns") >= LONG_PAUSE_NS).collect()
    if not long.height:
        return
    hit = pauses.frames_hit(long, run.scan("frames"))
    worst = pauses.by_generation(long)
    end = (long["t_ns"] + long["duration_ns"]).max()
    first = long["t_ns"].min()
    assert isinstance(first, int)
    assert isinstance(end, int)
    yield Cause(
        faults.GC_STALL,
        f"the garbage collector stopped all threads {_times(long.height)}, for up to "
        f"{_ms(worst['max_ns'].max())}, with {pauses.count_hit(hit).item()} frames in flight",
        t_ns=first,
        end_ns=end,
    )


def _corruption(run: Run) -> Iterator[Cause]:
    fates = losses.fates(run.scan("frames")).filter(pl.col("corrupt") > 0)
    for row in fates.iter_rows(named=True):
        yield Cause(
            faults.CORRUPT_PACKETS,
            f"{row['stream_id']}: {row['corrupt']} of {row['frames']} frames were corrupt",
            stream_id=row["stream_id"],
        )


def _leaks(run: Run) -> Iterator[Cause]:
    if "allocations" not in run.tables():
        return
    allocations, frames, stacks, holders = (
        run.scan(name) for name in ("allocations", "frames", "stacks", "holders")
    )
    found = leaks.verdicts(allocations, frames, stacks, holders, by=["codec"])
    for row in found.filter(pl.col("verdict") == leaks.LEAKING).iter_rows(named=True):
        function, _, line = row["site"].rpartition(" ")
        yield Cause(
            faults.LEAK,
            f"GPU memory leaks for {row['codec'] or 'no codec'}: "
            f"{sizes.say(row['bytes_per_1000_frames'])} per 1,000 frames, taken by {function} "
            f"({Path(line).name}), held by {row['holder'] or 'nothing that was seen'}",
            codec=row["codec"],
            holder=row["holder_kind"],
        )


def matched(planted: Iterable[Fault], causes: Iterable[Cause], t_start_ns: int) -> list[Fault]:
    """Return those of the planted faults that a cause names: kind, subject and time are right.

    Parameters
    ----------
    planted : iterable of Fault
    causes : iterable of Cause
    t_start_ns : int
        When the pipeline started: the faults' times count from then.
    """
    known = list(causes)
    return [fault for fault in planted if any(_names(cause, fault, t_start_ns) for cause in known)]


def _names(cause: Cause, fault: Fault, t_start_ns: int) -> bool:
    if cause.kind != fault.kind:
        return False
    if (cause.stream_id, cause.codec) != (fault.stream_id, fault.codec):
        return False
    if (cause.stage, cause.holder) != (fault.stage, fault.holder):
        return False
    if cause.t_ns is None or cause.end_ns is None:
        return True
    begins = t_start_ns + fault.begins_s * 1e9
    ends = float("inf") if fault.ends_s is None else t_start_ns + fault.ends_s * 1e9
    return cause.t_ns < ends and cause.end_ns > begins


def _ms(ns: object) -> str:
    assert isinstance(ns, int | float)
    milliseconds = ns / 1e6
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"

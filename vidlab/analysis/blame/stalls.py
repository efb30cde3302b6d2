"""When processes and threads were held up: by the collector, the driver, the kernel, the GIL."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from ...runs.run import Run
from .. import tables, wakeups
from .intervals import Disjoint, Ints, disjoint

#: A wait for the GIL is seen from the probe's next due time on. If it is at least this long,
#: somebody held the GIL without letting go, and has done so since before.
HELD_NS = 5_000_000

#: What threads leave the CPU for, by the kernel's word for it.
_DISK = "disk"

Window = tuple[int, int]

#: Later than all that is recorded.
_EVER = 1 << 62


@dataclass(frozen=True)
class Stalls:
    """What held up a run's processes and threads while some frames lived; each read once.

    Attributes
    ----------
    collected, collected_in : mapping
        When the garbage collector ran, by process, and by the thread that it ran in.
    driver : DriverCalls
    off_cpu : OffCpu
    gil : mapping
        When threads that were ready waited for the GIL, by process.
    """

    collected: Disjoint
    collected_in: Disjoint
    driver: DriverCalls
    off_cpu: OffCpu
    gil: Disjoint


def of_frames(run: Run, frames: pl.DataFrame) -> Stalls:
    """Return what held up processes and threads while these frames lived.

    Parameters
    ----------
    run : Run
    frames : polars.DataFrame
        `t_demux_ns` and `t_done_ns`; one that is not known is at any time.
    """
    if not frames.height:
        return Stalls({}, {}, DriverCalls({}, pl.DataFrame()), OffCpu({}, {}, {}, {}), {})
    begin, end = frames.select(
        pl.col("t_demux_ns").fill_null(0).min(), pl.col("t_done_ns").fill_null(_EVER).max()
    ).row(0)
    window = (begin, end)
    return Stalls(
        *collections(run, window),
        driver_calls(run, window),
        off_cpu(run, window),
        gil_waits(run, window),
    )


def thread(pid: Ints, tid: Ints) -> Ints:
    """Return one number for each thread of a process."""
    return (pid << 32) + tid


def collections(run: Run, window: Window) -> tuple[Disjoint, Disjoint]:
    """Return when the garbage collector ran, by process, and by the thread that it ran in."""
    if "gc_pauses" not in run.tables():
        return {}, {}
    rows = _within(run, "gc_pauses", window)
    pid, tid, begin, end = _times(rows)
    return disjoint(pid, begin, end), disjoint(thread(pid, tid), begin, end)


@dataclass(frozen=True)
class DriverCalls:
    """When memory was asked of the driver or given back.

    The pool's allocation around a driver's is left out, as that is the pool's own work.

    Attributes
    ----------
    by_thread : mapping
    rows : polars.DataFrame
        `frame`, `pid`, `tid`, `t_ns` and `duration_ns` of those for a frame.
    """

    by_thread: Disjoint
    rows: pl.DataFrame

    def by_life(self, frames: pl.DataFrame) -> Disjoint:
        """Return them by the row of the frame that they were for, among these."""
        if not self.rows.height:
            return {}
        numbers = frames.select("frame").with_row_index("life")
        named = self.rows.join(numbers, on="frame", how="inner")
        _, _, begin, end = _times(named)
        return disjoint(named["life"].to_numpy().astype(np.int64), begin, end)


def driver_calls(run: Run, window: Window) -> DriverCalls:
    """Return when memory was asked of the driver or given back."""
    if "allocations" not in run.tables():
        return DriverCalls({}, pl.DataFrame())
    rows = _within(
        run,
        "allocations",
        window,
        pl.col("level").cast(pl.String) == "driver",
        columns=("frame",),
    )
    pid, tid, begin, end = _times(rows)
    return DriverCalls(disjoint(thread(pid, tid), begin, end), rows.drop_nulls("frame"))


@dataclass(frozen=True)
class OffCpu:
    """When threads were not on a CPU, by the kernel, by thread.

    Attributes
    ----------
    run_queue, io, asleep : mapping
        Ready and without a CPU; waiting for storage or a device; all else.
    complete : dict of int to (int, int)
        The processes of which no wait is missing, and from when until when.
    """

    run_queue: Disjoint
    io: Disjoint
    asleep: Disjoint
    complete: dict[int, Window]


def off_cpu(run: Run, window: Window) -> OffCpu:
    """Return when threads were not on a CPU; nothing without kernel events."""
    if "kernel_offcpu" not in run.tables():
        return OffCpu({}, {}, {}, {})
    rows = _within(run, "kernel_offcpu", window, columns=("runqueue_ns", "state"))
    pid, tid, begin, end = _times(rows)
    waited = rows["runqueue_ns"].fill_null(0).to_numpy()
    ready = np.maximum(end - np.maximum(waited, 0), begin)
    keys = thread(pid, tid)
    on_disk = (rows["state"] == _DISK).fill_null(value=False).to_numpy()
    return OffCpu(
        disjoint(keys, ready, end),
        disjoint(keys[on_disk], begin[on_disk], ready[on_disk]),
        disjoint(keys[~on_disk], begin[~on_disk], ready[~on_disk]),
        _complete(run),
    )


def _complete(run: Run) -> dict[int, Window]:
    if run.losses.get("kernel_offcpu", {}).get("lost"):
        return {}
    left_out = (
        run.scan("kernel_probes")
        .filter(pl.col("into").cast(pl.String) == "kernel_offcpu")
        .select((pl.col("filtered") + pl.col("sampled_out") + pl.col("lost")).sum())
        .collect()
        .item()
    )
    if left_out:
        return {}
    seen = (
        run.scan("kernel_offcpu")
        .group_by("pid")
        .agg(pl.col("t_ns").min(), t_end_ns=(pl.col("t_ns") + pl.col("duration_ns")).max())
        .collect()
    )
    return {pid: (begin, end) for pid, begin, end in seen.iter_rows()}


def gil_waits(run: Run, window: Window) -> Disjoint:
    """Return when threads that were ready waited for the GIL, by process: an estimate.

    The probe of the engine `Runtime` sleeps and sees a wait from the moment on at which it is
    due. A long wait began before: after the probe slept, and after the last moment at which a
    thread of the process began or ended a span, which takes the GIL. How long after is not
    known: as long as the last such moment is ago on average, and at most half of what remains.
    """
    if "wakeups" not in run.tables():
        return {}
    margin = 1_000_000_000
    rows = _within(
        run, "wakeups", (window[0], window[1] + margin), length="late_ns", columns=_PROBED
    )
    if not rows.height:
        return {}
    collected = _paused(run, rows) if "gc_pauses" in run.tables() else None
    metrics = run.scan("runtime_metrics") if "runtime_metrics" in run.tables() else None
    known = wakeups.identified(rows, collected, metrics).with_columns(rows["asked_ns"])
    held = known.with_columns(t_end_ns=pl.col("t_ns") + pl.col("gc_ns") + pl.col("gil_ns"))
    held = held.filter(pl.col("gil_ns") > 0)
    begins = _widened(run, held)
    pid, end = held["pid"].cast(pl.Int64).to_numpy(), held["t_end_ns"].to_numpy()
    return disjoint(pid, begins, end)


def _paused(run: Run, rows: pl.DataFrame) -> pl.DataFrame:
    """The collector's pauses around these wake-ups: `pid`, `t_ns`, `duration_ns`, no overlaps."""
    until = int(rows.select((pl.col("t_ns") + pl.col("late_ns")).max()).item())
    pid, _, begin, end = _times(_within(run, "gc_pauses", (int(rows["t_ns"].min()), until)))  # type: ignore[arg-type]
    found = disjoint(pid, begin, end)
    parts = [
        pl.DataFrame({"t_ns": begins, "duration_ns": ends - begins}).with_columns(
            pid=pl.lit(one, pl.Int32)
        )
        for one, (begins, ends) in found.items()
    ]
    empty = {"t_ns": pl.Int64, "duration_ns": pl.Int64, "pid": pl.Int32}
    return pl.concat(parts) if parts else pl.DataFrame(schema=empty)


_PROBED = ("asked_ns", "late_ns", "runqueue_ns", "gil_ns")


def _widened(run: Run, held: pl.DataFrame) -> Ints:
    """When each of these waits began, as far as the process's other threads tell."""
    due = held["t_ns"].to_numpy().copy()
    long = held["gil_ns"].to_numpy() >= HELD_NS
    if not long.any():
        return due
    pid, asked = held["pid"].to_numpy(), held["asked_ns"].to_numpy()
    slept = due - asked
    for one in np.unique(pid[long]):
        rows = np.flatnonzero(long & (pid == one))
        moments = _moments(run, int(one), slept[rows], due[rows])
        if not moments.size:
            due[rows] -= asked[rows] // 2
            continue
        first = np.searchsorted(moments, slept[rows])
        upto = np.searchsorted(moments, due[rows], side="right")
        some = upto > first
        last = np.where(some, moments[upto - 1], slept[rows])
        age = _usual_age(moments, np.minimum(first, len(moments) - 1), np.maximum(upto - 1, 0))
        due[rows] = last + np.minimum(age, (due[rows] - last) // 2)
    return due


def _usual_age(moments: Ints, first: Ints, last: Ints) -> Ints:
    """How long ago the last moment was, on average over the time from one moment to another."""
    gaps = np.diff(moments, prepend=moments[:1]).astype(np.float64)
    squares = np.cumsum(gaps * gaps)
    lasted = moments[last] - moments[first]
    some = lasted > 0
    ages = (squares[last] - squares[first])[some] / (2 * lasted[some])
    found = np.full(len(lasted), np.iinfo(np.int64).max)
    found[some] = np.rint(ages).astype(np.int64)
    return found


def _moments(run: Run, pid: int, begins: Ints, ends: Ints) -> Ints:
    """When threads of a process began or ended a span, within these times; in order."""
    wide = max(int((ends - begins).max()), 1)
    bins = np.unique(np.concatenate([begins // wide, ends // wide]))
    known = pl.Series("bin", bins, pl.Int64).to_frame().lazy()
    spans = tables.lazy(run.scan("spans"), "spans", ("t_ns", "duration_ns", "pid"))
    mine = spans.filter(pl.col("pid") == pid)
    edges = [
        mine.select(t_ns=moment).with_columns(bin=pl.col("t_ns") // wide)
        .join(known, on="bin", how="semi").select("t_ns")
        for moment in (pl.col("t_ns"), pl.col("t_ns") + pl.col("duration_ns"))
    ]  # fmt: skip
    return np.unique(pl.concat(edges).collect()["t_ns"].to_numpy())


def _within(
    run: Run,
    table: str,
    window: Window,
    where: pl.Expr | None = None,
    columns: Iterable[str] = (),
    length: str = "duration_ns",
) -> pl.DataFrame:
    """The rows of a table that overlap a window: `pid`, `tid`, `t_ns`, its length and columns."""
    wanted = list(dict.fromkeys(("pid", "tid", "t_ns", length, *columns)))
    rows = tables.lazy(run.scan(table), table, wanted).filter(
        pl.col("t_ns") < window[1], pl.col("t_ns") + pl.col(length) > window[0]
    )
    if where is not None:
        rows = rows.filter(where)
    return rows.select(wanted).collect()


def _times(rows: pl.DataFrame) -> tuple[Ints, Ints, Ints, Ints]:
    pid, tid = (rows[name].cast(pl.Int64).to_numpy() for name in ("pid", "tid"))
    begin = rows["t_ns"].to_numpy()
    return pid, tid, begin, begin + rows["duration_ns"].to_numpy()

"""Checks of the interpreter, its threads, loops and heap: what `health.verdicts` asks first."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from .. import sizes
from ..runs.run import Run
from . import (
    accumulation,
    loops,
    pauses,
    quantiles,
    scheduling,
    threadnames,
    trends,
    wakeups,
)
from .saying import ms, times
from .thresholds import Thresholds, Verdict

#: The share of its memory that malloc has free, and how many bytes that is.
FRAGMENTATION, FREE_BYTES = "vidlab.malloc.fragmentation", "vidlab.malloc.free"

#: A percentile beyond a threshold is not believed if fewer than so many values are: one may
#: be chance.
BEYOND = 2

#: Of so many items a holder is named that full collections go through.
_MANY = 10_000

#: Where CPUs are scarce, a thread that has had less of one than this is no hog.
_LEAST_CPU = 0.05

#: "One time in a hundred" is said of a thread that was given a CPU so often.
_LEAST_SLICES = 100

#: Threads and stages that are named in the evidence.
_NAMED = 3


def growing_pauses(run: Run, limits: Thresholds) -> Iterator[Verdict]:
    """Collections that get longer and longer: `gc_pauses_growing`."""
    growth_ns = round(limits.pause_growth_ms * 1e6)
    found = pauses.growing(run.scan("gc_pauses"), growth_ns, limits.pauses_in_a_row)
    worst = found.group_by("pid", "generation", maintain_order=True).first()
    for row in worst.iter_rows(named=True):
        yield Verdict(
            "gc_pauses_growing",
            f"generation {row['generation']}",
            f"{row['pauses']} garbage collections in a row of generation {row['generation']} "
            f"were each more than {limits.pause_growth_ms:g} ms longer than the one before, from "
            f"{ms(row['before_ns'])} to {ms(row['last_ns'])}: more and more objects are kept. "
            "Look at what grows (holders, tasks, queues), and give it a limit.",
            row["pauses"],
            limits.pauses_in_a_row,
            "pauses",
            row["pid"],
            row["t_ns"],
            {name: row[name] for name in ("generation", "before_ns", "last_ns")},
        )


def slow_generation_2(run: Run, limits: Thresholds) -> Iterator[Verdict]:
    """Full collections that take long: `slow_generation_2`."""
    # Every pause is recorded: the share that its frame's labels bear is of frames.
    full = run.scan("gc_pauses").filter(pl.col("generation") == 2).drop("sample_rate", strict=False)
    found = quantiles.grouped(full, ["pid"], 0.5)
    for pid, count, median_ns, max_ns in found.select(
        "pid", "count", "p50_ns", "max_ns"
    ).iter_rows():
        if median_ns < limits.generation_2_ms * 1e6 or count < BEYOND:
            continue
        own = full.filter(pl.col("pid") == pid)
        hit = pauses.count_hit(pauses.frames_hit(own, run.scan("frames"))).item()
        held = accumulation.holders(run.scan("objects")).filter(
            pl.col("pid") == pid, pl.col("last_items") >= _MANY
        )
        largest = next(
            held.top_k(1, by="last_items").select("name", "last_items").iter_rows(), None
        )
        said = f" The most is in {largest[0]} ({largest[1]:,} items)." if largest else ""
        ran = own.group_by("pid", "tid").len().collect()
        of = threadnames.named(ran, threadnames.known(run.scan("threads")))
        thread, most = of.sort("len", "tid", descending=[True, False]).select("name", "len").row(0)
        who = "All of them" if most == count else f"{most:,} of them"
        yield Verdict(
            "slow_generation_2",
            f"process {pid}",
            f"Half of {times(count, 'full garbage collection')} took {ms(median_ns)} or more, "
            f"the longest {ms(max_ns)}; {times(hit, 'frame')} waited meanwhile. {who} ran in the "
            f"thread {thread}. Each goes through all containers that are alive.{said} Call "
            "gc.freeze() when everything is loaded, keep large tables in arrays, or collect "
            "between frames.",
            median_ns / 1e6,
            limits.generation_2_ms,
            "ms",
            pid,
            own.select(pl.col("t_ns").min()).collect().item(),
            {"collections": count, "max_ms": max_ns / 1e6, "frames_hit": hit,
             "largest_holder": largest and largest[0], "thread": thread, "in_thread": most},
        )  # fmt: skip


def scheduling_delays(run: Run, limits: Thresholds) -> Iterator[Verdict]:
    """Threads that waited for a CPU: `scheduling_delay`."""
    limit_ns = limits.delay_p99_ms * 1e6
    waits, known = run.scan("thread_waits"), threadnames.known(run.scan("threads"))
    beyond = waits.filter(pl.col("worst_delay_ns") > limit_ns)
    first = beyond.group_by("pid", "tid").agg(
        pl.len().alias("windows_beyond"), pl.col("t_ns").min()
    )
    slow = (
        threadnames.without_ours(threadnames.named(scheduling.by_thread(waits), known))
        .filter(pl.col("p99_delay_ns") > limit_ns, pl.col("slices") >= _LEAST_SLICES)
        .join(first.collect(), on=["pid", "tid"])
        .filter(pl.col("windows_beyond") >= BEYOND)
        .sort("p99_delay_ns", "runqueue_ns", "tid", descending=[True, True, False])
    )
    for _, own in slow.group_by("pid", maintain_order=True):
        row, others = own.row(0, named=True), own.height - 1
        so_did = f" So did {times(others, 'other thread')}." if others else ""
        yield Verdict(
            "scheduling_delay",
            row["name"],
            f"The thread {row['name']} could run and waited for a CPU, {ms(row['p99_delay_ns'])} "
            f"or more one time in a hundred; {row['runqueue_share']:.1%} of the time in all."
            f"{so_did} More threads want to run than there are CPUs: run fewer at once, or give "
            "the process more CPUs or a higher priority.",
            row["p99_delay_ns"] / 1e6,
            limits.delay_p99_ms,
            "ms",
            row["pid"],
            row["t_ns"],
            {
                "threads": own.head(_NAMED)
                .select("name", "tid", "p99_delay_ns", "worst_delay_ns", "runqueue_share")
                .to_dicts()
            },
        )
    yield from _late_probe(run, limits, set(slow["pid"]))


def _late_probe(run: Run, limits: Thresholds, told: set[int]) -> Iterator[Verdict]:
    """What the probe thread waited for a CPU, as any thread that became ready would have."""
    limit_ns = limits.delay_p99_ms * 1e6
    probes = run.scan("wakeups").select("pid", "t_ns", "runqueue_ns").drop_nulls()
    found = quantiles.grouped(probes, ["pid"], (0.5, 0.99), "runqueue_ns")
    late = found.filter(pl.col("p99_ns") > limit_ns, ~pl.col("pid").is_in(list(told)))
    for row in late.iter_rows(named=True):
        beyond = probes.filter(pl.col("pid") == row["pid"], pl.col("runqueue_ns") > limit_ns)
        count, first = beyond.select(pl.len(), pl.col("t_ns").min()).collect().row(0)
        if count < BEYOND:
            continue
        yield Verdict(
            "scheduling_delay",
            f"process {row['pid']}",
            f"A thread of process {row['pid']} that became ready waited {ms(row['p99_ns'])} or "
            f"more for a CPU one time in a hundred ({ms(row['p50_ns'])} half of the time). The "
            "machine has too little CPU for what runs on it: this process, or its neighbours.",
            row["p99_ns"] / 1e6,
            limits.delay_p99_ms,
            "ms",
            row["pid"],
            first,
            {"wakeups": row["count"], "beyond": count, "max_ms": row["max_ns"] / 1e6},
        )


def gil_hogs(run: Run, limits: Thresholds) -> Iterator[Verdict]:
    """Threads that keep the others from running Python: `gil_hog`."""
    collections = run.scan("gc_pauses")
    probes = run.scan("wakeups")
    read = run.scan("runtime_metrics")
    waits = wakeups.by_process(probes, collections, read)
    held = wakeups.holders(probes, run.scan("thread_waits"), run.scan("threads"), collections, read)
    known = wakeups.identified(probes, collections, read)
    for row in waits.iter_rows(named=True):
        mine = held.filter(pl.col("pid") == row["pid"], pl.col("share") > 0).head(_NAMED)
        names = mine.select("name", "share", "cpu_share").rows()
        # Where CPUs are scarce, who holds the GIL waits for one too: that is no hog.
        often = row["gil_p50_ns"] > max(limits.gil_median_ms * 1e6, row["runqueue_p50_ns"])
        long_ns, waited_ns = limits.gil_p99_ms * 1e6, row["runqueue_p99_ns"]
        runs = bool(names) and names[0][2] >= _LEAST_CPU
        long = row["gil_p99_ns"] > (max(long_ns, waited_ns) if runs else long_ns + waited_ns)
        limit = limits.gil_median_ms if often else limits.gil_p99_ms
        beyond = known.filter(pl.col("pid") == row["pid"], pl.col("gil_ns") > limit * 1e6)
        if not (often or long) or beyond.height < BEYOND:
            continue
        if names and names[0][0].startswith(threadnames.OWN):
            continue  # the price of looking, in the profile `debug`
        name, share, _ = names[0] if names else (f"process {row['pid']}", None, None)
        who = (
            f"The thread {name} had most of the CPU meanwhile ({share:.0%} of what all threads "
            "had): it is the likely holder."
            if names
            else "Which thread held it is not known: no thread's CPU time was recorded."
        )
        python = "move its Python code to a process of its own, or to NumPy"
        native = "have its native call release the GIL"
        advice = (f"{native}; or {python}" if often else native) if long else python
        yield Verdict(
            "gil_hog",
            name,
            f"A thread that was ready waited for the GIL, {ms(row['gil_p99_ns'])} or more one time "
            f"in a hundred and {ms(row['gil_p50_ns'])} or more half of the time, by estimate. "
            f"{who} {advice[0].upper()}{advice[1:]}.",
            (row["gil_p50_ns"] if often else row["gil_p99_ns"]) / 1e6,
            limit,
            "ms",
            row["pid"],
            beyond["t_ns"].min(),  # type: ignore[arg-type]
            {
                "wakeups": row["count"],
                "p50_ms": row["gil_p50_ns"] / 1e6,
                "p99_ms": row["gil_p99_ns"] / 1e6,
                "max_ms": row["gil_max_ns"] / 1e6,
                "threads": [{"name": n, "share": s, "cpu_share": c} for n, s, c in names],
            },
        )


def blocked_loops(run: Run, limits: Thresholds) -> Iterator[Verdict]:
    """Event loops that could not run what was due: `loop_blocked`."""
    limit_ns = round(limits.loop_delay_ms * 1e6)
    read = run.scan("runtime_metrics")
    delays = loops.without_looks(run.scan("loop_delays"), read).lazy()
    usual = wakeups.by_process(run.scan("wakeups"), runtime_metrics=read).select(
        "pid", usual_ns="late_p99_ns"
    )
    # What any thread waits for is not the loop's doing.
    slow = (
        loops.by_loop(delays)
        .join(usual, on="pid", how="left")
        .filter(pl.col("p99_ns") > pl.max_horizontal(limit_ns, pl.col("usual_ns").fill_null(0)))
    )
    if not slow.height:
        return
    stages = loops.blockers(delays, run.scan("spans"), limit_ns)
    for row in slow.iter_rows(named=True):
        own = (pl.col("pid") == row["pid"]) & (pl.col("loop") == row["loop"])
        late = delays.filter(own, pl.col("delay_ns") > limit_ns)
        count, first = late.select(pl.len(), pl.col("t_ns").min()).collect().row(0)
        if count < BEYOND:
            continue
        blamed = stages.filter(own).head(_NAMED).select("stage", "blocked_ns").rows()
        inside = bool(blamed) and blamed[0][0] != loops.OUTSIDE
        where = f"in the stage {blamed[0][0]}" if inside else "outside of any stage"
        yield Verdict(
            "loop_blocked",
            blamed[0][0] if inside else f"event loop {row['loop']}",
            f"Event loop {row['loop']} ran one timer in a hundred {ms(row['p99_ns'])} or more "
            f"late, the latest {ms(row['max_ns'])}. Most of that time its thread was {where}. "
            "Await what blocks, or hand it to a thread: loop.run_in_executor or "
            "asyncio.to_thread.",
            row["p99_ns"] / 1e6,
            limits.loop_delay_ms,
            "ms",
            row["pid"],
            first,
            {"timers": row["count"], "late": count, "max_ms": row["max_ns"] / 1e6,
             "stages": [{"stage": s, "blocked_ms": ns / 1e6} for s, ns in blamed]},
        )  # fmt: skip


def fragmented_heaps(run: Run, limits: Thresholds) -> Iterator[Verdict]:
    """Memory that malloc has taken and nobody uses: `heap_fragmented`."""
    read = run.scan("runtime_metrics")
    free = trends.lately(read, FREE_BYTES).select("pid", "attribute", free_bytes="value")
    found = trends.lately(read, FRAGMENTATION).join(
        free, on=["pid", "attribute"], how="left", nulls_equal=True
    )
    enough = pl.col("free_bytes").fill_null(limits.fragmentation_bytes)
    for row in found.filter(
        pl.col("value") > limits.fragmentation, enough >= limits.fragmentation_bytes
    ).iter_rows(named=True):
        size = f", {sizes.say(row['free_bytes'])}" if row["free_bytes"] else ""
        yield Verdict(
            "heap_fragmented",
            f"malloc of process {row['pid']}",
            f"{row['value']:.0%} of what malloc has taken is free{size}, and is not given back: "
            "blocks that live on lie between. Set MALLOC_ARENA_MAX=2, keep large buffers for the "
            "next frame instead of making new ones, or call malloc_trim(0) now and then.",
            row["value"],
            limits.fragmentation,
            "share",
            row["pid"],
            row["t_ns"],
            {"readings": row["readings"], "free_bytes": row["free_bytes"]},
        )

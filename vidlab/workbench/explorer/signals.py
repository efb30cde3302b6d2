"""Memory, the kernel and the runtime beside the frames: by time, for what is chosen.

A table is read when it is first asked for, and cut into bins of time once for the labels that
are chosen; a part of time is some of these bins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from ...analysis import kernel, loops, memory, offcpu, wakeups
from . import state as states
from .source import Source, told
from .stages import EXACT

#: Bins that the whole run is cut into, and that a view has at most.
_BINS, _SHOWN = 2_000, 120

#: Groups times bins of memory, at most: of many streams time is cut less finely.
_CELLS = 2_000_000

#: What is told apart in a view of memory; the rest is put together.
_TOLD = 7
OTHERS = "others"

_TIMES = {"t_ns": pl.Int64, "t_end_ns": pl.Int64}
_MEMORY = {**_TIMES, "label": pl.String, "in_use_bytes": pl.Int64}
_KERNEL = {**_TIMES, "state": pl.String, "threads": pl.Float64}
_RUNTIME = {**_TIMES, "what": pl.String, "ms": pl.Float64}

State = Mapping[str, Any]


class Signals:
    """The views of what was recorded beside frames.

    Parameters
    ----------
    source : Source
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[tuple[Any, ...], pl.DataFrame] = {}

    def memory(self, state: State) -> pl.DataFrame:
        """Return the bytes of GPU memory in use at the end of each bin.

        Returns
        -------
        polars.DataFrame
            `t_s`, `t_end_s`, `stream_id`, `in_use_bytes` where a codec, a GPU or a stream is
            chosen; else `codec` in place of `stream_id`.
        """
        key = ("memory", *states.of_labels(state))
        found = self._kept(key, lambda: self._memory(state))
        shown = self._shown(found, state, "label", pl.col("in_use_bytes").last())
        return shown.rename({"label": _told_apart(state)})

    def kernel(self, state: State) -> pl.DataFrame:
        """Return how many threads were off the CPU: `t_s`, `t_end_s`, `state`, `threads`."""
        key = ("kernel", *states.of_labels(state), state["stage"])
        found = self._kept(key, lambda: self._kernel(state))
        return self._shown(found, state, "state", pl.col("threads").mean())

    def runtime(self, state: State) -> pl.DataFrame:
        """Return the longest hold-up of the interpreter in each bin, of the whole process.

        Returns
        -------
        polars.DataFrame
            `t_s`, `t_end_s`, `what` (gc, run queue, GIL or event loop) and `ms`.
        """
        found = self._kept(("runtime",), self._runtime)
        return self._shown(found, state, "what", pl.col("ms").max())

    def _memory(self, state: State) -> pl.DataFrame:
        by_group = self._kept(("memory by group",), self._memory_by_group)
        chosen, label = _chosen(state), _told_apart(state)
        found = by_group.filter(chosen) if chosen else by_group
        named = found.with_columns(
            pl.col(label).cast(pl.String).fill_null(f"(no {label})").alias("label")
        )
        sums = named.group_by("label", *_TIMES).agg(pl.col("in_use_bytes").sum())
        most = sums.group_by("label").agg(pl.col("in_use_bytes").max())
        told_apart = most.sort("in_use_bytes", "label", descending=[True, False])["label"]
        if told_apart.len() > _TOLD + 1:
            few = told_apart.head(_TOLD).implode()
            shown = pl.when(pl.col("label").is_in(few)).then("label").otherwise(pl.lit(OTHERS))
            sums = sums.group_by(shown.alias("label"), *_TIMES).agg(pl.col("in_use_bytes").sum())
        return sums.sort("label", "t_ns").select(*_MEMORY)

    def _memory_by_group(self) -> pl.DataFrame:
        allocations = self._source.table("allocations")
        if not allocations.height:
            return pl.DataFrame(schema={**dict.fromkeys(states.LABELS, pl.String), **_MEMORY})
        groups = allocations.select(states.LABELS).n_unique()
        bins = max(20, min(_BINS, _CELLS // groups))
        return memory.in_use(allocations, states.LABELS, time_bins=bins)

    def _kernel(self, state: State) -> pl.DataFrame:
        narrowed = _chosen(state)
        stage = state["stage"]
        if stage is not None:
            narrowed.append(pl.col("stage") == stage)
        events = self._source.table("kernel_offcpu")
        if events.height and narrowed:
            events = self._kept(("kernel identified",), self._identified).filter(narrowed)
        if not events.height:
            return pl.DataFrame(schema=_KERNEL)
        return offcpu.over_time(events, _BINS).select(*_KERNEL)

    def _identified(self) -> pl.DataFrame:
        """The waits, with the stage and the labels of their spans."""
        events = self._source.table("kernel_offcpu")
        spans = self._source.scan("spans")
        if self._source.count("spans") > EXACT:  # those that the threads said they were in
            spans = spans.filter(pl.col("span").is_in(events["span"].drop_nulls().implode()))
        with told(self._source.run):
            named = kernel.identified(events, spans).collect()
        return named.select("t_ns", "duration_ns", "state", "stage", *states.LABELS)

    def _runtime(self) -> pl.DataFrame:
        pauses, looks = self._source.table("gc_pauses"), self._source.table("runtime_metrics")
        woken, delays = self._source.table("wakeups"), self._source.table("loop_delays")
        parts = []
        if pauses.height:
            parts.append(_held_up(pauses, "gc", "duration_ns"))
        if woken.height:
            known = wakeups.identified(
                woken, pauses if pauses.height else None, looks if looks.height else None
            )
            parts += [
                _held_up(known, "run queue", "runqueue_ns"), _held_up(known, "GIL", "gil_ns")
            ]  # fmt: skip
        if delays.height:
            late = loops.without_looks(delays, looks) if looks.height else delays
            parts.append(_held_up(late, "event loop", "delay_ns"))
        if not parts:
            return pl.DataFrame(schema=_RUNTIME)
        rows = pl.concat(parts)
        first, last = rows.select(pl.col("t_ns").min(), last=pl.col("t_ns").max()).row(0)
        width = -(-(last - first + 1) // _BINS)
        begin = first + (pl.col("t_ns") - first) // width * width
        return (
            rows.group_by("what", begin.alias("t_ns"))
            .agg(pl.col("ms").max())
            .with_columns(t_end_ns=pl.col("t_ns") + width)
            .select(*_RUNTIME)
            .sort("what", "t_ns")
        )

    def _shown(self, rows: pl.DataFrame, state: State, by: str, value: pl.Expr) -> pl.DataFrame:
        """The rows of the chosen time, in seconds; so many bins put together that few are left."""
        start = self._source.start_ns
        if state["time_s"] is not None:
            begin, end = (start + round(s * 1e9) for s in state["time_s"])
            rows = rows.filter(pl.col("t_ns") <= end, pl.col("t_end_ns") > begin)
        first, last = rows.select(pl.col("t_ns").min(), last=pl.col("t_ns").max()).row(0)
        if first is not None:
            width = rows.select((pl.col("t_end_ns") - pl.col("t_ns")).max()).item()
            together = -(-((last - first) // width + 1) // _SHOWN)
            if together > 1:
                wide, end = width * together, rows["t_end_ns"].max()
                begin = first + (pl.col("t_ns") - first) // wide * wide
                # The same parts for all, whenever what is told apart begins.
                rows = (
                    rows.sort("t_ns")
                    .group_by(by, begin.alias("t_ns"), maintain_order=True)
                    .agg(value)
                    .select(
                        "t_ns",
                        pl.min_horizontal(pl.col("t_ns") + wide, end).alias("t_end_ns"),
                        by,
                        rows.columns[-1],
                    )
                    .sort(by, "t_ns")
                )
        seconds = [
            ((pl.col(f"{name}_ns") - start) / 1e9).alias(f"{name}_s") for name in ("t", "t_end")
        ]
        return rows.select(*seconds, by, rows.columns[-1])

    def _kept(self, key: tuple[Any, ...], make: Callable[[], pl.DataFrame]) -> pl.DataFrame:
        if key not in self._known:
            if len(self._known) > 64:
                self._known.clear()
            self._known[key] = make()
        return self._known[key]


def _chosen(state: State) -> list[pl.Expr]:
    return [
        pl.col(name).cast(pl.String) == str(state[name])
        for name in states.LABELS
        if state[name] is not None
    ]


def _told_apart(state: State) -> str:
    """By what GPU memory is told apart."""
    return "stream_id" if _chosen(state) else "codec"


def _held_up(rows: pl.DataFrame, what: str, column: str) -> pl.DataFrame:
    return rows.select("t_ns", pl.lit(what).alias("what"), (pl.col(column) / 1e6).alias("ms"))

"""What profiles and allocations say of a slice, of the slowest frames, and of one frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from ...analysis import flame, profiles, sites, trees
from ...analysis.calibration import CPU_TYPE, OWN_THREADS
from . import state as states
from .durations import Durations
from .source import Source, told

#: Boxes of a flame graph, and rows about one frame, at most.
MOST_BOXES, _MOST = 700, 4_000

#: Functions that are listed.
_FUNCTIONS = 40

_PROFILE = {
    "function": pl.String, "file": pl.String, "self_share": pl.Float64,
    "total_share": pl.Float64, "samples": pl.Int64,
}  # fmt: skip
_STACKS = {"calls": pl.String, "samples": pl.Int64, "cpu_ns": pl.Int64}
_FRAME_MEMORY = {
    "t_s": pl.Float64, "t_ms": pl.Float64, "op": pl.String, "level": pl.String,
    "size_bytes": pl.Int64, "site": pl.String,
}  # fmt: skip

State = Mapping[str, Any]


class Profiled:
    """The views of stacks: of samples of the CPU, and of GPU memory that was taken.

    Parameters
    ----------
    source : Source
    beyond : function of a state
        Returns the frames at or beyond the quantile.
    """

    def __init__(self, source: Source, beyond: Callable[[State], Durations]) -> None:
        self._source, self._beyond = source, beyond

    def profile(self, state: State) -> pl.DataFrame:
        """Return the functions that samples of the CPU saw most, in a slice.

        Returns
        -------
        polars.DataFrame
            `function`, `file`, `self_share` (of what the samples stand for, it was innermost),
            `total_share` (it was among the calls) and `samples`; the largest first.
        """
        by_stack = self._samples(state).group_by("stack").agg(pl.col("value", "samples").sum())
        every = by_stack["value"].sum()
        if not every:
            return pl.DataFrame(schema=_PROFILE)
        value = pl.col("value")
        return (
            by_stack.join(self._calls, on="stack")
            .group_by("function", "file")
            .agg(
                self_share=value.filter(pl.col("depth") == 0).sum() / every,
                total_share=value.sum() / every,
                samples=pl.col("samples").sum(),
            )
            .sort("self_share", "total_share", "function", descending=[True, True, False])
            .head(_FUNCTIONS)
            .select(*_PROFILE)
        )

    def flame(self, state: State) -> pl.DataFrame:
        """Return the flame graph of a slice's CPU samples: a tree, as of `profiles.flame`."""
        return self._flame(self._samples(state))

    def beyond_flame(self, state: State) -> pl.DataFrame:
        """Return the flame graph of the CPU samples of frames at or beyond the quantile."""
        samples = self._cpu
        return self._flame(samples.filter(self._of_beyond(state)) if samples.height else samples)

    def beyond_memory(self, state: State) -> pl.DataFrame:
        """Return the flame graph of the GPU memory that these frames took: `flame.memory`."""
        allocations = self._source.table("allocations")
        own = allocations.filter(self._of_beyond(state)) if allocations.height else allocations
        if not own.height:
            return trees.table(None, 0, "bytes").drop("step")
        layers = ("stream_id", "codec")
        stacks = self._source.table("stacks")
        return _pruned(
            lambda prune: flame.memory(
                own, stacks if stacks.height else None, "allocated", layers=layers, prune=prune
            )
        )

    def stacks(self, state: State) -> pl.DataFrame:
        """Return the stacks that were seen while a frame was worked on, the heaviest first.

        Returns
        -------
        polars.DataFrame
            `calls` (from the outermost on, joined by " > "), `samples` and `cpu_ns`, of which
            the sum is what the clocks of the frame's threads say.
        """
        frame, samples = state["frame"], self._cpu
        own = samples.filter(pl.col("frame") == frame) if frame and samples.height else samples
        if frame is None or not own.height:
            return pl.DataFrame(schema=_STACKS)
        with told(self._source.run):
            spans = self._source.run.scan("spans").filter(pl.col("frame") == frame).collect()
        profile = profiles.of_cpu(own, self._source.table("stacks"), spans)
        seen = profile.filter(pl.col("samples") > 0)
        return profiles.stacks_of(seen).select(*_STACKS)

    def frame_memory(self, state: State) -> pl.DataFrame:
        """Return a frame's GPU memory events, by time.

        Returns
        -------
        polars.DataFrame
            `t_s`, `t_ms` (since the frame's packet was read), `op`, `level`, `size_bytes` and
            `site`.
        """
        allocations, frame = self._source.table("allocations"), state["frame"]
        if frame is None or not allocations.height:
            return pl.DataFrame(schema=_FRAME_MEMORY)
        own = allocations.filter(pl.col("frame") == frame).sort("t_ns").head(_MOST)
        if not own.height:
            return pl.DataFrame(schema=_FRAME_MEMORY)
        begin = self._source.began(frame)
        first = own["t_ns"][0] if begin is None else begin
        stacks = self._source.table("stacks")
        return (
            sites.with_sites(own, stacks if stacks.height else None)
            .with_columns(
                pl.col("op", "level").cast(pl.String),
                t_s=(pl.col("t_ns") - self._source.start_ns) / 1e9,
                t_ms=(pl.col("t_ns") - first) / 1e6,
            )
            .select(*_FRAME_MEMORY)
        )

    @cached_property
    def _cpu(self) -> pl.DataFrame:
        """The samples of the CPU, but of vidlab's own threads."""
        samples = self._source.table("profile_samples")
        if not samples.height:
            return pl.DataFrame(schema={"stack": pl.UInt32, "value": pl.Int64, "samples": pl.Int64})
        thread = pl.col("thread").cast(pl.String).fill_null("")
        return samples.filter(pl.col("type").cast(pl.String) == CPU_TYPE, thread != OWN_THREADS)

    def _samples(self, state: State) -> pl.DataFrame:
        """The samples of the chosen labels and stage that may be of the chosen time."""
        samples = self._cpu
        if not samples.height:
            return samples
        chosen = [
            pl.col(name).cast(pl.String) == str(state[name])
            for name in states.LABELS
            if state[name] is not None
        ]
        if state["stage"] is not None:
            samples = samples.join(self._stages, on="span")
            chosen.append(pl.col("stage") == state["stage"])
        if state["time_s"] is not None:
            begin, end = (self._source.start_ns + round(s * 1e9) for s in state["time_s"])
            until = pl.col("t_ns") + pl.col("duration_ns")
            chosen += [pl.col("t_ns") <= end, until >= begin]
        return samples.filter(chosen) if chosen else samples

    @cached_property
    def _stages(self) -> pl.DataFrame:
        """The stage of each span that a sample is of."""
        spans = self._cpu["span"].drop_nulls().unique()
        with told(self._source.run):
            found = self._source.run.scan("spans").filter(pl.col("span").is_in(spans.implode()))
            return found.select("span", pl.col("stage").cast(pl.String)).collect()

    @cached_property
    def _calls(self) -> pl.DataFrame:
        """Each function of each stack once, and how deep in it it is: 0 is the innermost."""
        call = pl.col("frames").struct
        file = call.field("file").fill_null("?").str.extract(r"([^/\\]*)$")
        return (
            self._source.table("stacks")
            .with_columns(depth=pl.int_ranges(pl.col("frames").list.len()))
            .filter(pl.col("frames").list.len() > 0)
            .explode("frames", "depth")
            .group_by("stack", call.field("function").alias("function"), file.alias("file"))
            .agg(pl.col("depth").min())
        )

    def _of_beyond(self, state: State) -> pl.Expr:
        frames = np.unique(self._source.frame_ids[self._beyond(state).frame])
        return pl.col("frame").is_in(pl.Series(frames, dtype=pl.UInt64).implode())

    def _flame(self, samples: pl.DataFrame) -> pl.DataFrame:
        if not samples.height:
            return trees.table(None, 0, "ns").drop("step")
        profile = profiles.of_type(samples, self._source.table("stacks"), CPU_TYPE)
        return _pruned(lambda prune: profiles.flame(profile, prune=prune))


def _pruned(grown: Callable[[float], pl.DataFrame]) -> pl.DataFrame:
    """Return a tree that is pruned as far as it takes to have few enough nodes."""
    prune = profiles.PRUNED
    tree = grown(prune)
    while tree.height > MOST_BOXES:
        prune *= 2
        tree = grown(prune)
    return tree

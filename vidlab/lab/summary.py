"""A run in a dozen lines: which streams were late, where their time went, and why."""

from __future__ import annotations

from typing import Any

import polars as pl

from ..analysis import closure, cpu, health, latency, losses, sampling
from ..runs.run import Run
from .diagnosis import Cause

#: Streams that have a line of their own: those with most late frames; the rest shares one.
MOST_STREAMS = 4

#: Where the time of a stream's late frames went: so many places, with at least this share.
MOST_PLACES, LEAST_SHARE = 2, 0.1

_BY = ["stream_id", "codec"]

#: Verdicts on the runtime that are told; the rest is counted.
MOST_VERDICTS = 3

#: How a span's kind reads before the stage or queue.
_WAYS = {
    "service": "",
    "queue": "queue ",
    "reorder": "reordering in ",
    "encoder_lag": "lag of ",
    "residual": "",
}


def summary(run: Run, causes: list[Cause]) -> list[str]:
    """Return the lines: late and lost frames, the latest streams, and the causes.

    Parameters
    ----------
    run : Run
    causes : list of Cause
        What `diagnosis.diagnose` returned.
    """
    deadline_ms = run.manifest.parameters.get("deadline_ms")
    frames = latency.late(run.scan("frames"), run.scan("streams"), deadline_ms)
    streams = latency.late_summary(frames, _BY).filter(pl.col("late") > 0)
    places = closure.ranking(closure.by_cause(frames, run.scan("spans"), _BY), n=1_000)
    lines = [_headline(run, frames, deadline_ms)]
    sampled = sampling.sentence(run.scan("frames"), run.scan("sampling_decisions"))
    lines += [f"  {sampled}"] if sampled else []
    if streams.height:
        shown, rest = streams.head(MOST_STREAMS), streams.slice(MOST_STREAMS)
        lines.append("  where the late frames' time went, beyond the usual:")
        width = max(len(_name(row)) for row in shown.iter_rows(named=True))
        lines += [_line(row, width, places) for row in shown.iter_rows(named=True)]
        if rest.height:
            shares = [f"{share:.0%}" for share in rest["late_share"].sort().to_list()]
            most = f" to {shares[-1]}" if shares[-1] != shares[0] else ""
            lines.append(f"  and {rest.height} more: {shares[0]}{most} late")
    if causes:
        lines.append("why, by the analyses:")
        lines += [f"  - {cause.sentence}" for cause in causes]
    return [*lines, *_runtime(run), *_cpu(run)]


def _runtime(run: Run) -> list[str]:
    """What the interpreter, its threads and its heap did: the worst of it."""
    found = health.verdicts(run)
    if not found.height:
        return []
    rest = found.height - MOST_VERDICTS
    return [
        "what the runtime did:",
        *(f"  - {message}" for message in found["message"].head(MOST_VERDICTS)),
        *([f"  and {rest} more: vidlab health {run.path}"] if rest > 0 else []),
    ]


def _cpu(run: Run) -> list[str]:
    """Where CPU time went: the stages and codecs that took most, by the threads' own clocks."""
    took = cpu.by_label(run.scan("spans"), run.scan("profile_samples"), ["stage", "codec"])
    own = took.filter(pl.col("stage").is_not_null(), pl.col("in_stages_ns") > 0)
    total = int(own["in_stages_ns"].sum())
    if not total or not own["samples"].sum():
        return []
    most = own.sort("in_stages_ns", descending=True).head(MOST_PLACES + 1)
    places = (
        f"{row['stage']} of {row['codec'] or 'no codec'} {row['in_stages_ns'] / total:.0%}"
        for row in most.iter_rows(named=True)
    )
    return [f"CPU time of stages, {total / 1e9:.1f} s: {', '.join(places)}"]


def _headline(run: Run, frames: pl.DataFrame, deadline_ms: float | None) -> str:
    counted = latency.late_summary(frames, _BY)
    late, delivered = (int(counted[name].sum()) for name in ("late", "delivered"))
    fates = losses.fates(run.scan("frames"), [])
    lost = fates.select(pl.sum_horizontal("dropped", "corrupt", "cancelled")).sum().item()
    beyond = f"{deadline_ms:g} ms" if deadline_ms else f"{latency.INTERVALS} frame intervals"
    return (
        f"{late:,} of {delivered:,} delivered frames were late (beyond {beyond}), "
        f"{lost:,} were lost"
    )


def _line(row: dict[str, Any], width: int, places: pl.DataFrame) -> str:
    own = places.filter(
        *(pl.col(name).eq_missing(pl.lit(row[name], pl.String)) for name in _BY)
    ).filter(pl.col("share_of_group") >= LEAST_SHARE)
    went = ", ".join(
        f"{_WAYS[place['kind']]}{place['stage']} {place['share_of_group']:.0%}"
        for place in own.head(MOST_PLACES).iter_rows(named=True)
    )
    return f"  {_name(row):<{width}}  {row['late_share']:>4.0%} late  {went}"


def _name(row: dict[str, Any]) -> str:
    return f"{row['stream_id'] or 'no stream'} ({row['codec'] or 'unknown codec'})"

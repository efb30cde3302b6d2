"""A run in a dozen lines: how many frames were late, what held them up, and why."""

from __future__ import annotations

import polars as pl

from ..analysis import cpu, health, sampling
from ..runs.run import Run
from ..workbench.explain.answers import explain_late
from .diagnosis import Cause

#: Stages and codecs of which it is told that they took most CPU time.
MOST_PLACES = 2

#: Verdicts on the runtime that are told; the rest is counted.
MOST_VERDICTS = 3


def summary(run: Run, causes: list[Cause]) -> list[str]:
    """Return the lines: late and corrupt frames, what held them up, and the causes.

    Parameters
    ----------
    run : Run
    causes : list of Cause
        What `diagnosis.diagnose` returned.
    """
    late = explain_late(run)
    sampled = sampling.sentence(run.scan("frames"), run.scan("sampling_decisions"))
    lines = [late.headline(), *([f"  {sampled}"] if sampled else [])]
    if late.told:
        lines.append(f"what took them longer than usual (more: vidlab explain {run.path}):")
        lines += [f"  {share:>4}  {sentence}" for share, sentence in late.sentences()]
        lines.append(f"  {'':>4}  {late.rest()}")
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

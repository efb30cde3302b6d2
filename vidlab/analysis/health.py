"""What was wrong with the runtime: the interpreter, its threads and tasks, its heap?"""

from __future__ import annotations

import json
from dataclasses import asdict

import polars as pl

from ..runs.run import Run
from . import growthchecks, healthchecks
from .thresholds import Thresholds, Verdict

__all__ = ["COLUMNS", "Thresholds", "Verdict", "verdicts"]

#: Beyond so many times its threshold a verdict is an error, not a warning.
SEVERE = 4

#: The columns of verdicts.
COLUMNS = {
    "kind": pl.String,
    "severity": pl.String,
    "subject": pl.String,
    "message": pl.String,
    "value": pl.Float64,
    "threshold": pl.Float64,
    "unit": pl.String,
    "pid": pl.Int32,
    "t_ns": pl.Int64,
    "evidence": pl.String,
}

_CHECKS = (
    healthchecks.gil_hogs,
    healthchecks.scheduling_delays,
    healthchecks.growing_pauses,
    healthchecks.slow_generation_2,
    healthchecks.blocked_loops,
    growthchecks.unbounded_queues,
    growthchecks.growing_holders,
    growthchecks.stuck_tasks,
    healthchecks.fragmented_heaps,
)


def verdicts(run: Run, thresholds: Thresholds | None = None) -> pl.DataFrame:
    """Return what was wrong with the runtime of a run.

    What the run has no table of is not judged: most comes from the engine `Runtime`, and
    `cache_growth` and `context_variable_growth` from what it does in the profile `debug`.

    Parameters
    ----------
    run : Run
    thresholds : Thresholds, optional
        From when on something is worth a word.

    Returns
    -------
    polars.DataFrame
        `kind`: gil_hog, scheduling_delay, gc_pauses_growing, slow_generation_2, loop_blocked,
        unbounded_queue, cache_growth, context_variable_growth, task_never_ends or
        heap_fragmented. `severity`: warning, or error beyond `SEVERE` times the threshold.
        `subject`: the thread, task, holder, queue or process, by its name. `message`: what
        was seen, and what to do. `value` and `threshold`, both in `unit`. `pid` and `t_ns`
        (since when), null where not known. `evidence`: the numbers behind it, as JSON. Those
        furthest beyond their threshold come first.

    Examples
    --------
    >>> found = verdicts(vl.datasets.load("runtime_health"))
    >>> found.filter(found["severity"] == "error")["kind"].to_list()
    ['unbounded_queue']
    """
    limits = thresholds or Thresholds()
    found = [verdict for check in _CHECKS for verdict in check(run, limits)]
    found.sort(key=lambda one: (-one.value / one.threshold, one.kind, one.subject))
    return pl.DataFrame([_row(verdict) for verdict in found], schema=COLUMNS)


def _row(verdict: Verdict) -> dict[str, object]:
    severity = "error" if verdict.value >= SEVERE * verdict.threshold else "warning"
    return {
        **asdict(verdict),
        "severity": severity,
        "value": float(verdict.value),
        "threshold": float(verdict.threshold),
        "evidence": json.dumps(verdict.evidence),
    }

"""What a run has of kernel events, in a few lines: rows, losses, and what is missing and why."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from ..capture.ebpf.declaring.probes import Probe, Usdt
from ..capture.ebpf.plan import Plan
from ..runs.run import Run

#: So many reasons, and so many libraries of a set, are named.
_SHOWN = 5

#: A larger ring is worth a word beyond this share of rows that are missing.
_WORTH_A_WORD = 0.01

#: Tables that are about the probes.
_ABOUT = ("kernel_probes", "kernel_metrics")


def summary(run: Run, plan: Plan) -> list[str]:
    """Return what a run has of the kernel events that were planned, line by line.

    The rows of each table that was recorded into, and how many are missing; what metrics
    counted; what was not attached, and why; what to do next.
    """
    attached = run.scan("kernel_probes").select(pl.col("into", "probe").cast(pl.String)).collect()
    rows = _rows(run, set(attached["into"]))
    lines = [*_tables(run, rows), *_metrics(run), *_missing(run, plan, set(attached["probe"]))]
    if not attached.height:
        lines.append("nothing was attached, so nothing was recorded")
    lines += [f"note: {note}" for note in run.notes]
    most = max(rows, key=lambda name: rows[name], default="kernel_probes")
    return [
        *lines,
        f"next: vidlab info {run.path}; the notebook 04_kernel_events with run={str(run.path)!r};",
        f"      in Python, vl.open_run({str(run.path)!r}).scan({most!r}).collect()",
    ]


def events(run: Run) -> int:
    """Return how many kernel events a run has."""
    return sum(_rows(run, set()).values())


def refusal(run: Run) -> str:
    """Return why there are no kernel events, where they were asked for; '' if there are."""
    refused = (
        run.scan("findings")
        .filter(pl.col("kind").cast(pl.String) == "no_kernel_events")
        .select(pl.col("message").cast(pl.String))
        .collect()
    )
    return f"no kernel events were recorded: {refused.item(0, 0)}" if refused.height else ""


def _rows(run: Run, into: set[str]) -> dict[str, int]:
    """Return the rows of each table that a probe was attached for."""
    tables = [name for name in run.tables() if name.startswith("kernel_") and name not in _ABOUT]
    counted = {name: run.scan(name).select(pl.len()).collect().item() for name in tables}
    return {name: rows for name, rows in counted.items() if rows or name in into}


def _tables(run: Run, rows: dict[str, int]) -> Iterator[str]:
    width = max(map(len, rows), default=0)
    for name, count in rows.items():
        lost = run.losses.get(name, {}).get("lost", 0)
        text = f"  {name:<{width}} {count:>12,} rows"
        if lost:
            text += f", {lost:,} more were lost, or under way at the end"
        if lost > _WORTH_A_WORD * count:
            text += ": --ring-bytes 64M loses fewer"
        yield text


def _metrics(run: Run) -> Iterator[str]:
    counted = (
        run.scan("kernel_metrics")
        .group_by(pl.col("metric").cast(pl.String))
        .agg(pl.col("count").sum())
        .sort("metric")
        .collect()
    )
    for metric, count in counted.iter_rows():
        yield f"  {metric}: {count:,} counted, in kernel_metrics"


def _missing(run: Run, plan: Plan, attached: set[str]) -> Iterator[str]:
    """Yield the sets of which nothing is attached, and what else is not, and why."""
    for name, libraries in _sets(plan).items():
        if libraries and name not in attached:
            more = ["…"] if len(libraries) > _SHOWN else []
            shown = ", ".join([*libraries[:_SHOWN], *more])
            yield f"not attached: {name}, as the process has none of {shown}"
    findings = run.scan("findings").select(pl.col("kind", "message").cast(pl.String)).collect()
    refused = findings.filter(pl.col("kind") == "probe_not_attached")["message"].to_list()
    for message in refused[:_SHOWN]:
        yield f"not attached: {message}"
    if len(refused) > _SHOWN:
        yield f"not attached: {len(refused) - _SHOWN:,} more, in the table findings"
    for message in findings.filter(pl.col("kind") == "probe_attached_late")["message"]:
        yield f"attached late: {message}"


def _sets(plan: Plan) -> dict[str, list[str]]:
    """Return the sets of a plan, and the libraries that they are about."""
    found: dict[str, dict[str, None]] = {}
    for member in plan.members:
        if member.set:
            libraries = found.setdefault(member.set, {})
            if isinstance(member.declaration, Probe | Usdt):
                libraries[member.declaration.library] = None
    return {name: list(libraries) for name, libraries in found.items()}

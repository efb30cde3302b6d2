"""What is wrong with the runtime of a run, for people and machines: `vidlab health RUN`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from ..analysis import health
from ..analysis.thresholds import Thresholds
from ..errors import InputError
from ..runs.run import Run

#: The tables that verdicts are made of, and what each tells of.
TELLS_OF = {
    "gc_pauses": "garbage collections",
    "wakeups": "waits for the GIL",
    "thread_waits": "waits for a CPU",
    "runtime_metrics": "malloc's memory",
    "loop_delays": "event loops",
    "tasks": "asyncio tasks",
    "queue_depths": "queues",
    "objects": "caches and context variables",
}

#: What only a profile of the engine that is asked for writes.
_OF_DEBUG = "objects"


@dataclass
class HealthSummary:
    """The verdicts on a run's runtime, and what they are made of.

    Parameters
    ----------
    run : Run
    thresholds : Thresholds
        From when on something is worth a word.

    Attributes
    ----------
    found : polars.DataFrame
        What `analysis.health.verdicts` returns.

    Raises
    ------
    InputError
        If the run has nothing by which its runtime could be judged.
    """

    run: Run
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        self._empty = [table for table in TELLS_OF if not self._rows(table)]
        if len(self._empty) == len(TELLS_OF):
            raise InputError(
                f"{self.run.path} holds no runtime health: record it with "
                "the engine Runtime, as vidlab record does"
            )
        self.found = health.verdicts(self.run, self.thresholds)

    def facts(self) -> list[dict[str, Any]]:
        """Return each verdict as a machine reads it."""
        return [
            {**row, "evidence": json.loads(row["evidence"])}
            for row in self.found.iter_rows(named=True)
        ]

    def __str__(self) -> str:
        lines = [
            f"{row['severity']:<8} {row['kind']}: {row['message']}"
            for row in self.found.iter_rows(named=True)
        ]
        if not lines:
            lines = [f"{self.run.path}: nothing that is worth a word"]
        told = [about for table, about in TELLS_OF.items() if table not in self._empty]
        lines += ["", f"looked at: {', '.join(told)}"]
        if self._empty:
            lines.append(f"not seen: {', '.join(map(self._not_seen, self._empty))}")
        lines += [
            f"missing from {table}: {sum(self.run.losses[table].values()):,} rows"
            for table in TELLS_OF
            if table in self.run.losses
        ]
        return "\n".join(lines)

    def _rows(self, table: str) -> int:
        rows: int = self.run.scan(table).select(pl.len()).collect().item()
        return rows

    @staticmethod
    def _not_seen(table: str) -> str:
        hint = " (record with --runtime debug)" if table == _OF_DEBUG else ""
        return TELLS_OF[table] + hint

"""What threads waited for while they were not on a CPU, and under which stage.

A row of `kernel_offcpu` is one wait: from the moment at which a thread left its CPU to the
moment at which it came back. `runqueue_ns` of it the thread could have run and had no CPU;
the rest it slept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from . import kernel, quantiles, tables
from .tables import AnyTable

#: What stands for a thread that was in no stage.
OUTSIDE = "(outside stages)"

_NEEDED = ("duration_ns", "runqueue_ns", "state", "tid")


def by_stage(
    offcpu: AnyTable, spans: AnyTable, by: str | Sequence[str] = ("stage", "state")
) -> pl.DataFrame:
    """Return the time off the CPU of each stage and state.

    Parameters
    ----------
    offcpu : polars.LazyFrame or polars.DataFrame
        The table `kernel_offcpu`.
    spans : polars.LazyFrame or polars.DataFrame
        The table `spans`.
    by : str or sequence of str
        `stage`, `state` and labels.

    Returns
    -------
    polars.DataFrame
        `by`, `count`, `total_ns`, `runqueue_ns` (of it, waiting for a CPU), `longest_ns`,
        and, by `stage`, `of_stage`: the share of the time that the stage's spans took in
        all. The longest totals come first. Waits outside of stages are under
        `OUTSIDE`.

    Examples
    --------
    >>> run = vl.datasets.load("kernel_events")
    >>> waits = by_stage(run.scan("kernel_offcpu"), run.scan("spans"))
    >>> waits.filter(waits["stage"] == "annotate")["state"][0]  # the stage that waits for a lock
    'sleeping'
    """
    keys = tables.names(by)
    waits, weight = _waits(offcpu, spans), pl.col(tables.WEIGHT)
    result = (
        tables.weighted(waits)
        .group_by(keys)
        .agg(
            tables.whole_number(weight.sum()).alias("count"),
            tables.whole_number((pl.col("duration_ns") * weight).sum()).alias("total_ns"),
            tables.whole_number((pl.col("runqueue_ns") * weight).sum()),
            pl.col("duration_ns").max().alias("longest_ns"),
        )
        .sort("total_ns", *keys, descending=[True, *[False] * len(keys)])
        .collect()
    )
    if "stage" not in keys:
        return tables.plain(result)
    took = (
        tables.as_text(
            tables.lazy(spans, "spans", ("stage", "kind", "duration_ns")).filter(
                pl.col("kind").cast(pl.String) == "service"
            ),
            ["stage"],
        )
        .pipe(tables.weighted)
        .group_by("stage")
        .agg((pl.col("duration_ns") * weight).sum().alias("stage took"))
        .collect()
    )
    return tables.plain(
        result.join(took, on="stage", how="left", maintain_order="left")
        .with_columns(of_stage=pl.col("total_ns") / pl.col("stage took"))
        .drop("stage took")
    )


def wakeups(
    offcpu: AnyTable, spans: AnyTable, by: str | Sequence[str] = ("stage",)
) -> pl.DataFrame:
    """Return how long threads that could run waited for a CPU: percentiles of the latency.

    Returns
    -------
    polars.DataFrame
        `by`, `count`, `mean_ns`, `p50_ns`, `p99_ns` (nearest-rank), `max_ns`.
    """
    waits = _waits(offcpu, spans).filter(pl.col("runqueue_ns").is_not_null())
    return quantiles.grouped(waits, tables.names(by), (0.5, 0.99), "runqueue_ns")


def over_time(offcpu: AnyTable, time_bins: int = 120) -> pl.DataFrame:
    """Return how many threads were off the CPU on average over time, for a chart.

    Parameters
    ----------
    offcpu : polars.LazyFrame or polars.DataFrame
        The table `kernel_offcpu`, or some of its rows.
    time_bins : int
        How many parts the time from the first to the last wait is cut into.

    Returns
    -------
    polars.DataFrame
        `t_ns`, `t_end_ns`, `state`, `threads`: the time that threads spent in the state
        within the bin, divided by the bin's width. Every bin has every state.
    """
    known = tables.as_text(
        tables.lazy(offcpu, "kernel_offcpu", ("t_ns", "duration_ns", "state")), ["state"]
    )
    waits = known.select("t_ns", "duration_ns", "state").collect()
    if not waits.height:
        schema = {"t_ns": pl.Int64, "t_end_ns": pl.Int64, "state": pl.String, "threads": pl.Float64}
        return pl.DataFrame(schema=schema)
    begins = waits["t_ns"].to_numpy()
    ends = begins + waits["duration_ns"].to_numpy()
    edges = np.linspace(begins.min(), max(ends.max(), begins.min() + time_bins), time_bins + 1)
    states = waits["state"].fill_null("unknown").to_numpy()
    parts = []
    for state in sorted(set(states.tolist())):
        mine = states == state
        spent = np.diff(_time_up_to(edges, begins[mine]) - _time_up_to(edges, ends[mine]))
        parts.append(
            pl.DataFrame(
                {
                    "t_ns": edges[:-1].astype(np.int64),
                    "t_end_ns": edges[1:].astype(np.int64),
                    "state": [state] * time_bins,
                    "threads": spent / np.diff(edges),
                }
            )
        )
    return pl.concat(parts).sort("t_ns", "state")


def _time_up_to(
    edges: npt.NDArray[np.float64], moments: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return for each edge the sum of the times from those moments to it that are before it."""
    ordered = np.sort(moments) - edges[0]
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    count = np.searchsorted(ordered, edges - edges[0])
    return np.asarray(count * (edges - edges[0]) - sums[count])


def _waits(offcpu: AnyTable, spans: AnyTable) -> pl.LazyFrame:
    known = tables.as_text(tables.lazy(offcpu, "kernel_offcpu", _NEEDED), ["state"])
    # Those in spans that were not recorded are stood for by others.
    waits = kernel.identified(known, spans).filter(pl.col("sample_rate").is_not_null())
    return waits.with_columns(stage=pl.col("stage").fill_null(OUTSIDE))

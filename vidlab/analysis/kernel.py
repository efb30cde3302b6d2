"""Under which span and frame a kernel event happened.

An event of a recorded thread bears the number of the span that the thread was in, read by
the probe itself: its frame and labels are those of that span. For others, such as the
threads of a process that was watched from outside while it recorded itself, the span is the
innermost one of its thread that was open at that moment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from ..errors import InputError
from . import tables
from .tables import AnyTable

#: What an event takes from its span.
TAKEN = ("frame", "labels", "stream_id", "codec", "gpu")

# Columns of our own: no label, being an identifier, is called so.
_ROW, _BY_TIME = "row of the event", "span by time"

#: The number of no span.
_NONE = 0


def identified(events: AnyTable, spans: AnyTable) -> pl.LazyFrame:
    """Return kernel events with their span, the stage, and the frame and labels of it.

    Parameters
    ----------
    events : polars.LazyFrame or polars.DataFrame
        A table `kernel_…`.
    spans : polars.LazyFrame or polars.DataFrame
        The table `spans`.

    Returns
    -------
    polars.LazyFrame
        The events in their order, with all their columns; `span`, `frame`, `labels`,
        `stream_id`, `codec` and `gpu` are filled in where the span tells them, and `stage`
        (null outside of any) is added. `by` says how the span is known: "word" (the thread
        said so), "time" (the innermost span of that thread that was open), null (it is not).
        `sample_rate` is that of the span: an event in a sampled span stands for those in the
        spans that were not recorded, of which it is null.
    """
    events = _checked(events)
    spans = tables.lazy(
        spans, "spans", ("t_ns", "pid", "tid", "span", "duration_ns", "stage", "kind", *TAKEN)
    )
    served = tables.as_text(
        spans.filter(pl.col("kind").cast(pl.String) == "service"), ("stage", "stream_id", "codec")
    )
    numbered = tables.as_text(events, ("stream_id", "codec")).with_row_index(_ROW).collect()
    asked = numbered.filter(pl.col("span").is_null()).select(_ROW, "pid", "tid", "t_ns")
    known = (
        served.filter(pl.col("duration_ns") > 0)  # in no time nothing happens
        .select("pid", "tid", "t_ns", "span", t_end_ns=pl.col("t_ns") + pl.col("duration_ns"))
        .collect()
    )
    taken: list[str | pl.Expr] = [
        "stage",
        *(pl.col(name).alias(f"{name} of span") for name in TAKEN),
    ]
    named = (
        numbered.lazy()
        .join(_open_spans(asked, known).lazy(), on=_ROW, how="left", maintain_order="left")
        .with_columns(
            by=pl.when(pl.col("span").is_not_null())
            .then(pl.lit("word"))
            .when(pl.col(_BY_TIME).is_not_null())
            .then(pl.lit("time")),
            span=pl.coalesce("span", _BY_TIME),
        )
        .drop(_BY_TIME, _ROW)
    )
    return (
        tables.with_rates(named, served, "span", taken)
        .with_columns(_filled(name) for name in TAKEN)
        .drop(f"{name} of span" for name in TAKEN)
    )


def outermost(calls: pl.LazyFrame, of: Sequence[str]) -> pl.LazyFrame:
    """Leave out calls that were made within another one by the same thread.

    A library's function may go on to another that is probed too, as the CUDA runtime's do to
    the driver's: both are recorded, and it is one call of the program's.

    Parameters
    ----------
    calls : polars.LazyFrame
        With `t_ns`, `duration_ns`, `pid` and `tid`.
    of : sequence of str
        Columns in which the two are the same, such as the address.

    Returns
    -------
    polars.LazyFrame
        Sorted by time, with `t_end_ns`.
    """
    keys = ["pid", "tid", *of]
    latest = pl.col("t_end_ns").cum_max().shift(1).over(keys)
    return (
        calls.with_columns(t_end_ns=pl.col("t_ns") + pl.col("duration_ns"))
        .sort("t_ns", "t_end_ns", descending=[False, True])
        .filter((pl.col("t_end_ns") > latest).fill_null(True))
    )


def _filled(name: str) -> pl.Expr:
    """An event's own value, else its span's; an event without labels has the set 0."""
    own = pl.when(pl.col(name) != 0).then(name) if name == "labels" else pl.col(name)
    filled = pl.coalesce(own, pl.col(f"{name} of span"))
    return (filled.fill_null(0) if name == "labels" else filled).alias(name)


def _open_spans(events: pl.DataFrame, spans: pl.DataFrame) -> pl.DataFrame:
    """Return for each row of events the innermost span that was open then in its thread."""
    rows, found = [np.zeros(0, np.uint32)], [np.zeros(0, np.uint64)]
    by_thread = spans.partition_by("pid", "tid", as_dict=True)
    for thread, asked in events.partition_by("pid", "tid", as_dict=True).items():
        known = by_thread.get(thread)
        if known is None:
            continue
        moments, innermost = _innermost(known)
        # Before the first moment no span was open: the place -1, the last, where all have ended.
        place = np.searchsorted(moments, asked["t_ns"].to_numpy(), side="right") - 1
        rows.append(asked[_ROW].to_numpy())
        found.append(innermost[place])
    return pl.DataFrame({_ROW: np.concatenate(rows), _BY_TIME: np.concatenate(found)}).filter(
        pl.col(_BY_TIME) != _NONE
    )


def _innermost(
    spans: pl.DataFrame,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """Return the moments at which the innermost open span of a thread changes, and to which.

    The innermost is the last that began of those that have not ended. As a rule spans of a
    thread nest; where tasks of an event loop share it they may not.
    """
    ordered = spans.sort("t_ns", "t_end_ns", "span", descending=[False, True, False])
    moments: list[int] = []
    innermost: list[int] = []
    ends: list[int] = []  # of spans that have begun, the last at the end; and their numbers
    numbers: list[int] = []

    def close(until: float) -> None:
        while ends and ends[-1] <= until:
            end = ends[-1]
            while ends and ends[-1] <= end:
                del ends[-1], numbers[-1]
            moments.append(end)
            innermost.append(numbers[-1] if numbers else _NONE)

    for begin, end, number in ordered.select("t_ns", "t_end_ns", "span").iter_rows():
        close(begin)
        ends.append(end)
        numbers.append(number)
        moments.append(begin)
        innermost.append(number)
    close(math.inf)
    return np.array(moments, np.int64), np.array(innermost, np.uint64)


def _checked(events: AnyTable) -> pl.LazyFrame:
    if not isinstance(events, AnyTable):
        raise InputError(
            f"kernel events are a polars table, not a {type(events).__name__}: pass "
            "run.scan('kernel_…')"
        )
    return tables.lazy(events, "kernel events", ("t_ns", "pid", "tid", "span", *TAKEN))

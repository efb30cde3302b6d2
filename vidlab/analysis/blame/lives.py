"""Frames' lives, and the spans of each, cut so that no two of a frame overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ...runs.run import Run
from ...schema import SPAN_KINDS
from .. import tables
from .intervals import Ints, spread

#: What is read of spans.
COLUMNS = ("t_ns", "duration_ns", "pid", "tid", "span", "parent", "frame", "stage", "kind",
           "cpu_ns", "runqueue_ns")  # fmt: skip


@dataclass(frozen=True)
class Lives:
    """What some frames went through.

    Attributes
    ----------
    frames : polars.DataFrame
        `frame`, `pid` (where it began), `t_demux_ns` and `t_done_ns`; a row is a life.
    spans : polars.DataFrame
        Their spans, as far as within the life: `life` (a row of `frames`), `t_ns`,
        `t_end_ns`, `duration_ns` (of all of the span), `pid`, `tid`, `span`, `parent`,
        `stage` (Categorical), `kind` (an index into SPAN_KINDS), `cpu_ns`, `runqueue_ns`.
    """

    frames: pl.DataFrame
    spans: pl.DataFrame


def of_frames(run: Run, frames: pl.DataFrame) -> Lives:
    """Return the lives of frames: `frame`, each once, `t_demux_ns`, `t_done_ns`; `pid` if known.

    A frame without an end lives until its last span ends; one without a begin, from its first.
    """
    # Told by their numbers, frames are looked for before all else of a span is read; and what
    # of a file has other numbers is not read at all.
    number = frames["frame"]
    table = tables.lazy(run.scan("spans"), "spans", COLUMNS).filter(
        pl.col("frame").is_between(number.min(), number.max()),
        pl.col("frame").is_in(number.implode()),
    )
    return of_rows(frames, table.select(COLUMNS).collect(engine="streaming"))


def of_rows(frames: pl.DataFrame, rows: pl.DataFrame) -> Lives:
    """Return the lives of frames of which these are all spans: `COLUMNS` of the table `spans`."""
    pid = pl.col("pid") if "pid" in frames.columns else pl.lit(None, pl.Int32)
    lives = frames.select("frame", pid.cast(pl.Int64).fill_null(-1), "t_demux_ns", "t_done_ns")
    numbers = lives.lazy().with_row_index("life").select("frame", pl.col("life").cast(pl.Int64))
    spans = (
        rows.lazy()
        .select(COLUMNS)
        .filter(pl.col("duration_ns") > 0)
        .join(numbers, on="frame", how="inner")
        .with_columns(
            pl.col("kind").cast(pl.Enum(SPAN_KINDS)).to_physical().cast(pl.Int64),
            pl.col("stage").cast(pl.Categorical),
            pl.col("pid", "tid").cast(pl.Int64),
            pl.col("parent").fill_null(0),
            t_end_ns=pl.col("t_ns") + pl.col("duration_ns"),
        )
        .drop("frame")
        .collect()
    )
    lives = _ended(lives, spans)
    born, done = (lives[name].to_numpy()[spans["life"].to_numpy()] for name in _ENDS)
    spans = spans.with_columns(
        pl.Series("t_ns", np.maximum(spans["t_ns"].to_numpy(), born)),
        pl.Series("t_end_ns", np.minimum(spans["t_end_ns"].to_numpy(), done)),
    ).filter(pl.col("t_end_ns") > pl.col("t_ns"))
    return Lives(lives, spans)


_ENDS = ("t_demux_ns", "t_done_ns")


def _ended(lives: pl.DataFrame, spans: pl.DataFrame) -> pl.DataFrame:
    """The lives with a begin and an end each, of their spans where they have none."""
    if not any(lives[name].null_count() for name in _ENDS):
        return lives
    known = spans.group_by("life").agg(first=pl.col("t_ns").min(), last=pl.col("t_end_ns").max())
    return (
        lives.with_row_index("life")
        .with_columns(pl.col("life").cast(pl.Int64))
        .join(known, on="life", how="left", maintain_order="left")
        .with_columns(pl.coalesce("t_demux_ns", "first", "t_done_ns").fill_null(0))
        .with_columns(
            t_done_ns=pl.max_horizontal(pl.coalesce("t_done_ns", "last"), pl.col("t_demux_ns"))
        )
        .drop("life", "first", "last")
    )


@dataclass(frozen=True)
class Cut:
    """Lives cut into pieces that do not overlap and leave nothing out.

    Attributes
    ----------
    life : ndarray of int64
        By life and time.
    begin, end : ndarray of int64
    row : ndarray of int64
        The row of the innermost span that was open, -1 for none: of several, the last begun.
    """

    life: Ints
    begin: Ints
    end: Ints
    row: Ints


def cut(lives: Lives) -> Cut:
    """Return the lives, cut where a span of theirs begins or ends."""
    born, done = (lives.frames[name].to_numpy() for name in _ENDS)
    lasted = np.maximum(done - born, 0)
    # All lives end to end on one axis, so that one sweep serves them all.
    offset = np.cumsum(lasted) - lasted
    life, t_ns, t_end_ns = (lives.spans[name].to_numpy() for name in ("life", "t_ns", "t_end_ns"))
    shift = offset[life] - born[life]
    begins, ends = t_ns + shift, t_end_ns + shift
    edges = _distinct(np.concatenate([begins, ends, offset, [lasted.sum()]]))
    first = np.searchsorted(edges, begins)
    count = np.searchsorted(edges, ends) - first
    order = _last_begun_last(begins, ends, lives.spans["span"].to_numpy())
    row, place = spread(first[order], count[order])
    owner = np.full(max(len(edges) - 1, 0), -1, np.int64)
    owner[place] = order[row]  # of several the last one stays
    whose = np.searchsorted(offset, edges[:-1], side="right") - 1
    back = born[whose] - offset[whose]
    return Cut(whose, edges[:-1] + back, edges[1:] + back, owner)


def _distinct(values: Ints) -> Ints:
    # What np.unique returns, which hashes, and takes eight times as long.
    ordered = np.sort(values)
    distinct: Ints = ordered[np.append(True, ordered[1:] != ordered[:-1])]
    return distinct


def _last_begun_last(begins: Ints, ends: Ints, numbers: npt.NDArray[np.uint64]) -> Ints:
    """Rows by begin; of those that begin together the inner ones last."""
    order = np.argsort(begins, kind="stable")
    ordered = begins[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    tied = _distinct(np.concatenate([same, same + 1])) if same.size else same
    rows = order[tied]
    order[tied] = rows[np.lexsort((numbers[rows], -ends[rows], begins[rows]))]
    return order

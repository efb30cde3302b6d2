"""One frame's life: its parts in time, and the rows that stand behind them."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import polars as pl

from ...errors import InputError
from ...runs.run import Run
from .. import tables
from . import behind, lives, stalls
from .parts import KINDS, parts
from .pieces import TOLD

#: The columns of `waterfall`.
COLUMNS = (
    "t_ns", "duration_ns", "stage", "within", "kind", "cause", "exact", "pid", "tid", "span",
    "evidence",
)  # fmt: skip

#: What is read of the frame.
_ROW = ("frame", "pid", "t_demux_ns", "t_done_ns")


def waterfall(run: Run, frame: int) -> pl.DataFrame:
    """Return a frame's life, from the read of its packet to its end, in parts.

    Parameters
    ----------
    run : Run
    frame : int
        Its number: `frame` of the table `frames`, or of `latency.slowest`.

    Returns
    -------
    polars.DataFrame
        By time, parts that do not overlap and add up to t_done - t_demux: `t_ns`,
        `duration_ns`, `stage` (the innermost, or the queue), `within` (the stage at the top
        level), `kind` (of the span; "none" between spans), `cause`, `exact` (False where
        only how long it was is known, not when in its span), `pid`, `tid` and `span` (null
        between spans), and `evidence`: the table that tells it.

    Raises
    ------
    InputError
        If the run has no such frame, or nothing of it but its number.
    """
    return OneFrame(run, frame).parts


def evidence(run: Run, frame: int) -> dict[str, pl.DataFrame]:
    """Return the rows that stand behind the parts of a frame's life, by table.

    Parameters
    ----------
    run : Run
    frame : int
        Its number.

    Returns
    -------
    dict of str to polars.DataFrame
        Of the tables that the run has: `frames`, `spans` and `findings` of the frame;
        `gc_pauses` and `wakeups` of its processes; `allocations`, `kernel_offcpu` and
        `thread_waits` of the threads that had it, while they had it; these with `overlap_ns`,
        how much of the frame's life a row was; and `queue_depths` of its stream while it
        lived. With all their columns, text as String, by time.

    Raises
    ------
    InputError
        As of `waterfall`.
    """
    return OneFrame(run, frame).evidence


class OneFrame:
    """A frame's parts and the rows behind them, for those who want both: read once.

    Parameters
    ----------
    run : Run
    frame : int
        Its number.
    row : polars.DataFrame, optional
        Its row of the table `frames`, with all columns, for those who have read it.

    Raises
    ------
    InputError
        As of `waterfall`.
    """

    def __init__(self, run: Run, frame: int, row: pl.DataFrame | None = None) -> None:
        if isinstance(frame, bool) or not isinstance(frame, int) or not 0 <= frame < 1 << 64:
            raise InputError(f"a frame is named by its number, not {frame!r}: {_HOW_TO_FIND}")
        self._run = run
        self._number = frame
        self._row = self._of("frames", _ROW) if row is None else row
        if not self._row.height:
            raise InputError(f"the run has no frame {frame}: {_HOW_TO_FIND}")

    @cached_property
    def parts(self) -> pl.DataFrame:
        """What `waterfall` returns."""
        held = stalls.of_frames(self._run, self._row)
        found = parts(held, lives.of_rows(self._row, self._spans))
        table = found.table.sort("t_ns")
        row, told = table["row"].to_numpy(), table["told"].to_numpy()
        # A span of another stage that lay under this one has cut it in two: one again.
        first = np.append(True, (row[1:] != row[:-1]) | (told[1:] != told[:-1]))[: len(row)]
        begins = np.flatnonzero(first)
        total = np.append(0, np.cumsum(table["duration_ns"].to_numpy()))
        spans = found.spans.with_columns(within=_top_stage(found.spans))[row[begins]]
        causes = [TOLD[one] for one in told[begins]]
        return spans.select(
            table["t_ns"].gather(begins),
            pl.Series("duration_ns", np.diff(total[np.append(begins, len(row))]), pl.Int64),
            pl.col("stage").cast(pl.String),
            "within",
            pl.Series("kind", [KINDS[kind] for kind in spans["kind"]], pl.String),
            pl.Series("cause", [one.cause for one in causes], pl.String),
            pl.Series("exact", [one.exact for one in causes], pl.Boolean),
            pl.when(pl.col("pid") >= 0).then("pid").cast(pl.Int32),
            pl.when(pl.col("tid") >= 0).then("tid").cast(pl.Int32),
            "span",
            pl.Series("evidence", [one.evidence for one in causes], pl.String),
        )

    @cached_property
    def evidence(self) -> dict[str, pl.DataFrame]:
        """What `evidence` returns."""
        there = set(self._run.tables())
        own = {
            name: rows
            for name, rows in (("frames", self._row), ("spans", self._spans))
            if name in there
        }
        if "findings" in there:
            own["findings"] = self._of("findings", ("frame",))
        own = {name: tables.plain(rows.sort("t_ns")) for name, rows in own.items()}
        return own | behind.around(self._run, there, self.parts, own["frames"]["stream_id"])

    @cached_property
    def _spans(self) -> pl.DataFrame:
        return self._of("spans", lives.COLUMNS)

    def _of(self, table: str, columns: tuple[str, ...]) -> pl.DataFrame:
        """The frame's rows of a table, of which these columns are needed."""
        rows = tables.lazy(self._run.scan(table), table, columns)
        # By this alone: to compare more columns takes longer than to read the few rows.
        return rows.filter(pl.col("frame") == self._number).collect(engine="streaming")


def _top_stage(spans: pl.DataFrame) -> pl.Series:
    """The stage of the span at the top level around each."""
    around = dict(zip(spans["span"], spans["parent"], strict=True))
    stage = dict(zip(spans["span"], spans["stage"].cast(pl.String), strict=True))

    def top(span: int | None, own: str) -> str:
        seen = set()
        while span in around and around[span] in around and span not in seen:
            seen.add(span)
            span = around[span]
        return stage.get(span, own) if span is not None else own

    tops = map(top, spans["span"], spans["stage"].cast(pl.String))
    return pl.Series("within", list(tops), pl.String)


_HOW_TO_FIND = (
    "vl.analysis.latency.slowest(run.scan('frames')) lists the slowest with their numbers, in "
    "the column 'frame'"
)

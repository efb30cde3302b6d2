"""Where one frame's time went: bars in a terminal, a chart in a notebook, JSON for machines."""

from __future__ import annotations

import html
from functools import cached_property
from typing import Any

import polars as pl

from ...analysis import blame
from ...analysis.blame import causes
from ...analysis.causewords import CAUSE_WORDS
from ...analysis.saying import ms, times
from ...analysis.tables import DELIVERED
from ..slices import Slice
from ..tables import Table
from ..text import Line
from . import advice, bars, frameids, siblings

#: Causes that the text names at most, and the least share worth naming.
_NAMED, _WORTH = 3, 0.05

#: Rows of each table that a notebook shows as evidence.
_ROWS = 12

#: What became of a frame that was not delivered, in words.
_FATES = {
    "dropped": "dropped",
    "corrupt": "lost as corrupt",
    "cancelled": "cancelled",
    "unfinished": "on its way when the recording ended",
}


class Explanation:
    """Where a frame's time went: what `vidlab.explain` returns.

    Shown in a notebook, it is sentences, a waterfall and the evidence; printed, bars of text.

    Attributes
    ----------
    part : Slice
        The run, and when its frames are late.
    row : dict
        The frame's columns of the table `frames`.
    frame : int
        Its number.
    parts : polars.DataFrame
        The frame's time in parts that do not overlap (`analysis.blame.waterfall`).
    """

    def __init__(self, part: Slice, row: pl.DataFrame) -> None:
        self.part = part
        self._row = row
        self.row: dict[str, Any] = row.row(0, named=True)
        self.frame: int = self.row["frame"]
        self._told = blame.OneFrame(part.run, self.frame, row)
        self.parts = self._told.parts

    @cached_property
    def name(self) -> str:
        """What the frame is called, and found by: cam-3:117."""
        names = frameids.named(self.part.run, self._row)
        return names.get(self.frame, str(self.frame))

    @property
    def end_to_end_ns(self) -> int:
        """How long it was on its way."""
        return int(self.parts["duration_ns"].sum())

    @cached_property
    def deadline_ns(self) -> int | None:
        """The latency beyond which it is late; None if it was not delivered, or none is known."""
        return self._siblings.deadline_ns(self.frame)

    @property
    def late(self) -> bool | None:
        """Whether it was late; None if that is not known."""
        return None if self.deadline_ns is None else self.end_to_end_ns > self.deadline_ns

    @cached_property
    def causes(self) -> pl.DataFrame:
        """What the frame's time went into, beside what that usually takes, the worst first.

        `stage`, `cause`, `total_ns`, `usual_ns` (of punctual frames of the same stream),
        `blamed_ns` (beyond it; 0 if it took less) and `share` (of all that is blamed).
        """
        spent = self.parts.group_by(pl.col("stage", "cause").cast(pl.String)).agg(
            total_ns=pl.col("duration_ns").sum()
        )
        usual = pl.col("usual_ns").fill_null(0).round().cast(pl.Int64)
        blamed = (pl.col("total_ns") - pl.col("usual_ns")).clip(0)
        return (
            spent.join(self._usual, on=["stage", "cause"], how="left")
            .with_columns(usual)
            .with_columns(blamed_ns=blamed)
            .with_columns(
                share=pl.col("blamed_ns") / pl.max_horizontal(pl.col("blamed_ns").sum(), 1)
            )
            .sort("blamed_ns", "total_ns", "stage", descending=[True, True, False])
        )

    @cached_property
    def evidence(self) -> dict[str, pl.DataFrame]:
        """The rows of the run's tables that stand behind the parts (`analysis.blame.evidence`)."""
        return {name: rows for name, rows in self._told.evidence.items() if rows.height}

    @cached_property
    def untold(self) -> pl.DataFrame:
        """The engines that were not on, and what each would have told."""
        return blame.untold(self.part.run)

    # --- for people -------------------------------------------------------------

    def headline(self) -> str:
        """Return what became of the frame, and how late it was."""
        gpu = [] if self.row["gpu"] is None else [f"GPU {self.row['gpu']}"]
        labels = ", ".join([*([self.row["codec"]] if self.row["codec"] else []), *gpu])
        said = f"{self.name} ({labels})" if labels else self.name
        took = ms(self.end_to_end_ns)
        fate = self.row["fate"]
        if fate not in DELIVERED:
            at = f" at {self.row['lost_at']}" if self.row["lost_at"] else ""
            return (
                f"{said}: {_FATES.get(fate, fate)}{at}, {took} after the read of its packet began"
            )
        told = f"{said}: {took} from the read of its packet to the sink"
        if self.deadline_ns is None:
            return f"{told}; whether that is late is not known: say so with a deadline"
        beyond = self.end_to_end_ns - self.deadline_ns
        if beyond > 0:
            return f"{told}, {ms(beyond)} beyond its deadline of {ms(self.deadline_ns)}"
        return f"{told}, in time: its deadline is {ms(self.deadline_ns)}"

    def sentence(self) -> str:
        """Return what took the frame longest, beyond what is usual."""
        named = self.causes.filter(pl.col("blamed_ns") > 0, pl.col("share") >= _WORTH).head(_NAMED)
        if not named.height:
            return "nothing took longer than usual"
        told = "; ".join(
            f"{blame.CAUSES[row['cause']].said(row['stage'])} +{ms(row['blamed_ns'])} "
            f"({row['share']:.0%})"
            for row in named.iter_rows(named=True)
        )
        if not self._compared:
            return f"most of it (no punctual frame tells what is usual): {told}"
        return f"beyond the usual: {told}"

    def advice(self) -> str:
        """Return what can be done about the first cause; "" if nothing took long."""
        first = self.causes.filter(pl.col("blamed_ns") > 0)["cause"].head(1).to_list()
        reorders = self._siblings.has_b_frames if first == [causes.REORDERING] else None
        return advice.of_frame(first[0], reorders) if first else ""

    def warnings(self) -> list[str]:
        """Return why this may be incomplete."""
        run = self.part.run
        lines = self.part.losses()
        if run.state != "complete":
            lines.append(f"this run is {run.state}: some of its end may be missing")
        return lines

    def __str__(self) -> str:
        columns = bars.width()
        lines = [*bars.wrapped([("", self.headline()), ("", self.sentence())], columns), ""]
        lines += bars.waterfall(self.parts, self._by_place, columns)
        lines.append("")
        rows = ", ".join(f"{name} {rows.height:,}" for name, rows in self.evidence.items())
        lines += bars.wrapped([("evidence, rows: ", rows)] if rows else [], columns)
        lines += bars.wrapped([("do: ", self.advice())] if self.advice() else [], columns)
        if self.untold.height:
            lines += bars.wrapped([("", self._untold())], columns)
        lines += bars.wrapped([("! ", line) for line in self.warnings()], columns)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        lines = [self.sentence(), self.advice()]
        if self.untold.height:
            lines.append(f"{self._untold()}.")
        parts = [f"<p class='headline'>{html.escape(self.headline())}.</p>"]
        parts += [f"<p>{html.escape(line)}</p>" for line in lines if line]
        parts += [
            f"<blockquote><p>⚠ {html.escape(line)}</p></blockquote>" for line in self.warnings()
        ]
        return "".join(parts)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        for shown in (Line(self._repr_html_()), self.chart(), self.table(), *self.tables()):
            display(shown)  # type: ignore[no-untyped-call]

    def chart(self) -> Any:
        """Return the frame's waterfall."""
        from ...charts import waterfall

        lost = self.part.lost("spans", "frames")
        return waterfall.frame(self.parts, title=self.headline(), lost=lost)

    def table(self) -> Table:
        """Return what the frame's time went into, beside what is usual."""
        durations = ("total_ns", "usual_ns", "blamed_ns")
        shown = self.causes.select(
            "stage", pl.col("cause").replace(CAUSE_WORDS), *durations, "share"
        )
        return Table(
            shown,
            f"What {self.name} spent its time on, beside what punctual frames of its stream do",
            {"cause": "spent on", "total_ns": "this frame, ms", "usual_ns": "usually, ms",
             "blamed_ns": "beyond, ms", "share": "share of that"},
        )  # fmt: skip

    def tables(self) -> list[Table]:
        """Return the evidence, a table each."""
        return [
            Table(rows.head(_ROWS), f"Evidence: {times(rows.height, 'row')} of {name}")
            for name, rows in self.evidence.items()
        ]

    # --- for machines -----------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return the same as JSON values.

        Returns
        -------
        dict
            As `LateExplanation.facts`, of this frame: `frames` is 1; further `frame` (what it
            is called), `number` (as text: it is too large for some readers of JSON), `fate`,
            `latency_ms` and `parts`, each with `stage`, `within`, `cause`, `at_ms`, `ms`,
            `exact` and `evidence` (a table).
        """
        begin = self.parts["t_ns"].min()
        deadline_ns = self.deadline_ns
        counts = {name: rows.height for name, rows in self.evidence.items()}
        return {
            "run": str(self.part.run.path),
            "frame": self.name,
            "number": str(self.frame),
            "fate": self.row["fate"],
            "latency_ms": self.end_to_end_ns / 1e6,
            "frames": 1,
            "late": int(self.late or False),
            "deadline_ms": None if deadline_ns is None else deadline_ns / 1e6,
            "causes": [
                {
                    "cause": row["cause"],
                    "share": round(row["share"], 6),
                    "seconds": row["blamed_ns"] / 1e9,
                    **{name: self.row[name] for name in siblings.LABELS},
                    "stage": row["stage"],
                    "evidence": {
                        "total_ms": row["total_ns"] / 1e6,
                        "usual_ms": row["usual_ns"] / 1e6,
                    },
                }
                for row in self.causes.iter_rows(named=True)
            ],
            "parts": [
                {
                    "stage": row["stage"],
                    "within": row["within"],
                    "cause": row["cause"],
                    "at_ms": (row["t_ns"] - begin) / 1e6,
                    "ms": row["duration_ns"] / 1e6,
                    "exact": row["exact"],
                    "evidence": row["evidence"],
                }
                for row in self.parts.iter_rows(named=True)
            ],
            "evidence_rows": counts,
            "untold": self.untold.to_dicts(),
            "warnings": self.warnings(),
        }

    # --- inside -----------------------------------------------------------------

    @cached_property
    def _siblings(self) -> siblings.Siblings:
        return siblings.of(self.part, self.row)

    @cached_property
    def _usual(self) -> pl.DataFrame:
        """`stage`, `cause`, `usual_ns`: of punctual frames of the stream, or of the run."""
        return self._siblings.usual(self.row["picture_type"])

    @property
    def _compared(self) -> bool:
        return bool(self._usual.height)

    @cached_property
    def _by_place(self) -> dict[tuple[str, str], int] | None:
        if not self._compared:
            return None
        columns = self.causes.select("stage", "cause", "usual_ns")
        return {(stage, cause): usual for stage, cause, usual in columns.iter_rows()}

    def _untold(self) -> str:
        rows = self.untold.select("engine", "would_tell").iter_rows()
        return "; ".join(f"{engine} would have told {what}" for engine, what in rows)

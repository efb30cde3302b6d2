"""The verdict on a run, in words: which streams were late, and where their time went."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from ..analysis import closure, latency, losses
from ..lab.diagnosis import diagnose
from .slices import Slice

#: What is said one by one at most: things that went wrong, late streams, and of a stream,
#: what it spent its time on.
MAX_CAUSES, MAX_STREAMS, MAX_PARTS = 12, 8, 2

_BY = ("stream_id", "codec")


@dataclass(frozen=True)
class Verdict:
    """A run's verdict, as sentences.

    Attributes
    ----------
    headline : str
        How many frames were late, and whose.
    streams : list of str
        For each late stream: how late, and where the time went.
    causes : list of str
        What the analyses name as wrong with the pipeline.
    warnings : list of str
        Why the verdict may be incomplete.
    """

    headline: str
    streams: list[str] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        bullets = [f"  - {line}" for line in (*self.causes, *self.streams)]
        return "\n".join([self.headline, *bullets, *(f"  ! {line}" for line in self.warnings)])

    def _repr_html_(self) -> str:
        parts = [f"<p class='headline'>{html.escape(self.headline)}</p>"]
        for heading, lines in (
            ("What went wrong", self.causes),
            ("Who was late, and where the time went", self.streams),
        ):
            if lines:
                items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
                parts.append(f"<h3>{heading}</h3><ul>{items}</ul>")
        parts += [
            f"<blockquote><p>⚠ {html.escape(line)}</p></blockquote>" for line in self.warnings
        ]
        return "".join(parts)


def verdict(part: Slice) -> Verdict:
    """Return the verdict on a slice of a run."""
    late_frames = part.late_frames()
    summary = latency.late_summary(late_frames, _BY)
    causes = closure.by_cause(late_frames, part.run.scan("spans"), _BY)
    return Verdict(
        _headline(summary, part),
        _streams(summary, causes),
        _causes(part),
        _warnings(part, summary),
    )


def _headline(summary: pl.DataFrame, part: Slice) -> str:
    delivered, late = int(summary["delivered"].sum()), int(summary["late"].sum())
    fates = losses.fates(part.scan("frames"), [])
    lost = int(fates.select(pl.sum_horizontal("dropped", "corrupt", "cancelled").sum()).item())
    ends = f" {_count(lost, 'frame was', 'frames were')} lost on the way." if lost else ""
    if not delivered:
        return f"No frame was delivered.{ends}"
    if summary["deadline_ns"].null_count() == summary.height:
        return (
            f"{_count(delivered, 'frame was', 'frames were')} delivered. Whether they were late is "
            f"not known: their streams have no nominal rate, and no deadline was given.{ends}"
        )
    if not late:
        return f"None of {delivered:,} delivered frames was late.{ends}"
    streams = summary.filter(pl.col("late") > 0)
    worst = ", ".join(_stream(row) for row in streams.head(3).iter_rows(named=True))
    whose = "all" if streams.height <= 3 else "most"
    return (
        f"{late:,} of {delivered:,} delivered frames were late ({late / delivered:.1%}), "
        f"{whose} of them of {worst}.{ends}"
    )


def _streams(summary: pl.DataFrame, causes: pl.DataFrame) -> list[str]:
    late = summary.filter(pl.col("late") > 0)
    ranked = closure.ranking(causes, n=causes.height)
    lines = []
    for row in late.head(MAX_STREAMS).iter_rows(named=True):
        own = ranked.filter(
            *(pl.col(name).eq_missing(pl.lit(row[name], pl.String)) for name in _BY)
        ).head(MAX_PARTS)
        where = "; ".join(
            f"{cause['share_of_group']:.0%} {_where(cause)} "
            f"(+{_ms(cause['excess_per_frame_ns'])} a frame)"
            for cause in own.iter_rows(named=True)
            if cause["share_of_group"] >= 0.05
        )
        lines.append(
            f"{_stream(row)}: {row['late']:,} of {row['delivered']:,} frames late "
            f"({row['late_share']:.1%}), the worst took {_ms(row['worst_ns'])}, allowed are "
            f"{_ms(row['deadline_ns'])}"
            + (f"; the time beyond the usual: {where}" if where else "")
        )
    if late.height > MAX_STREAMS:
        lines.append(f"and {late.height - MAX_STREAMS} more streams")
    return lines


def _causes(part: Slice) -> list[str]:
    sentences = [
        cause.sentence
        for cause in diagnose(part.run)
        if part.stream_id in (None, cause.stream_id) or cause.stream_id is None
        if part.codec in (None, cause.codec) or cause.codec is None
    ]
    more = len(sentences) - MAX_CAUSES
    return sentences[:MAX_CAUSES] + ([f"and {more} more like these"] if more > 0 else [])


def _warnings(part: Slice, summary: pl.DataFrame) -> list[str]:
    warnings = [
        f"lost while recording: {count['lost']:,} of {table}; what is shown is incomplete"
        for table, count in part.run.losses.items()
        if count.get("lost")
    ]
    if part.sampled:
        warnings.append(part.sampled)
    if part.run.state != "complete":
        warnings.append(f"this run is {part.run.state}: its end is missing")
    unknown = summary.filter(pl.col("deadline_ns").is_null())
    if 0 < unknown.height < summary.height:
        names = ", ".join(_stream(row) for row in unknown.iter_rows(named=True))
        warnings.append(f"no nominal rate is known of {names}: none of its frames counts as late")
    return warnings + list(part.run.notes)


def _stream(row: dict[str, Any]) -> str:
    return f"{row['stream_id'] or 'frames without a stream'} ({row['codec'] or 'unknown codec'})"


def _where(cause: dict[str, Any]) -> str:
    stage = cause["stage"]
    return {
        "service": f"at work in {stage}",
        "queue": f"waiting in the queue {stage}",
        "reorder": f"waiting to be reordered by {stage}",
        "encoder_lag": f"held by {stage} for frames to come",
    }.get(cause["kind"], "not covered by any span")


def _ms(ns: float) -> str:
    return f"{ns / 1e6:,.0f} ms" if abs(ns) >= 1e7 else f"{ns / 1e6:.1f} ms"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"

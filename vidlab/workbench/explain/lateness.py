"""Why frames were late, over all late frames: in words, as JSON, and as charts."""

from __future__ import annotations

import html
import shlex
from functools import cached_property
from typing import Any

import polars as pl

from ...analysis import blame, latency, tables
from ...analysis.blame import causes
from ..slices import Slice
from . import bars, sentences
from .evidence import Evidence
from .sentences import Told, said_seconds
from .topics import Topic, found_in, weight

#: Causes whose evidence is read for sentences, at most, and the least share of these.
MOST_READ, LEAST_SHARE = 10, 0.02

#: Sentences at most, and the least share that is worth one if there is one already; the same
#: of lines of advice.
MOST_TOLD, LEAST_TOLD = 3, 0.05
MOST_ADVISED, LEAST_ADVISED = 2, 0.1

#: Smaller ones that are named with their share, at most, and the least share of these.
MOST_NAMED, LEAST_NAMED = 2, 0.05

#: Causes in JSON: so many at most, with this share at least; the rest is summed up.
MOST_FACTS, LEAST_FACT = 100, 0.001

_LABELS = ("stream_id", "codec", "gpu")

#: What is read of the table `frames`.
_COLUMNS = ("frame", "seq", "stream_id", "codec", "gpu", "t_demux_ns", "t_done_ns", "fate",
            "picture_type", "pid", "sample_rate")  # fmt: skip


class LateExplanation:
    """Why the late frames of a slice were late: what `vidlab.explain_late` returns.

    Shown in a notebook, it is sentences and charts; printed, the sentences.

    Attributes
    ----------
    part : Slice
        Of which frames.
    frames : polars.DataFrame
        The delivered frames, each late or not (`analysis.latency.late`, of few columns).
    blamed : polars.DataFrame
        What each late or corrupt frame's time is blamed on (`analysis.blame.per_frame`).
    ranked : polars.DataFrame
        The same by stream, codec, GPU, stage and cause, the worst first
        (`analysis.blame.ranked`).
    untold : polars.DataFrame
        The engines that were not on, and what each would have told.
    """

    def __init__(self, part: Slice) -> None:
        self.part = part
        self.frames = latency.late(
            part.scan("frames").select(_COLUMNS), part.scan("streams"), part.deadline
        )
        chosen = [
            pl.col(label).cast(pl.String) == str(value)
            for label in _LABELS
            if (value := getattr(part, label)) is not None
        ]
        found = blame.per_frame(part.run, self.frames)
        self.blamed = found.filter(chosen) if chosen else found
        self.ranked = blame.ranked(self.blamed)
        self.untold = blame.untold(part.run)

    # --- counts -----------------------------------------------------------------

    @cached_property
    def delivered(self) -> int:
        """How many frames were delivered; a sampled one counts for all it stands for."""
        return weight(self.frames)

    @cached_property
    def late(self) -> int:
        """How many of them were late."""
        return weight(self.frames.filter("late"))

    @cached_property
    def corrupt(self) -> int:
        """How many frames were lost as corrupt."""
        return weight(self._lost)

    @cached_property
    def _lost(self) -> pl.DataFrame:
        fate = pl.col("fate").cast(pl.String)
        rows = self.part.scan("frames").filter(fate == "corrupt").select(_COLUMNS)
        return tables.plain(rows.collect())

    @property
    def seconds(self) -> float:
        """The time beyond the usual of all late and corrupt frames."""
        return float(self.ranked["seconds"].sum())

    @property
    def unexplained(self) -> float:
        """Which share of that time nothing recorded explains."""
        own = self.ranked.filter(pl.col("cause") == causes.UNEXPLAINED)
        return float(own["seconds"].sum()) / self.seconds if self.seconds else 0.0

    # --- for people -------------------------------------------------------------

    @cached_property
    def topics(self) -> list[Topic]:
        """The causes by stage or queue, the worst first; small ones are left out."""
        told = found_in(self.blamed)
        return [topic for topic in told if topic.share >= LEAST_SHARE][:MOST_READ]

    @cached_property
    def evidence(self) -> list[dict[str, Any]]:
        """What stands behind each of `topics` (`Evidence.of`)."""
        return self._evidence.of([topic.blamed for topic in self.topics])

    @cached_property
    def told(self) -> list[Told]:
        """What is told, a sentence each, the worst first: waits for one stage are one."""
        first, rest = self._joined[:1], self._joined[1:MOST_TOLD]
        return first + [told for told in rest if told.share >= LEAST_TOLD]

    @cached_property
    def _joined(self) -> list[Told]:
        return sentences.joined(self.topics, self.evidence, self.blamed)

    def headline(self) -> str:
        """Return how many frames were late, and how many lost as corrupt."""
        lost = f", {_many(self.corrupt)} lost as corrupt" if self.corrupt else ""
        if not self.frames.height:
            if not weight(self.part.run.scan("frames").head(1).collect()):
                return f"{self.part.run.path} has no frames: nothing can be late"
            return f"No frame was delivered{lost}"
        known = self.frames["late"].count()
        if not known:
            return (
                f"{self.delivered:,} frames were delivered{lost}. Whether they were late is not "
                "known: their streams have no nominal rate. Say when they are: deadline_ms=…, "
                "or --deadline-ms"
            )
        late = f"{self.late:,}" if self.late else "None"
        were = "was" if self.late < 2 else "were"
        return (
            f"{late} of {self.delivered:,} delivered frames {were} late "
            f"(beyond {self._beyond()}){lost}"
        )

    def sentences(self) -> list[tuple[str, str]]:
        """Return what is told: its share, and a sentence."""
        return [(f"{told.share:.0%}", told.sentence()) for told in self.told]

    def advice(self) -> list[str]:
        """Return what can be done about the first of what is told."""
        most = [told for told in self.told if told is self.told[0] or told.share >= LEAST_ADVISED]
        advised = dict.fromkeys(told.advice() for told in most)
        return [line for line in advised if line][:MOST_ADVISED]

    def rest(self) -> str:
        """Return what is left beside the sentences: what is not explained, and smaller causes."""
        if not self.seconds:
            return ""
        parts = [f"not explained: {_percent(self.unexplained)}"]
        left = 1 - self.unexplained
        left -= sum(told.share for told in self.told if told.causes != {causes.UNEXPLAINED})
        smaller = [
            told
            for told in self._joined[len(self.told) :]
            if told.share >= LEAST_NAMED and told.causes != {causes.UNEXPLAINED}
        ][:MOST_NAMED]
        parts += [f"{told.name(short=True)} {told.share:.0%}" for told in smaller]
        left -= sum(told.share for told in smaller)
        if left > 0.005:
            parts.append(f"{'others' if smaller else 'smaller causes'} {_percent(left)}")
        return ", ".join(parts)

    def warnings(self) -> list[str]:
        """Return why this may be incomplete."""
        run = self.part.run
        lines = self.part.losses()
        if self.part.sampled:
            lines.append(self.part.sampled)
        if run.state == "recording":
            lines.append("this run goes on: frames that are on their way are not counted")
        elif run.state != "complete":
            lines.append(f"this run is {run.state}: its end is missing")
        if self.late and not self._compared:
            lines.append("no frame was punctual: what is usual is not known, so all time counts")
        return lines

    def hint(self) -> str:
        """Return how to see the worst frame."""
        worst = self._evidence.worst(self.blamed)
        if worst is None:
            return ""
        run, name = shlex.quote(str(self.part.run.path)), shlex.quote(worst)
        return f"one frame: vidlab explain {run} --frame {name}"

    def __str__(self) -> str:
        columns = bars.width()
        lines = [*bars.wrapped([("", self.headline())], columns)]
        if self.topics:
            lines.append(f"what took them longer than usual, {said_seconds(self.seconds)} in all:")
            told = [(f"{share:>5}  ", sentence) for share, sentence in self.sentences()]
            lines += bars.wrapped(told, columns)
            lines += bars.wrapped([(" " * 7, self.rest())], columns)
            lines += bars.wrapped([("  do   ", line) for line in self.advice()], columns)
        if self.topics and self.untold.height:
            lines += bars.wrapped([("", self._not_told())], columns)
        lines += bars.wrapped([("! ", line) for line in self.warnings()], columns)
        return "\n".join([*lines, *filter(None, [self.hint()])])

    def _repr_html_(self) -> str:
        def items(lines: list[str]) -> str:
            return "".join(f"<li>{html.escape(line)}</li>" for line in lines)

        parts = [f"<p><strong>{html.escape(self.headline())}.</strong></p>"]
        if self.topics:
            told = [f"{share}: {sentence}" for share, sentence in self.sentences()]
            parts.append(f"<ol>{items(told)}</ol><p>{html.escape(self.rest())}</p>")
            if advice := self.advice():
                parts.append(f"<h4>What to do</h4><ul>{items(advice)}</ul>")
            if self.untold.height:
                more = [f"{engine}: {what}" for engine, what in self._untold()]
                parts.append(f"<h4>What another engine would have told</h4><ul>{items(more)}</ul>")
        parts += [
            f"<blockquote><p>⚠ {html.escape(line)}</p></blockquote>" for line in self.warnings()
        ]
        return "".join(parts)

    def chart(self) -> Any:
        """Return what made each stream's frames late: stacked bars, a colour a cause."""
        from ...charts import blame as blame_charts

        return blame_charts.by_stream(self.ranked, lost=self.part.lost("spans", "frames"))

    # --- for machines -----------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return the same as JSON values.

        Returns
        -------
        dict
            `run`, `frames` (delivered), `late`, `corrupt`, `deadline_ms` (null: three nominal
            intervals of each stream), `seconds` (beyond the usual), `unexplained_share`,
            `causes` (each with `cause`, `share`, `seconds`, `frames`, `stream_id`, `codec`,
            `gpu`, `stage`, `bottleneck` and `evidence`, the worst first), `rest` (of causes
            that are too small to be listed: how many, their `seconds` and `share`), `untold`,
            `warnings`. The bottleneck is the stage that all waited for: of a wait, the one
            furthest down the way that was not held up itself; of what is a stage's own, that
            stage; null if there is none, or it was not looked for, as of small causes.
        """
        told = self.ranked.filter(pl.col("share") >= LEAST_FACT).head(MOST_FACTS)
        rest = self.ranked.slice(told.height)
        evidence = self._evidence.of(self._groups(told))
        return {
            "run": str(self.part.run.path),
            "frames": self.delivered,
            "late": self.late,
            "corrupt": self.corrupt,
            "deadline_ms": self.part.deadline,
            "seconds": round(self.seconds, 6),
            "unexplained_share": round(self.unexplained, 6),
            "causes": [
                {
                    "cause": row["cause"],
                    "share": round(row["share"], 6),
                    "seconds": round(row["seconds"], 6),
                    "frames": row["frames"],
                    **{name: row[name] for name in (*_LABELS, "stage")},
                    "bottleneck": row["stage"]
                    if row["cause"] in sentences.OWN
                    else facts.get("bottleneck"),
                    "evidence": facts,
                }
                for row, facts in zip(told.iter_rows(named=True), evidence, strict=True)
            ],
            "rest": {
                "causes": rest.height,
                "seconds": round(float(rest["seconds"].sum()), 6),
                "share": round(float(rest["share"].sum()), 6),
            },
            "untold": self.untold.to_dicts(),
            "warnings": self.warnings(),
        }

    # --- inside -----------------------------------------------------------------

    @cached_property
    def _evidence(self) -> Evidence:
        columns = ("frame", "stream_id", "seq", "pid", "t_demux_ns", "t_done_ns")
        late = self.frames.filter(pl.col("late").fill_null(value=False))
        frames = pl.concat([late.select(columns), self._lost.select(columns)])
        return Evidence(self.part.run, frames, self.blamed, self._compared)

    @property
    def _compared(self) -> bool:
        """Whether any frame was punctual, so that it is known what is usual."""
        return bool((~self.frames["late"]).any())

    def _groups(self, ranked: pl.DataFrame) -> list[pl.DataFrame]:
        """The rows of `blamed` behind each of these rows of `ranked`, in their order."""
        keys = [*_LABELS, "stage", "cause"]
        numbered = ranked.select(keys).with_row_index("number")
        rows = self.blamed.join(numbered, on=keys, how="inner", nulls_equal=True)
        return rows.sort("number").partition_by("number", maintain_order=True)

    def _untold(self) -> list[tuple[str, str]]:
        return list(self.untold.select("engine", "would_tell").iter_rows())

    def _not_told(self) -> str:
        """Which engines were off, and what that would have told which matters here most."""
        off = dict(self._untold())
        wanted = [told.more() for told in self.told]
        first = next((engine for engine in wanted if engine in off), next(iter(off)))
        others = [engine for engine in off if engine != first]
        more = f"; off as well: {', '.join(others)}" if others else ""
        return f"{first} would have told {off[first]}{more}"

    def _beyond(self) -> str:
        deadline = self.part.deadline
        return f"{deadline:g} ms" if deadline else f"{latency.INTERVALS} frame intervals"


def _many(number: int) -> str:
    return f"{number:,} {'was' if number == 1 else 'were'}"


def _percent(share: float) -> str:
    return "less than 1%" if 0 < share < 0.01 else f"{share:.0%}"

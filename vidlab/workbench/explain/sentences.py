"""What is told of late frames, a sentence each: a cause, or a bottleneck and all waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from ...analysis import blame
from ...analysis.blame import causes
from ...analysis.causewords import CAUSE_WORDS
from . import advice, deeds, numbers
from .topics import EVERYWHERE, Topic, weight, whose

#: Causes that are a stage's own: told with the waits for it, if it is what they wait for.
OWN = (causes.WORK, causes.ASLEEP, causes.IO, causes.ALLOCATOR)

Facts = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """What one sentence tells.

    Attributes
    ----------
    topics : tuple of Topic
        One cause; or the waits for one stage, and what is that stage's own, the worst first.
    evidence : tuple of dict
        What stands behind each (`evidence.Evidence.of`).
    whose : str
        Of which frames, in words.
    """

    topics: tuple[Topic, ...]
    evidence: tuple[Facts, ...]
    whose: str

    @property
    def share(self) -> float:
        """Its share of all time beyond the usual."""
        return sum(topic.share for topic in self.topics)

    @property
    def seconds(self) -> float:
        """How much time beyond the usual it took."""
        return sum(topic.seconds for topic in self.topics)

    @cached_property
    def frames(self) -> int:
        """How many frames it struck."""
        blamed = pl.concat([topic.blamed for topic in self.topics])
        return weight(blamed.unique("frame"))

    @property
    def causes(self) -> set[str]:
        """The causes in it."""
        return {topic.cause for topic in self.topics}

    @property
    def bottleneck(self) -> Facts | None:
        """What the stage did that all of it waited for (`deeds.Did.facts`), if any."""
        return next((did for facts in self.evidence if (did := facts.get("bottleneck_did"))), None)

    # --- in words ---------------------------------------------------------------

    def name(self, short: bool = False) -> str:
        """Return what it is in a few words: "queue wait before encode"."""
        did = self.bottleneck
        if len(self.topics) == 1 or did is None:
            topic = self.topics[0]
            everywhere = short and topic.cause in EVERYWHERE
            return CAUSE_WORDS[topic.cause] if everywhere else _words(topic)
        is_own = any(topic.cause in OWN for topic in self.topics)
        return f"{did['stage']} and waits for it" if is_own else f"waits for {did['stage']}"

    def sentence(self) -> str:
        """Return whose frames it struck, by how much, and what the run's tables say of it."""
        took = f"{said_seconds(self.seconds)} in {_frames(self.frames)}"
        did = self.bottleneck
        if len(self.topics) == 1 or did is None:
            topic, facts = self.topics[0], self.evidence[0]
            measured = numbers.said(topic.cause, facts)
            told = f"{self.whose}: {self.name()}, {took}"
            return f"{told}; {measured}" if measured else told
        waits = ", ".join(self._waits(did["stage"]))
        return f"{self.whose}: {self.name()}, {took}: {waits}; {deeds.said(did)}"

    def _waits(self, stage: str) -> list[str]:
        """The waits for a stage: for it itself first, then those that are held up by it."""
        here, behind = [], []
        for topic, facts in zip(self.topics, self.evidence, strict=True):
            if topic.cause in OWN:
                continue
            is_queue = topic.cause == causes.QUEUE_WAIT
            words = _words(topic).removeprefix("queue wait ")
            if is_queue and facts["stage_did"]["stage"] == stage:
                depth = numbers.depth_said(facts)
                here.append(f"{words} ({depth})" if depth else words)
            else:
                behind.append(words)
        *first, last = behind or [""]
        held_up = f"{', '.join(first)} and {last}" if first else last
        return here + ([f"{held_up} (held up by it)"] if behind else [])

    def advice(self) -> str:
        """Return what can be done about it; "" if that is not known."""
        topic, facts, did = self.topics[0], self.evidence[0], self.bottleneck
        if did is None:
            if topic.cause == causes.UNEXPLAINED:
                return ""
            short = advice.in_short(topic.cause, facts.get("b_frames"))
            return f"{CAUSE_WORDS[topic.cause]}: {short}"
        return f"{did['stage']}: {advice.of_stage(did)}"

    def more(self) -> str:
        """Return the engine that would tell more about it; "" if none would."""
        did = self.bottleneck
        if did is None:
            return blame.CAUSES[self.topics[0].cause].more
        away = did["did"] == deeds.AWAY
        cause = causes.ASLEEP if away else deeds.most_spent(did) or causes.WORK
        return blame.CAUSES[cause].more


def joined(topics: Sequence[Topic], evidence: Sequence[Facts], blamed: pl.DataFrame) -> list[Told]:
    """Return what is told together, the worst first.

    Waits for one stage, of one stream or of several, are one; and so is what that stage spent
    on them itself.

    Parameters
    ----------
    topics, evidence : sequence
        As `topics.found_in` and `evidence.Evidence.of` return them.
    blamed : polars.DataFrame
        What `topics.found_in` was given.
    """
    groups: dict[Any, list[int]] = {}
    for number, (topic, facts) in enumerate(zip(topics, evidence, strict=True)):
        stage = facts.get("bottleneck")
        groups.setdefault((stage, topic.streams) if stage else number, []).append(number)
    for number, topic in enumerate(topics):
        if topic.cause not in OWN:
            continue
        for members in groups.values():
            did = evidence[members[0]].get("bottleneck_did")
            same = topic.streams == topics[members[0]].streams
            if did and topic.stage in did["stages"] and same:
                members.append(number)
                del groups[number]
                break
    told = [
        Told(
            tuple(topics[number] for number in members),
            tuple(evidence[number] for number in members),
            whose([topics[number] for number in members], blamed),
        )
        for members in groups.values()
    ]
    return sorted(told, key=lambda one: -one.share)


def said_seconds(seconds: float) -> str:
    """Return seconds as text: 120 s, 9.1 s, 34.0 ms."""
    if seconds >= 0.1:
        return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.1f} s"
    return f"{seconds * 1e3:.1f} ms"


def _words(topic: Topic) -> str:
    """A cause and where it struck; where it struck most, if that is at several stages."""
    if not topic.stage or topic.blamed["stage"].n_unique() == 1:
        return blame.CAUSES[topic.cause].said(topic.stage)
    own = topic.stage.startswith(causes.PLACES)
    place = topic.stage if own else f"in {topic.stage}"
    return f"{blame.CAUSES[topic.cause].said(None)} (most of it {place})"


def _frames(number: int) -> str:
    return f"{number:,} frame{'s' * (number != 1)}"

"""What a stage did while frames waited for it: was it at work, held up itself, or away?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...analysis.blame.causes import PLACES

#: What a stage did most of the time.
AT_WORK, HELD_UP, ELSEWHERE, AWAY = "at work", "held up", "elsewhere", "away"

#: It was not at work, and how full the queue behind it was is not known.
UNKNOWN = "unknown"

Facts = dict[str, Any]


@dataclass(frozen=True)
class Did:
    """What a stage did in some time.

    Attributes
    ----------
    stage : str
        That which takes most time of those that follow a queue.
    stages : tuple of str
        All of them, and those within them.
    queue, held_up_by : str or None
        The queue that it takes from, and the one behind it.
    at_work, held_up, elsewhere : float
        Shares of that time: at work on frames of these streams; not at work, while the queue
        behind it was full; its threads were in another span. The rest of the time it did
        nothing of this: it was away.
    depths_known : bool
        Whether it is known how full the queue behind it was, if there is one.
    spent_ms : dict of str to float
        What it spent a late frame's time on, by cause, the most first; empty if unknown.
    """

    stage: str
    stages: tuple[str, ...]
    queue: str | None
    held_up_by: str | None
    at_work: float
    held_up: float
    elsewhere: float
    depths_known: bool
    spent_ms: dict[str, float]

    @property
    def most(self) -> str:
        """What it did most: `AT_WORK`, `HELD_UP`, `ELSEWHERE`, `AWAY`; or `UNKNOWN`."""
        shares = {
            AT_WORK: self.at_work,
            HELD_UP: self.held_up,
            ELSEWHERE: self.elsewhere,
            (AWAY if self.depths_known else UNKNOWN): self.away,
        }
        return max(shares, key=lambda name: shares[name])

    @property
    def away(self) -> float:
        """The share of the time in which nothing is known of it."""
        return max(0.0, 1 - self.at_work - self.held_up - self.elsewhere)

    def facts(self) -> Facts:
        """Return the same as JSON values."""
        return {
            "stage": self.stage,
            "stages": list(self.stages),
            "did": self.most,
            "at_work_share": round(self.at_work, 4),
            "held_up_share": round(self.held_up, 4),
            "held_up_by": self.held_up_by if self.held_up > 0 else None,
            "elsewhere_share": round(self.elsewhere, 4),
            "away_share": round(self.away, 4),
            "spent_ms": self.spent_ms,
        }


#: What a stage does, for each cause that is inside of one.
DOING = {
    "work": "on the CPU",
    "asleep": "asleep",
    "io": "waiting for storage or a device",
    "run_queue": "waiting for a CPU",
    "gil": "waiting for the GIL (an estimate)",
    "garbage_collection": "stopped by the garbage collector",
    "allocator": "asking the driver for memory",
}


def said(did: Facts) -> str:
    """Return what a stage did (`Did.facts`), in words."""
    stage, at_work = did["stage"], f"{did['at_work_share']:.0%}"
    if did["did"] == HELD_UP:
        full = f"{named(did['held_up_by'])} was full {did['held_up_share']:.0%} of that time"
        return f"{stage} was held up: {full}"
    if did["did"] == ELSEWHERE:
        return f"{stage}'s thread was at work elsewhere {did['elsewhere_share']:.0%} of that time"
    if did["did"] == AWAY:
        return f"{stage} was at work {at_work} of that time, and took nothing otherwise"
    if did["did"] == UNKNOWN:
        return f"{stage} was at work {at_work} of that time"
    return f"{stage} was at work {at_work} of that time{_spent_said(did)}"


def named(queue: str) -> str:
    """Return what a queue is called within a sentence: "the queue before encode"."""
    return f"the queue {queue}" if queue.startswith(PLACES) else f"the queue {queue!r}"


def most_spent(did: Facts) -> str:
    """Return the cause that took half of a late frame's time in a stage, or more; "" if none."""
    cause, most = next(iter(did["spent_ms"].items()), ("", 0.0))
    return cause if most and most >= sum(did["spent_ms"].values()) / 2 else ""


def _spent_said(did: Facts) -> str:
    cause, spent_ms = most_spent(did), did["spent_ms"]
    if not cause:
        return ""
    most, total = spent_ms[cause], sum(spent_ms.values())
    return f", {DOING[cause]} {most / total:.0%} of it, {_number(most)} ms a frame"


def _number(ms: float) -> str:
    return f"{ms:,.0f}" if ms >= 10 else f"{ms:.1f}"

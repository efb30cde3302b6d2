"""The numbers behind a cause, in words."""

from __future__ import annotations

from typing import Any

from ... import sizes
from ...analysis.blame import causes
from ...analysis.saying import ms, times
from . import deeds

#: A thread that has the CPU in fewer of the waits for the GIL is not named.
_HOLDS = 0.2

#: A queue is at its limit if it is for this share of the time.
_FULL = 0.5

Facts = dict[str, Any]


def said(cause: str, facts: Facts) -> str:
    """Return the numbers behind a cause in words, "" if there are none worth them."""
    if cause == causes.QUEUE_WAIT:
        return _queue_said(facts)
    if cause == causes.GARBAGE_COLLECTION and facts.get("longest_ms"):
        longest = (
            f"the longest {_said_ms(facts['longest_ms'])}, of generation {facts['generation']}"
        )
        return f"{times(facts['rows'], 'collection')}, {longest}"
    if cause == causes.GIL:
        held = (f"; {facts['held_by']} had the CPU in {facts['held_share']:.0%} of the waits"
                if facts.get("held_share", 0) >= _HOLDS else "")  # fmt: skip
        return f"by estimate{held}"
    if cause == causes.ALLOCATOR and facts.get("median_bytes"):
        return (f"{times(facts['allocated'], 'driver allocation')} of {facts['kind']} memory, "
                f"{sizes.say(facts['median_bytes'])} typically, "
                f"the longest took {_said_ms(facts['longest_ms'])}")  # fmt: skip
    if cause == causes.IO and facts.get("longest_ms"):
        return f"the longest wait {_said_ms(facts['longest_ms'])}"
    usual = _usual_said(facts)
    if cause == causes.RUN_QUEUE and facts.get("cpus"):
        return f"{usual}; the machine has {times(facts['cpus'], 'CPU')}"
    return usual


def _usual_said(facts: Facts) -> str:
    if facts["late_ms"] is None:
        return ""
    usually = {None: "", 0.0: ", usually none"}.get(
        facts["usual_ms"], f", usually {_said_ms(facts['usual_ms'] or 0)}"
    )
    return f"{_said_ms(facts['late_ms'])} a frame{usually}"


def _queue_said(facts: Facts) -> str:
    depth, did = depth_said(facts), facts.get("stage_did")
    taker = deeds.said(did) if did else ""
    last = facts.get("bottleneck_did")
    if did and last and last["stage"] != did["stage"]:
        taker += f"; {deeds.said(last)}"
    return f"{depth} ({taker})" if depth and taker else depth or taker


def depth_said(facts: Facts) -> str:
    """Return how full a queue was, in words; "" if that is not known."""
    if facts.get("full_share", 0) >= _FULL:
        return f"depth at its limit of {facts['capacity']}"
    if facts.get("capacity"):
        return f"{facts['mean_depth']:.1f} of {facts['capacity']} places taken"
    if facts.get("max_depth"):
        return f"up to {facts['max_depth']} frames in it, and no limit"
    return ""


def _said_ms(value: float) -> str:
    return ms(value * 1e6)

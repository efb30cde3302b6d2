"""Near names: what somebody may have meant who named something that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: How many names are looked at closely, and how many at all: an error must not take seconds.
MOST_CLOSE = 100
MOST_NAMES = 50_000


def near(name: str, known: Iterable[str], most: int = 4) -> list[str]:
    """Return the known names that are most like `name`, best first; at most `most`.

    Parameters
    ----------
    name : str
        What was asked for.
    known : iterable of str
        The names that there are; of very many, the first `MOST_NAMES` are looked at.
    most : int
        How many to return at most.
    """
    wanted = name.lower()
    pairs = _pairs(wanted)
    rough: list[tuple[float, str]] = []
    for count, other in enumerate(dict.fromkeys(known)):
        if count == MOST_NAMES:
            break
        lower = other.lower()
        if lower.startswith(wanted) or wanted.startswith(lower):
            rough.append((2.0, other))
            continue
        if not len(wanted) <= 2 * len(lower) + 4 <= 4 * len(wanted) + 12:
            continue
        # Two names that a reader would confuse share most pairs of letters: cheap to see.
        theirs = _pairs(lower)
        shared = len(pairs & theirs) / max(len(pairs | theirs), 1)
        if shared > 0.15:
            rough.append((shared, other))
    rough.sort(key=lambda item: (-item[0], len(item[1])))
    matcher = difflib.SequenceMatcher(b=wanted, autojunk=False)
    scored = []
    for _, other in rough[:MOST_CLOSE]:
        matcher.set_seq1(other.lower())
        # A name that goes on where ours ends is the versioned one: cuMemAlloc, cuMemAlloc_v2.
        score = matcher.ratio() + (0.3 if other.lower().startswith(wanted) else 0.0)
        if score > 0.6:
            scored.append((-score, len(other), other))
    return [other for _, _, other in sorted(scored)[:most]]


def near_text(name: str, known: Iterable[str], most: int = 4) -> str:
    """Return ", did you mean A, B or C?" for an error message; empty if nothing is near."""
    names = near(name, known, most)
    if not names:
        return ""
    *first, last = names
    return f"; did you mean {', '.join(first)}{' or ' if first else ''}{last}?"


def _pairs(text: str) -> set[str]:
    return {text[at : at + 2] for at in range(max(len(text) - 1, 1))}

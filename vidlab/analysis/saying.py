"""Numbers in the sentences of verdicts."""

from __future__ import annotations


def ms(ns: float) -> str:
    """Return nanoseconds as text in milliseconds: 1,200 ms, 34 ms, 5.6 ms."""
    return f"{ns / 1e6:,.0f} ms" if abs(ns) >= 1e7 else f"{ns / 1e6:.1f} ms"


def times(number: int, noun: str) -> str:
    """Return a number of things: 1 frame, 2,000 frames."""
    return f"{number:,} {noun}{'s' * (number != 1)}"

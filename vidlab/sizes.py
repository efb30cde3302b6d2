"""Bytes as people write and read them.

Read are both families of units: MB is a million bytes, MiB and a bare M are 1,048,576.
Written is the binary one, as memory is counted.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

#: The units that are written.
NAMES = ("B", "KiB", "MiB", "GiB", "TiB")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)(B?)", re.IGNORECASE | re.ASCII)


class Unit(NamedTuple):
    """A unit of memory: its name, and how many bytes it is."""

    name: str
    size_bytes: int


def parse(text: str | int) -> int:
    """Return the bytes that a text such as "1.5 MiB", "512 kB", "2G" or "4096" names.

    Raises
    ------
    ValueError
        If it is no such text; the message says what is.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    found = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None or (found[3] and not found[2]):
        raise ValueError(f"{text!r} is not a size such as 500M, 2 GiB or 1.5 MB")
    power = "KMGT".index(found[2].upper()) + 1 if found[2] else 0
    return int(float(found[1]) * (1000 if found[4] and not found[3] else 1024) ** power)


def unit(*sizes: Any) -> Unit:
    """Return the unit in which the greatest of these sizes is read best; None counts nothing."""
    greatest = max((abs(float(size)) for size in sizes if size is not None), default=0.0)
    power = min(int(math.log(max(greatest, 1.0), 1024) + 1e-9), len(NAMES) - 1)
    return Unit(NAMES[power], 1024**power)


def say(size: float) -> str:
    """Return this many bytes as text with about three digits: 512 B, 1.5 MiB, 12 GiB."""
    known = unit(size)
    return f"{short(size / known.size_bytes)} {known.name}"


def short(value: float) -> str:
    """Return a number with about three digits, and no zeros at its end."""
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "0" if text == "-0" else text

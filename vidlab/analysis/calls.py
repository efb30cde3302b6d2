"""The calls of a stack as text.

How a thread comes to its function is left out: it is the same for all.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

from . import tables
from .sites import UNKNOWN_SITE
from .tables import AnyTable

#: Files that a thread begins in: Python's, and vidlab's way into it.
_WAY_IN = re.compile(r"(^|[/\\])(threading\.py$|vidlab[/\\]capture[/\\])")


def calls(stacks: AnyTable, lines: bool = True) -> dict[int, list[str]]:
    """Return the calls of each stack, outermost first.

    Parameters
    ----------
    stacks : polars.LazyFrame or polars.DataFrame
        The table `stacks`.
    lines : bool
        With the line: "function (file.py:12)". Else "function (file.py)", which stays the
        same when the code above it changes.
    """
    found = tables.lazy(stacks, "stacks", ("stack", "frames")).select("stack", "frames").collect()
    known: dict[int, list[str]] = {}
    for stack, frames in found.iter_rows():
        texts = []
        for frame in _from_the_program_on(list(reversed(frames or ()))):
            where = PurePath(frame["file"] or "?").name
            line = f":{frame['line']}" if lines and frame["line"] else ""
            texts.append(f"{frame['function']} ({where}{line})")
        known[stack] = texts or [UNKNOWN_SITE]
    return known


def _from_the_program_on(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the calls, outermost first, without those that only lead into a thread."""
    for place, frame in enumerate(frames):
        if not _WAY_IN.search(frame["file"] or ""):
            return frames[place:]
    return frames

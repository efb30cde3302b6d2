"""What a process lost, and what it let go to stay in bounds: counts, and their file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .blocks import SPARES

#: Per table: how many rows were `lost`, of which thread, and how many `let_go`.
Losses = dict[str, dict[str, Any]]


def by_table(lost: Mapping[tuple[str, int], int], let_go: Counter[str]) -> Losses:
    """Return losses counted by (table, thread), and rows let go by table, as one."""
    counts: Losses = {
        table: {"lost": 0, "let_go": rows, "threads": {}} for table, rows in let_go.items()
    }
    for (table, tid), count in sorted(lost.items()):
        known = counts.setdefault(table, {"lost": 0, "let_go": 0, "threads": {}})
        known["lost"] += count
        known["threads"][str(tid)] = count
    return counts


class LossFile:
    """The file in which a process says what it lost; there is none while that is nothing."""

    def __init__(self) -> None:
        self._written: Losses = {}

    def write(self, segments: Path, index: int, losses: Losses) -> None:
        """Replace it with these losses if they are others, as a whole, or raise OSError."""
        if losses != self._written:
            name = f"{index:04d}-losses.json"
            temporary = segments / SPARES / name
            temporary.write_text(json.dumps(losses))
            temporary.replace(segments / name)
            self._written = losses

"""Which file systems are mounted, and where, as this process sees it."""

from __future__ import annotations

import re
from pathlib import Path


def mounts(kind: str) -> list[Path]:
    """Return where file systems of a kind are mounted, in the order of mounting.

    Parameters
    ----------
    kind : str
        As the kernel names it: ``"tracefs"``, ``"bpf"``.

    Returns
    -------
    list of Path
        Empty where there is none, or ``/proc`` does not tell.
    """
    try:
        table = Path("/proc/thread-self/mountinfo").read_text(
            encoding="utf-8", errors="surrogateescape"
        )
    except OSError:
        return []
    found = []
    for line in table.splitlines():
        left, _, right = line.partition(" - ")
        if right.split(" ")[0] == kind:
            # Blanks and the like are written in octal.
            place = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), left.split(" ")[4])
            found.append(Path(place))
    return found

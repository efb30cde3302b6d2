"""The lines of the program whose memory is largest, by tracemalloc.

tracemalloc slows every allocation of Python's down, and a look at it copies all that it
knows, so that this is of the profile `debug` only.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...runs.writer import RunWriter
from ..patching import Patches
from .parts import Pen

#: So many blocks of memory are taken into account in a step.
_STEP = 10_000

_OURS = str(Path(__file__).parents[2])


class Tracing:
    """Runs tracemalloc; writes `host_allocations` and `vidlab.tracemalloc.*`.

    What the program itself does with tracemalloc goes on to work: if it traces already, or
    begins to meanwhile, its tracing stays when this part ends.

    Parameters
    ----------
    most_rows : callable
        Returns how many lines are written down at a time.
    """

    least_period_ns = 500_000_000

    def __init__(self, writer: RunWriter, pen: Pen, most_rows: Callable[[], int]) -> None:
        self._writer = writer
        self._pen = pen
        self._most_rows = most_rows
        self._patches = Patches()
        #: Whether tracing is for us alone.
        self._ours = not tracemalloc.is_tracing()
        if self._ours:
            tracemalloc.start()
            self._watch_program()

    def look(self, t_ns: int) -> Iterator[None]:
        """Write down the largest lines."""
        if not tracemalloc.is_tracing():  # the program has ended it
            return
        yield
        used, _ = tracemalloc.get_traced_memory()
        overhead = tracemalloc.get_tracemalloc_memory()
        self._pen.write(
            t_ns,
            [("vidlab.tracemalloc.used", "", used), ("vidlab.tracemalloc.overhead", "", overhead)],
        )
        # The snapshot's own statistics make objects for each block, and take ten times as long.
        snapshot: Any = tracemalloc.take_snapshot()
        sizes: dict[tuple[str, int], int] = {}
        blocks: dict[tuple[str, int], int] = {}
        for number, (_, size, lines, _) in enumerate(snapshot.traces._traces, 1):
            if number % _STEP == 0:
                yield
            line = lines[0]
            sizes[line] = sizes.get(line, 0) + size
            blocks[line] = blocks.get(line, 0) + 1
        del snapshot
        left = self._most_rows()
        for (file, number), size in sorted(sizes.items(), key=lambda item: -item[1]):
            if left == 0:
                break
            if file.startswith(_OURS) or file == tracemalloc.__file__:
                continue
            left -= 1
            self._writer.row(
                "host_allocations",
                t_ns=t_ns,
                tid=0,
                labels=0,
                file=file,
                line=number,
                size_bytes=size,
                blocks=blocks[file, number],
            )

    def finish(self, t_ns: int) -> Iterator[None]:
        """Look for the last time."""
        return self.look(t_ns)

    def close(self) -> None:
        """Leave tracemalloc as the program has it."""
        self._patches.restore()
        if self._ours and tracemalloc.is_tracing():
            tracemalloc.stop()

    def _watch_program(self) -> None:
        """Know if the program begins to trace, or ends it."""
        start, stop = tracemalloc.start, tracemalloc.stop

        def started(nframe: int = 1) -> None:
            if self._ours and nframe > tracemalloc.get_traceback_limit():
                stop()  # the program wants more of each line than is kept now
            self._ours = False
            start(nframe)

        def stopped() -> None:
            self._ours = False
            stop()

        self._patches.set(tracemalloc, "start", started)
        self._patches.set(tracemalloc, "stop", stopped)

"""Rows that wait to be written: of tables that have text, or few rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from ..schema import TABLES
from .encoding import encode_rows, segment_schema
from .streams import Streams

#: Rows of a table that may wait; more are lost, and counted.
MOST_ROWS = 1 << 16


class Rows:
    """The rows of a process that are not written yet.

    Parameters
    ----------
    lost : callable
        Counts rows of a table as lost.
    warn : callable
        Says what cannot be done, and why.
    """

    def __init__(
        self, lost: Callable[[str, int], None], warn: Callable[[str, object], None]
    ) -> None:
        self._lost = lost
        self._warn = warn
        self._waiting: dict[str, deque[Mapping[str, Any]]] = {
            name: deque() for name, table in TABLES.items() if table.event and not table.record
        }

    def append(self, table: str, row: Mapping[str, Any]) -> None:
        """Keep a row until it is written. Any thread may call this, and a signal handler."""
        waiting = self._waiting[table]
        if len(waiting) < MOST_ROWS:
            waiting.append(row)
        else:
            self._lost(table, 1)

    def clear(self) -> None:
        """Forget all rows."""
        for waiting in self._waiting.values():
            waiting.clear()

    def write(self, streams: Streams, options: pa.ipc.IpcWriteOptions, final: bool) -> None:
        """Write all rows; those that cannot be written go on waiting, or are lost if `final`."""
        for table, waiting in self._waiting.items():
            rows = [waiting.popleft() for _ in range(len(waiting))]
            if not rows:
                continue
            known = TABLES[table]
            unknown = set().union(*rows) - set(segment_schema(known).names)
            if unknown:
                self._warn(f"write {', '.join(sorted(unknown))}", f"no such column of {table}")
            batch = encode_rows(known, rows, options)
            if batch.rows < len(rows):
                self._warn(f"write rows of {table}", "a value is not of its column's type")
                self._lost(table, len(rows) - batch.rows)
            if not batch.rows:
                continue
            try:
                streams.append(known, batch)
            except OSError as error:
                self._warn("write rows", error)
                if final:
                    self._lost(table, batch.rows)
                else:
                    waiting.extendleft(reversed(rows))

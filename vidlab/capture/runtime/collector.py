"""The garbage collector's pauses.

CPython calls `gc.callbacks` as a collection begins and ends, in whatever thread
triggered it, at almost any point of its code. So the callback takes no lock and
raises nothing, and packs one record into the thread's own mapped buffer.
Collections never nest, hence one start time serves all threads.
"""

from __future__ import annotations

import gc
import threading

from ... import labelsets
from ...clock import now_ns
from ...runs.writer import RunWriter
from ...schema import TABLES
from ..frames import stages
from ..frames.recorder import frame_here

_RECORD = TABLES["gc_pauses"].record
assert _RECORD is not None
_SIZE = _RECORD.size
_pack_into = _RECORD.struct.pack_into


class _Local(threading.local):
    """The calling thread's buffer, made at its first pause."""

    def __init__(self, writer: RunWriter) -> None:
        self.buffer = writer.buffer("gc_pauses")


class Collector:
    """Writes a record for each collection between `start` and `stop`."""

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self._local = _Local(writer)
        self._began_ns = 0
        self._callback = self._called  # a bound method is a new object each time
        self._lost = 0

    def start(self) -> None:
        """Begin to listen."""
        gc.callbacks.append(self._callback)

    def stop(self) -> None:
        """Stop listening. The program's own callbacks stay as they are."""
        for index, known in enumerate(gc.callbacks):
            if known is self._callback:
                del gc.callbacks[index]
                break
        if self._lost:
            self._writer.lost("gc_pauses", self._lost)
            self._lost = 0

    def _called(self, phase: str, info: dict[str, int]) -> None:
        t_ns = now_ns()
        if phase == "start":
            self._began_ns = t_ns
            return
        began_ns, self._began_ns = self._began_ns, 0
        if began_ns == 0:  # `start` was called during this collection
            return
        try:
            span = stages.current.get()
            ref = frame_here.get() if span is None or span.ref is None else span.ref
            buffer = self._local.buffer
            position = buffer.position
            if position == buffer.end:
                position = buffer.roll()
            buffer.position = position + _SIZE
            _pack_into(
                buffer.view,
                position,
                began_ns,
                t_ns - began_ns,
                0 if ref is None or not ref.sampled else ref.frame,
                info["collected"],
                info["uncollectable"],
                labelsets.current.get() if ref is None else ref.labels,
                0,
                0,
                info["generation"] + 1,
            )
        except Exception:
            self._lost += 1

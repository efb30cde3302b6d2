"""The thread that empties rings into a run.

Programs wake it each time that another eighth of a ring has filled, and else it looks
every half second: so a busy ring is emptied in large batches, as often as it takes, and a
quiet one costs nothing that could be measured. There is no call per record.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ....runs import processes
from ....runs.background import Background
from .columns import Columns
from .ring import Ring, RingError

#: How long it sleeps at most: so old does a record get in a ring that fills slowly.
_WAIT_S = 0.5

#: Woken for less than this part of a ring, it waits so long for more.
_WORTH_IT, _PAUSE_S = 1 / 16, 0.004

#: A batch has so many records at most: columns of 120 KiB, which the C library's allocator
#: still takes from memory that it has. From 128 KiB on it maps fresh memory for each.
_MOST_ROWS = 15 << 10

#: How long the end waits for the thread, and for a record that is still being written.
_PATIENCE_S, _UNWRITTEN_S = 30.0, 0.1

#: How long a fork waits for the thread.
_FORK_PATIENCE_S = 0.25


@dataclass
class Source:
    """A ring, and what takes its records.

    Attributes
    ----------
    name : str
        The table.
    ring : Ring
    sink : callable
        Called with `Columns`, 1 to 15,360 rows, in the reader's thread; they are valid
        until it returns. What it raises costs these rows, and is reported once.
    read : int
        Records that the sink took.
    failed : int
        Records that it did not: they are gone.
    left : int
        Records that were still in the ring when the reader stopped.
    error : Exception or None
        Why the ring is read no more, or else the sink's first failure.
    """

    name: str
    ring: Ring
    sink: Callable[[Columns], None]
    read: int = 0
    failed: int = 0
    left: int = 0
    error: Exception | None = None
    columns: Columns = field(init=False, repr=False)
    broken: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.columns = Columns(self.ring.dtype, _MOST_ROWS)


class Reader:
    """Reads rings in a thread of its own, from `start` to `stop`.

    A forked child has no reader: the rings are closed there, and the parent goes on.

    Parameters
    ----------
    sources : sequence of Source
        Whoever made the rings closes them, after `stop`.
    report : callable
        Called with a source's name while an exception of its sink or ring is being
        handled, once for each source.
    """

    def __init__(self, sources: Sequence[Source], report: Callable[[str], None]) -> None:
        self.sources = tuple(sources)
        self._report = report
        self._reading = _thread.allocate_lock()
        self._background: Background | None = None
        #: The thread is to read nothing now: it is being ended.
        self._quiet = False

    def start(self) -> None:
        """Begin to read.

        Raises
        ------
        RingError
            If this process has no descriptors left, or a ring has been closed.
        """
        if self._background is not None:
            return
        try:
            with contextlib.ExitStack() as undo:
                bell = os.eventfd(0)
                undo.callback(os.close, bell)
                epoll = undo.enter_context(select.epoll())
                epoll.register(bell, select.EPOLLIN)
                for source in self.sources:
                    # Edges only: else a ring that fills again at once would wake us at once.
                    epoll.register(source.ring.fileno(), select.EPOLLIN | select.EPOLLET)
                undo.pop_all()
        except (OSError, ValueError) as error:
            raise RingError(
                f"rings cannot be waited for ({error}): one may be closed, or this process may "
                "have too many files open, see 'ulimit -n'"
            ) from error
        self._bell, self._epoll = bell, epoll
        # The waiting is in the round itself.
        self._background = Background(self._round, 0.0)
        self._go_on()
        processes.watch_forks(self)

    def stop(self) -> None:
        """End the thread, then read what there is. The programs should not run any more."""
        background = self._background
        if background is None:
            return
        self._hush(_PATIENCE_S)
        self._background = None
        self._epoll.close()
        os.close(self._bell)
        if self._reading.acquire(timeout=1.0):  # unless a sink hangs
            try:
                self._read_the_rest()
            finally:
                self._reading.release()
        for source in self.sources:
            source.left = source.ring.available() // source.ring.stride

    def read(self) -> int:
        """Read what there is now, in the calling thread; return how many records."""
        with self._reading:
            return sum(self._read(source) for source in self.sources)

    # --- the thread -------------------------------------------------------------------

    def _go_on(self) -> None:
        self._quiet = False
        if self._background is not None:
            with contextlib.suppress(RuntimeError):  # no thread is to be had: `stop` reads
                self._background.start()

    def _hush(self, patience_s: float) -> None:
        """End the thread."""
        self._quiet = True
        os.eventfd_write(self._bell, 1)  # rings until the thread is gone
        if self._background is not None:
            self._background.stop(patience_s)
        os.eventfd_read(self._bell)

    def _round(self) -> None:
        """Sleep until there is something worth reading, and read it."""
        woken = self._epoll.poll(_WAIT_S)
        if woken and not self._quiet and self._fullest() < _WORTH_IT:
            self._epoll.poll(_PAUSE_S)  # a program that wakes for each record, or a slow one
        if self._quiet:
            return
        self.read()

    def _fullest(self) -> float:
        rings = (source.ring for source in self.sources)
        return max((ring.available() / ring.ring_bytes for ring in rings), default=0.0)

    # --- reading ----------------------------------------------------------------------

    def _read(self, source: Source) -> int:
        """Read what a ring holds, at most as much as fits in; return how many records."""
        ring, columns, found = source.ring, source.columns, 0
        most = ring.ring_bytes // ring.stride  # the other rings fill meanwhile
        while found < most and not source.broken:
            count = self._fill(source)
            if not count:
                break
            found += count
            if len(columns):
                try:
                    source.sink(columns)
                    source.read += len(columns)
                except Exception as error:
                    source.failed += len(columns)
                    self._failed(source, error)
                columns.clear()
        return found

    def _fill(self, source: Source) -> int:
        """Copy a batch out of the ring; return how many records the ring is shorter by."""
        ring, columns, taken = source.ring, source.columns, 0
        try:
            while room := columns.most - len(columns):
                records, extent = ring.view(min(room, columns.part))
                if not extent:
                    break
                columns.append(records)
                ring.advance(extent)
                taken += extent
        except Exception as error:  # a program wrote what no layout tells: nothing can follow it
            source.broken = True
            self._failed(source, error)
        return taken

    def _failed(self, source: Source, error: Exception) -> None:
        if source.error is None:
            with contextlib.suppress(Exception):
                self._report(source.name)
        if source.error is None or source.broken:
            # Without its traceback, which would keep what the sink was at in memory.
            source.error = error.with_traceback(None)

    def _read_the_rest(self) -> None:
        until = time.monotonic() + _UNWRITTEN_S
        while True:
            if sum(self._read(source) for source in self.sources):
                until = time.monotonic() + _UNWRITTEN_S
            rest = [source for source in self.sources if not source.broken]
            if not any(source.ring.available() for source in rest) or time.monotonic() > until:
                return
            time.sleep(0.001)

    # --- forks ------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Have no thread while the process forks."""
        if self._background is not None:
            self._hush(_FORK_PATIENCE_S)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._background is not None:
            self._go_on()

    def after_fork_in_child(self) -> None:
        """Leave the rings to the parent: two readers would take each other's records."""
        if self._background is None:
            return
        self._background.leave()
        self._background = None
        self._reading = _thread.allocate_lock()
        self._epoll.close()
        os.close(self._bell)
        for source in self.sources:
            source.ring.close()

"""The writer of a run: one per recording process.

Records reach the run in two ways. What a hot path writes goes into mapped blocks
(`buffers`), which are safe from SIGKILL as they are; a background thread turns
full ones into batches of an Arrow stream. Tables that a recording declares are appended
to by whole columns, and written at once. All else are rows: few, with text, kept in
memory for a quarter of a second at most.

Nothing here may stop or slow the recorded program down. A file that cannot be
written costs records, which are counted, and one warning.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from time import sleep
from typing import Any

import pyarrow as pa

from .. import labelsets
from ..clock import now_ns
from ..errors import RecordingError
from ..schema import TABLES, Table
from . import losses, processes
from .background import Background
from .batches import Columns, batch_of, pieces, rows_of
from .blocks import BLOCK_BYTES, SPARES, Block
from .buffers import Buffers, RecordBuffer
from .complaints import Complaints
from .derived import Derive, DerivedLabels
from .encoding import count_holes, encode_block
from .lookback import Lookback
from .manifest import SEGMENTS
from .rows import Rows
from .sidefiles import Definitions, StackFrames
from .streams import Streams

#: How often rows are written, and full blocks looked for.
INTERVAL_S = 0.25

#: For so long a full block waits for records that were begun and are not whole.
PATIENCE_NS = 500_000_000

#: The least `max_bytes`: the buffers of a few threads take as much.
LEAST_MAX_BYTES = 16 << 20

_RECORDING, _INHERITED, _CLOSED = range(3)


class RunWriter:
    """Writes what this process records into a run.

    Parameters
    ----------
    path : Path
        The run's directory.
    max_bytes : int, optional
        What its segments may come to, those of all processes together. The oldest
        rows are let go, and counted.
    keep_seconds : float, optional
        How old rows may get before they are let go, give or take a sixteenth.
    derive : Mapping[str, callable], optional
        Further labels, each by a function of a label set's values.

    Attributes
    ----------
    path : Path
        The run's directory.
    names : Names
        The numbers by which records name stages, queues and sinks.
    lookback : Lookback
        Holds full blocks of frames back, once it is told to.

    Raises
    ------
    RecordingError
        If the directory cannot be written, or the run has ended.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int | None = None,
        keep_seconds: float | None = None,
        derive: Derive | None = None,
    ) -> None:
        self.path = Path(path)
        self._segments = self.path / SEGMENTS
        self._limits = (max_bytes, keep_seconds)
        # Compressing costs as much CPU as all else here: worth it where bytes are counted.
        compression = None if max_bytes is None else "lz4"
        self._options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)
        self._definitions = Definitions(DerivedLabels(derive or {}, self._derive_failed))
        self.names = self._definitions.names
        self._state = _CLOSED
        self._warn = Complaints(self.path)
        self._rows = Rows(self.lost, self._warn)
        self._background = Background(self._write_what_there_is, INTERVAL_S)
        self._buffers = Buffers(self._background.wake, self._take_part)
        self.lookback = Lookback(self._segments, lambda: self.index, max_bytes, self._warn)
        self._leave()
        self._begin()
        processes.watch_forks(self)

    @property
    def index(self) -> int:
        """This process's index in the run, the high bits of its frame and span numbers."""
        if self._state == _INHERITED:
            self._take_part()
        return self._buffers.index

    def buffer(self, table: str) -> RecordBuffer:
        """Return the calling thread's buffer for the records of a table.

        To be kept per thread: it is reclaimed when nothing refers to it and its thread
        has ended. See `RecordBuffer` for how to pack a record.
        """
        if self._state == _INHERITED:
            self._take_part()
        return self._buffers.buffer(table)

    def stack(self, frames: StackFrames) -> int:
        """Return a new number, from 1, for this call stack; the caller keeps what it knows."""
        return self.stacks([frames])[0]

    def stacks(self, many: Sequence[StackFrames]) -> list[int]:
        """Return new numbers for these call stacks, as `stack` does; they are written at once."""
        if self._state == _INHERITED:
            self._take_part()
        return self._definitions.stacks(many)

    def row(self, table: str, /, **columns: Any) -> None:
        """Append a row to a table that has no record type.

        `t_ns`, `pid`, `tid` and `labels` are filled in unless given: now, this process
        and thread, and the current labels. Allowed in any thread, in a signal handler
        and in a garbage-collector callback.
        """
        if self._state == _INHERITED:
            self._take_part()
        columns.setdefault("t_ns", now_ns())
        columns.setdefault("pid", self._buffers.pid)
        columns.setdefault("tid", threading.get_native_id())
        columns.setdefault("labels", labelsets.current.get())
        if self._state == _CLOSED:
            self.lost(table, 1)
        else:
            self._rows.append(table, columns)

    def declare(self, table: Table) -> None:
        """Have a declared table in the run, though nothing may come to be appended to it."""
        self.append(table, {})

    def append(self, table: Table, columns: Columns) -> None:
        """Append rows to a declared table, as columns: any thread may, but no signal handler.

        Texts are numbers of `names`, 0 for none; columns that are missing are null. Nothing
        refers to the arrays afterwards. What cannot be written is lost, and counted.
        """
        if self._state == _INHERITED:
            self._take_part()
        left = rows_of(columns)
        try:
            batch = batch_of(table, columns)
            with self._writing:
                if self._state == _RECORDING:  # else no more files may be begun
                    self._streams.declare(table)
                    for piece in pieces(table, batch, self._options):
                        if self._streams.crowded:
                            self._gone += self._streams.let_go()
                        self._streams.append(table, piece)
                        left -= piece.rows
        except Exception as error:  # whatever it is, the next batch may go better
            self._warn(f"write events of {table.name}", error)
        if left:
            self.lost(table.name, left)

    def finding(
        self,
        kind: str,
        message: str,
        severity: str = "warning",
        frame: int = 0,
        labels: int | None = None,
        **evidence: Any,
    ) -> None:
        """Note something that should not be: what it is, in a sentence, and the numbers for it."""
        about = {} if labels is None else {"labels": labels}
        self.row(
            "findings",
            kind=kind,
            severity=severity,
            frame=frame or None,
            message=message,
            evidence=json.dumps(evidence, ensure_ascii=False, default=str) if evidence else None,
            **about,
        )

    def lost(self, table: str, count: int) -> None:
        """Count records or rows of a table that the calling thread lost."""
        self._buffers.losses[table, threading.get_native_id()] += count

    def losses(self) -> losses.Losses:
        """Return per table how many rows were `lost`, of which thread, and how many `let_go`."""
        return losses.by_table(self._buffers.losses.copy(), self._gone.copy())

    def close(self) -> None:
        """Write all there is and end this process's part of the run.

        Threads that outlive the recording may go on recording: it does no harm, and
        what they record is lost.
        """
        before, self._state = self._state, _CLOSED
        self._definitions.end()
        if before != _RECORDING:
            return
        self._background.stop(patience_s=30)
        with self._writing:
            self._buffers.closed = True
            self._buffers.retire_all()
            until = now_ns() + PATIENCE_NS // 10
            while any(count_holes(block) for block in list(self._buffers.full)):
                if now_ns() > until:
                    break
                sleep(0.002)
            self._write_blocks(final=True)
            for block in list(self._buffers.out.values()):  # its thread is about to notice
                block.used = BLOCK_BYTES
                self._write_block(block, holes=0)
            self._buffers.ended = True
            self._write_rest(final=True)
            self._streams.close()
            self._buffers.remove_spares(processes.living(self._segments) == [self._claim.index])
            self._claim.release()

    # --- beginning, and beginning again in a forked child -----------------------------

    def _leave(self) -> None:
        """Have nothing open: at first, and in a forked child."""
        self._writing = threading.Lock()
        self._beginning = threading.RLock()
        self._gone: Counter[str] = Counter()
        self._loss_file = losses.LossFile()
        self._warn.forget()
        self._rows.clear()

    def _begin(self) -> None:
        """Take an index in the run and open this process's files."""
        try:
            (self._segments / SPARES).mkdir(parents=True, exist_ok=True)
            self._claim = processes.claim(self._segments)
            (self._segments / SPARES).mkdir(exist_ok=True)  # if its last user has just removed it
        except OSError as error:
            raise RecordingError(
                f"{self.path} cannot be written ({error.strerror}): "
                "record into a directory that can, with some space left"
            ) from error
        index = self._claim.index
        try:
            processes.check_it_goes_on(self.path)
            self._streams = Streams(self._segments, index, *self._limits)
            self._buffers.begin(self._segments, index, frugal=self._limits[0] is not None)
            self._state = _RECORDING
            self._definitions.begin(self._segments, index)
            self._background.start()
        except BaseException as error:
            self._state = _CLOSED
            self._buffers.closed = True
            self._definitions.end()
            self._claim.withdraw()
            if isinstance(error, OSError | RuntimeError):
                raise RecordingError(f"{self.path} cannot be recorded into: {error}") from error
            raise

    def _take_part(self) -> None:
        """In a forked child that records for the first time: become a process of the run."""
        with self._beginning:
            if self._state != _INHERITED:
                return
            self._state = _CLOSED  # what a signal handler records meanwhile is lost
            try:
                self._begin()
            except processes.HasEndedError:
                return
            except Exception as error:  # the program that is being recorded goes on
                self._warn("record in a child process", error)
                return
            atexit.register(self.close)
            self._finish_with_process()

    def _finish_with_process(self) -> None:
        """Have a child of `multiprocessing`, which runs no atexit functions, close this."""
        util = sys.modules.get("multiprocessing.util")
        if util is not None and self._state == _RECORDING:
            util.Finalize(None, self.close, exitpriority=-1000)

    def before_fork(self) -> None:
        """Have nothing of this going on while the process forks."""
        if self._state == _RECORDING:
            self._background.stop(patience_s=0.25)
            util = sys.modules.get("multiprocessing.util")
            if util is not None:  # its children forget what was to be finished; ask again then
                util.register_after_fork(self, RunWriter._finish_with_process)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._state == _RECORDING:
            with contextlib.suppress(RuntimeError):  # `close` does what is left to do
                self._background.start()

    def after_fork_in_child(self) -> None:
        """Leave all that is open to the parent, and wait for something to record."""
        self._definitions.leave()
        self._background.leave()
        self._buffers.leave_to_parent()
        self.lookback.leave()
        self._leave()
        if self._state != _RECORDING:
            return
        self._state = _INHERITED
        self._streams.leave()
        self._claim.release()

    def _derive_failed(self, key: str, error: Exception) -> None:
        self.finding(
            "label_not_derived",
            f"the function for the label {key!r} failed ({type(error).__name__}: {error}): "
            "where it does, the label is missing",
            label=key,
        )

    # --- in the background ------------------------------------------------------------

    def _write_what_there_is(self) -> None:
        self._buffers.writer = threading.get_ident()
        try:
            with self._writing:
                self._write_blocks()
                self._write_rest()
                self._buffers.refill()
        except Exception as error:  # whatever it is, the next round may go better
            self._warn("write the run", error)

    def _write_blocks(self, final: bool = False) -> None:
        full = self.lookback.ripe(self._buffers.full, final)
        for _ in range(len(full)):
            block = full.popleft()
            holes = count_holes(block)
            if holes and not final and now_ns() - block.t_full_ns < PATIENCE_NS:
                full.append(block)
                continue
            if self._streams.bounded:
                self._gone += self._streams.let_go()
            self._write_block(block, holes)

    def _write_block(self, block: Block, holes: int) -> None:
        """Write a block as a batch, and end it. Records that are not whole are lost."""
        losses = self._buffers.losses
        try:
            batch = encode_block(block, self._options, self.lookback.choose)
            if batch.rows:
                self._streams.append(TABLES[block.table], batch)
            self._buffers.out.pop(block.name, None)
            if holes:  # somebody may still write into it
                block.remove()
            else:
                self._buffers.recycle(block)
        except OSError as error:
            self._warn("write records", error)
            if not block.readable:
                losses[block.table, block.tid] += batch.rows
                block.remove()
            # Else its file stays, and is read as it is.
        if holes:
            losses[block.table, block.tid] += holes
        self._buffers.out.pop(block.name, None)
        self._buffers.written += 1

    def _write_rest(self, final: bool = False) -> None:
        if (error := self._definitions.retry()) is not None:
            self._warn("write labels", error)
        self._rows.write(self._streams, self._options, final)
        if self._streams.bounded:
            self._gone += self._streams.let_go()
        if self._buffers.error is not None:
            self._warn("make buffers", self._buffers.error)
        try:
            self._loss_file.write(self._segments, self._claim.index, self.losses())
        except OSError as error:
            self._warn("write what was lost", error)

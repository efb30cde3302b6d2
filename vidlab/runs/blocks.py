"""Blocks: the memory that threads record into, mapped from files of the run.

What is written to a block is in the page cache at once, so that SIGKILL cannot
take it away, not even while some call holds the GIL. Threads take a block through
their `RecordBuffer`, and hand it over when it is full; the run's writer turns it
into an Arrow batch and ends it.

Like `buffers`, this runs inside the program that is being recorded, also in
signal handlers and garbage-collector callbacks, which may come between any two
bytecodes of itself: there is no lock here. What threads share are deques, dicts
and counters of which single, atomic operations are used.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import mmap
import os
import threading
import weakref
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from time import sleep

from ..clock import now_ns
from ..schema import TABLES

#: Bytes of a block: 4,096 spans.
BLOCK_BYTES = 256 * 1024

#: Full blocks at which the writer is woken before its time.
WAKE_AT = 8
#: Full blocks from which a recording thread waits for the writer: at most for so long,
#: and only while the writer moves. It may have a disk that is stuck.
WAIT_AT = 32
WAIT_NS = 250_000_000
STUCK_NS = 50_000_000
#: Full blocks from which records are let go, and counted.
LOSE_AT = 128

#: Spare blocks kept ready: so many, and as many as were taken lately.
LEAST_SPARES, MOST_SPARES = 2, 16

#: Where spare blocks wait: apart, so that whoever reads the segments never sees them.
SPARES = "spares"

_ZEROS = bytes(BLOCK_BYTES)

# `mmap.mmap` keeps a file descriptor per mapping, and a program with hundreds of
# threads has none to spare. The C function keeps none.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class Block:
    """Memory for the records of one thread and table.

    Attributes
    ----------
    view : memoryview
        The memory, zero where nothing was written.
    path : str or None
        The file behind it; None if the disk had no space for one.
    name : str
        The file's name, by which readers know the block.
    table : str
        The table whose records it holds.
    thread, tid : int
        Whose records they are: the thread's number in the run, and the kernel's.
    used : int
        Bytes up to its last record, once it is handed over.
    t_full_ns : int
        When it was handed over.
    """

    __slots__ = ("name", "path", "t_full_ns", "table", "thread", "tid", "used", "view")

    def __init__(self, view: memoryview, path: str | None) -> None:
        self.view = view
        self.path = path
        self.name = ""
        self.table = ""
        self.thread = 0
        self.tid = 0
        self.used = 0
        self.t_full_ns = 0

    @classmethod
    def create(cls, path: str) -> Block:
        """Return a block with a new file behind it, or raise OSError.

        Its space on the disk is allocated, so that a disk that fills up later cannot
        end the program by SIGBUS. The zeros are written since that makes the pages
        cheap to touch: 12 µs for all of them instead of 230.
        """
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(file, 0, BLOCK_BYTES)
            if os.pwrite(file, _ZEROS, 0) != BLOCK_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            return cls(_mapped(file, mmap.MAP_SHARED), path)
        except BaseException:
            _unlink(path)
            raise
        finally:
            os.close(file)

    @classmethod
    def anonymous(cls) -> Block:
        """Return a block without a file: the writer may still find space for its records."""
        return cls(_mapped(-1, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), None)

    @property
    def readable(self) -> bool:
        """Whether readers find the block's records where they are."""
        return self.path is not None and self.path.endswith(self.name)

    def remove(self) -> None:
        """Remove the file. The memory stays while anything refers to it."""
        if self.path is not None:
            _unlink(self.path)


class Blocks:
    """The blocks of a process: gives them out, and takes them back full.

    Parameters
    ----------
    wake : callable
        Wakes the writer.

    Attributes
    ----------
    index : int
        The process's index in the run.
    pid : int
        Whose blocks they are: a forked child has them in memory too.
    closed : bool
        No block is given out: what is recorded is lost.
    ended : bool
        Nobody writes full blocks any more, either.
    full : deque of Block
        What was handed over, oldest first.
    out : dict of str to Block
        All that is given out and not yet written, by name.
    losses : dict of (str, int) to int
        Records lost, per table and tid.
    written : int
        Blocks that the writer is done with; it counts them here.
    writer : int
        The writer's thread, as Python identifies it: it must never wait for itself.
    error : OSError or None
        What went wrong with a file the last time. Its traceback would hold blocks in memory.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.losses: defaultdict[tuple[str, int], int] = defaultdict(int)
        self.leave()

    def leave(self) -> None:
        """Have no blocks: at first, and in a forked child, whose parent's they are."""
        self.index = 0
        self.pid = os.getpid()
        self.closed = True
        self.ended = False
        self._wake_at = WAKE_AT
        self.full: deque[Block] = deque()
        self.out: dict[str, Block] = {}
        self.losses.clear()
        self.written = 0
        self.writer = 0
        self.error: OSError | None = None
        self._spares: deque[Block] = deque()
        self._taken = 0
        self._numbers = itertools.count()
        self._stuck_at = -1

    def begin(self, folder: Path, index: int, frugal: bool = False) -> None:
        """Give out blocks from now on, in this folder of segments under this index.

        Being `frugal` keeps as few of them as possible, where bytes are counted.
        """
        self._folder = str(folder)
        self._wake_at = 1 if frugal else WAKE_AT
        self._most_spares = LEAST_SPARES if frugal else MOST_SPARES
        self.index = index
        self.closed = False
        self.refill()

    def take(self, table: str, thread: int, tid: int) -> Block | None:
        """Return a zeroed block for a thread's records of a table; None if they are lost."""
        if self.closed:
            return None
        if len(self.full) >= WAIT_AT:
            self._wait()
            if len(self.full) >= LOSE_AT:
                return None
        number = next(self._numbers)
        name = f"{self.index:04d}-{thread:05d}-{tid}-{table}-{number:06d}.buf"
        block = self._named(f"{self._folder}/{name}")
        if block is None:
            return None
        block.name, block.table, block.thread, block.tid = name, table, thread, tid
        self.out[name] = block
        self._taken += 1
        if self.closed:  # meanwhile: then the writer may not have seen this one
            self.out.pop(name, None)
            block.remove()
            return None
        return block

    def hand_over(self, block: Block, used: int) -> None:
        """Take back a block of which so many bytes are used."""
        if self.ended:
            size = _record_size(block.table)
            self.losses[block.table, block.tid] += max(0, used - block.used) // size
            return
        block.used = used
        block.t_full_ns = now_ns()
        self.full.append(block)
        if len(self.full) >= self._wake_at:
            self.wake()

    def refill(self) -> None:
        """Keep spare blocks ready, so that taking one is cheap."""
        wanted = min(max(LEAST_SPARES, self._taken), self._most_spares)
        self._taken = 0
        try:
            while len(self._spares) < wanted:
                number = next(self._numbers)
                path = f"{self._folder}/{SPARES}/{self.index:04d}-{number:06d}"
                self._spares.append(Block.create(path))
        except OSError as error:
            self.error = error.with_traceback(None)

    def recycle(self, block: Block) -> None:
        """Make a block that was read to its end a spare one again, or remove it.

        Making a file and removing it costs more than all else that is done for a block.
        It changes its name first: from then on no reader takes what is in it for records.
        """
        if block.path is None or self.closed or len(self._spares) >= self._most_spares:
            block.remove()
            return
        path = f"{self._folder}/{SPARES}/{self.index:04d}-{next(self._numbers):06d}"
        os.rename(block.path, path)  # noqa: PTH104 - a Path costs more than the call
        block.path = path
        block.view[:] = _ZEROS
        block.used = 0
        self._spares.append(block)

    def remove_spares(self, last: bool = False) -> None:
        """Remove the files of the spare blocks; their folder too, if no process needs it."""
        with contextlib.suppress(IndexError):
            while True:
                self._spares.popleft().remove()
        if last:
            with contextlib.suppress(OSError):
                os.rmdir(f"{self._folder}/{SPARES}")  # noqa: PTH106

    def _named(self, path: str) -> Block | None:
        """Return a block whose file has this path, if it has one."""
        try:
            block = self._spares.popleft()
        except IndexError:
            return self._created(path)
        assert block.path is not None
        try:
            os.rename(block.path, path)  # noqa: PTH104 - a Path costs more than the call
            block.path = path
        except OSError as error:
            # The records are as safe as those of a block without a file.
            self.error = error.with_traceback(None)
        return block

    def _created(self, path: str) -> Block | None:
        try:
            return Block.create(path)
        except OSError as error:
            self.error = error.with_traceback(None)
        try:
            return Block.anonymous()
        except OSError as error:
            self.error = error.with_traceback(None)
            return None

    def _wait(self) -> None:
        """Let the writer have the GIL until it has caught up, if it does."""
        if self.written == self._stuck_at or threading.get_ident() == self.writer:
            return
        began_ns = moved_ns = now_ns()
        written = self.written
        while len(self.full) >= WAIT_AT and moved_ns - began_ns < WAIT_NS:
            sleep(0.001)
            if self.written != written:
                written, moved_ns = self.written, now_ns()
            elif now_ns() - moved_ns > STUCK_NS:
                self._stuck_at = written
                return


def _record_size(table: str) -> int:
    record = TABLES[table].record
    assert record is not None, f"{table} has no record: it is written by rows"
    return record.size


def _mapped(file: int, flags: int) -> memoryview:
    """Map a block; it is unmapped when nothing refers to the memory any more."""
    address = _libc.mmap(None, BLOCK_BYTES, mmap.PROT_READ | mmap.PROT_WRITE, flags, file, 0)
    if address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    memory = (ctypes.c_char * BLOCK_BYTES).from_address(address)
    weakref.finalize(memory, _libc.munmap, address, BLOCK_BYTES).atexit = False
    return memoryview(memory).cast("B")


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)  # noqa: PTH108 - a Path costs more than the call

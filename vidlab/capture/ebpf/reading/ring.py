"""A ring buffer of the kernel, mapped: its records are read where they lie.

The kernel maps a ring as three parts, each from a page's beginning:

    how far we have read (u64, ours to write) | how far programs have written (u64) | data
    and the same data once more

Both positions only grow; modulo the size of the data they say where. Since the data is
there twice, one after the other, what runs over its end goes on without a seam, so that
any number of records is one strided array. A record has a header of 8 bytes: its length
in a u32, whose highest bits say that it is still being written (busy), or is not to be
read (discarded), and a u32 of the kernel's own.

Programs of one table write records of one length here, so that a record's place follows
from its index and nothing needs to be walked.
"""

from __future__ import annotations

import _thread
import contextlib
import mmap
import os
import sys
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ....errors import RecordingError

#: The bytes that the kernel puts before each record.
HEADER_BYTES = 8

#: The bits of a record's length that are no length.
BUSY, DISCARDED = 1 << 31, 1 << 30

_PAGE = mmap.PAGESIZE


class RingError(RecordingError):
    """A ring cannot be mapped, or holds what its programs should not have written."""


class View(NamedTuple):
    """Records of a ring, where they lie: valid until `Ring.advance`.

    Attributes
    ----------
    records : ndarray of the ring's `dtype`
        Without those that were discarded.
    extent : int
        Over how many records they reach, discarded ones included: for `Ring.advance`.
    """

    records: npt.NDArray[np.void]
    extent: int


class Ring:
    """The reading end of a ring buffer whose records all have one size.

    There must be only one for a ring, in all processes, and one thread at a time that
    uses it.

    Parameters
    ----------
    fd : int
        The map's descriptor. It is duplicated: the map may be closed before the ring.
    ring_bytes : int
        The size of the data: a power of two, and at least a page.
    dtype : numpy.dtype
        Of a record, without the ring's header.
    stride : int
        From one record to the next, in bytes: the record, rounded up to a multiple of 8,
        and the header.

    Attributes
    ----------
    dtype : numpy.dtype
        Of the records of a view: the fields, and the header's length as `_length`.

    Raises
    ------
    RingError
        If the sizes cannot be, or the kernel does not map it.
    """

    def __init__(self, fd: int, ring_bytes: int, dtype: np.dtype[Any], stride: int) -> None:
        if ring_bytes < _PAGE or ring_bytes & (ring_bytes - 1):
            raise RingError(
                f"a ring has a power of two of bytes, at least {_PAGE}, not {ring_bytes}"
            )
        if stride % 8 or not dtype.itemsize + HEADER_BYTES <= stride <= ring_bytes:
            raise RingError(
                f"records of {dtype.itemsize} bytes cannot lie {stride} bytes apart in a ring "
                f"of {ring_bytes}: 8 for the header and a multiple of 8"
            )
        if sys.byteorder != "little":
            raise RingError("kernel events are read on little-endian machines only")
        self.ring_bytes, self.stride = ring_bytes, stride
        self.dtype = _with_header(dtype, stride)
        self._expected = np.uint32(stride - HEADER_BYTES)
        self._gate = _thread.allocate_lock()
        self._fd = -1
        try:
            self._fd = os.dup(fd)
            with contextlib.ExitStack() as undo:
                self._ours = mmap.mmap(self._fd, _PAGE, mmap.MAP_SHARED)
                undo.callback(self._ours.close)
                size, part = _PAGE + 2 * ring_bytes, mmap.PROT_READ
                self._data = mmap.mmap(self._fd, size, mmap.MAP_SHARED, part, offset=_PAGE)
                undo.pop_all()
        except (OSError, ValueError) as error:
            if self._fd >= 0:
                os.close(self._fd)
            raise RingError(
                f"a ring of {ring_bytes} bytes cannot be mapped ({error}): is this its size, "
                "and a ring's descriptor?"
            ) from error
        # An aligned item of these is read and written in one go, as it has to be.
        self._consumer = memoryview(self._ours).cast("Q")
        self._producer = memoryview(self._data)[:8].cast("Q")
        #: What length a record's header gives, unless something is up with it.
        self._lengths = np.full(1, self._expected, np.uint32)
        self._agree = np.empty(1, np.bool_)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fd < 0

    def fileno(self) -> int:
        """Return the descriptor that `epoll` takes: readable when programs wake readers."""
        return self._fd

    def available(self) -> int:
        """Return how many bytes are written, or being written, and not read."""
        return self._producer[0] - self._consumer[0]

    def view(self, most: int) -> View:
        """Return the next records that are written whole, nothing copied.

        They end before the first that is still being written. If some were discarded,
        the others are a copy.

        Parameters
        ----------
        most : int
            So many records at most.

        Raises
        ------
        RingError
            If the next record has another length than the programs were to write. Nothing
            after it can be read.
        """
        begin = self._consumer[0]
        count = min((self._producer[0] - begin) // self.stride, most)
        if count <= 0:
            return View(np.empty(0, self.dtype), 0)
        self._fence()  # the headers of records are read after the position that promises them
        offset = _PAGE + (begin & (self.ring_bytes - 1))
        records: npt.NDArray[np.void] = np.ndarray((count,), self.dtype, self._data, offset)
        if count > len(self._lengths):
            self._lengths = np.full(count, self._expected, np.uint32)
            self._agree = np.empty(count, np.bool_)
        agree = np.equal(records["_length"], self._lengths[:count], self._agree[:count])
        if np.count_nonzero(agree) == count:
            self._fence()  # and their contents after the headers that say they are whole
            return View(records, count)
        return self._view_with_gaps(records)

    def advance(self, count: int) -> None:
        """Let programs write over the next `count` records: what a view showed is gone."""
        size = count * self.stride
        if not 0 <= size <= self.available():
            raise ValueError(f"there are no {count} records to advance over")
        self._fence()  # everything has been read before its place is given away
        self._consumer[0] += size

    def end(self) -> None:
        """Leave to others what is written from now on, by programs that go on."""
        self._producer = memoryview(bytes(self._producer)).cast("Q")

    def close(self) -> None:
        """Unmap the ring; views of it keep it mapped until they are gone. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        os.close(fd)
        # An empty ring, for whoever still asks. The mappings end with the last view of them:
        # to close them would pull the memory from under it.
        self._consumer = self._producer = memoryview(bytearray(8)).cast("Q")
        del self._ours, self._data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _view_with_gaps(self, records: npt.NDArray[np.void]) -> View:
        # Programs change the headers meanwhile: one look at them decides.
        lengths = records["_length"].copy()
        self._fence()
        stop = lengths & ~np.uint32(DISCARDED) != self._expected
        count = int(stop.argmax()) if stop.any() else len(lengths)
        if count == 0 and not lengths[0] & np.uint32(BUSY):
            length = int(lengths[0]) & ~(BUSY | DISCARDED)
            raise RingError(
                f"a record of {length} bytes is where the ring has records of {self._expected}: "
                "the program that writes them does not fit its layout"
            )
        kept = lengths[:count] & np.uint32(DISCARDED) == 0
        return View(records[:count] if kept.all() else records[:count][kept], count)

    def _fence(self) -> None:
        """Keep the processor from moving reads or writes across this point.

        x86 does not move them so anyway; aarch64 may. Releasing a lock and then acquiring
        one is a barrier on both: nothing from before comes after the release, nothing from
        after comes before the acquisition, and these two stay in order.
        """
        with self._gate:
            pass
        with self._gate:
            pass


def _with_header(dtype: np.dtype[Any], stride: int) -> np.dtype[Any]:
    """Return the type of a record that begins with the ring's header."""
    names = [name for name in dtype.names or () if dtype[name].kind != "V" or name[0] != "_"]
    fields: Any = dtype.fields or {}
    return np.dtype(
        {
            "names": ["_length", *names],
            "formats": ["<u4", *(dtype[name] for name in names)],
            "offsets": [0, *(HEADER_BYTES + fields[name][1] for name in names)],
            "itemsize": stride,
        }
    )

"""The look-back: full blocks wait until it is known what has become of their frames.

A recording with adaptive sampling writes the records of all frames into mapped blocks, as
any other does. When a block has been full for some seconds, the rows that do not count
(see `thinning`) are left out as it is turned into a batch. So a frame that turns out late,
failed or lost within these seconds is kept whole, and SIGKILL takes nothing away.

What cannot be decided well is written as it is, and decided by whoever reads it: blocks
that are not due yet as the recording ends, those beyond the bound of what may wait, and
those with rows older than the frames that are remembered.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .. import labelsets
from ..clock import now_ns
from ..schema import TABLES
from .blocks import BLOCK_BYTES, Block
from .streams import SUFFIX
from .thinning import KEPT, SAMPLED, Frames, Mask, contains, counting, limit

#: Blocks that may wait: 64 MiB; of a recording with a limit, that share of the limit.
MOST_HELD = 256
HELD_SHARE = 8

#: Kept frames that are remembered: at least so many, at most twice as many.
MOST_NOTED = 1 << 17

#: Of these it is known that they are noted already, as they are noted again.
_MOST_RECENT = 1 << 14

_RECORD = TABLES[KEPT].record
assert _RECORD is not None
_DTYPE, _COMMIT = _RECORD.dtype, _RECORD.commit


class Lookback:
    """Holds the blocks of a process back, and leaves out of them what does not count.

    Parameters
    ----------
    folder : Path
        The run's folder of segments.
    index : callable
        Returns the process's index in the run.
    max_bytes : int or None
        What the run may come to.
    warn : callable
        Says what cannot be done, and why.

    Attributes
    ----------
    seconds : float
        How long a block waits since it was full; at 0 all is written at once, and whole.
    look : callable
        Called before blocks are decided about: notes the frames that wait somewhere and are
        late; returns False if there are too many to look at.
    left_out : dict of str to int
        Rows that were left out since they do not count, by table. They are not lost: others
        stand for them.
    """

    def __init__(
        self,
        folder: Path,
        index: Callable[[], int],
        max_bytes: int | None,
        warn: Callable[[str, object], None],
    ) -> None:
        self.seconds = 0.0
        self.look: Callable[[], bool] = lambda: True
        self.left_out = dict.fromkeys(SAMPLED, 0)
        self._folder = folder
        self._index = index
        self._warn = warn
        most = MOST_HELD if max_bytes is None else max_bytes // BLOCK_BYTES // HELD_SHARE
        self._most_held = max(1, min(MOST_HELD, most))
        # What was noted: lately, since it was last looked, and before, in two halves of
        # which the older one is forgotten.
        self._recent: dict[int, None] = {}
        self._fresh: deque[int] = deque()
        self._young = self._old = np.zeros(0, np.uint64)
        self._young_since_ns = self._known_since_ns = 0
        self._limits: dict[int, int] = {}
        self.leave()

    def leave(self) -> None:
        """Have no blocks: at first, and in a forked child, whose parent's they are."""
        self._held: deque[Block] = deque()
        self._ripe: deque[Block] = deque()
        #: The names of those that are written as they are; in the end all are.
        self._raw: set[str] = set()
        self._ending = False
        #: How far the kept frames of other processes were read, by file, in bytes.
        self._read: dict[str, int] = {}

    def note(self, frame: int) -> bool:
        """Have all rows of this frame kept; return False if that is known. Any thread may."""
        recent = self._recent
        if frame in recent:
            return False
        recent[frame] = None
        self._fresh.append(frame)
        if len(recent) > _MOST_RECENT:
            with contextlib.suppress(RuntimeError, StopIteration):  # another thread does so too
                recent.pop(next(iter(recent)), None)
        return True

    def ripe(self, full: deque[Block], final: bool) -> deque[Block]:
        """Take the full blocks over; return those to be written now, to be taken out there.

        They are all of them at the end.
        """
        if not self.seconds:
            return full
        ripe, held = self._ripe, self._held
        for _ in range(len(full)):
            block = full.popleft()
            # Other processes read the kept frames meanwhile.
            (held if block.table in (*SAMPLED, KEPT) else ripe).append(block)
        self._ending = final
        due_ns = now_ns() - int(self.seconds * 1e9)
        due = []
        while held and (final or held[0].t_full_ns <= due_ns):
            due.append(held.popleft())
        seen = bool(due) and not final and self._see_what_became_of_frames()
        while len(held) > self._most_held:
            due.append(held.popleft())
            self._raw.add(due[-1].name)
        if not seen:
            self._raw.update(block.name for block in due)
        ripe.extend(due)
        return ripe

    def choose(self, block: Block, records: npt.NDArray[np.void]) -> Mask | None:
        """Return which records of a block are written; None if all are."""
        if not self.seconds:
            return None
        try:
            is_raw = block.name in self._raw or self._ending
            self._raw.discard(block.name)
            if is_raw or block.table not in SAMPLED or not len(records):
                return None
            if int(records["t_ns"].min()) < self._known_since_ns:
                return None
            sets, places = np.unique(records["labels"], return_inverse=True)
            limits = np.array([self._limit(each) for each in sets.tolist()], np.uint64)[places]
            young, _ = counting(block.table, records, limits, self._young)
            chosen: Mask = young | contains(self._old, records["frame"])
            self.left_out[block.table] += len(records) - int(np.count_nonzero(chosen))
            return chosen
        except Exception as error:  # whoever reads them chooses
            self._warn("sample records", error)
            return None

    def _limit(self, labels: int) -> int:
        known = self._limits.get(labels)
        if known is None:
            if len(self._limits) > 1 << 16:
                self._limits.clear()
            known = self._limits[labels] = limit(labelsets.get(labels).sample_rate)
        return known

    def _see_what_became_of_frames(self) -> bool:
        """Take up which frames are to be kept; return False if that cannot be known."""
        try:
            seen = self.look()
            new = [self._fresh.popleft() for _ in range(len(self._fresh))]
            parts = [np.array(new, np.uint64), *self._of_other_processes()]
            if any(map(len, parts)):
                self._young = np.unique(np.concatenate([self._young, *parts]))
            if len(self._young) > MOST_NOTED:
                self._old, self._young = self._young, self._young[:0]
                self._known_since_ns, self._young_since_ns = self._young_since_ns, now_ns()
        except Exception as error:
            self._warn("see which frames are kept", error)
            return False
        return seen

    def _of_other_processes(self) -> list[Frames]:
        """Read the frames that other processes of the run have noted since.

        Their buffers come first: what is not in one of them any more is in a stream.
        """
        found: list[Frames] = []
        read: dict[str, int] = {}
        own = f"{self._index():04d}-"
        for kind, frames_of in ((".buf", _in_buffer), (SUFFIX, _in_stream)):
            for path in self._folder.glob(f"*-{KEPT}-*{kind}"):
                if not path.name.startswith(own):
                    with contextlib.suppress(OSError, pa.ArrowException):
                        frames, until = frames_of(path, self._read.get(path.name, 0))
                        found.append(frames)
                        read[path.name] = until
        self._read = read
        return found


def _in_buffer(path: Path, start: int) -> tuple[Frames, int]:
    """Return the frames noted in a mapped buffer from this byte, and up to where it is whole."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        content = file.read(BLOCK_BYTES)
    path.stat()  # still of this name: its memory was not used for others since
    records = np.frombuffer(content, _DTYPE, len(content) // _DTYPE.itemsize)
    whole = records[_COMMIT] != 0
    count = len(records) if whole.all() else int(np.argmin(whole))
    return records["frame"][whole], start + count * _DTYPE.itemsize


def _in_stream(path: Path, size: int) -> tuple[Frames, int]:
    """Return the frames noted in a stream, none if it still has this size, and its size."""
    now = path.stat().st_size
    frames: list[Frames] = []
    if now != size:
        with contextlib.suppress(StopIteration, pa.ArrowException), pa.OSFile(str(path)) as source:
            stream = pa.ipc.open_stream(source)
            while True:
                frames.append(stream.read_next_batch()["frame"].to_numpy().copy())
    return np.concatenate([np.zeros(0, np.uint64), *frames]), now

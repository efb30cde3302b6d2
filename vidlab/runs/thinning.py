"""Which rows of a run stand for the others, where the choice is made afterwards.

With adaptive sampling every frame's rows are written, under labels that bear the share of
frames to be recorded (`sample_rate`). What counts of them follows from the rows themselves:

* a row whose labels bear the share 1, or that is of no frame, counts;
* so do all rows of a frame in the table `kept_frames`, each for itself alone: its labels
  bear the share 1 from then on;
* of the others those count whose frame's turn it is, each for 1 / share frames. Whether it
  is follows from the frame's number by FNV-1a, in every process alike;
* in tables that are not `SAMPLED` every row counts, for itself alone.

The writer leaves out early what does not count (`lookback`); whoever reads segments applies
the same rules to what is there, also to those of a run that was killed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import VidlabError
from ..hashing import fnv1a
from ..schema import FLUSHED
from .interning import LabelTable
from .manifest import Manifest
from .segments import Segments

#: The tables of which a sample is recorded.
SAMPLED = ("spans", "frame_events")

#: The table of frames that are kept for what became of them.
KEPT = "kept_frames"

#: The engine's parameter, and the key in it, by which a manifest says that it is so.
PARAMETER, ADAPTIVE = "sampling", "adaptive"

Frames = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

# The hash's constants, by what it gives: of nothing its start, of one from zero its factor.
_OFFSET, _PRIME = np.uint64(fnv1a(b"")), np.uint64(fnv1a(b"\x01", 0))
_ALL = (1 << 64) - 1


def limit(sample_rate: float) -> int:
    """Return the number below which the hashes of this share of frames are; all for 1."""
    return _ALL if sample_rate >= 1.0 else int(sample_rate * 2.0**64)


def hashes(frames: Frames) -> Frames:
    """Return a number for each frame's that tells nothing of it: FNV-1a, folded.

    It is that of the number's eight bytes from the lowest. Its low half is folded into the
    high one and that multiplied once more: as it is, frames that follow each other in a
    stream are chosen in a rhythm, which may be that of the stream's key frames.
    """
    state = np.full(len(frames), _OFFSET)
    for shift in range(0, 64, 8):
        state = (state ^ (frames >> np.uint64(shift) & np.uint64(0xFF))) * _PRIME
    return (state ^ state >> np.uint64(32)) * _PRIME


def contains(sorted_frames: Frames, frames: Frames) -> Mask:
    """Return of each frame whether it is one of the sorted ones."""
    if not len(sorted_frames):
        return np.zeros(len(frames), np.bool_)
    places = np.minimum(np.searchsorted(sorted_frames, frames), len(sorted_frames) - 1)
    found: Mask = sorted_frames[places] == frames
    return found


def counting(
    table: str, records: Mapping[str, Any] | npt.NDArray[np.void], limits: Frames, kept: Frames
) -> tuple[Mask, Mask]:
    """Return which records of a sampled table count, and which of these as a kept frame's.

    Parameters
    ----------
    table : str
        One of `SAMPLED`.
    records : structured array, or mapping of arrays
        Their `frame` and, of `frame_events`, their `event` as it is in a record.
    limits : ndarray of uint64
        For each record the `limit` of its labels.
    kept : ndarray of uint64
        The frames that are kept for what became of them, sorted.

    Returns
    -------
    (ndarray of bool, ndarray of bool)
    """
    frames = np.asarray(records["frame"])
    chosen = (limits == _ALL) | (frames == 0)
    if table == "frame_events":  # the frame of a flush only names the stream
        chosen |= np.asarray(records["event"]) == FLUSHED + 1
    rest = np.flatnonzero(~chosen)
    of_kept = np.zeros(len(frames), np.bool_)
    of_kept[rest] = contains(kept, frames[rest])
    chosen[rest] = of_kept[rest] | (hashes(frames[rest]) < limits[rest])
    return chosen, of_kept


def chooses_later(manifest: Manifest) -> bool:
    """Return whether the rows of this run are chosen afterwards."""
    given = (engine.parameters.get(PARAMETER) for engine in manifest.engines)
    return any(isinstance(each, Mapping) and ADAPTIVE in each for each in given)


class Thinning:
    """Applies the rules to the segments of a run, with the run's own numbers of label sets.

    Parameters
    ----------
    segments : Segments
        Those of the run. Without a manifest that says otherwise, all their rows count.

    Attributes
    ----------
    wanted : bool
        Whether there is anything to be done.
    """

    def __init__(self, segments: Segments) -> None:
        self.wanted = _is_wanted(segments.folder.parent)
        self._kept = np.zeros(0, np.uint64)
        # By number of a label set: its limit, and the same set with the share 1.
        self._limits = np.zeros(0, np.uint64)
        self._whole = np.zeros(0, np.uint32)

    def refresh(self, segments: Segments, labels: LabelTable) -> None:
        """Take up label sets and kept frames that were written down since."""
        if not self.wanted:
            return
        first = len(self._limits)
        for known in labels.sets[first:]:
            labels.number(known.values, 1.0)  # now: rows are sorted by the sets that there are
        new = labels.sets[first:]
        whole = [labels.number(known.values, 1.0) for known in new]
        limits = [limit(known.sample_rate) for known in new]
        self._limits = np.concatenate([self._limits, np.array(limits, np.uint64)])
        self._whole = np.concatenate([self._whole, np.array(whole, np.uint32)])
        parts = [batch["frame"].to_numpy().copy() for _, batch in segments.batches(KEPT)]
        if parts:
            self._kept = np.unique(np.concatenate(parts))

    @property
    def streams(self) -> set[int]:
        """The streams with kept frames, by the high bits of their numbers."""
        return set(np.unique(self._kept >> np.uint64(32)).tolist())

    def choose(
        self, table: str, batch: pa.RecordBatch, labels: npt.NDArray[np.uint32]
    ) -> tuple[Mask | None, npt.NDArray[np.uint32]]:
        """Return which rows of a batch count, None for all, and the label sets of all of them.

        `labels` are the run's numbers of the sets that the rows were written under.
        """
        if table not in SAMPLED:
            return None, self._whole[labels]
        names = {"frame", "event"}.intersection(batch.schema.names)
        columns = {name: batch[name].to_numpy() for name in names}
        chosen, of_kept = counting(table, columns, self._limits[labels], self._kept)
        return chosen, np.where(of_kept, self._whole[labels], labels)


def _is_wanted(run: Path) -> bool:
    with contextlib.suppress(VidlabError):  # segments without a manifest: rows as they are
        return chooses_later(Manifest.read(run))
    return False

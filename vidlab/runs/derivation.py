"""The tables that follow from others, derived a stretch of frames at a time.

`frames` follows from `frame_events` and `spans` (see `fates`), and some `findings`
follow from `frames`. What is decided about a frame depends on the others of its opened
stream, but on nothing beyond it, so a run is worked through by whole streams.
Only a stream too long for that is cut, with a margin of frames on either side
that are looked at but left to the next stretch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from . import fates

#: Events and spans that are looked at in one go.
STRETCH_ROWS = 200_000

#: Frames of a cut stream that are looked at beyond either end of a stretch.
MARGIN_FRAMES = 4096

_SEQ_BITS = 32
_LAST_SEQ = (1 << _SEQ_BITS) - 1

#: Columns of spans on which no fate depends.
_NOT_ASKED_FOR = ("span", "parent", "cpu_ns", "runqueue_ns", "gpu_duration_ns")


@dataclass(frozen=True)
class Stretch:
    """Frame ids `first` to `last`, both included, of which `lower` to `upper` are looked at."""

    first: int
    last: int
    lower: int
    upper: int


class FrameCensus:
    """Counts the rows of each opened stream, to divide the work."""

    def __init__(self) -> None:
        # By stream: how many rows, the least and the greatest frame id.
        self._streams: dict[int, tuple[int, int, int]] = {}

    def add(self, frames: npt.NDArray[np.uint64]) -> None:
        """Count rows with these frame ids; 0 is no frame."""
        ids = np.sort(frames[frames > 0])
        streams, starts, counts = np.unique(
            ids >> np.uint64(_SEQ_BITS), return_index=True, return_counts=True
        )
        for stream, start, count in zip(
            streams.tolist(), starts.tolist(), counts.tolist(), strict=True
        ):
            first, last = int(ids[start]), int(ids[start + count - 1])
            rows, least, greatest = self._streams.get(stream, (0, first, last))
            self._streams[stream] = (rows + count, min(least, first), max(greatest, last))

    def stretches(self) -> Iterator[Stretch]:
        """Yield stretches that cover all frames, each frame once, in the order of their ids."""
        gathered: list[tuple[int, int, int]] = []
        for _, stream in sorted(self._streams.items()):
            if gathered and sum(rows for rows, _, _ in gathered) + stream[0] > STRETCH_ROWS:
                yield _whole(gathered)
                gathered = []
            if stream[0] > STRETCH_ROWS:
                yield from _cut(*stream)
            else:
                gathered.append(stream)
        if gathered:
            yield _whole(gathered)


def frames(events: pl.LazyFrame, spans: pl.LazyFrame) -> pl.DataFrame:
    """Return the table `frames` that follows, as `fates.frames` does.

    Each of the two is read once, one after the other: the derivation asks for it several times
    over.
    """
    read = events.collect(), spans.drop(_NOT_ASKED_FOR, strict=False).collect()
    return fates.frames(read[0].lazy(), read[1].lazy()).collect()


def derived(
    events: pl.LazyFrame,
    spans: pl.LazyFrame,
    stretches: Iterator[Stretch],
    sampled: Collection[int] = (),
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield the tables `frames` and `findings` that follow, stretch by stretch.

    `sampled` are streams of which only a sample is recorded, as for `fates.findings`.
    """
    frame = pl.col("frame")
    for stretch in stretches:
        near = frame.is_between(_id(stretch.lower), _id(stretch.upper))
        # When the stream was drained counts wherever in it the stretch is.
        stream = stretch.lower >> _SEQ_BITS << _SEQ_BITS
        of_stream = frame.is_between(_id(stream), _id(stream | _LAST_SEQ))
        drained = (pl.col("event") == "flushed") & of_stream
        known = frames(events.filter(near | drained), spans.filter(near))
        own = frame.is_between(_id(stretch.first), _id(stretch.last))
        found = fates.findings(known.lazy(), sampled)
        yield known.filter(own), found.filter(own)


def _id(frame: int) -> pl.Expr:
    return pl.lit(frame, pl.UInt64)


def _whole(streams: list[tuple[int, int, int]]) -> Stretch:
    first, last = streams[0][1], streams[-1][2]
    return Stretch(first, last, first, last)


def _cut(rows: int, least: int, greatest: int) -> Iterator[Stretch]:
    length = max((greatest - least + 1) * STRETCH_ROWS // rows, 1)
    for first in range(least, greatest + 1, length):
        last = min(first + length - 1, greatest)
        yield Stretch(
            first, last, max(first - MARGIN_FRAMES, least), min(last + MARGIN_FRAMES, greatest)
        )

"""Which frames of a clip are to be late, and for what: a plan, made before anything is recorded.

A plan needs to know in which order a decoder gives the frames out, and which packet makes it
give out which frame. That is learnt by decoding the clip once, packet by packet (`Walk`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..analysis.blame.causes import (
    ALLOCATOR,
    ASLEEP,
    CORRUPT_INPUT,
    GARBAGE_COLLECTION,
    GIL,
    QUEUE_WAIT,
    REORDERING,
    RUN_QUEUE,
    WORK,
)
from ..errors import InputError, missing_extra

#: The stages and the queue that the pipeline has, where causes are planted.
DECODE, QUEUE, FILTER, UPLOAD = "decode", "before filter", "filter", "upload"

#: Where each cause is planted.
PLACES = {
    QUEUE_WAIT: QUEUE,
    GARBAGE_COLLECTION: FILTER,
    GIL: FILTER,
    RUN_QUEUE: FILTER,
    ALLOCATOR: UPLOAD,
    ASLEEP: FILTER,
    WORK: FILTER,
    REORDERING: DECODE,
    CORRUPT_INPUT: DECODE,
}

#: All causes that can be planted.
CAUSES = tuple(PLACES)

#: Frames before the first planted one: by then every step of the pipeline has warmed up.
WARM_UP = 25

#: Frames from one planted frame to the next, about: what waits behind one is gone by then.
SPACING = 15


@dataclass(frozen=True)
class Plant:
    """A frame that is to be late.

    Attributes
    ----------
    cause, stage : str
        For what, and where.
    pts : int
        The frame's time stamp, by which it is known on all its way.
    packet : int
        The packet, numbered from 0 in decode order, whose reading or decoding is tampered
        with: the frame's own; for `reordering`, the one that makes the decoder give it out.
    """

    cause: str
    stage: str
    pts: int
    packet: int


@dataclass(frozen=True)
class Walk:
    """What a decoder makes of a clip.

    Attributes
    ----------
    packets : tuple of int
        The pts of each packet, in decode order.
    shown : tuple of int
        The pts of each frame that comes out, in the order in which they do.
    out_after : tuple of int
        How many frames have come out after each packet.
    """

    packets: tuple[int, ...]
    shown: tuple[int, ...]
    out_after: tuple[int, ...]

    @classmethod
    def through(cls, path: Path) -> Walk:
        """Decode a clip, packet by packet, and tell what came out when."""
        packets, shown, out_after = [], [], []
        for pts, frames in _decoded(path):
            shown += [frame.pts for frame in frames]
            if pts is not None:
                packets.append(pts)
                out_after.append(len(shown))
        return cls(tuple(packets), tuple(shown), tuple(out_after))

    def released_by(self, packet: int) -> tuple[int, ...]:
        """Return the pts of the frames that this packet makes the decoder give out."""
        before = self.out_after[packet - 1] if packet else 0
        return self.shown[before : self.out_after[packet]]


def _decoded(path: Path) -> Iterator[tuple[int | None, Sequence[Any]]]:
    """Yield each packet's pts with the frames that it made come out; None: the end."""
    av = _pyav()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            frames: Sequence[Any] = ()
            with contextlib.suppress(av.FFmpegError):  # a damaged packet
                frames = packet.decode()
            yield (packet.pts if packet.size else None), frames


def frames_needed(causes: Sequence[str], each: int) -> int:
    """Return how many frames a clip needs for so many plants of each cause."""
    return WARM_UP + SPACING * (len(causes) * each + 1)


def rate_of(path: Path) -> Fraction:
    """Return a clip's frames a second."""
    with _pyav().open(str(path)) as container:
        return Fraction(container.streams.video[0].average_rate)


def plan(walk: Walk, causes: Sequence[str], each: int) -> tuple[Plant, ...]:
    """Choose the frames: `each` of every cause in turn, one every `SPACING` packets or so.

    Raises
    ------
    InputError
        If a cause cannot be planted, or the clip is too short, or has no frame that waits in
        the decoder for a later packet.
    """
    for cause in causes:
        if cause not in PLACES:
            raise InputError(f"{cause!r} cannot be planted; there is {', '.join(CAUSES)}")
    plants = []
    turns = [cause for _ in range(each) for cause in causes]
    for number, cause in enumerate(turns):
        first = WARM_UP + number * SPACING
        packet, pts = _chosen(walk, cause, first)
        plants.append(Plant(cause, PLACES[cause], pts, packet))
    return tuple(plants)


def _chosen(walk: Walk, cause: str, first: int) -> tuple[int, int]:
    """The first packet from here on that serves, and the pts of the frame that it strikes."""
    for packet in range(first, min(first + SPACING, len(walk.packets))):
        own = walk.packets[packet]
        released = walk.released_by(packet)
        if cause == REORDERING:
            waiting = [pts for pts in released if pts != own]
            if waiting:
                return packet, waiting[0]
        elif own in released:
            # It comes out by its own packet, so that no frame is decoded by help of it that
            # is not out yet: in a clip with B-frames, it is one.
            return packet, own
    raise InputError(
        f"no frame for {cause} in packets {first} to {first + SPACING} of {len(walk.packets)}: "
        "give a longer clip, and one with B-frames for reordering"
    )


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise missing_extra("av", "video") from None
    return av

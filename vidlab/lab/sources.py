"""The streams of an experiment: of clips that are made, or of a person's own."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from .clips import CLIPS, Clip, make_clips
from .pipeline import Source, probe

#: So many packets in a row are corrupt in a clip with corrupt ones; the first of them is in the
#: second group of pictures, or after this share of a clip too short for that.
CORRUPT_COUNT, CORRUPT_FIRST, CORRUPT_SHARE = 3, 61, 0.6


#: Streams of clips that are made share so many frames a second: two CPUs can process them while
#: they are recorded, so that what makes a frame late is what was planted.
RATE = 80


def made(
    streams: int,
    seconds: float | None = None,
    clips: Sequence[Clip] = CLIPS,
    corrupt: Collection[str] = (),
) -> list[Source]:
    """Return so many streams, `cam-1` and so on, of these clips in turn; they are made first.

    The more streams, the fewer frames a second each has: `RATE` in all.

    Parameters
    ----------
    streams : int
    seconds : float, optional
        How much of each clip; by default all of it.
    clips : sequence of Clip
    corrupt : collection of str
        The streams of which some packets are corrupt.
    """
    chosen = {}
    for number, clip in zip(range(streams), itertools.cycle(clips), strict=False):
        stream_id = f"cam-{number + 1}"
        length = max(clip.seconds, math.ceil(seconds or 0))
        whole = replace(clip, seconds=float(length), rate=min(clip.rate, max(1, RATE // streams)))
        chosen[stream_id] = corrupted(whole, seconds) if stream_id in corrupt else whole
    paths = make_clips(chosen.values())
    return [probe(path, stream_id, seconds) for stream_id, path in zip(chosen, paths, strict=True)]


def corrupted(clip: Clip, seconds: float | None = None) -> Clip:
    """Return the clip with some packets corrupt, within the first `seconds` of it."""
    frames = min(clip.frame_count, round((seconds or clip.seconds) * clip.rate))
    first = min(CORRUPT_FIRST, int(CORRUPT_SHARE * frames))
    return replace(
        clip, name=f"{clip.name}-corrupt", corrupt=tuple(range(first, first + CORRUPT_COUNT))
    )


def own(
    paths: Iterable[Path], streams: int | None = None, seconds: float | None = None
) -> list[Source]:
    """Return a stream of each file, or so many of them in turn, named as the files.

    Raises
    ------
    InputError
        If one has no video that can be decoded.
    """
    files = list(paths)
    chosen = list(itertools.islice(itertools.cycle(files), streams or len(files)))
    often = Counter(path.stem for path in chosen)
    # A stream's name is its own: of files of the same name, each gets a number.
    return [
        probe(path, f"{path.stem}-{number}" if often[path.stem] > 1 else path.stem, seconds)
        for number, path in enumerate(chosen, 1)
    ]

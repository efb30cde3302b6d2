"""Which faults are planted in which streams of an experiment, and when."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from . import faults, uploads
from .faults import Fault
from .pipeline import Source

#: The kinds of faults that an experiment can have. None strikes all streams while another does.
KINDS = (
    faults.SLOW_STAGE,
    faults.CORRUPT_PACKETS,
    faults.QUEUE_BACKS_UP,
    faults.GC_STALL,
    faults.GIL_HOG,
    faults.LEAK,
)

#: The stream, counted from 0 and all around, that a fault of one stream or codec strikes.
STRUCK = {faults.SLOW_STAGE: 2, faults.QUEUE_BACKS_UP: 3, faults.CORRUPT_PACKETS: 4}


def struck(kind: str, stream_ids: Sequence[str]) -> str:
    """Return the stream that a fault of this kind strikes, of these."""
    return stream_ids[STRUCK[kind] % len(stream_ids)]


def planted(kinds: Collection[str], sources: Sequence[Source]) -> list[Fault]:
    """Return the faults of these kinds for these streams, spread over their time.

    The packets of `CORRUPT_PACKETS` have to be corrupt in the stream's clip already. Of leaks
    each codec has one, with a holder of its own as far as there are some.
    """
    return [fault for kind in KINDS if kind in kinds for fault in _of_kind(kind, sources)]


def _of_kind(kind: str, sources: Sequence[Source]) -> Iterator[Fault]:
    seconds = max(float(source.frame_count / source.rate) for source in sources)
    codecs = {source.stream_id: source.codec for source in sources}
    names = list(codecs)
    if kind == faults.SLOW_STAGE:
        yield Fault(kind, codec=codecs[struck(kind, names)], stage="filter")
    elif kind == faults.CORRUPT_PACKETS:
        yield Fault(kind, stream_id=struck(kind, names))
    elif kind == faults.QUEUE_BACKS_UP:
        begins, ends = 0.1 * seconds, 0.45 * seconds
        yield Fault(kind, struck(kind, names), stage="encode", begins_s=begins, ends_s=ends)
    elif kind == faults.GC_STALL:
        yield Fault(kind, begins_s=0.5 * seconds, ends_s=0.5 * seconds + 0.3)
    elif kind == faults.GIL_HOG:
        yield Fault(kind, begins_s=0.7 * seconds, ends_s=0.7 * seconds + 1.0)
    elif kind == faults.LEAK:
        holders = list(uploads.MEMORIES)
        for number, codec in enumerate(dict.fromkeys(codecs.values())):
            yield Fault(kind, codec=codec, holder=holders[number % len(holders)])

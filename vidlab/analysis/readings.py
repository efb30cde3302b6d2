"""What a reading of a device's memory may have seen of the calls that were under way.

A reading happened at one moment within its interval, and a call took effect at one moment
within its own. So whatever the reading's moment was, it saw all calls that were over by
then, none that had not begun, and of those under way any. That leaves far fewer values than
any choice of all calls that overlap the reading: with eight threads at most 2^8 a moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from .allocation_events import Ints

#: At most so many sums are told apart that the calls under way at one moment may make.
_SUMS = 4_096

#: A sum, and what of it belongs to calls of a pool.
_Sums = dict[int, int]


@dataclass(frozen=True)
class Call:
    """A call that overlaps a reading.

    Attributes
    ----------
    begin_ns, end_ns : int
        When it was under way.
    offs : tuple of int
        By how many bytes the reading may be off on its account, if it is: by one of these.
    after : int
        By how many it is off for certain if the call was over when it was read.
    pooled : bool
        Whether the memory is a pool's.
    """

    begin_ns: int
    end_ns: int
    offs: tuple[int, ...]
    after: int
    pooled: bool

    @property
    def size_bytes(self) -> int:
        """How much it took or gave back."""
        return abs(self.offs[0])


def in_flight(calls: pl.DataFrame, begin: Ints, end: Ints, reserved: Ints) -> list[list[Call]]:
    """Return the calls in flight of each reading.

    Parameters
    ----------
    calls : polars.DataFrame
        The driver's calls by `t_ns`, with `duration_ns`, `op`, `kind`, `size_bytes`, `pooled`.
    begin, end : arrays of int64
        The readings' intervals. What a reading is set against is what was in use at its begin.
    reserved : array of int64
        What CUDA's stream-ordered pool had taken according to the same reading, -1 if that is
        not known. If it is, the two numbers were read one after the other, and a call between
        them may put the difference off either way.
    """
    t_ns = calls["t_ns"].to_numpy()
    ends = t_ns + calls["duration_ns"].to_numpy()
    size = calls["size_bytes"].to_numpy()
    alloc = (calls["op"] == "alloc").to_numpy()
    either = (calls["kind"] == "async").to_numpy()
    pooled = calls["pooled"].fill_null(False).to_numpy()
    # Sorted by begin, nothing can be under way that began longer ago than the longest call.
    longest = int((ends - t_ns).max(initial=0))
    first = np.searchsorted(t_ns, begin - longest, side="left")
    last = np.searchsorted(t_ns, end, side="right")
    found: list[list[Call]] = []
    for n in range(len(begin)):
        rows = np.arange(first[n], last[n])
        # What was over, or freed in no time, as the reading began is counted already.
        rows = rows[(ends[rows] > begin[n]) | (~alloc[rows] & (t_ns[rows] > begin[n]))]
        flights = []
        for row in rows[size[rows] > 0].tolist():
            # An alloc counts from its end: the reading may have more. A free counts from its
            # begin: the reading may have more too, or if it begins later than that, less.
            taken = int(size[row])
            later = not alloc[row] and bool(t_ns[row] > begin[n])
            off = -taken if later else taken
            after = off if later or alloc[row] else 0
            offs: tuple[int, ...] = (off,)
            until = int(ends[row])
            if either[row] and reserved[n] >= 0:
                offs, until = (off, -off), int(end[n]) + 1
            flights.append(Call(int(t_ns[row]), until, offs, after, bool(pooled[row])))
        found.append(flights)
    return found


def settled(rest: Ints, flights: Sequence[Sequence[Call]]) -> tuple[Ints, Ints, Ints]:
    """Return what is left of each reading's rest, choosing what it saw of the calls in flight.

    The values are those with the fewest changes from one reading to the next, and of those
    the nearest to the value before; before the first that is 0.

    Returns
    -------
    left, seen, seen_pooled : arrays of int64
        rest = left + seen; of `seen`, what belongs to calls of a pool.
    """
    choices = [_choices(int(r), calls) for r, calls in zip(rest, flights, strict=True)]
    left, seen, seen_pooled = (np.zeros(len(rest), np.int64) for _ in range(3))
    start, value = 0, 0
    while start < len(choices):
        common, stop = set(choices[start]), start + 1
        while stop < len(choices):
            shared = common & choices[stop].keys()
            if not shared:
                break
            common, stop = shared, stop + 1
        before = value
        value = min(common, key=lambda one: (abs(one - before), abs(one)))
        for n in range(start, stop):
            left[n] = value
            seen[n], seen_pooled[n] = choices[n][value]
        start = stop
    return left, seen, seen_pooled


def _choices(rest: int, calls: Sequence[Call]) -> dict[int, tuple[int, int]]:
    """What may be left, and for each what was seen of the calls, and of a pool's calls."""
    if not calls:
        return {rest: (0, 0)}
    # Only moments at which as many calls as possible are under way matter: just before one
    # ends after another began. At all others fewer values are possible, and the same.
    steps = sorted(
        [(call.begin_ns, 0, n) for n, call in enumerate(calls)]
        + [(call.end_ns, 1, n) for n, call in enumerate(calls)]
    )
    sums: _Sums = {}
    under_way: set[int] = set()
    certain, certain_pooled, grown = 0, 0, False
    for _, ends, n in steps:
        if not ends:
            under_way.add(n)
            grown = True
            continue
        if grown:
            now = _sums(rest, {certain: certain_pooled}, (calls[one] for one in under_way))
            sums = now | sums
        grown = False
        under_way.discard(n)
        certain += calls[n].after
        certain_pooled += calls[n].after * calls[n].pooled
    return {rest - total: (total, pooled) for total, pooled in sums.items()}


def _sums(rest: int, sums: _Sums, calls: Iterable[Call]) -> _Sums:
    """The sums that a choice of calls may add to these."""
    for call in calls:
        more = dict(sums)
        for off in call.offs:
            for total, pooled in sums.items():
                more.setdefault(total + off, pooled + off * call.pooled)
        if len(more) > _SUMS:  # too many to try all: those that leave least
            kept = sorted(more, key=lambda total: abs(rest - total))[:_SUMS]
            more = {total: more[total] for total in kept}
        sums = more
    return sums

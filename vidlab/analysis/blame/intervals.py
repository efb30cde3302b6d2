"""Times laid over times: which part of these is within which of those.

Arrays of begins and ends, half-open, Int64 nanoseconds; a key says whose they are (a
process, a thread). All of it is of NumPy, and takes as long as it has rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

#: Times of each key that do not overlap, in order: begins and ends.
Disjoint = Mapping[int, tuple[Ints, Ints]]


def disjoint(keys: Ints, begins: Ints, ends: Ints) -> Disjoint:
    """Return the union of the times of each key, as times that do not overlap."""
    kept = ends > begins
    keys, begins, ends = keys[kept], begins[kept], ends[kept]
    order = np.lexsort((begins, keys))
    keys, begins, ends = keys[order], begins[order], ends[order]
    found: dict[int, tuple[Ints, Ints]] = {}
    for first, last in _runs(keys):
        begin, until = begins[first:last], np.maximum.accumulate(ends[first:last])
        apart = np.flatnonzero(begin[1:] > until[:-1]) + 1
        firsts = np.concatenate([[0], apart])
        lasts = np.concatenate([apart, [last - first]]) - 1
        found[int(keys[first])] = (begin[firsts], until[lasts])
    return found


def overlaps(keys: Ints, begins: Ints, ends: Ints, others: Disjoint) -> tuple[Ints, Ints, Ints]:
    """Return the parts of these times that lie within others of their key.

    Returns
    -------
    rows, begins, ends : ndarray of int64
        Each part, and the row of the time that it is of; by row and time.
    """
    rows, parts_begin, parts_end = [], [], []
    for key, mine in _rows_by_key(keys, others):
        other_begins, other_ends = others[key]
        first = np.searchsorted(other_ends, begins[mine], side="right")
        count = np.maximum(np.searchsorted(other_begins, ends[mine], side="left") - first, 0)
        hit = np.flatnonzero(count)
        if not hit.size:
            continue
        row, which = spread(first[hit], count[hit])
        row = mine[hit[row]]
        rows.append(row)
        parts_begin.append(np.maximum(begins[row], other_begins[which]))
        parts_end.append(np.minimum(ends[row], other_ends[which]))
    if not rows:
        none = np.zeros(0, np.int64)
        return none, none, none
    row, begin, end = (np.concatenate(parts) for parts in (rows, parts_begin, parts_end))
    order = np.lexsort((begin, row))
    kept = order[(end > begin)[order]]
    return row[kept], begin[kept], end[kept]


def rest(begins: Ints, ends: Ints, rows: Ints, inner_begins: Ints, inner_ends: Ints) -> tuple[
    Ints, Ints, Ints
]:  # fmt: skip
    """Return what is left of these times without the inner ones, which are parts of them.

    Parameters
    ----------
    begins, ends : ndarray of int64
    rows, inner_begins, inner_ends : ndarray of int64
        As `overlaps` returns them: disjoint, by row and time.

    Returns
    -------
    rows, begins, ends : ndarray of int64
        Of the times that have an inner one, all that is left.
    """
    if not rows.size:
        none = np.zeros(0, np.int64)
        return none, none, none
    is_first = np.append(True, rows[1:] != rows[:-1])
    before = np.where(is_first, begins[rows], np.append(0, inner_ends[:-1]))
    is_last = np.append(is_first[1:], True)
    tail = rows[is_last]
    found_rows = np.concatenate([rows, tail])
    found_begins = np.concatenate([before, inner_ends[is_last]])
    found_ends = np.concatenate([inner_begins, ends[tail]])
    kept = found_ends > found_begins
    return found_rows[kept], found_begins[kept], found_ends[kept]


def spread(first: Ints, count: Ints) -> tuple[Ints, Ints]:
    """Return the numbers first, first + 1, … of each row, and which row each is of."""
    rows = np.repeat(np.arange(len(first)), count)
    starts = np.cumsum(count) - count
    return rows, np.arange(len(rows)) - starts[rows] + first[rows]


def _rows_by_key(keys: Ints, others: Disjoint) -> list[tuple[int, Ints]]:
    """The rows of each key that the others have, too."""
    if len(others) <= 8:
        return [(key, np.flatnonzero(keys == key)) for key in others]
    known = np.flatnonzero(np.isin(keys, np.fromiter(others, np.int64, len(others))))
    order = known[np.argsort(keys[known], kind="stable")]
    return [(int(keys[order[first]]), order[first:last]) for first, last in _runs(keys[order])]


def _runs(ordered: Ints) -> list[tuple[int, int]]:
    """Where each run of equal values begins, and where it ends."""
    if not ordered.size:
        return []
    edges = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return list(zip([0, *edges.tolist()], [*edges.tolist(), len(ordered)], strict=True))

"""Rows that are flagged: the n-th of them is found without listing all."""

from __future__ import annotations

import numpy as np

from .durations import Bools, Ints, Places

_BITS = 64


class Flagged:
    """The rows that have a flag.

    To list so many, as `numpy.flatnonzero` does, takes ten times as long as to count them, 64
    at a time; and few of them are looked at.

    Parameters
    ----------
    flags : ndarray of bool
        Of all rows.
    """

    def __init__(self, flags: Bools) -> None:
        packed = np.packbits(flags, bitorder="little")
        self._words = np.zeros(-(-len(flags) // _BITS), "<u8")
        self._words.view(np.uint8)[: len(packed)] = packed
        self._before = np.zeros(len(self._words) + 1, np.intp)
        np.cumsum(np.bitwise_count(self._words), out=self._before[1:])

    def __len__(self) -> int:
        return int(self._before[-1])

    def places(self, ranks: Places) -> Places:
        """Return the places, among all rows, of those that have so many flagged ones before."""
        word = np.searchsorted(self._before, ranks, side="right") - 1
        bits = np.unpackbits(self._words[word].view(np.uint8), bitorder="little")
        found = bits.reshape(-1, _BITS).cumsum(1) > (ranks - self._before[word])[:, None]
        return np.asarray(word * _BITS + found.argmax(1))

    def ranks(self, places: Places) -> Ints:
        """Return how many flagged rows are before each of these places."""
        word, bit = np.divmod(places, _BITS)
        below = (np.uint64(1) << bit.astype(np.uint64)) - np.uint64(1)
        return np.asarray(self._before[word] + np.bitwise_count(self._words[word] & below))

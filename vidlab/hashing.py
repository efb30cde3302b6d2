"""The hash behind decisions that every process must take alike: 64-bit FNV-1a.

Python's own `hash` of text differs from process to process.
"""

from __future__ import annotations

_OFFSET, _PRIME, _MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1


def fnv1a(data: bytes, state: int = _OFFSET) -> int:
    """Return the 64-bit FNV-1a hash of `data`, continued from `state`.

    The function and its constants are those of http://www.isthe.com/chongo/tech/comp/fnv/.

    >>> f"{fnv1a(b'a'):x}"
    'af63dc4c8601ec8c'
    """
    for byte in data:
        state = (state ^ byte) * _PRIME & _MASK
    return state

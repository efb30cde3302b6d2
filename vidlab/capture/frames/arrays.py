"""The identity of images: a weak side table from an ndarray to its frame.

An ndarray has no room for a `FrameRef`, and no subclass of it survives OpenCV.
So its identity lies beside it, and goes away with it. A view of an array (a
slice, a reshape) is found through the array that owns the memory.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .refs import FrameRef


class _Entry(weakref.ref[Any]):
    """A weak reference to an array that knows where it stands in the table."""

    __slots__ = ("frame_ref", "key")

    key: int
    frame_ref: FrameRef


_table: dict[int, _Entry] = {}


def _gone(entry: weakref.ref[Any]) -> None:
    assert isinstance(entry, _Entry)
    if _table.get(entry.key) is entry:
        del _table[entry.key]


def remember(array: np.ndarray[Any, Any], ref: FrameRef) -> None:
    """Note that this array shows this frame, until it is told otherwise or is gone."""
    entry = _Entry(array, _gone)
    entry.key = key = id(array)
    entry.frame_ref = ref
    _table[key] = entry
    # Views of a view have the owner of the memory as their base, not the view.
    owner = array.base
    if type(owner) is np.ndarray:
        entry = _Entry(owner, _gone)
        entry.key = key = id(owner)
        entry.frame_ref = ref
        _table[key] = entry


def recall(array: Any) -> FrameRef | None:
    """Return the frame that this array, or the array that it is a view of, shows."""
    for _ in range(3):  # the array, its base, and a base of another type's
        entry = _table.get(id(array))
        if entry is not None and entry() is array:
            return entry.frame_ref
        array = getattr(array, "base", None)
        if array is None:
            return None
    return None

"""The tags of label sets: what each thread shows, one set on top of the other.

Entering a set adds a tag and leaving it takes that tag away. Programs do so often, so that
what there is to do is looked up: what a thread shows is an object that knows what it
becomes by each set that was entered from there before. Threads share these objects.
"""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable
from typing import Protocol

from ... import labelsets

LABELS_TAG = "vidlab_labels"

#: So many tags lie on top of each other; what comes then replaces the others.
_MOST_HEIGHT = 32

#: How many ways from what is shown to something else are remembered.
_MOST_REMEMBERED = 1 << 13

#: No label set's number.
_NONE = -1


class Tagger(Protocol):
    """What tags the calling thread: the agent."""

    def add(self, key: str, value: str, /) -> object: ...
    def remove(self, key: str, value: str, /) -> object: ...


class Untagged:
    """In the place of an agent that has ended."""

    def add(self, key: str, value: str, /) -> object:
        return None

    remove = add


class Shown:
    """What a thread shows: a label set, on top of what it showed before.

    Attributes
    ----------
    labels : int
        The label set.
    text : str
        The tag's value; empty if this is no tag of its own.
    below : Shown or None
        What is shown once the tag is taken away.
    under : int
        The label set of that; `_NONE` if this is not taken away by going back to that set.
    depth : int
        How many tags there are.
    height : int
        How many of them are above the last that stays.
    above : dict of int to Shown
        What comes on top, by label set; by `_NONE`, the same as this, but to stay.
    """

    __slots__ = ("above", "below", "depth", "height", "labels", "text", "under")

    def __init__(self, labels: int, below: Shown | None, stays: bool = False) -> None:
        self.labels = labels
        self.below = below
        self.depth: int
        self.above: dict[int, Shown] = {}
        if below is None or stays:
            self.text, self.under, self.height = "", _NONE, 0
            self.depth = 0 if below is None else below.depth
        else:
            self.text, self.under = f"{below.depth}.{labels}", below.labels
            self.depth, self.height = below.depth + 1, below.height + 1


class LabelTags:
    """Tags threads with the label sets that they are in.

    Parameters
    ----------
    tagger : Tagger
    met : callable
        Called as a thread first changes its label set, or is first to tell another agent.
    failed : callable
        Called from within the `except` of a failure.
    """

    def __init__(
        self, tagger: Tagger, met: Callable[[], object], failed: Callable[[], None]
    ) -> None:
        self._add, self._remove = tagger.add, tagger.remove
        self._met, self._failed = met, failed
        self._nothing = Shown(labelsets.EMPTY, None)
        #: Of each thread what it shows; the second of those that have not told it this agent.
        self._shown: dict[int, Shown] = {}
        self._untold: dict[int, Shown] = {}
        self._remembered: list[dict[int, Shown]] = []

    def changed(self, before: int, after: int) -> None:
        """Tag the calling thread with the label set `after`, which it is in now.

        It raises nothing: it is called by the program's own `with` blocks.
        """
        try:
            ident, shown = get_ident(), self._shown
            # From here to where it is replaced, no other thread and no signal handler runs.
            here = shown[ident]
            if here.under == after:
                shown[ident] = here.below  # type: ignore[assignment]
                self._remove(LABELS_TAG, here.text)
            elif here.labels != after:
                shown[ident] = here = here.above[after]
                self._add(LABELS_TAG, here.text)
        except LookupError:
            self._change(after)
        except Exception:
            self._failed()

    def _change(self, after: int) -> None:
        """Do the same from what nobody has come from to this label set yet."""
        try:
            here = self.here()
            if here.height >= _MOST_HEIGHT and here.under != after != here.labels:
                while here.height and here.below is not None:
                    here = here.below
                self.back_to(here)
            if here.under == after:
                self.back_to(here.below or self._nothing)
            elif here.labels != after:
                above = here.above.get(after) or self._above(here, after)
                self._shown[get_ident()] = above
                self._add(LABELS_TAG, above.text)
        except Exception:
            self._failed()

    def here(self) -> Shown:
        """Return what the calling thread shows."""
        ident = get_ident()
        if ident not in self._shown:
            self._met()
            here = self._untold.pop(ident, self._nothing)
            self._shown[ident] = here
            for each in _with_below(here):
                if each.text:
                    self._add(LABELS_TAG, each.text)
        return self._shown[ident]

    def stay(self, labels: int) -> None:
        """Show this label set and, until `back_to`, all that is shown now."""
        self._have_it_stay()
        self.changed(labelsets.EMPTY, labels)
        self._have_it_stay()

    def back_to(self, before: Shown) -> None:
        """Take away what the calling thread shows more than this, which it showed before."""
        here = self.here()
        while here is not before and here.below is not None:
            self._shown[get_ident()] = below = here.below
            if here.text:
                self._remove(LABELS_TAG, here.text)
            here = below

    def forget_thread(self) -> None:
        """Have no tags in the calling thread: it ends."""
        self.back_to(self._nothing)
        del self._shown[get_ident()]

    def renew(self) -> None:
        """Tell a new agent what each thread shows, as it comes by here."""
        for ident, here in list(self._untold.items()):
            self._shown.setdefault(ident, here)
        self._shown, self._untold = {}, self._shown

    def close(self) -> None:
        """Tag nothing more."""
        untagged = Untagged()
        self._add, self._remove = untagged.add, untagged.remove
        self._shown.clear()
        self._untold.clear()

    def _have_it_stay(self) -> None:
        here = self.here()
        self._shown[get_ident()] = here.above.get(_NONE) or self._above(here, _NONE)

    def _above(self, here: Shown, labels: int) -> Shown:
        """Return, and remember, what is shown on top; `_NONE` is for the same, to stay."""
        if len(self._remembered) >= _MOST_REMEMBERED:
            for above in self._remembered:
                above.clear()
            self._remembered.clear()
        self._remembered.append(here.above)
        stays = labels == _NONE
        made = here.above[labels] = Shown(here.labels if stays else labels, here, stays)
        return made


def _with_below(here: Shown | None) -> list[Shown]:
    found = []
    while here is not None:
        found.append(here)
        here = here.below
    return found

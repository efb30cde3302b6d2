"""Thread tags: how a sample of pyroscope's agent comes to say whose it is.

The agent samples from outside of Python and puts on each sample the tags that the thread
has at that moment. Its own way to change them, a key at a time, is not atomic: a sample in
the middle of it has half of a label set, or two values of a key. So a label set goes along
as a single tag, `vidlab_labels`, whose value is the set's number in this process; an open
span as `vidlab_span`. What lies deeper is added and taken away again on top of what is
there: the value begins with a depth, `<depth>.<number>`, and the greatest depth counts.
Entering is so one call of the agent, and leaving is one.

The agent knows threads by `threading.get_ident`, and keeps the tags of a thread that has
ended for the next one of the same number. So does this, and so it takes them away.
"""

from __future__ import annotations

from _thread import get_ident
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from ... import labelsets
from ..frames.refs import FrameRef
from ..frames.spans import Span

LABELS_TAG, SPAN_TAG = "vidlab_labels", "vidlab_span"

#: The agent could tell a thread's name itself. But it looks for it anew at each sample of a
#: thread that `threading` does not know, such as those of vidlab, which doubles its cost.
NAME_TAG, IDENT_TAG = "thread_name", "thread_id"

#: Keys of labels that are never tags of their own: they have a meaning already.
_RESERVED = frozenset({LABELS_TAG, SPAN_TAG, NAME_TAG, IDENT_TAG})

#: So deep tags lie on top of each other; what comes then replaces the others.
_MOST_DEPTH = 32

#: How many spans that have ended are remembered, for samples that are still to come: as
#: many as end in a second or so.
_MOST_ENDED = 1 << 14

#: How many values of tags are kept as text.
_MOST_TEXTS = 1 << 13

Tag = Callable[[str, str], object]


class Tagger(Protocol):
    """What tags the calling thread: the agent."""

    def add(self, key: str, value: str, /) -> object: ...
    def remove(self, key: str, value: str, /) -> object: ...


class ShownSpan(NamedTuple):
    """An open span that the calling thread is tagged with."""

    span: Span
    number: int
    text: str
    depth: int


class OfSpan(NamedTuple):
    """What is known of a span by its number: that in its record, 0 if it has none, and its
    frame and that one's labels, 0 for none."""

    span: int
    frame: int
    labels: int


class ThreadTags:
    """What a thread is tagged with.

    Attributes
    ----------
    labels : list of (int, str)
        Label sets and the tags' values. The last counts.
    spans : list of ShownSpan
        Likewise.
    floor : int
        So many of `labels` were there as the event loop began this step: they stay.
    name : str
        The thread's name; empty if it is not a tag.
    readable : Mapping[str, str | int]
        The tags that show single labels.
    agent : int
        Which agent knows all this: they are counted.
    """

    __slots__ = ("agent", "floor", "labels", "name", "readable", "spans")

    def __init__(self, agent: int) -> None:
        self.agent = agent
        self.labels: list[tuple[int, str]] = []
        self.spans: list[ShownSpan] = []
        self.floor = 0
        self.name = ""
        self.readable: Mapping[str, labelsets.LabelValue] = {}


class Tags:
    """Tags threads with the label sets and spans that they are in.

    Parameters
    ----------
    tagger : Tagger
        The agent.
    readable : bool
        Whether to tag with each label by its key too, for those who read the samples and do
        not know the sets.
    """

    def __init__(self, tagger: Tagger, readable: bool, failed: Callable[[], None]) -> None:
        self._add: Tag = tagger.add
        self._remove: Tag = tagger.remove
        self._readable = readable
        self._failed = failed
        self._agents = 0
        self._threads: dict[int, ThreadTags] = {}
        self._texts: dict[int, tuple[int, str]] = {}
        self._ended: deque[tuple[int, OfSpan]] = deque(maxlen=_MOST_ENDED)

    def of_thread(self) -> ThreadTags:
        """Return what the calling thread is tagged with."""
        ident = get_ident()
        known = self._threads.get(ident)
        if known is None:
            known = self._threads.setdefault(ident, ThreadTags(self._agents))
        if known.agent != self._agents:
            self._tell_again(known)
        return known

    def changed(self, before: int, after: int) -> None:
        """Tag the calling thread with the label set `after`, which it is in now.

        It raises nothing: it is called by the program's own `with` blocks.
        """
        try:
            mine = self._threads.get(get_ident())
            if mine is None or mine.agent != self._agents:
                mine = self.of_thread()
            shown = mine.labels
            count = len(shown)
            if count > mine.floor and (shown[-2][0] if count > 1 else 0) == after:
                self._remove(LABELS_TAG, shown.pop()[1])
            elif (shown[-1][0] if count else 0) != after:
                if count - mine.floor >= _MOST_DEPTH:
                    self.cut(mine, mine.floor)
                    count = mine.floor
                entry = self._texts.get(count << 32 | after) or self._entry(count, after)
                shown.append(entry)
                self._add(LABELS_TAG, entry[1])
            if self._readable:
                self._show_readable(mine)
        except Exception:
            self._failed()

    def cut(self, mine: ThreadTags, labels: int, spans: int | None = None) -> None:
        """Take tags of the calling thread away, until so many are left."""
        while len(mine.labels) > labels:
            self._remove(LABELS_TAG, mine.labels.pop()[1])
        if spans is not None:
            while len(mine.spans) > spans:
                self._remove(SPAN_TAG, mine.spans.pop().text)
        if self._readable:
            self._show_readable(mine)

    def name_thread(self, name: str) -> None:
        """Tag the calling thread with its name."""
        mine = self.of_thread()
        if mine.name:
            self._remove(NAME_TAG, mine.name)
        mine.name = name
        self._add(NAME_TAG, name)

    def forget_thread(self) -> None:
        """Have no tags in the calling thread: it ends."""
        mine = self._threads.pop(get_ident(), None)
        if mine is not None:
            self.cut(mine, 0, 0)
            if mine.name:
                self._remove(NAME_TAG, mine.name)

    def renew(self) -> None:
        """Tell a new agent, which knows no tags, those of each thread as it comes by here."""
        self._agents += 1

    def _tell_again(self, mine: ThreadTags) -> None:
        mine.agent = self._agents
        if mine.name:
            self._add(NAME_TAG, mine.name)
        for _, text in mine.labels:
            self._add(LABELS_TAG, text)
        for shown in mine.spans:
            self._add(SPAN_TAG, shown.text)
        for key, value in mine.readable.items():
            if key not in _RESERVED:
                self._add(key, str(value))

    def close(self) -> None:
        """Tag nothing more. What is tagged goes with the agent."""
        self._add = self._remove = _nothing
        self._threads.clear()

    def _entry(self, depth: int, labels: int) -> tuple[int, str]:
        if len(self._texts) >= _MOST_TEXTS:
            self._texts.clear()
        entry = self._texts[depth << 32 | labels] = labels, f"{depth}.{labels}"
        return entry

    def _show_readable(self, mine: ThreadTags) -> None:
        """Change the tags of single labels: only those that differ."""
        before = mine.readable
        after = labelsets.get(mine.labels[-1][0] if mine.labels else labelsets.EMPTY).values
        if before is after:
            return
        mine.readable = after
        for key, value in before.items():
            if after.get(key) != value and key not in _RESERVED:
                self._remove(key, str(value))
        for key, value in after.items():
            if before.get(key) != value and key not in _RESERVED:
                self._add(key, str(value))

    # --- spans ------------------------------------------------------------------------

    def opened(self, span: Span) -> None:
        """Tag the calling thread with a span that it is in now."""
        mine = self.of_thread()
        shown = mine.spans
        while shown and shown[-1].span.t1:  # another thread has ended it
            self._remove(SPAN_TAG, shown.pop().text)
        depth = shown[-1].depth + 1 if shown else 0
        number = span.state.buffer.span + span.sequence
        text = f"{depth}.{number}"
        shown.append(ShownSpan(span, number, text, depth))
        self._add(SPAN_TAG, text)

    def ended(self, span: Span, written: bool) -> None:
        """Take the tag of a span away, which ended in the calling thread, if it had one."""
        shown = self.of_thread().spans
        for place in range(len(shown) - 1, -1, -1):
            entry = shown[place]
            if entry.span is span:
                del shown[place]
                self._remove(SPAN_TAG, entry.text)
                self._ended.append((entry.number, _of_span(span.ref, entry.number, written)))
                return
        here = span.state.recorder.local.state
        if here is span.state:
            return
        # It began in another thread, which lets go of its tag as it next opens one. Its
        # record has a number of this thread's.
        for thread in list(self._threads.values()):
            for entry in list(thread.spans):
                if entry.span is span:
                    number = here.buffer.span + span.sequence
                    self._ended.append((entry.number, _of_span(span.ref, number, written)))

    def spans(self) -> dict[int, OfSpan]:
        """Return what is known of the spans that samples may name: open ones, and ended ones."""
        known = dict(self._ended.copy())
        for thread in list(self._threads.values()):
            for entry in list(thread.spans):
                if entry.number not in known:
                    known[entry.number] = _of_span(entry.span.ref, entry.number, True)
        return known


def _nothing(key: str, value: str, /) -> None:
    """Do nothing, in the place of the agent's functions."""


def _of_span(ref: FrameRef | None, number: int, written: bool) -> OfSpan:
    if ref is None:
        return OfSpan(number if written else 0, 0, labelsets.EMPTY)
    if not ref.sampled:
        return OfSpan(0, 0, ref.labels)
    return OfSpan(number if written else 0, ref.frame, ref.labels)


def deepest(values: list[str]) -> int:
    """Return the number of the deepest of these values of a tag; 0 if there is none.

    >>> deepest(["0.12", "2.7", "1.0"])
    7
    """
    best, found = -1, 0
    for value in values:
        depth, point, number = value.partition(".")
        if not (point and depth.isdecimal() and number.isdecimal() and len(value) < 40):
            continue
        if int(depth) > best and int(number) < 1 << 64:
            best, found = int(depth), int(number)
    return found

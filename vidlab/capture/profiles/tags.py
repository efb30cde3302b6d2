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
from typing import NamedTuple

from ... import labelsets
from ..frames.refs import FrameRef
from ..frames.spans import Span
from .labeltags import LABELS_TAG as LABELS_TAG
from .labeltags import LabelTags, Shown, Tagger, Untagged

SPAN_TAG = "vidlab_span"

#: The agent could tell a thread's name itself. But it looks for it anew at each sample of a
#: thread that `threading` does not know, such as those of vidlab, which doubles its cost.
NAME_TAG, IDENT_TAG = "thread_name", "thread_id"

#: Keys of labels that are never tags of their own: they have a meaning already.
_RESERVED = frozenset({LABELS_TAG, SPAN_TAG, NAME_TAG, IDENT_TAG})

#: How many spans that have ended are remembered, for samples that are still to come: as
#: many as end in a second or so.
_MOST_ENDED = 1 << 14


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
    """What a thread is tagged with, besides its label set.

    Attributes
    ----------
    spans : list of ShownSpan
        The last counts.
    name : str
        The thread's name; empty if it is not a tag.
    readable : Mapping[str, str | int]
        The tags that show single labels.
    agent : int
        Which agent knows all this: they are counted.
    """

    __slots__ = ("agent", "name", "readable", "spans")

    def __init__(self, agent: int) -> None:
        self.agent = agent
        self.spans: list[ShownSpan] = []
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
        self._add, self._remove = tagger.add, tagger.remove
        self._failed = failed
        self._labels = LabelTags(tagger, self.of_thread, failed)
        self._readable = readable
        #: To be called with the ids of the label sets before and now, by the thread that has
        #: entered or left one. It raises nothing.
        self.changed = self._changed if readable else self._labels.changed
        self._agents = 0
        self._threads: dict[int, ThreadTags] = {}
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

    def _changed(self, before: int, after: int) -> None:
        self._labels.changed(before, after)
        try:
            self._show_readable(self.of_thread(), after)
        except Exception:
            self._failed()

    def begin_step(self, labels: int) -> tuple[Shown, int]:
        """Tag the calling thread with what an event loop's step is in; return what `end_step`
        needs. What it is tagged with until now stays beneath."""
        before = self._labels.here()
        self._labels.stay(labels)
        mine = self.of_thread()
        if self._readable:
            self._show_readable(mine, labels)
        return before, len(mine.spans)

    def end_step(self, before: tuple[Shown, int]) -> None:
        """Tag the calling thread as it was tagged before the step."""
        shown, spans = before
        self._labels.back_to(shown)
        mine = self.of_thread()
        self._end_spans(mine, spans)
        if self._readable:
            self._show_readable(mine, shown.labels)

    def _end_spans(self, mine: ThreadTags, left: int) -> None:
        while len(mine.spans) > left:
            self._remove(SPAN_TAG, mine.spans.pop().text)

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
            self._labels.forget_thread()
            self._end_spans(mine, 0)
            self._show_readable(mine, labelsets.EMPTY)
            if mine.name:
                self._remove(NAME_TAG, mine.name)

    def renew(self) -> None:
        """Tell a new agent, which knows no tags, those of each thread as it comes by here."""
        self._agents += 1
        self._labels.renew()

    def _tell_again(self, mine: ThreadTags) -> None:
        mine.agent = self._agents
        if mine.name:
            self._add(NAME_TAG, mine.name)
        for shown in mine.spans:
            self._add(SPAN_TAG, shown.text)
        for key, value in mine.readable.items():
            if key not in _RESERVED:
                self._add(key, str(value))

    def close(self) -> None:
        """Tag nothing more. What is tagged goes with the agent."""
        untagged = Untagged()
        self._add, self._remove = untagged.add, untagged.remove
        self._labels.close()
        self._threads.clear()

    def _show_readable(self, mine: ThreadTags, labels: int) -> None:
        """Change the tags of single labels: only those that differ."""
        before = mine.readable
        after = labelsets.get(labels).values
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

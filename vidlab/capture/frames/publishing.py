"""Publishing: the words that say which span each thread is in, written while somebody listens.

While nobody does, spans know nothing of it. As soon as somebody listens (`spanwords`), the
methods by which spans open and end are replaced by these, on the classes themselves: spans
that a program keeps and enters often are reached too. Spans that were open by then are not
published, as their `with` blocks end by the methods that they began with.

A thread that runs an event loop publishes only what cannot be interrupted by another task:
spans that a plain function opens. In a span of a coroutine or generator, which may pause
with it open, the word says nothing.
"""

from __future__ import annotations

import inspect
import struct
import sys
from asyncio.events import _get_running_loop as running_loop
from types import FrameType
from typing import TYPE_CHECKING

from ...clock import now_ns
from ...labelsets import current as labels_here
from ...schema import UNKNOWN
from ..patching import Patches
from ..spanwords import words
from .spans import Span, TaskSpan, inherited, still_open
from .threadstate import ThreadState, all_states

if TYPE_CHECKING:
    from .recorder import SpanRecorder

#: Since when words are written, 0 while none are: what was opened earlier is left out.
since_ns = 0

_pack = struct.Struct("4Q").pack_into

#: The code of a coroutine or generator.
_MAY_PAUSE = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

#: Functions that open a span on behalf of whoever calls them: of ours, and of `contextlib`.
_ON_BEHALF = frozenset({"__enter__", "_enter", "_enter_task", "enter_context"})

_get_inherited = inherited.get
_get_labels = labels_here.get

_plain_exit = Span.__exit__
_plain_end = Span._end
_plain_drop = Span.drop


class _Publishing:
    """What one recording publishes."""

    def __init__(self, patches: Patches, recorder: SpanRecorder) -> None:
        self._patches = patches
        self._recorder = recorder

    def follow(self) -> None:
        """Begin as somebody listens, and end as nobody does any more."""
        if words.listening == bool(since_ns):
            return
        for state in all_states():
            if state.recorder is self._recorder:
                state.word[0] = 0
            else:  # a recording of before: what it still ends is written nowhere
                state.let_go_of_word()
        patches = self._patches
        for owner, name, publishing in _REPLACED:
            method = publishing if words.listening else patches.original(owner, name)
            patches.set(owner, name, method)
        patches.set(sys.modules[__name__], "since_ns", now_ns() if words.listening else 0)


#: What the recording that runs publishes.
_current: _Publishing | None = None


def activate(patches: Patches, recorder: SpanRecorder) -> None:
    """Publish this recording's spans, whenever somebody listens, until `patches` are restored."""
    publishing = _Publishing(patches, recorder)
    patches.set(sys.modules[__name__], "_current", publishing)
    publishing.follow()


def close(recorder: SpanRecorder) -> None:
    """Say of no thread that it is in a span of this recording: it is over."""
    for state in all_states():
        if state.recorder is recorder:
            state.word[0] = 0
            state.let_go_of_word()


def _follow() -> None:
    if _current is not None:
        _current.follow()


words.watch(_follow)


# --- the word of a thread -------------------------------------------------------------


def show(state: ThreadState) -> None:
    """Let the calling thread's word name the innermost span that is open here."""
    if not since_ns:
        return
    try:
        if state.loops and running_loop() is not None:
            span = still_open(_get_inherited())
            if span not in state.firm:
                span = None
        else:
            span = still_open(state.top)
        if span is None or span.t1 or span.t0 < since_ns:
            state.word[0] = 0
        else:
            _write(state, span)
    except Exception:
        state.recorder.failed()


def _write(state: ThreadState, span: Span) -> None:
    """Write the word: its first number first and its last one last."""
    ref = span.ref
    number = span.state.buffer.span + span.sequence
    if ref is None:
        _pack(state.word, 0, number, 0, span.labels, number)
    elif ref.sampled:
        _pack(state.word, 0, number, ref.frame, span.labels, number)
    else:
        state.word[0] = 0


def _take_labels(state: ThreadState, span: Span) -> None:
    """Note the labels that hold here as those of the span: as it ends, others may."""
    labels = _get_labels()
    ref = span.ref
    if ref is not None and labels != ref.labels:
        labels = state.merge(ref.labels, labels) if labels else ref.labels
    span.labels = labels


def _may_pause(frame: FrameType | None) -> bool:
    """Whether the code that opens a span here may pause before it ends it."""
    while frame is not None and frame.f_code.co_name in _ON_BEHALF:
        frame = frame.f_back
    return frame is None or bool(frame.f_code.co_flags & _MAY_PAUSE)


# --- spans that publish: in the place of the methods of `spans` -----------------------


def _enter(span: Span) -> Span:
    if span.t1 == 0:
        return span
    state = span.state
    span.sequence = sequence = state.sequence = state.sequence + 1
    span.outer = state.top
    state.top = span
    span.t1 = 0
    try:  # `_take_labels` and `_write`, without the calls
        ref = span.ref
        labels = _get_labels()
        number = state.buffer.span + sequence
        if ref is None:
            span.labels = labels
            _pack(state.word, 0, number, 0, labels, number)
        elif ref.sampled:
            if labels != ref.labels:
                labels = state.merge(ref.labels, labels) if labels else ref.labels
            span.labels = labels
            _pack(state.word, 0, number, ref.frame, labels, number)
        else:
            span.labels = labels
            state.word[0] = 0
    except Exception:
        state.recorder.failed()
    span.t0 = now_ns()
    return span


def _exit(span: Span, error: type[BaseException] | None, value: object, where: object) -> None:
    _plain_exit(span, error, value, where)
    state = span.state
    if state.top is None:  # else `_end` has shown what is around it
        state.word[0] = 0


def _enter_task(span: TaskSpan) -> Span:
    if span.t1 == 0:
        return span
    state = span.state
    span.sequence = state.sequence = state.sequence + 1
    firm = True
    if state.loops and running_loop() is not None:
        span.outer = still_open(_get_inherited()) or state.top
        inherited.set(span)
        firm = not _may_pause(sys._getframe(1))
        if firm:
            state.firm.add(span)
    else:
        span.outer = state.top
        state.top = span
    try:
        _take_labels(state, span)
        if firm:
            _write(state, span)
        else:
            state.word[0] = 0
    except Exception:
        state.recorder.failed()
    span.t1 = 0
    span.t0 = now_ns()
    return span


def _end(
    span: Span,
    t1_ns: int | None,
    error: type[BaseException] | None,
    state: ThreadState,
    cpu_ns: int = UNKNOWN,
    runqueue_ns: int = UNKNOWN,
) -> None:
    try:
        _plain_end(span, t1_ns, error, state, cpu_ns, runqueue_ns)
    finally:
        _ended(span, state)


def _drop(span: Span) -> None:
    _plain_drop(span)
    _ended(span, span.state.recorder.local.state)


def _ended(span: Span, here: ThreadState) -> None:
    """Show what the thread is in now that it is not in this span, which ended in thread `here`."""
    own = span.state
    if own.loops:
        own.firm.discard(span)
        if own is here:
            show(own)
        else:  # what its loop is at cannot be seen from here
            own.word[0] = 0
        return
    outer = own.top
    if outer is None:
        own.word[0] = 0
    elif outer.t1 or outer.t0 < since_ns or not since_ns:
        show(own)
    else:  # the same, without a search
        try:
            _write(own, outer)
        except Exception:
            own.recorder.failed()


def _began(span: Span, t0_ns: int) -> None:
    span.t0 = t0_ns
    if span.ref is not None:
        state = span.state
        state.word[0] = 0  # the number stays the same: nobody may see half of the rest
        _take_labels(state, span)
        show(state)


_REPLACED = (
    (Span, "__enter__", _enter),
    (Span, "__exit__", _exit),
    (Span, "_end", _end),
    (Span, "drop", _drop),
    (Span, "began", _began),
    (TaskSpan, "__enter__", _enter_task),
)

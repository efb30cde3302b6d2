"""Following: the tags of each thread change as its label set, its spans and its tasks do.

Label sets tell of themselves (`labelsets.entered`), and so does what hands them on to
threads and pools (`propagation`). Spans whose stage reads clocks, the long ones, are
followed by their methods, replaced on the class while this goes on. Tags are of threads and
not of tasks: so each step of an event loop, `asyncio.Handle._run`, is run under the tags of
its own context.

A loop that is not written in Python, such as uvloop's, does not tell of its steps: in its
thread, label sets and coroutines' spans are not followed. Rather no label than a wrong one.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from asyncio.events import _get_running_loop as running_loop
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

from ... import labelsets
from ...schema import UNKNOWN
from ..frames.spans import _MAY_PAUSE, ClockedSpan, Span, TaskSpan, inherited, still_open
from ..patching import Patches
from .tags import Tags

#: Event loops whose steps cannot be seen from Python.
_FOREIGN_LOOPS = ("uvloop", "rloop")


def follow(patches: Patches, tags: Tags, failed: Callable[[], None]) -> None:
    """Let the tags follow until `patches` are restored.

    Parameters
    ----------
    patches : Patches
    tags : Tags
    failed : callable
        Called from within the `except` of a failure: the program goes on.
    """

    def changed_unless_foreign(before: int, after: int) -> None:
        loop = running_loop()
        foreign = loop is not None and not isinstance(loop, asyncio.BaseEventLoop)
        tags.changed(before, labelsets.EMPTY if foreign else after)

    def expect_foreign(_: ModuleType) -> None:
        patches.set(labelsets, "entered", changed_unless_foreign)

    patches.set(labelsets, "entered", tags.changed)
    for name in _FOREIGN_LOOPS:
        patches.when_imported(name, expect_foreign)
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    here = names.get(threading.get_ident())
    if here is not None:  # else it is a thread of vidlab's own
        tags.name_thread(here)
        tags.changed(labelsets.EMPTY, labelsets.current.get())
    _follow_threads(patches, tags, failed)
    _follow_spans(patches, tags, failed)
    _follow_steps(patches, tags, failed)


def _follow_threads(patches: Patches, tags: Tags, failed: Callable[[], None]) -> None:
    bootstrap = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def followed(thread: threading.Thread) -> None:
        try:
            tags.name_thread(thread.name)
        except Exception:
            failed()
        try:
            bootstrap(thread)
        finally:
            try:
                tags.forget_thread()
            except Exception:
                failed()

    patches.set(threading.Thread, "_bootstrap_inner", followed)


def _follow_spans(patches: Patches, tags: Tags, failed: Callable[[], None]) -> None:
    # In the place of the methods of the class itself: the names count (see `publishing`).
    enter, leave = ClockedSpan.__enter__, ClockedSpan.__exit__

    def _enter(span: ClockedSpan) -> Span:
        if span.t1 == 0:
            return span
        if span.state.loops and sys._getframe(1).f_code.co_flags & _MAY_PAUSE and running_loop():
            span.cpu0_ns = span.runqueue0_ns = UNKNOWN  # as it does itself, seen from there
            TaskSpan.__enter__(span)
        else:
            enter(span)
        try:
            tags.opened(span)
        except Exception:
            failed()
        return span

    def _exit(
        span: ClockedSpan,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        was_open = span.t1 == 0
        leave(span, kind, error, traceback)
        if was_open:
            try:
                tags.ended(span, written=True)
            except Exception:
                failed()

    def _drop(span: ClockedSpan) -> None:
        was_open = span.t1 == 0
        Span.drop(span)  # which `publishing` may have replaced since
        if was_open:
            try:
                tags.ended(span, written=False)
            except Exception:
                failed()

    patches.set(ClockedSpan, "__enter__", _enter)
    patches.set(ClockedSpan, "__exit__", _exit)
    patches.set(ClockedSpan, "drop", _drop)


def _follow_steps(patches: Patches, tags: Tags, failed: Callable[[], None]) -> None:
    run = asyncio.Handle._run
    labels_here, span_here, empty = labelsets.current, inherited, labelsets.EMPTY

    def followed(handle: Any) -> None:
        try:
            before = tags.begin_step(handle._context.get(labels_here, empty))
            span = handle._context.get(span_here)
            if span is not None:
                _show_spans(tags, span)
        except Exception:
            failed()
            run(handle)
            return
        try:
            run(handle)
        finally:
            try:
                tags.end_step(before)
            except Exception:
                failed()

    patches.set(asyncio.Handle, "_run", followed)


def _show_spans(tags: Tags, span: Span | None) -> None:
    """Tag with the open spans of a task, from the outermost inwards."""
    chain = []
    span = still_open(span)
    while span is not None:
        if isinstance(span, ClockedSpan):
            chain.append(span)
        span = still_open(span.outer)
    for each in reversed(chain):
        tags.opened(each)

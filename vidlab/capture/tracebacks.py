"""Tracebacks of a recorded program as they are without vidlab: without vidlab's own lines.

Methods of PyAV and OpenCV are patched while recording, so an error that comes
out of one has passed through a wrapper. What an uncaught error prints must not
change, so the wrappers' entries are taken out before it is printed.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

_OURS = str(Path(__file__).parents[1]) + os.sep


def hide() -> Callable[[], None]:
    """Take vidlab's entries out of the tracebacks of uncaught errors; return what ends that.

    A program's own `sys.excepthook` or `threading.excepthook`, set later, replaces this as
    it would replace Python's.
    """
    before, before_in_threads = sys.excepthook, threading.excepthook

    def excepthook(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        before(kind, error, cleaned(error).__traceback__)

    def in_threads(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            rest = (cleaned(args.exc_value), args.exc_value.__traceback__, args.thread)
            args = threading.ExceptHookArgs((args.exc_type, *rest))
        before_in_threads(args)

    sys.excepthook, threading.excepthook = excepthook, in_threads

    def stop() -> None:
        if sys.excepthook is excepthook:
            sys.excepthook = before
        if threading.excepthook is in_threads:
            threading.excepthook = before_in_threads

    return stop


def cleaned(error: BaseException) -> BaseException:
    """Take vidlab's entries out of this error's traceback, and of those behind it, in place."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        next_error = waiting.pop()
        if next_error is None or id(next_error) in seen:
            continue
        seen.add(id(next_error))
        next_error.__traceback__ = _without_ours(next_error.__traceback__)
        waiting += [next_error.__cause__, next_error.__context__]
        if isinstance(next_error, BaseExceptionGroup):
            waiting += next_error.exceptions
    return error


def _without_ours(traceback: TracebackType | None) -> TracebackType | None:
    kept: list[TracebackType] = []
    entry = traceback
    while entry is not None:
        if not entry.tb_frame.f_code.co_filename.startswith(_OURS):
            kept.append(entry)
        entry = entry.tb_next
    for this, following in zip(kept, [*kept[1:], None], strict=False):
        this.tb_next = following
    # An error of vidlab's alone (wrong use of it) keeps what there is to see.
    return kept[0] if kept else traceback

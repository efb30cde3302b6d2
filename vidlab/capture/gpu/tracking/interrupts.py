"""What a signal handler raises in the middle of us is the program's: it must reach it."""

from __future__ import annotations

import _thread
import ctypes
import signal
import threading
from collections.abc import Iterator
from functools import partial
from time import sleep
from types import CodeType


def is_anothers(error: BaseException) -> bool:
    """Whether a signal handler of the program's has raised it, which came in between.

    What CuPy or the standard library raises as we call it is a failure of ours.
    """
    if not isinstance(error, Exception):
        return True
    handlers = set(_handlers())
    where = error.__traceback__
    while where is not None:
        if where.tb_frame.f_code in handlers:
            return True
        where = where.tb_next
    return False


def _handlers() -> Iterator[CodeType]:
    """The code of the program's signal handlers, as far as it is Python."""
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if not callable(handler):
            continue
        while isinstance(handler, partial):
            handler = handler.func
        for function in (handler, vars(type(handler)).get("__call__")):
            code = getattr(function, "__code__", None)  # a method has its function's
            if isinstance(code, CodeType):
                yield code


def raise_later(error: BaseException) -> None:
    """Have the main thread, in which signal handlers run, raise the error's type soon.

    Not at once: where we are it would be ignored.
    """
    _thread.start_new_thread(_raise, (type(error),))


def _raise(kind: type[BaseException]) -> None:
    sleep(0.001)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(threading.main_thread().ident or 0), ctypes.py_object(kind)
    )

"""What a signal handler raises in the middle of us is the program's: it must reach it."""

from __future__ import annotations

import _thread
import ctypes
import threading
from time import sleep

from .stacks import OURS


def is_anothers(error: BaseException) -> bool:
    """Whether code that is not ours has raised it: a signal handler that came in between."""
    if not isinstance(error, Exception):
        return True
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    return where is not None and not where.tb_frame.f_code.co_filename.startswith(OURS)


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

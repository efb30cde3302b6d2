"""The variables of a frame, by the addresses of what they hold, keeping nothing alive.

Up to Python 3.12 `frame.f_locals` of a function writes all its variables into a dict that
stays in the frame until the function returns: who asks a frame which arrays it holds would
hold them himself. So the variables are read in each version's own way:

- 3.13 and later: `frame.f_locals` is a view of the variables. Nothing is copied.
- 3.12: `PyFrame_GetVar`, a public C function, gives one variable at a time.
- 3.11: there is neither. The frame's array of variables is read as plain numbers, by the
  layout of that version's frames, which no 3.11.x changes. Before it is believed it is tried
  on a frame whose variables are known.

Where none of these works (another implementation, a debug build), a frame shows no variables,
and `readable()` says so.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import CodeType, FrameType
from typing import Any, NamedTuple

#: `co_flags`: the frame has fast variables. A module's or a class's body has a namespace.
_OPTIMIZED = 0x1


class Variable(NamedTuple):
    """A variable of a frame: its name, and the address of what it holds."""

    name: str
    address: int


#: What a frame's own copy of its variables is called: somebody has called `locals()` in it.
SNAPSHOT = "locals()"


def of(frames: Sequence[FrameType]) -> list[list[Variable]]:
    """Return the variables of each frame. A variable of a closure may show as its cell.

    A number is as good as the object's life: it is to be compared with the `id` of objects
    that are alive, and never turned into an object.
    """
    read = _reader()
    if read is None:
        return [[] for _ in frames]
    with _no_collection():
        return [
            read(frame, frame.f_code)
            if frame.f_code.co_flags & _OPTIMIZED
            else [Variable(SNAPSHOT, id(frame.f_locals))]  # the namespace itself, not a copy
            for frame in frames
        ]


def readable() -> bool:
    """Whether this Python shows the variables of running functions."""
    return _reader() is not None


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the collector from running other code in the middle of a reading (some 100 µs)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _names(code: CodeType) -> tuple[str, ...]:
    """Return the names of a code's variables in the order of its frames' array.

    An argument that a closure uses is a cell in the place of the argument.
    """
    cells = tuple(name for name in code.co_cellvars if name not in code.co_varnames)
    return code.co_varnames + cells + code.co_freevars


def _read_3_13(frame: FrameType, code: CodeType) -> list[Variable]:
    return [Variable(name, id(value)) for name, value in frame.f_locals.items()]


def _read_3_12(frame: FrameType, code: CodeType) -> list[Variable]:
    variables = []
    for name in _names(code):
        try:
            variables.append(Variable(name, id(_get_var()(frame, name))))
        except NameError:  # has no value (yet)
            continue
    return variables


@cache
def _get_var() -> Any:
    prototype = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object, ctypes.py_object)
    return prototype(("PyFrame_GetVar", ctypes.pythonapi))


class _Interpreter311(ctypes.Structure):
    """What the interpreter of 3.11 knows of a call (`_PyInterpreterFrame`)."""

    _fields_ = [
        ("f_func", ctypes.c_void_p),
        ("f_globals", ctypes.c_void_p),
        ("f_builtins", ctypes.c_void_p),
        ("f_locals", ctypes.c_void_p),
        ("f_code", ctypes.c_void_p),
        ("frame_obj", ctypes.c_void_p),
        ("previous", ctypes.c_void_p),
        ("prev_instr", ctypes.c_void_p),
        ("stacktop", ctypes.c_int),
        ("is_entry", ctypes.c_bool),
        ("owner", ctypes.c_char),
        # As long as the code has variables: only so much of it is read.
        ("localsplus", ctypes.c_void_p * 65536),
    ]


class _Frame311(ctypes.Structure):
    """A frame object of 3.11, as far as it is needed."""

    _fields_ = [
        ("ob_refcnt", ctypes.c_ssize_t),
        ("ob_type", ctypes.c_void_p),
        ("f_back", ctypes.c_void_p),
        ("f_frame", ctypes.POINTER(_Interpreter311)),
    ]


def _read_3_11(frame: FrameType, code: CodeType) -> list[Variable]:
    names = _names(code)
    count = len(names)
    view = _Frame311.from_address(id(frame))
    # Another thread's call may end at any switch of threads, and its memory go away. Within
    # this one expression there is none: no call, no jump, and the collector is off.
    addresses = view.f_frame.contents.localsplus[:count]
    variables = [Variable(n, a) for n, a in zip(names, addresses, strict=True) if a]
    snapshot = view.f_frame.contents.f_locals
    if snapshot:
        variables.append(Variable(SNAPSHOT, snapshot))
    return variables


@cache
def _reader() -> Callable[[FrameType, CodeType], list[Variable]] | None:
    if sys.implementation.name != "cpython":
        return None
    if sys.version_info >= (3, 13):
        return _read_3_13
    if sys.version_info >= (3, 12):
        return _read_3_12
    # A debug build's objects begin with other fields.
    if hasattr(sys, "gettotalrefcount") or hasattr(sys, "getobjects"):
        return None
    return _read_3_11 if _reads_right(_read_3_11) else None


def _reads_right(read: Callable[[FrameType, CodeType], list[Variable]]) -> bool:
    """Try a reader on a frame whose variables are known."""
    first, unset, last = object(), None, object()
    del unset
    frame = sys._getframe()
    with _no_collection():
        found = dict(read(frame, frame.f_code))
    return (
        found.get("first") == id(first)
        and found.get("last") == id(last)
        and found.get("frame") == id(frame)
        and "unset" not in found
    )

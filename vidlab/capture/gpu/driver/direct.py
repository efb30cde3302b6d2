"""Calls of the CUDA runtime that a program makes itself, through `cupy.cuda.runtime`.

These are Python functions of CuPy's runtime module. They call its C functions directly, not
through an import slot, so the trampolines don't see them: while recording, each is replaced
by one that tells the same handlers and calls it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from operator import index
from types import ModuleType
from typing import Any, NamedTuple

from ....clock import now_ns
from ...patching import Patches
from .hazards import (
    ALL_DONE,
    EVENT_DONE,
    EVENT_GONE,
    FREE,
    RECORD,
    STREAM_DONE,
    STREAM_GONE,
    USE,
    WAIT,
)

Function = Callable[..., Any]


class Tell(NamedTuple):
    """Who is told: the handlers that the trampolines call, and the log of steps."""

    allocating: Function
    allocated: Function
    freeing: Function
    freed: Function
    native: Any


#: The names of the functions' parameters, as CuPy has them.
_PARAMETERS = {
    "malloc": "size",
    "mallocManaged": "size flags",
    "mallocAsync": "size stream",
    "mallocFromPoolAsync": "size pool stream",
    "hostAlloc": "size flags",
    "free": "ptr",
    "freeHost": "ptr",
    "freeAsync": "ptr stream",
    "memcpy": "dst src size kind",
    "memcpyAsync": "dst src size kind stream",
    "memcpyPeerAsync": "dst dstDevice src srcDevice size stream",
    "memcpy2DAsync": "dst dpitch src spitch width height kind stream",
    "memset": "ptr value size",
    "memsetAsync": "ptr value size stream",
    "eventRecord": "event stream",
    "eventSynchronize": "event",
    "eventQuery": "event",
    "eventDestroy": "event",
    "streamWaitEvent": "stream event flags",
    "streamSynchronize": "stream",
    "streamQuery": "stream",
    "streamDestroy": "stream",
    "deviceSynchronize": "",
}

#: What marks a function of ours: the module that it is in.
_MARK = "vidlab_replaced_in"

_TAKES = ("malloc", "mallocManaged", "mallocAsync", "mallocFromPoolAsync", "hostAlloc")
_GIVES = {"free": ALL_DONE, "freeHost": ALL_DONE, "freeAsync": FREE}

#: What work uses: of each piece of memory, which parameters say where it is and its bytes
#: (their product).
_USES = {
    "memcpyAsync": (("dst", "size"), ("src", "size")),
    "memcpyPeerAsync": (("dst", "size"), ("src", "size")),
    "memcpy2DAsync": (("dst", "dpitch", "height"), ("src", "spitch", "height")),
    "memset": (("ptr", "size"),),
    "memsetAsync": (("ptr", "size"),),
}

#: What orders work, once the call has succeeded.
_ORDERS = {
    "memcpy": STREAM_DONE,
    "eventRecord": RECORD,
    "eventSynchronize": EVENT_DONE,
    "eventDestroy": EVENT_GONE,
    "streamWaitEvent": WAIT,
    "streamSynchronize": STREAM_DONE,
    "streamDestroy": STREAM_GONE,
    "deviceSynchronize": ALL_DONE,
}

#: The same, where the call's result is 0.
_QUERIES = {"eventQuery": EVENT_DONE, "streamQuery": STREAM_DONE}


def replace(module: ModuleType, patches: Patches, tell: Tell) -> None:
    """Replace the module's functions by ones that tell, until `patches` restores them."""
    for name, parameters in _PARAMETERS.items():
        original = vars(module).get(name)
        if original is None:
            continue
        replaced_in = getattr(original, "__dict__", {}).get(_MARK)
        if replaced_in == module.__name__:
            continue
        if replaced_in is not None:
            # A copy, made while recording. What it is to be afterwards is the original.
            original = original.__wrapped__
            setattr(module, name, original)
        call = functools.wraps(original)(_telling(name, parameters.split(), original, tell))
        call.__dict__[_MARK] = module.__name__
        patches.set(module, name, call)


def _telling(name: str, parameters: list[str], original: Function, tell: Tell) -> Function:
    if name in _TAKES:
        told = _taking(name, parameters, original, tell)
    elif name in _GIVES:
        told = _giving(name, parameters, original, tell)
    else:
        told = _working(name, parameters, original, tell)
    count = len(parameters)

    def call(*args: Any, **kwargs: Any) -> Any:
        values = args
        if kwargs or len(args) != count:
            given = {"flags": 0, **dict(zip(parameters, args, strict=False)), **kwargs}
            values = tuple(given[key] for key in parameters if key in given)
            if len(args) > count or len(values) < count:
                return original(*args, **kwargs)  # let CuPy say what is wrong
        for value in values:
            if not hasattr(value, "__index__"):
                return original(*args, **kwargs)
        return told(values, args, kwargs)

    return call


def _taking(name: str, parameters: list[str], original: Function, tell: Tell) -> Function:
    stream_at = parameters.index("stream") if "stream" in parameters else None

    def call(values: tuple[Any, ...], args: Any, kwargs: Any) -> Any:
        stream = -1 if stream_at is None else index(values[stream_at])
        token = tell.allocating(name, index(values[0]), stream)
        t0 = now_ns()
        try:
            address = original(*args, **kwargs)
        except BaseException as error:
            if token is not None:
                tell.allocated(token, 0, error, t0, now_ns())
            raise
        if token is not None:
            tell.allocated(token, address, None, t0, now_ns())
        return address

    return call


def _giving(name: str, parameters: list[str], original: Function, tell: Tell) -> Function:
    step = _GIVES[name]

    def call(values: tuple[Any, ...], args: Any, kwargs: Any) -> Any:
        address, stream = index(values[0]), index(values[1]) if len(values) > 1 else -1
        token, start = tell.freeing(name, address, stream), tell.native.position()
        t0 = now_ns()
        try:
            result = original(*args, **kwargs)
        except BaseException as error:
            if token is not None:
                tell.freed(token, error, t0, now_ns())
            raise
        tell.native.note(step, name, address, 0, stream, start)
        if token is not None:
            tell.freed(token, None, t0, now_ns())
        return result

    return call


def _working(name: str, parameters: list[str], original: Function, tell: Tell) -> Function:
    uses = [[parameters.index(key) for key in use] for use in _USES.get(name, ())]
    order, done = _ORDERS.get(name), _QUERIES.get(name)
    stream_at = parameters.index("stream") if "stream" in parameters else None
    event_at = parameters.index("event") if "event" in parameters else None
    # Blocking copies and fills are the default stream's work.
    no_stream = 0 if name in ("memcpy", "memset") else -1
    native = tell.native

    def call(values: tuple[Any, ...], args: Any, kwargs: Any) -> Any:
        stream = no_stream if stream_at is None else values[stream_at]
        start = native.position()
        for use in uses:
            size = math.prod([index(values[at]) for at in use[1:]])
            native.note(USE, name, values[use[0]], size, stream, start)
        result = original(*args, **kwargs)
        what = done if done is not None and result == 0 else order
        if what is not None:
            event = 0 if event_at is None else values[event_at]
            native.note(what, name, event, 0, stream, start)
        return result

    return call

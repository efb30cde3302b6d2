"""Stages as decorators: of functions, coroutine functions and generators of both kinds."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Generator
from functools import wraps
from typing import Any

from . import stages
from .refs import find_ref, ref_of
from .spans import F


def decorated(name: str, function: F, gpu: bool = False) -> F:
    """Return the function with each call, or each step of a generator, recorded as a stage."""
    wrapped: Any
    if inspect.isasyncgenfunction(function):

        @wraps(function)
        async def wrapped(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            inner = function(*args, **kwargs)
            frame = _first_frame(args, kwargs)
            advance, value = inner.asend, None
            while True:
                try:
                    with stages.stage(name, frame, gpu=gpu) as span:
                        item = await advance(value)
                        _take_frame(span, item)
                except StopAsyncIteration:
                    return
                try:
                    advance, value = inner.asend, (yield item)
                except GeneratorExit:
                    await inner.aclose()
                    raise
                except BaseException as error:
                    advance, value = inner.athrow, error

    elif inspect.isgeneratorfunction(function):

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            inner = function(*args, **kwargs)
            frame = _first_frame(args, kwargs)
            advance, value = inner.send, None
            while True:
                try:
                    with stages.stage(name, frame, gpu=gpu) as span:
                        item = advance(value)
                        _take_frame(span, item)
                except StopIteration as end:
                    return end.value
                try:
                    advance, value = inner.send, (yield item)
                except GeneratorExit:
                    inner.close()
                    raise
                except BaseException as error:
                    advance, value = inner.throw, error

    elif inspect.iscoroutinefunction(function):

        @wraps(function)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            with stages.stage(name, _first_frame(args, kwargs), gpu=gpu):
                return await function(*args, **kwargs)

    else:

        @wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if stages.active is None:
                return function(*args, **kwargs)
            with stages.stage(name, _first_frame(args, kwargs), gpu=gpu):
                return function(*args, **kwargs)

    return wrapped  # type: ignore[no-any-return]


def _first_frame(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The identity of the first argument that has one."""
    if stages.active is not None:
        for value in (*args, *kwargs.values()):
            ref = ref_of(value)
            if ref is not None:
                return ref
    return None


def _take_frame(span: Any, item: Any) -> None:
    """Let a generator's step be of the frame that it yields, if no other is known."""
    if isinstance(span, stages.Span) and span.ref is None:
        span.ref = find_ref(item)

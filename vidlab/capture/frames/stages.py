"""`stage`: name a piece of work on a frame, in any code.

Off, while nothing is recorded, `stage(name)` returns an object that is made once
per name and whose two methods are functions of C that do nothing. On, it returns
a `Span`. Both are decorators too, and what they decorate records whenever a
recording runs.
"""

from __future__ import annotations

import sys
from asyncio.events import _get_running_loop as running_loop
from collections.abc import Callable
from contextvars import Token
from sys import getrefcount
from typing import Any

from ... import labelsets
from ..patching import Patches
from . import publishing
from .recorder import SpanRecorder, frame_here
from .refs import FrameRef, ref_of
from .spans import F, Span, inherited
from .threadstate import ThreadState, watch_loops

__all__ = [
    "Idle",
    "Span",
    "SpanRecorder",
    "activate",
    "active",
    "current",
    "here",
    "ref_here",
    "stage",
]

#: The references to a spare span that nobody else holds: the thread state's, the local
#: variable's and the argument's. How many a thread keeps.
_SPARE_REFERENCES = 3
_MOST_SPARES = 4096

#: The recorder of the recording that runs, if one does.
active: SpanRecorder | None = None


def stage(name: str, frame: Any = None, *, gpu: bool = False) -> Span | Idle:
    """Record what is inside as a stage: a context manager and a decorator.

    Parameters
    ----------
    name : str
        What the work is called: "filter", "detect".
    frame : optional
        The frame that it works on: a frame or packet of PyAV, an image, a `Traced`
        or a `FrameRef`. By default the frame of the stage around it, else the one
        that this thread took last from a queue or decoder.
    gpu : bool
        Time it on the GPU too, with CUDA events on CuPy's current stream: the span has a
        `gpu_duration_ns`, from its start to its end on that stream. The pipeline is not
        synchronised. Enter the stream first, then the stage. On hostcuda, and while the
        stream captures a graph, nothing is timed.

    Notes
    -----
    A decorated function's frame is the first of its arguments that has an identity.
    Each step of a decorated generator is a span of its own, of the frame that it
    yields; a decorated coroutine function's span includes what it awaits.

    A stage that an exception leaves has the status error; cancelled, if the
    exception is a `CancelledError`, `GeneratorExit` or `KeyboardInterrupt`.

    Examples
    --------
    >>> with stage("filter"):
    ...     image = [0, 1, 2]
    >>> @stage("detect")
    ... def detect(image):
    ...     return max(image)
    >>> detect(image)
    2
    """
    recorder = active
    if recorder is None:
        try:
            return (_gpu_idle if gpu else _idle)[name]
        except KeyError:
            return _new_idle(name, gpu)
    if gpu:
        return _new_gpu_span(recorder, name, frame)
    try:
        span = recorder.local.state.spares[name]
        if getrefcount(span) <= _SPARE_REFERENCES:
            span.ref = frame if type(frame) is FrameRef else _ref_for(recorder, frame)
            return span
    except KeyError:
        pass
    try:
        return _new_span(recorder, name, _ref_for(recorder, frame))
    except Exception:
        recorder.failed()
        return _idle.get(name) or _new_idle(name)


def _new_gpu_span(recorder: SpanRecorder, name: str, frame: Any) -> Span | Idle:
    try:
        ref = frame if type(frame) is FrameRef else _ref_for(recorder, frame)
        return recorder.gpu_span(recorder.kind(name), ref)
    except Exception:
        recorder.failed()
        return _gpu_idle.get(name) or _new_idle(name, gpu=True)


def _new_span(recorder: SpanRecorder, name: str, ref: FrameRef | None) -> Span:
    span = recorder.span(recorder.kind(name), ref)
    if len(span.state.spares) < _MOST_SPARES:
        span.state.spares[name] = span
    return span


def _ref_for(recorder: SpanRecorder, frame: Any) -> FrameRef | None:
    """The identity of what a stage is given: its own, else that of the frame here."""
    return (None if frame is None else ref_of(frame)) or ref_here(recorder)


def ref_here(recorder: SpanRecorder) -> FrameRef | None:
    """The frame of the innermost open stage, else the one that this thread took last."""
    around = recorder.innermost()
    while around is not None:
        if around.ref is not None and not around.t1:
            return around.ref
        around = around.outer
    return frame_here.get()


def here() -> tuple[int, int, int]:
    """Return the open span, frame and label set that something happens under, as numbers.

    For other engines: the numbers are what a record holds, 0 for none. The labels are
    this place's, merged with the frame's.
    """
    recorder = active
    labels = labelsets.current.get()
    if recorder is None:
        return 0, 0, labels
    state = recorder.local.state
    span = state.top if not state.loops else recorder.innermost()
    if span is None:
        ref, number = frame_here.get(), 0
    else:
        ref, number = span.ref or frame_here.get(), span.state.buffer.span + span.sequence
    if ref is None:
        return number, 0, labels
    if not ref.sampled:
        return 0, 0, labels
    return number, ref.frame, labels if labels == ref.labels else state.merge(ref.labels, labels)


# --- off ------------------------------------------------------------------------------


class Idle:
    """A stage that was made while nothing is recorded.

    Its two methods must cost next to nothing, so they are bound methods of C that
    ignore what they are given and return None: clearing an empty list, and
    releasing a released memoryview. While recording they are `_enter` and `_exit`, for
    programs that make a stage once and enter it often.
    """

    __slots__ = ("gpu", "name")

    __enter__: Callable[..., Any] = [].clear
    __exit__: Callable[..., Any] = memoryview(b"").__exit__

    def __init__(self, name: str, gpu: bool = False) -> None:
        self.name = name
        self.gpu = gpu

    def __call__(self, function: F) -> F:
        from .decorating import decorated  # which is built on this

        return decorated(self.name, function, self.gpu)


def _enter(idle: Idle) -> None:
    opened = stage(idle.name, gpu=idle.gpu)
    if isinstance(opened, Span):
        opened.__enter__()


def _exit(idle: Idle, error: type[BaseException] | None, value: object, where: object) -> None:
    opened = active.innermost() if active is not None else None
    # Entered before the recording began, it has no span.
    if opened is not None and opened.kind.name == idle.name:
        opened.__exit__(error, value, where)


#: One for each name, as long as a program does not make names up.
_idle: dict[str, Idle] = {}
_gpu_idle: dict[str, Idle] = {}
_MOST_IDLE = 4096


def _new_idle(name: str, gpu: bool = False) -> Idle:
    idle = Idle(name, gpu)
    known = _gpu_idle if gpu else _idle
    return idle if len(known) >= _MOST_IDLE else known.setdefault(name, idle)


def activate(patches: Patches, recorder: SpanRecorder) -> None:
    """Let `stage` record until `patches` are restored."""
    watch_loops(patches, recorder, publishing.show)
    publishing.activate(patches, recorder)
    patches.set(Idle, "__enter__", _enter)
    patches.set(Idle, "__exit__", _exit)
    patches.set(sys.modules[__name__], "active", recorder)


class _Current:
    """The open span of this thread or task, in the manner of a `ContextVar`.

    Setting it is for work that goes on elsewhere, such as a thread pool's task: what
    is recorded there without a stage around it is then inside this span.
    """

    def get(self) -> Span | None:
        """Return the innermost open span here."""
        return active.innermost() if active is not None else inherited.get()

    def set(self, span: Span | None) -> Any:
        """Let what follows in this thread or task be inside `span`."""
        state = active.local.state if active is not None else None
        token: Any
        if state is None or (state.loops and running_loop() is not None):
            token = inherited.set(span)
        else:
            token = state, state.top
            state.top = span
        self._show(state)
        return token

    def reset(self, token: Any) -> None:
        """Undo `set`."""
        if isinstance(token, Token):
            inherited.reset(token)
            self._show(active.local.state if active is not None else None)
        else:
            state, state.top = token
            self._show(state)

    @staticmethod
    def _show(state: ThreadState | None) -> None:
        if publishing.since_ns and state is not None:
            publishing.show(state)


current = _Current()

"""Labels follow the work: into threads, executors and child processes.

While recording, what a program starts under some labels runs under them. Only
vidlab's own context goes along, never the program's context variables: a
program that relies on a fresh context still gets one.

====================================  ==========================================
started by                            how its labels (and frame) get there
====================================  ==========================================
`threading.Thread`, `Timer`           labels, as the thread begins
`ThreadPoolExecutor.submit`, `map`    labels, frame and open span, with each task
`loop.run_in_executor`                by `submit`
asyncio tasks, `asyncio.to_thread`    Python copies the whole context itself
`multiprocessing.Process`, spawned    labels as text, inside the pickled process
`multiprocessing.Process`, forked     the fork is of the thread that has them
`ProcessPoolExecutor.submit`, `map`   labels as text, with each task
`subprocess`                          labels as text, in `VIDLAB_LABELS`
====================================  ==========================================

Threads made by `_thread.start_new_thread` or by C code start without labels, as
do programs started by `os.system` or `os.exec*`.
"""

from __future__ import annotations

import inspect
import json
import multiprocessing.process
import os
import pickle
import subprocess
import threading
from collections.abc import Callable, MutableMapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import Token
from typing import Any

from .. import labelsets
from ..errors import InputError
from .frames.recorder import frame_here
from .frames.refs import FrameRef
from .frames.spans import Span
from .frames.stages import current as current_span
from .patching import Patches

#: The environment variable with a child's labels: what `labels_as_text` returns.
LABELS_VARIABLE = "VIDLAB_LABELS"

#: Names the run that children join: without it, a child has no use for labels.
_RUN_VARIABLE = "VIDLAB_RUN"


def install(patches: Patches) -> None:
    """Let labels follow the work until `patches` are restored."""
    _install_threads(patches)
    _install_thread_pools(patches)
    _install_processes(patches)
    _install_process_pools(patches)
    _install_subprocesses(patches)


# --- threads --------------------------------------------------------------------


def _install_threads(patches: Patches) -> None:
    start = threading.Thread.start
    # Not `run`: subclasses define their own.
    bootstrap: Callable[[threading.Thread], None] = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def labelled_start(self: threading.Thread) -> None:
        self.__dict__["_vidlab_labels"] = labelsets.current.get()
        start(self)

    def labelled_bootstrap(self: threading.Thread) -> None:
        _enter(self.__dict__.pop("_vidlab_labels", labelsets.EMPTY))
        bootstrap(self)

    patches.set(threading.Thread, "start", labelled_start)
    patches.set(threading.Thread, "_bootstrap_inner", labelled_bootstrap)


def _install_thread_pools(patches: Patches) -> None:
    submit = ThreadPoolExecutor.submit

    def labelled_submit(
        self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        task = _Task(fn, labelsets.current.get(), frame_here.get(), current_span.get())
        return submit(self, task, *args, **kwargs)

    patches.set(ThreadPoolExecutor, "submit", labelled_submit)


class _Task:
    """A pool's task, which runs under what was current where it was submitted.

    A worker goes on to other tasks: what was current there before is so again after.
    """

    __slots__ = ("_frame", "_function", "_labels", "_span")

    def __init__(
        self,
        function: Callable[..., Any],
        labels: int,
        frame: FrameRef | None,
        span: Span | None,
    ) -> None:
        self._function = function
        self._labels = labels
        self._frame = frame
        self._span = span

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before = labelsets.current.get()
        labels = _enter(self._labels)
        frame = frame_here.set(self._frame)
        span = current_span.set(self._span)
        try:
            return self._function(*args, **kwargs)
        finally:
            current_span.reset(span)
            frame_here.reset(frame)
            labelsets.current.reset(labels)
            if labelsets.entered is not None:
                labelsets.entered(self._labels, before)


def _enter(labels: int) -> Token[int]:
    """Make this the current set of the calling thread."""
    before = labelsets.current.get()
    token = labelsets.current.set(labels)
    if labelsets.entered is not None:
        labelsets.entered(before, labels)
    return token


# --- processes ------------------------------------------------------------------


def _install_processes(patches: Patches) -> None:
    start = multiprocessing.process.BaseProcess.start

    def labelled_start(self: multiprocessing.process.BaseProcess) -> None:
        # A spawned child unpickles it before it begins; a forked one has no use for it.
        self.__dict__["_vidlab_labels"] = _Across(
            "labels_arrived", {"labels": labels_as_text()}, otherwise="None"
        )
        try:
            start(self)
        finally:
            del self.__dict__["_vidlab_labels"]

    patches.set(multiprocessing.process.BaseProcess, "start", labelled_start)


def labels_arrived(labels: str) -> None:
    """In a spawned child, as it begins: join the run, and start under these labels."""
    from .. import recording  # which lets labels follow while it records: this module

    recording.join()
    _enter(labels_from_text(labels))


def _install_process_pools(patches: Patches) -> None:
    submit = ProcessPoolExecutor.submit

    def labelled_submit(
        self: ProcessPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        carried = {
            "function": fn,
            "labels": labels_as_text(),
            "frame": pickle.dumps(frame_here.get()),
        }
        task: Any = _Across("task_arrived", carried, otherwise="function")
        return submit(self, task, *args, **kwargs)

    patches.set(ProcessPoolExecutor, "submit", labelled_submit)


def task_arrived(function: Callable[..., Any], labels: str, frame: bytes) -> _Task:
    """Return a process pool's task, to be run under these labels and on this frame."""
    return _Task(function, labels_from_text(labels), pickle.loads(frame), None)


class _Across:
    """Calls a function of this module in the process that unpickles it.

    There are only built-in names in the pickle. In a child where vidlab cannot be
    imported it becomes `otherwise`, and the child runs as it would have.
    """

    def __init__(self, function: str, values: dict[str, Any], otherwise: str) -> None:
        self._scope = {
            **values,
            "values": values,
            "code": f"""
try:
    from {__name__} import {function}
    result = {function}(**values)
except Exception:
    result = {otherwise}
""",
        }

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, dict[str, Any]]]:
        return eval, ("exec(code) or result", self._scope)


def _install_subprocesses(patches: Patches) -> None:
    init: Callable[..., None] = subprocess.Popen.__init__
    position = list(inspect.signature(init).parameters).index("env") - 1

    def labelled_init(self: subprocess.Popen[Any], *args: Any, **kwargs: Any) -> None:
        env = args[position] if len(args) > position else kwargs.get("env")
        labelled = _labelled_environment(env)
        if labelled is not env:
            if len(args) > position:
                args = (*args[:position], labelled, *args[position + 1 :])
            else:
                kwargs["env"] = labelled
        init(self, *args, **kwargs)

    patches.set(subprocess.Popen, "__init__", labelled_init)


def _labelled_environment(env: MutableMapping[str, str] | None) -> Any:
    """Return a child's environment with the current labels, or `env` itself.

    An environment that the program made without `VIDLAB_RUN` is left alone: such a
    child does not join the run.
    """
    try:
        given = os.environ if env is None else env
        if _RUN_VARIABLE not in given:
            return env
        labels = labelsets.current.get()
        text = None if labels == labelsets.EMPTY else labels_as_text()
        if given.get(LABELS_VARIABLE) == text:
            return env
        labelled = {key: value for key, value in given.items() if key != LABELS_VARIABLE}
        return labelled if text is None else {**labelled, LABELS_VARIABLE: text}
    except Exception:  # not a mapping, say: subprocess tells the program so in its own words
        return env


def labels_as_text() -> str:
    """Return the current label set as JSON, for `labels_from_text` in another process."""
    known = labelsets.get(labelsets.current.get())
    return json.dumps([dict(known.values), known.sample_rate])


def labels_from_text(text: str) -> int:
    """Return the id in this process of a label set that another one wrote down.

    What cannot be read is the empty set: it must not stop the program.
    """
    try:
        values, sample_rate = json.loads(text)
        return labelsets.intern(values, float(sample_rate))
    except (ValueError, TypeError, AttributeError, InputError):
        return labelsets.EMPTY


def take_labels_from_environment() -> None:
    """Make the set that the parent process had current as it started this one the current one."""
    _enter(labels_from_environment())


def labels_from_environment() -> int:
    """Return the id of the label set that this process was started under."""
    return labels_from_text(os.environ.get(LABELS_VARIABLE, ""))

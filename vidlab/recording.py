"""Recordings: start and stop the engines, and own the writer of the run.

Child processes of a recording process take part in its run. A forked one has the
engines already, and its writer sees to the rest. One that starts afresh finds the
run in the environment variable `VIDLAB_RUN` and calls `join`.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import logging
import os
import shutil
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from .capture import propagation, registry
from .capture.patching import Patches
from .clock import anchor
from .errors import RecordingError, VidlabError
from .labelrules import LabelRules
from .runs import processes
from .runs.creation import first_manifest, make_room, unwritable
from .runs.derived import Derive, function_named
from .runs.manifest import COMPLETE, FILE_NAME, SEGMENTS, EngineFacts, Manifest
from .runs.rulings import Rulings
from .runs.writer import RunWriter

if TYPE_CHECKING:
    from .capture.engine import Engine
    from .capture.runtime.engine import Runtime

#: Names the run that the child processes of a recording process join.
VARIABLE = "VIDLAB_RUN"

#: How long the end of a recording waits for child processes that are about to end.
_PATIENCE_S = 1.0

_log = logging.getLogger("vidlab")

_starting = threading.Lock()
_active: Recording | None = None


def record(
    path: str | os.PathLike[str],
    *,
    engines: Sequence[Engine] | None = None,
    derive: Derive | None = None,
    max_bytes: int | None = None,
    keep_seconds: float | None = None,
    parameters: Mapping[str, Any] | None = None,
    label_rules: LabelRules | None = None,
    overwrite: bool = False,
) -> Recording:
    """Record what this process and its children do into a run, until `stop`.

    The recording starts at once and ends with its ``with`` block, by `Recording.stop`,
    or with the process.

    Parameters
    ----------
    path : path
        The run's directory, new or empty.
    engines : sequence of Engine, optional
        What to record with; by default `Frames()`, `GpuMemory()`, `GpuSampler()` and
        `Runtime()`, all but `KernelEvents()`.
    derive : Mapping[str, callable], optional
        Further labels: each a function of a label set's values, a dict, that returns
        text, or None for no label.
    max_bytes : int, optional
        What the run may come to on the disk while recording, in bytes, give or take
        the buffers in use; at least 16 MiB. The oldest rows are let go, and counted.
    keep_seconds : float, optional
        How old rows may get, in seconds, give or take a sixteenth. What is older is let
        go, and counted; but the buffer that a thread records into is always kept whole.
    parameters : Mapping[str, Any], optional
        Anything to be kept in the manifest, as JSON; `deadline_ms` is when a frame
        counts as late.
    label_rules : LabelRules, optional
        What is done to label values before anything is written, in child processes too;
        by default a key has a budget of 500 distinct values in each process.
    overwrite : bool
        Delete the run that is at `path`. Nothing but a run is ever deleted.

    Raises
    ------
    RecordingError
        If a recording is running already, or the path cannot be used.
    InputError
        If an option cannot be used.

    Examples
    --------
    >>> with record("runs/first", derive={"site": lambda labels: labels["stream_id"][:3]}):
    ...     with vl.labels(stream_id="lab-7"), vl.stage("detect"):
    ...         pass
    >>> vl.open_run("runs/first").scan("spans").select("stage", "site").collect().rows()
    [('detect', 'lab')]
    """
    chosen = registry.default_engines() if engines is None else list(engines)
    return _begin(
        path, chosen, chosen, derive, max_bytes, keep_seconds, parameters, label_rules, overwrite
    )


def record_children(
    path: str | os.PathLike[str],
    *,
    engines: Sequence[Engine],
    max_bytes: int | None = None,
    keep_seconds: float | None = None,
    parameters: Mapping[str, Any] | None = None,
    label_rules: LabelRules | None = None,
    overwrite: bool = False,
) -> Recording:
    """Record what the processes do that this one starts, and nothing of this one itself.

    Parameters and errors are those of `record`.
    """
    return _begin(
        path, engines, (), None, max_bytes, keep_seconds, parameters, label_rules, overwrite
    )


def _begin(
    path: str | os.PathLike[str],
    engines: Sequence[Engine],
    here: Sequence[Engine],
    derive: Derive | None,
    max_bytes: int | None,
    keep_seconds: float | None,
    parameters: Mapping[str, Any] | None,
    label_rules: LabelRules | None,
    overwrite: bool,
) -> Recording:
    """Begin a run with these engines, of which `here` are started in this process."""
    global _active
    if _active is not None or not _starting.acquire(blocking=False):
        where = "another path" if _active is None else _active.path
        raise RecordingError(
            f"a recording into {where} is running: stop it before you start another; "
            "what is recorded inside it goes into its run"
        )
    try:
        run = Path(path).absolute()
        facts = tuple(EngineFacts(engine.name, engine.parameters()) for engine in engines)
        rules = LabelRules() if label_rules is None else label_rules
        manifest = replace(
            first_manifest(run, facts, derive, max_bytes, keep_seconds, parameters),
            label_rules=rules.parameters(),
        )
        make_room(run, overwrite)
        rulings = Rulings(rules)  # before anything is written
        try:
            try:
                manifest.write(run)
            except OSError as error:
                raise RecordingError(unwritable(run, error)) from error
            writer = RunWriter(run, max_bytes=max_bytes, keep_seconds=keep_seconds, derive=derive)
            recording = Recording(writer, here, manifest, rulings)
            recording._start()
        except BaseException:
            rulings.end()
            shutil.rmtree(run, ignore_errors=True)
            raise
        _active = recording
        return recording
    finally:
        _starting.release()


class Recording:
    """A recording that runs; what `record` returns.

    Attributes
    ----------
    path : Path
        The run's directory.
    writer : RunWriter
        Writes this process's part of it.
    """

    def __init__(
        self,
        writer: RunWriter,
        engines: Sequence[Engine],
        manifest: Manifest | None,
        rulings: Rulings,
    ) -> None:
        self.path = writer.path
        self.writer = writer
        self._engines = list(engines)
        self._started: list[Engine] = []
        self._patches = Patches()
        self._manifest = manifest  # of a child process: None
        self._rulings = rulings
        self._notes: list[str] = []
        self._pid = os.getpid()
        self._variable_before: str | None = None
        self._stopped = False

    @property
    def runtime(self) -> Runtime | None:
        """The engine `Runtime` that records here, for `runtime.switch("debug")`; None if none."""
        found = next((one for one in self._engines if one.name == "runtime"), None)
        return cast("Runtime | None", found)

    def __repr__(self) -> str:
        return f"<Recording into {self.path}{', stopped' if self._stopped else ''}>"

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and not self._stopped:
            self._notes.append(f"what was recorded ended with {kind.__name__}: {error}"[:500])
        self.stop()

    def stop(self) -> None:
        """End the recording and finish the run.

        With polars installed the run is compacted; else, and while child processes
        still record, its segments stay: `vidlab compact` finishes it then. Nothing
        that goes wrong here is raised: it is noted in the run, and logged.
        """
        global _active
        if self._stopped:
            return
        self._stopped = True
        atexit.unregister(self.stop)
        self._restore_environment()
        if _active is self:
            _active = None
        with contextlib.ExitStack() as steps:  # each is done, even if one is interrupted
            if self._manifest is not None and os.getpid() == self._pid:
                steps.callback(self._finish, self._manifest)
            steps.callback(self._rulings.end)
            steps.callback(self.writer.close)
            steps.callback(self._rulings.sum_up)
            for engine in self._started:
                steps.callback(self._stop_engine, engine)
            steps.callback(self._patches.restore)

    def _start(self) -> None:
        self._rulings.begin(self.writer)
        try:
            for engine in self._engines:
                self._start_engine(engine)
            propagation.install(self._patches)
        except BaseException:
            self._patches.restore()
            for engine in reversed(self._started):
                self._stop_engine(engine)
            self.writer.close()
            raise
        self._variable_before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = str(self.path)
        atexit.register(self.stop)

    def _start_engine(self, engine: Engine) -> None:
        try:
            engine.start(self.writer)
        except VidlabError:
            if self._manifest is not None:
                raise  # it says what to change
            self._note_failure(engine, "start")
        except Exception:
            self._note_failure(engine, "start")
        else:
            self._started.append(engine)

    def _stop_engine(self, engine: Engine) -> None:
        try:
            engine.stop()
        except Exception:
            self._note_failure(engine, "stop")

    def _note_failure(self, engine: Engine, what: str) -> None:
        error = sys.exc_info()[1]
        message = f"the engine {engine.name} failed to {what} ({type(error).__name__}: {error})"
        self.writer.finding("engine_failed", message, severity="error", engine=engine.name)
        self._notes.append(message)
        _log.warning("vidlab: %s; the recording goes on without it", message, exc_info=error)

    def _restore_environment(self) -> None:
        if os.environ.get(VARIABLE) == str(self.path):
            if self._variable_before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = self._variable_before

    def _finish(self, manifest: Manifest) -> None:
        """Write down the end and, if that is possible here and now, compact the run."""
        segments = self.path / SEGMENTS
        try:
            manifest = replace(
                manifest,
                state=COMPLETE,
                ended=anchor(),
                processes=processes.facts(segments),
                notes=(*manifest.notes, *self._notes),
            )
            manifest.write(self.path)
        except OSError as error:
            _log.warning(
                "vidlab cannot finish the run %s (%s): free some space, then vidlab recover it",
                self.path,
                error.strerror,
            )
            return
        if not _can_compact() or not processes.have_ended(segments, _PATIENCE_S):
            return
        try:
            from .runs.compaction import compact

            compact(self.path)
        except Exception as error:
            _log.warning(
                "vidlab: the run %s is recorded and not compacted (%s): vidlab compact it",
                self.path,
                error,
            )


def join(path: str | os.PathLike[str] | None = None) -> Recording | None:
    """Take part in the run that this process's parent records, until the process ends.

    Called in a child process that was started, not forked, by a recording one. It
    raises nothing: the program that runs here knows nothing of vidlab.

    Parameters
    ----------
    path : path, optional
        The run; by default what the environment variable `VIDLAB_RUN` names.

    Returns
    -------
    Recording or None
        None if there is nothing to join: the recording has ended, or this process
        records already.
    """
    global _active
    rulings: Rulings | None = None
    where = path or os.environ.get(VARIABLE)
    if not where or _active is not None or not _starting.acquire(blocking=False):
        return None
    try:
        run = Path(where)
        manifest = Manifest.read(run)
        if manifest.ended is not None:
            return None
        rulings = Rulings(LabelRules(**manifest.label_rules))
        writer = RunWriter(
            run,
            max_bytes=_whole(manifest.limits.get("max_bytes")),
            keep_seconds=manifest.limits.get("keep_seconds"),
            derive={key: function_named(name) for key, name in manifest.derive.items()},
        )
        engines = list(registry.rebuilt(manifest.engines, writer))
        recording = Recording(writer, engines, None, rulings)
        recording._start()
        propagation.take_labels_from_environment()
    except Exception as error:
        if rulings is not None:
            rulings.end()
        if Path(where, FILE_NAME).exists():  # else it is not there any more, which is no news
            _log.warning("vidlab cannot record this process into %s (%s)", where, error)
        return None
    else:
        _active = recording
        return recording
    finally:
        _starting.release()


def _can_compact() -> bool:
    with contextlib.suppress(ImportError):
        return importlib.util.find_spec("polars") is not None
    return False


def _whole(limit: float | None) -> int | None:
    return None if limit is None else int(limit)

"""Creating a run: its directory, and the manifest that it begins with."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..clock import anchor
from ..errors import InputError, RecordingError
from . import processes
from .derived import Derive, check_derive, name_of
from .host import host, versions
from .manifest import SEGMENTS, EngineFacts, Manifest, is_run
from .writer import LEAST_MAX_BYTES


def first_manifest(
    run: Path,
    engines: tuple[EngineFacts, ...],
    derive: Derive | None,
    max_bytes: int | None,
    keep_seconds: float | None,
    parameters: Mapping[str, Any] | None,
) -> Manifest:
    """Return the manifest of a recording that begins now, with what `record` was given.

    Raises
    ------
    InputError
        If one of the options cannot be used.
    """
    check_derive(derive or {})
    if max_bytes is not None and max_bytes < LEAST_MAX_BYTES:
        raise InputError(
            f"max_bytes is {max_bytes:,}, and at least {LEAST_MAX_BYTES:,}: "
            "the buffers of a few threads take as much"
        )
    if keep_seconds is not None and keep_seconds <= 0:
        raise InputError(
            f"keep_seconds is {keep_seconds}; give how many seconds to keep, such as 60"
        )
    limits = {"max_bytes": max_bytes, "keep_seconds": keep_seconds}
    try:
        json.dumps([dict(parameters or {}), [dict(engine.parameters) for engine in engines]])
    except (TypeError, ValueError) as error:
        raise InputError(f"parameters are kept as JSON, and these cannot be: {error}") from error
    started = anchor()
    day = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(started.wall_ns / 1e9))
    return Manifest(
        run_id=f"{run.name}-{day}-{secrets.token_hex(3)}",
        started=started,
        host=host(),
        versions=versions(),
        engines=engines,
        parameters=dict(parameters or {}),
        limits={name: limit for name, limit in limits.items() if limit is not None},
        derive={key: name_of(function) for key, function in (derive or {}).items()},
    )


def make_room(run: Path, overwrite: bool) -> None:
    """Make the run's directory, and delete the run that is there if that is wanted.

    Raises
    ------
    RecordingError
        If there is anything else, or the directory cannot be written.
    """
    try:
        if is_run(run):
            if not overwrite:
                raise RecordingError(
                    f"{run} holds a run: record elsewhere, or replace it with "
                    "overwrite=True (--overwrite)"
                )
            if processes.living(run / SEGMENTS):
                raise RecordingError(f"{run} is being recorded by another process: stop that first")
            shutil.rmtree(run)
        run.mkdir(parents=True, exist_ok=True)
        if any(run.iterdir()):
            raise RecordingError(
                f"{run} is not empty, and not a run: record into a directory of its own"
            )
    except OSError as error:
        raise RecordingError(unwritable(run, error)) from error


def unwritable(run: Path, error: OSError) -> str:
    """Return what to say of a run that cannot be written."""
    if isinstance(error, FileExistsError):
        return f"{run} is a file: record into a directory of its own"
    return (
        f"{run} cannot be written ({error.strerror}): "
        "record into a directory that can, with some space left"
    )

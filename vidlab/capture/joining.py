"""How a process of a recorded program, which knows nothing of vidlab, joins the run."""

from __future__ import annotations

import logging
import os
import warnings

from .. import recording
from ..errors import VidlabError
from . import tracebacks
from .gpu import hostcuda
from .patching import Patches


def join() -> None:
    """Take part in the run that `VIDLAB_RUN` names, and say nothing.

    CuPy is put on host memory first, where `VIDLAB_HOSTCUDA` asks for it.

    What the program prints is its own: what goes wrong with the recording is in the run's
    findings and notes, not on the program's stderr or in its log. Without a run, a program that
    imports CuPy is warned if that is not on host memory.
    """
    in_a_run = bool(os.environ.get(recording.VARIABLE))
    if in_a_run:
        log = logging.getLogger("vidlab")
        log.addHandler(logging.NullHandler())
        log.propagate = False
    why_not: VidlabError | None = None
    try:
        hostcuda.install_from_environment()
    except VidlabError as error:
        why_not = error
    message = f"CuPy is not on host memory: {why_not}"
    if not in_a_run:
        if why_not is not None:
            Patches().when_imported("cupy", lambda cupy: warnings.warn(message, stacklevel=2))
        return
    joined = recording.join()
    if joined is None:
        return
    tracebacks.hide()
    if why_not is not None:
        joined.writer.finding("hostcuda_not_installed", message, severity="error")

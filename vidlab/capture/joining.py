"""How a process of a recorded program, which knows nothing of vidlab, joins the run."""

from __future__ import annotations

import logging

from .. import recording
from ..errors import VidlabError
from . import tracebacks
from .gpu import hostcuda


def join() -> None:
    """Take part in the run that `VIDLAB_RUN` names, and say nothing.

    CuPy is put on host memory first, where `VIDLAB_HOSTCUDA` asks for it.

    What the program prints is its own: what goes wrong with the recording is in the run's
    findings and notes, not on the program's stderr or in its log.
    """
    log = logging.getLogger("vidlab")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    why_not: VidlabError | None = None
    try:
        hostcuda.install_from_environment()
    except VidlabError as error:
        why_not = error
    joined = recording.join()
    if joined is None:
        return
    tracebacks.hide()
    if why_not is not None:
        joined.writer.finding(
            "hostcuda_not_installed", f"CuPy is not on host memory: {why_not}", severity="error"
        )

"""How a process of a recorded program, which knows nothing of vidlab, joins the run."""

from __future__ import annotations

import logging

from .. import recording
from . import tracebacks


def join() -> None:
    """Take part in the run that `VIDLAB_RUN` names, and say nothing.

    What the program prints is its own: what goes wrong with the recording is in the run's
    findings and notes, not on the program's stderr or in its log.
    """
    log = logging.getLogger("vidlab")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    if recording.join() is not None:
        tracebacks.hide()

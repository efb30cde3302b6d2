"""Failures of vidlab's own: told in the run, and kept from the program that is recorded."""

from __future__ import annotations

import contextlib
import sys
import traceback
from typing import Any, Protocol


class Writer(Protocol):
    """What takes findings: `runs.writer.RunWriter`."""

    def finding(
        self,
        kind: str,
        message: str,
        severity: str = "warning",
        frame: int = 0,
        labels: int | None = None,
        **evidence: Any,
    ) -> None: ...


def report(writer: Writer, missing: str) -> None:
    """Write down the exception that is being handled: what may now be missing, and where it was."""
    with contextlib.suppress(Exception):
        kind, error, where = sys.exc_info()
        writer.finding(
            "recorder_failed",
            f"something in vidlab failed, so {missing} may be missing: "
            f"{kind.__name__ if kind else 'an error'}: {error}",
            severity="error",
            traceback="".join(traceback.format_tb(where)[-6:]),
        )

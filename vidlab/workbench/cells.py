"""Recording the cell that runs: what `%%record` does.

A cell that IPython runs inside a magic is no cell any more: in a kernel it cannot `await`, for
the kernel's event loop is running already. So `%%record` does not run the cell. An input
transformer puts the begin of the recording in the place of the cell's first line, and an event
ends it when the cell is over: returned, raised or interrupted. All else is as it would be
without, and tracebacks name the cell's own lines.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from IPython.core.error import UsageError
from IPython.core.inputtransformer2 import cell_magic
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display

from ..capture.gpu import hostcuda
from ..errors import RunError, missing_extra
from ..labelsets import labels
from ..recording import Recording, record
from ..runs.manifest import Manifest
from .recorded import engine_lines
from .recording_options import RecordingOptions
from .scripts import new_run
from .text import Line

#: What the first line of a cell to be recorded begins with.
FIRST = "%%record"

#: Ask for the options, as of the command line.
HELP = ("-h", "--help")


def transform(lines: list[str]) -> list[str]:
    """Have a cell whose first line is `%%record` begin by a call of `VidlabMagics.begin`.

    As IPython wants it: lines with their ends, in and out. A cell that is empty, or asks for
    the options, is left to the magic.
    """
    found = re.fullmatch(rf"{FIRST}(?:[ \t]+(.*))?\s*", lines[0]) if lines else None
    if found is None or len(lines) == 1:
        return lines
    options = (found[1] or "").strip()
    if set(options.split()) & set(HELP):
        return lines
    begin = f'get_ipython().find_cell_magic("record").__self__.begin({options!r})\n'
    return [begin, *cell_magic(lines[1:])]  # type: ignore[no-untyped-call]


# While somebody types, IPython asks what a cell would become: there a cell magic is one still.
transform.has_side_effects = True  # type: ignore[attr-defined]


def record_cell(
    shell: InteractiveShell, options: RecordingOptions, line: Sequence[str], into: str | None
) -> None:
    """Record from now on until the cell that runs is over, and show then what there is.

    Parameters
    ----------
    shell : InteractiveShell
        Whose cell it is.
    options : RecordingOptions
        Where the run goes, and what is recorded.
    line : sequence of str
        The words of the cell's first line, for the manifest.
    into : str, optional
        The variable that is to have the run.

    Raises
    ------
    VidlabError
        If it cannot be recorded; then nothing has changed.
    UsageError
        If no cell runs.
    """
    cell = getattr(shell.displayhook, "exec_result", None)
    if cell is None:
        raise UsageError(f"{FIRST} is for a cell, and none is running")
    if into is not None and importlib.util.find_spec("polars") is None:
        raise missing_extra("polars", "workbench")
    path = Path(options.output) if options.output is not None else new_run("cell")
    arguments = options.of_recording([FIRST, *line])
    if options.hostcuda:
        hostcuda.install()
    with contextlib.ExitStack() as open_here:
        open_here.enter_context(labels(**options.labels))
        recording = open_here.enter_context(record(path, **arguments))
        # Of a cell that a front end runs silently, IPython tells no more than that it is over.
        event = "post_execute" if cell.info.silent else "post_run_cell"
        ending = _Ending(shell, event, cell.info.raw_cell, recording, str(path), into)
        shell.events.register(event, ending)
        ending.open_until_then = open_here.pop_all()


class _Ending:
    """Ends the recording of a cell when the cell is over."""

    def __init__(
        self,
        shell: InteractiveShell,
        event: str,
        cell: str,
        recording: Recording,
        name: str,
        into: str | None,
    ) -> None:
        self._shell = shell
        self._event = event
        self._cell = cell
        self._run = recording.path  # the cell may have changed the current folder
        self._name = name
        self._into = into
        self.open_until_then = contextlib.ExitStack()

    def __call__(self, result: Any = None) -> None:
        """Called at the end of each cell, with IPython's result of it, if there is one."""
        if result is not None and result.info.raw_cell != self._cell:
            return  # it is of a cell that ours runs
        self._shell.events.unregister(self._event, self)
        error = result and (result.error_before_exec or result.error_in_exec)
        # With the error, if there is one: the run says how its cell ended.
        self.open_until_then.__exit__(type(error) if error else None, error or None, None)
        try:
            told = self._told(Manifest.read(self._run))
            if self._into is not None:
                from ..runs.run import open_run  # of polars, which a recording does without

                self._shell.user_ns[self._into] = open_run(self._run)
        except RunError as gone:
            told = Line(f"nothing is left of what was recorded: {escape(str(gone))}")
        display(told)  # type: ignore[no-untyped-call]

    def _told(self, manifest: Manifest) -> Line:
        """Return what was recorded, and what to do next."""
        folder = escape(self._name)
        if not manifest.tables:
            return Line(
                f"recorded <code>{folder}</code>, not yet finished: "
                f"<code>vidlab compact {folder}</code>"
            )
        frames = manifest.tables["frames"].rows
        if frames:
            what, next = f"{frames:,} frames", f"%explain {self._into or folder}"
        else:
            what = "no frames: PyAV and OpenCV have read no video in it"
            next = self._into or f"vl.open_run({escape(repr(self._name), quote=False)})"
        told = [f"recorded <code>{folder}</code>, {what}: <code>{next}</code>"]
        return Line("<br>\n".join([*told, *map(escape, engine_lines(self._run, manifest))]))

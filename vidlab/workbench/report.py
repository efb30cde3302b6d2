"""A run's report: one HTML file that needs no network and no kernel, or a PDF of it.

Papermill runs the notebook `report` with the run and the slice as parameters, nbconvert
makes a page of its outputs (see `page`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, MissingDependencyError, VidlabError
from ..runs.run import open_run
from . import notebooks
from .page import of_notebook

if TYPE_CHECKING:
    from ..runs.run import Run

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def write_report(
    run_path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    stream_id: str | None = None,
    codec: str | None = None,
    gpu: int | None = None,
    deadline_ms: float | None = None,
) -> Path:
    """Write the report of a run and return its path.

    Parameters
    ----------
    run_path : path
        The run's folder; a run that was killed or is still recording will do.
    output : path
        Where to write: `.html` for the live page, `.pdf` for print (through Chromium).
        Folders are made as needed; an older report is overwritten.
    stream_id, codec, gpu
        Report on this slice only; the page's own dropdowns start with it.
    deadline_ms : float
        A frame is late beyond this latency. By default the run's own deadline, or three
        nominal frame intervals.

    Raises
    ------
    RunError
        If there is no run at `run_path`.
    InputError
        If the slice is empty, or `output` is neither `.html` nor `.pdf`.
    MissingDependencyError
        If the extra `workbench`, or for a PDF Chromium, is not installed.
    """
    output = Path(output)
    if output.suffix not in (".html", ".pdf"):
        raise InputError(f"a report is a .html or a .pdf file, not {output.name!r}")
    browser = _browser() if output.suffix == ".pdf" else None
    run_path = Path(run_path).resolve()
    _check_slice(open_run(run_path), stream_id, codec, gpu)
    parameters = {
        "run": str(run_path),
        "stream_id": stream_id,
        "codec": codec,
        "gpu": gpu,
        "deadline_ms": deadline_ms,
    }
    executed = notebooks.execute(notebooks.REPORT, parameters)
    page = of_notebook(executed, f"{run_path.name} · vidlab report")
    output.parent.mkdir(parents=True, exist_ok=True)
    if browser is None:
        output.write_text(page, encoding="utf-8")
    else:
        _print(page, output, browser)
    return output


def _check_slice(run: Run, stream_id: str | None, codec: str | None, gpu: int | None) -> None:
    cube = run.cube()
    for column, value in (("stream_id", stream_id), ("codec", codec), ("gpu", gpu)):
        known = sorted(str(known) for known in cube[column].drop_nulls().unique())
        if value is not None and str(value) not in known:
            raise InputError(
                f"this run has no {column} {value!r}; it has {', '.join(known) or 'none at all'}"
            )


def _browser() -> str:
    for name in _BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    raise MissingDependencyError(
        "a PDF is printed by Chromium, which is not installed: apt-get install chromium; "
        "or write a .html file and print it from your browser"
    )


def _print(page: str, output: Path, browser: str) -> None:
    with tempfile.TemporaryDirectory(prefix="vidlab-", ignore_cleanup_errors=True) as folder:
        source, printed = Path(folder) / "report.html", Path(folder) / "report.pdf"
        source.write_text(page, encoding="utf-8")
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--no-pdf-header-footer",
            f"--user-data-dir={folder}/profile",
            "--virtual-time-budget=20000",  # until the charts are drawn, on a slow machine too
            f"--print-to-pdf={printed}",
            source.as_uri(),
        ]
        if os.geteuid() == 0:  # Chromium's sandbox refuses to work for root
            command.insert(1, "--no-sandbox")
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        if not printed.exists():
            raise VidlabError(
                f"{Path(browser).name} printed no PDF (exit code {done.returncode}): "
                f"{done.stderr.strip()[-300:]}"
            )
        shutil.move(printed, output)

"""Running one of vidlab's notebooks with parameters."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import VidlabError, missing_extra
from ..progress import in_notebook

if TYPE_CHECKING:
    import nbformat

#: Set in the kernel that runs a notebook for a report: the charts are drawn for a page.
REPORT_VARIABLE = "VIDLAB_REPORT"

#: How long its kernel may take to start, in seconds.
_PATIENCE_S = 300

#: The notebook of a report; in the repository it is a link to `notebooks/report.ipynb`.
REPORT = Path(__file__).parent / "template" / "report.ipynb"


def execute(path: Path, parameters: dict[str, Any]) -> nbformat.NotebookNode:
    """Run a notebook with these parameters, in a kernel of its own, and return it with outputs.

    Parameters
    ----------
    path : Path
        The notebook; its cell tagged `parameters` holds the defaults.
    parameters : dict
        Values for names of that cell.

    Raises
    ------
    VidlabError
        If a cell fails; the message names the cell's own error.
    MissingDependencyError
        If papermill is not installed.
    """
    try:
        import papermill
        from jupyter_client.manager import AsyncKernelManager
    except ImportError as error:
        raise missing_extra(error.name or "papermill", "workbench") from error

    class Kernel(AsyncKernelManager):
        """Is spoken to through sockets in a folder, not ports; takes no part in a recording."""

        def __init__(self, **kwargs: Any) -> None:
            super().__init__(transport="ipc", ip=f"{folder}/kernel", **kwargs)

        async def _async_start_kernel(self, **kwargs: Any) -> None:
            environment = {k: v for k, v in os.environ.items() if k != "VIDLAB_RUN"}
            # The second silences a warning about breakpoints that nobody will set.
            environment |= {REPORT_VARIABLE: "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
            await super()._async_start_kernel(**{**kwargs, "env": environment})

        start_kernel = _async_start_kernel

    bar = {
        "desc": path.stem,
        "unit": "cell",
        "leave": False,
        "delay": 0.5,
        "disable": False if in_notebook() else None,
    }
    with tempfile.TemporaryDirectory(prefix="vidlab-") as folder:
        try:
            executed: nbformat.NotebookNode = papermill.execute_notebook(
                path,
                None,
                parameters,
                kernel_name="python3",
                progress_bar=bar,
                start_timeout=_PATIENCE_S,
                kernel_manager_class=Kernel,
            )
        except papermill.PapermillExecutionError as error:
            raise VidlabError(
                f"cell {error.exec_count} of {path.name} failed: {error.ename}: {error.evalue}"
            ) from error
    return executed

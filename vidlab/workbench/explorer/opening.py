"""How an explorer is opened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .library import the_library

if TYPE_CHECKING:
    from .board import AnyRun, Explorer


def explore(runs: AnyRun | Iterable[AnyRun], state: Mapping[str, Any] | None = None) -> Explorer:
    """Explore a run, or several by turns, in JupyterLab: the cell's result is the explorer.

    Slice by stream, codec, GPU and stage, drag over a time or a box of latency, and click a
    frame to see where its time went. What is chosen is the explorer's `state`.

    Parameters
    ----------
    runs : Run, path, or a sequence of them
    state : mapping, optional
        What to choose at first: another explorer's `state`, or a part of one.

    Raises
    ------
    RunError
        If there is no such run.
    InputError
        If no run is given, or the state is not possible.
    MissingDependencyError
        If a package of the extra `workbench` is not installed.
    """
    # The page reads it while the kernel imports what reads runs: half a second of the first view.
    the_library()
    from ...runs.run import Run
    from .board import Explorer

    several = [runs] if isinstance(runs, Run | str | os.PathLike) else list(runs)
    return Explorer(several, state)

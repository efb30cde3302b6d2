"""Recorded runs to try vidlab on: one without a fault, and one for each kind of fault and leak.

    run = vl.datasets.load("everything")

They come with vidlab, as small as they are, and each has a README that says how it was made and
what is wrong in it. `python -m vidlab.lab.recordings` makes them anew.
"""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InputError, RunError
from .runs.manifest import is_run
from .runs.run import Run, open_run

#: Where they are: in an installed vidlab, and in its sources.
_PLACES = (Path(__file__).parent / "_datasets", Path(__file__).parents[1] / "datasets")

_README = "README.md"


def load(name: str | os.PathLike[str]) -> Run:
    """Open a data set; or a run of your own, by its folder, so that either can be asked for.

    Parameters
    ----------
    name : str or path
        One of `names()`. What is not is the path of a run; for a folder that has a data set's
        name, write `./name`.

    Raises
    ------
    InputError
        If there is neither; the message says what data sets there are.
    RunError
        If the run is damaged, or this installation came without the data sets.

    Examples
    --------
    >>> load("clean")
    <Run clean…: complete, …>
    """
    if os.fspath(name) in names():
        return open_run(_folder() / name)
    path = Path(name)
    if path.exists():
        return open_run(path)
    width = max(map(len, names()), default=0)
    known = "\n".join(f"  {known:<{width}}  {about(known)}" for known in names())
    raise InputError(
        f"there is no data set {os.fspath(name)!r}, nor a run at that path. Data sets:\n{known}"
    )


def names() -> list[str]:
    """Return the names of all data sets, in alphabetical order.

    Raises
    ------
    RunError
        If this installation came without them.
    """
    return sorted(path.name for path in _folder().iterdir() if is_run(path))


def about(name: str) -> str:
    """Return what a data set is, in a line: the first one of its README.

    Raises
    ------
    InputError
        If there is no such data set.
    """
    if name not in names():
        raise InputError(f"there is no data set {name!r}: choose among {', '.join(names())}")
    with (_folder() / name / _README).open(encoding="utf-8") as file:
        return file.readline().partition(": ")[2].strip()


def _folder() -> Path:
    for place in _PLACES:
        if place.is_dir():
            return place
    raise RunError(
        "this installation of vidlab came without its data sets: record one by python -m "
        "vidlab.lab.recordings clean datasets, and open it by vl.open_run('datasets/clean')"
    )

"""The examples in docstrings are run, all of them, and return what they say."""

from __future__ import annotations

import doctest
import importlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import vidlab as vl
from vidlab.lab.synthetic import write_run

PACKAGE = Path(vl.__file__).parent

#: What an example may leave open: "..." stands for whatever comes, blanks for any blanks.
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

#: Modules whose examples need an ability that a machine may lack.
NEEDS = {
    "capture/gpu/faults.py": "hostcuda",
    "capture/gpu/scope.py": "hostcuda",
    "capture/gpu/hostcuda/cudart.py": "hostcuda",
    "capture/gpu/hostcuda/installing.py": "hostcuda",
    "lab/sweeps.py": "hostcuda",
}


class Checker(doctest.OutputChecker):
    """Takes "…" for whatever comes, as three dots are."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want.replace("…", "..."), got, optionflags)


def files() -> list[str]:
    """The modules that have examples, as paths below the package."""
    found = [path for path in PACKAGE.rglob("*.py") if "    >>> " in path.read_text()]
    return sorted(str(path.relative_to(PACKAGE)) for path in found)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What examples are run with, beside the names of their own modules."""
    path = tmp_path_factory.mktemp("examples") / "run"
    run = vl.open_run(write_run(path, frames=1_200, streams=4, seed=1))
    return {"vl": vl, "pl": pl, "np": np, "run": run}


def cases() -> list[Any]:
    return [
        pytest.param(file, marks=[pytest.mark.needs(NEEDS[file])] if file in NEEDS else [])
        for file in files()
    ]


@pytest.mark.parametrize("file", cases())
def test_examples_return_what_they_say(
    file: str, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # an example may record into runs/…
    module = importlib.import_module("vidlab." + file.removesuffix(".py").replace("/", "."))
    runner = doctest.DocTestRunner(Checker(), optionflags=OPTIONS)
    told: list[str] = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=names):
        skipped = [example for example in test.examples if doctest.SKIP in example.options]
        assert not skipped, f"{test.name} has an example that is only read"
        # In a thread of its own: under no label, and with no frame, of a test before it.
        thread = threading.Thread(target=runner.run, args=(test,), kwargs={"out": told.append})
        thread.start()
        thread.join()
    assert runner.tries
    assert not runner.failures, "".join(told)

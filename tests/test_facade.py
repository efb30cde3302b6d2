"""The façade: complete, lazy, and safe from its own submodules."""

from __future__ import annotations

import ast
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import vidlab

SOURCE = Path(vidlab.__file__)

#: The environment of a user: here CuPy may be on host memory, and then vidlab takes part.
PLAIN = {name: value for name, value in os.environ.items() if name != "VIDLAB_HOSTCUDA"}


def test_importing_it_loads_none_of_what_only_some_need() -> None:
    program = (
        "import sys, vidlab; vidlab.labels; vidlab.VidlabError\n"
        "heavy = {'polars', 'av', 'cv2', 'altair', 'numpy', 'pyarrow', 'pandas', 'IPython'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=PLAIN
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", vidlab.__all__)
def test_every_name_resolves(name: str) -> None:
    assert getattr(vidlab, name) is not None
    assert name in dir(vidlab)


@pytest.mark.parametrize(
    "name",
    [
        "lab.faults.fail_allocation",
        "lab.faults.sweep",
        "hostcuda.install",
        "analysis.leaks.verdicts",
    ],
)
def test_the_facade_alone_is_enough_for_what_lies_deeper(name: str) -> None:
    # In a Python of its own: here, other tests have imported the submodules.
    program = f"import vidlab as vl; assert callable(vl.{name})"
    subprocess.run([sys.executable, "-c", program], check=True, env=PLAIN)


@pytest.mark.needs("hostcuda")
def test_an_allocation_fails_by_what_the_facade_offers_alone() -> None:
    program = """
import vidlab as vl
vl.hostcuda.install()
import cupy
with vl.lab.faults.fail_allocation(nth=2, level="pool") as fault:
    cupy.empty(8)
    try:
        cupy.empty(8)
    except MemoryError as error:
        print(type(error).__name__, fault.failed)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=PLAIN
    )
    assert result.stdout == "OutOfMemoryError 1\n"


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'recrod'"):
        vidlab.recrod  # noqa: B018


def test_no_name_is_a_submodule_s() -> None:
    # Importing a submodule sets the package's attribute of that name: it would overwrite ours.
    submodules = {module.name for module in pkgutil.iter_modules([str(SOURCE.parent)])}
    assert set(vidlab.__all__) & submodules == {
        "analysis",
        "charts",
        "datasets",
        "lab",
    }  # these are they


def test_type_checkers_and_the_interpreter_find_the_same() -> None:
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    (checked,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = {}
    for statement in checked.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            between = ":" if ":" in vidlab._SOURCES[alias.name] else "."  # a whole module
            seen[alias.name] = between.join(filter(None, (statement.module, alias.name)))
    assert seen == vidlab._SOURCES
    assert set(seen) | {"__version__"} == set(vidlab.__all__)


def test_its_version_is_the_project_s() -> None:
    project = SOURCE.parents[1] / "pyproject.toml"
    assert f'version = "{vidlab.__version__}"' in project.read_text(encoding="utf-8")

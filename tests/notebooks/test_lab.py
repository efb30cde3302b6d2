"""`make lab`: JupyterLab on the notebooks, in an environment that has all of environment.yml."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_make_lab_opens_the_notebooks_in_the_environment() -> None:
    done = subprocess.run(
        ["make", "-n", "-o", "setup", "lab"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # Run by make itself, make says more: where it goes.
    [command] = [line for line in done.stdout.splitlines() if "jupyter" in line]
    program, *options = command.split()
    assert (program, options[0]) == (".venv/bin/jupyter", "lab")
    [folder] = [o.partition("=")[2] for o in options if o.startswith("--notebook-dir=")]
    assert (ROOT / folder / "01_quickstart.ipynb").exists()


def test_that_environment_has_all_of_environment_yml() -> None:
    # These tests run in it.
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = (part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    wanted = dict(line.split("==") for line in pip if "==" in line)
    assert len(wanted) > 10
    installed = {name: importlib.metadata.version(name) for name in wanted}
    assert installed == wanted

"""Notebooks that have been run, and what they then show. Each is run once with each parameters."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from vidlab import cli, datasets
from vidlab.workbench import notebooks

FOLDER = Path(__file__).parents[2] / "notebooks"


class Executed:
    """A notebook after it has been run.

    Attributes
    ----------
    notebook : NotebookNode
    parameters : dict
        What it was run with, beside its defaults.
    """

    def __init__(self, notebook: nbformat.NotebookNode, parameters: dict[str, Any]) -> None:
        self.notebook = notebook
        self.parameters = parameters

    @property
    def outputs(self) -> list[nbformat.NotebookNode]:
        """What its cells show, in order."""
        return [output for cell in self.notebook.cells for output in cell.get("outputs", [])]

    @property
    def text(self) -> str:
        """All of that, as one text."""
        return json.dumps(self.outputs)

    @property
    def shown(self) -> list[str]:
        """The HTML of each output; '' of those that have none."""
        return [output.get("data", {}).get("text/html", "") for output in self.outputs]

    @property
    def printed(self) -> str:
        """What its cells print on stdout."""
        return "".join(
            output.text
            for output in self.outputs
            if output.output_type == "stream" and output.name == "stdout"
        )

    @property
    def charts(self) -> int:
        """How many charts it shows."""
        return self.text.count("vidlab-chart")

    def table(self, caption: str) -> list[list[str]]:
        """The cells of the table with this caption, row by row, as many as are shown."""
        [found] = [shown for shown in self.shown if f"<caption>{caption}</caption>" in shown]
        rows = [row for row in re.findall(r"<tr>(.*?)</tr>", found)[1:] if "colspan" not in row]
        return [list(map(html.unescape, re.findall(r"<td[^>]*>(.*?)</td>", row))) for row in rows]


Execute = Callable[..., Executed]


@pytest.fixture(scope="session")
def execute() -> Execute:
    """Run a notebook with these parameters; or return how it was run with them before."""
    known: dict[str, Executed] = {}

    def run(name: str, **parameters: Any) -> Executed:
        key = json.dumps([name, parameters], sort_keys=True)
        if key not in known:
            executed = notebooks.execute(FOLDER / f"{name}.ipynb", parameters)
            known[key] = Executed(executed, parameters)
        return known[key]

    return run


@pytest.fixture
def command_line(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `vidlab VERB` on a data set, or a run, and return what it prints."""

    def run(verb: str, name: str, *options: str) -> str:
        capsys.readouterr()
        assert cli.main([verb, str(datasets.load(name).path), *options]) == 0
        return capsys.readouterr().out

    return run

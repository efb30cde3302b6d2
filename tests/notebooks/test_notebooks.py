"""The notebooks as they are kept: pairs in step, stripped, short, each with its story."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

from vidlab import datasets

FOLDER = Path(__file__).parents[2] / "notebooks"
PAIRS = sorted(FOLDER.glob("*.py"))
NUMBERED = [path for path in PAIRS if path.stem[:2].isdecimal()]

#: Every notebook takes these; `experiment` records a run of its own, by others.
COMMON = ["run", "stream_id", "codec", "gpu", "deadline_ms"]

every_notebook = pytest.mark.parametrize("source", PAIRS, ids=lambda path: path.stem)


def cells_of(notebook: nbformat.NotebookNode) -> list[tuple[str, str, list[str]]]:
    return [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in notebook.cells]


def parameters_of(source: Path) -> dict[str, Any]:
    """The parameters of a notebook and their defaults: literals all."""
    [cell] = [c for c in jupytext.read(source).cells if "parameters" in c.metadata.get("tags", [])]
    return {
        node.targets[0].id: ast.literal_eval(node.value)  # type: ignore[attr-defined]
        for node in ast.parse(cell.source).body
    }


def test_all_notebooks_are_pairs() -> None:
    assert {path.stem for path in PAIRS} == {path.stem for path in FOLDER.glob("*.ipynb")}
    numbers = [path.stem.partition("_")[0] for path in NUMBERED]
    assert numbers == [f"{number:02d}" for number in range(1, len(numbers) + 1)]
    assert numbers[-1] == "07"


@every_notebook
def test_a_pair_is_in_step(source: Path) -> None:
    script = jupytext.read(source)
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert cells_of(script) == cells_of(notebook), (
        f"run: jupytext --to ipynb --update notebooks/{source.name}"
    )


@every_notebook
def test_it_is_stripped_and_small(source: Path) -> None:
    path = source.with_suffix(".ipynb")
    assert path.stat().st_size < 50_000
    for cell in nbformat.read(path, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@every_notebook
def test_it_asks_a_question_takes_parameters_and_leaves_logic_to_the_package(source: Path) -> None:
    title, parameters, *rest = jupytext.read(source).cells
    assert title.cell_type == "markdown"
    assert title.source.splitlines()[0].startswith("# ")
    assert title.source.splitlines()[0].endswith("?")
    assert parameters.metadata["tags"] == ["parameters"]
    if source.stem != "experiment":
        assert list(parameters_of(source))[: len(COMMON)] == COMMON
    code = ast.parse("\n".join(cell.source for cell in rest if cell.cell_type == "code"))
    for node in ast.walk(code):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 10, f"{node.name} belongs in the package"


@pytest.mark.parametrize("source", NUMBERED, ids=lambda path: path.stem)
def test_its_story_can_be_read_before_it_is_run(source: Path) -> None:
    cells = jupytext.read(source).cells
    stories = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert len(stories[0].split()) > 40, "the title's cell says what one will see"
    for story in stories[1:]:
        words = re.sub(r"^#+ .*", "", story).split()
        assert len(words) >= 8, f"{story!r} does not say how to read what comes next"
    last = [cell for cell in cells if cell.source.startswith("## ")][-1]
    assert last.source.startswith("## The answer\n")
    assert cells[-1].cell_type == "code"


@pytest.mark.parametrize(
    "source",
    [p for p in PAIRS if p.stem not in ("01_quickstart", "experiment")],
    ids=lambda p: p.stem,
)
def test_by_default_it_reads_a_data_set(source: Path) -> None:
    assert parameters_of(source)["run"] in datasets.names()

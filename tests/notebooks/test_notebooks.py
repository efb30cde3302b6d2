"""The notebooks: pairs in step, stripped, short, and each runs from top to bottom."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

from vidlab.lab.synthetic import write_run
from vidlab.workbench import notebooks

FOLDER = Path(__file__).parents[2] / "notebooks"
PAIRS = sorted(FOLDER.glob("*.py"))

every_notebook = pytest.mark.parametrize("source", PAIRS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("notebooks") / "run", frames=1_200, streams=4, seed=1)


def cells_of(notebook: nbformat.NotebookNode) -> list[tuple[str, str, list[str]]]:
    return [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in notebook.cells]


def outputs_of(executed: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in executed.cells for output in cell.get("outputs", [])]


def text_of(executed: nbformat.NotebookNode) -> str:
    return json.dumps(outputs_of(executed))


def test_all_notebooks_are_pairs() -> None:
    assert {path.stem for path in PAIRS} == {path.stem for path in FOLDER.glob("*.ipynb")}
    numbered = {path.stem.partition("_")[0] for path in PAIRS if path.stem != "report"}
    assert numbered == {"01", "02", "03", "04", "05", "06"}


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
    assigned = {
        node.targets[0].id: ast.literal_eval(node.value)  # type: ignore[attr-defined]
        for node in ast.parse(parameters.source).body
    }
    assert list(assigned) == ["run", "stream_id", "codec", "gpu", "deadline_ms"]
    code = ast.parse("\n".join(cell.source for cell in rest if cell.cell_type == "code"))
    for node in ast.walk(code):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 10, f"{node.name} belongs in the package"


@pytest.mark.parametrize(
    "parameters",
    [{"deadline_ms": 30.0}, {"stream_id": "cam-02", "codec": "av1", "deadline_ms": 40.0}],
    ids=["whole", "slice"],
)
def test_the_report_runs(run_path: Path, parameters: dict[str, Any]) -> None:
    executed = notebooks.execute(FOLDER / "report.ipynb", {"run": str(run_path), **parameters})
    assert text_of(executed).count("vidlab-chart") > 15
    shown = [output.data.get("text/html", "") for output in outputs_of(executed)]
    [verdict] = [html for html in shown if "headline" in html]
    assert "cam-02" in verdict
    assert ("cam-03" in verdict) == ("stream_id" not in parameters)


def test_frame_latency_runs(run_path: Path) -> None:
    executed = notebooks.execute(
        FOLDER / "02_frame_latency.ipynb", {"run": str(run_path), "deadline_ms": 40.0}
    )
    text = text_of(executed)
    assert "The way of the slowest frame" in text
    assert "100.0%" in text  # the latency of all frames closes


def test_quickstart_records_and_answers(tmp_path: Path) -> None:
    executed = notebooks.execute(FOLDER / "01_quickstart.ipynb", {"run": str(tmp_path / "run")})
    assert "motion" in text_of(executed)
    assert (tmp_path / "run" / "manifest.json").exists()


@pytest.mark.needs("hostcuda")
def test_gpu_memory_names_the_leak_and_its_holder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    executed = notebooks.execute(FOLDER / "03_gpu_memory.ipynb", {"run": str(run)})
    assert (run / "manifest.json").exists()
    assert text_of(executed).count("vidlab-chart") >= 10
    shown = [output.data.get("text/html", "") for output in outputs_of(executed)]
    [headline] = [text for text in shown if "were in use at once" in text]
    assert "1 allocation site leaks: Stream.prepare" in headline
    assert "(cam-2, hevc)" in headline
    assert "Stream._suspects" in headline
    [holders] = [text for text in shown if "What holds the blocks" in text]
    assert "Stream._background" in holders
    assert "hevc" in holders


@pytest.fixture(scope="module")
def kernel_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with kernel events, which notebook 04 records as there is none at its path."""
    run = tmp_path_factory.mktemp("notebooks") / "kernel"
    notebooks.execute(FOLDER / "04_kernel_events.ipynb", {"run": str(run)})
    assert (run / "manifest.json").exists()
    return run


@pytest.mark.needs("ebpf")
@pytest.mark.needs("hostcuda")
@pytest.mark.parametrize(
    "parameters", [{}, {"stream_id": "cam-2", "codec": "hevc"}], ids=["whole", "slice"]
)
def test_kernel_events_answer(kernel_run: Path, parameters: dict[str, Any]) -> None:
    executed = notebooks.execute(
        FOLDER / "04_kernel_events.ipynb", {"run": str(kernel_run), **parameters}
    )
    text = text_of(executed)
    assert text.count("vidlab-chart") == 7
    for word in ("annotate", "cudaMalloc", "driver only", "block 1", "hevc", "sched_switch"):
        assert word in text, word
    assert "cam-2" in text
    assert ("cam-3" in text) == ("stream_id" not in parameters)
    shown = [output.data.get("text/html", "") for output in outputs_of(executed)]
    [headline] = [text for text in shown if "Stages were off the CPU most in" in text]
    assert "kinds" in headline
    [connections] = [text for text in shown if "TCP by stream" in text]
    assert "127.0.0.1" in connections


@pytest.mark.needs("ebpf")
@pytest.mark.needs("hostcuda")
def test_the_report_of_a_run_with_kernel_events_has_a_section_on_them(kernel_run: Path) -> None:
    executed = notebooks.execute(FOLDER / "report.ipynb", {"run": str(kernel_run)})
    shown = [output.data.get("text/html", "") for output in outputs_of(executed)]
    [place] = [n for n, text in enumerate(shown) if "<h2>Kernel events</h2>" in text]
    rest = " ".join(shown[place:])
    for title in ("Time off the CPU", "TCP connections", "Driver memory that was taken"):
        assert title in rest


def test_the_report_of_a_run_without_kernel_events_is_silent_about_them(run_path: Path) -> None:
    executed = notebooks.execute(FOLDER / "report.ipynb", {"run": str(run_path)})
    assert "ernel events" not in text_of(executed)
    of_kernel = [cell for cell in executed.cells if cell.source.startswith("kernel")]
    assert len(of_kernel) >= 10
    assert not any(cell.outputs for cell in of_kernel)


def test_the_report_of_a_run_without_allocations_says_so_in_a_line(run_path: Path) -> None:
    executed = notebooks.execute(FOLDER / "report.ipynb", {"run": str(run_path)})
    shown = [output.data.get("text/html", "") for output in outputs_of(executed)]
    assert sum("No GPU memory was recorded" in text for text in shown) == 1
    assert "What holds the memory that is in use" not in text_of(executed)

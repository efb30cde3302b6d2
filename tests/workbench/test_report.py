"""`write_report` writes one file, of the whole run or of a slice, or says what is wrong."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from vidlab.errors import InputError, MissingDependencyError, RunError, VidlabError
from vidlab.workbench import notebooks, report


def test_a_report_of_a_slice_speaks_of_that_slice(run_path: Path, tmp_path: Path) -> None:
    written = report.write_report(
        run_path, tmp_path / "deep" / "report.html", stream_id="cam-02", deadline_ms=30
    )
    page = written.read_text(encoding="utf-8")
    assert written == tmp_path / "deep" / "report.html"
    assert "cam-02 (av1)" in page
    verdict = page[page.index("headline") : page.index("vidlab-chart")]
    assert "cam-00" not in verdict
    assert page.count('class="vidlab-chart"') > 15
    assert "Traceback" not in page


@pytest.mark.needs("browser")
def test_a_pdf_is_printed(run_path: Path, tmp_path: Path) -> None:
    written = report.write_report(run_path, tmp_path / "report.pdf")
    content = written.read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") > 3
    assert len(content) > 50_000


def test_without_a_browser_a_pdf_says_what_to_install(
    run_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="apt-get install chromium"):
        report.write_report(run_path, tmp_path / "report.pdf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream_id": "cam-99"}, "no stream_id 'cam-99'; it has cam-00, cam-01"),
        ({"codec": "prores"}, "no codec 'prores'; it has av1"),
        ({"gpu": 7}, "no gpu 7; it has 0"),
    ],
)
def test_a_slice_that_is_not_there(
    run_path: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        report.write_report(run_path, tmp_path / "r.html", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "r.html").exists()


def test_other_files_and_missing_runs_are_refused(run_path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.html or a \.pdf file, not 'report.docx'"):
        report.write_report(run_path, tmp_path / "report.docx")
    with pytest.raises(RunError):
        report.write_report(tmp_path / "nothing", tmp_path / "report.html")


def test_a_cell_that_fails_names_its_error(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell("1 / 0")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "bad.ipynb")
    with pytest.raises(VidlabError, match=r"bad\.ipynb failed: ZeroDivisionError"):
        notebooks.execute(tmp_path / "bad.ipynb", {})


def test_a_notebook_takes_no_part_in_a_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDLAB_RUN", str(tmp_path))
    code = "import os; print('VIDLAB_RUN' in os.environ, os.environ['VIDLAB_REPORT'])"
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), tmp_path / "env.ipynb"
    )
    executed = notebooks.execute(tmp_path / "env.ipynb", {})
    assert executed.cells[0].outputs[0].text.strip() == "False 1"


def test_the_notebook_of_the_package_is_the_one_of_the_repository() -> None:
    assert notebooks.REPORT.resolve() == Path(__file__).parents[2] / "notebooks" / "report.ipynb"

"""The magics, in real shells: what is recorded, what a cell keeps, what is said of mistakes."""

from __future__ import annotations

import argparse
import atexit
import builtins
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import polars as pl
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import CapturedIO, capture_output
from traitlets.config import Config

import vidlab as vl
from vidlab.lab.clips import Clip, make_clips
from vidlab.runs.run import Run
from vidlab.workbench import arguments, magics, notebooks

CLIP = Clip("cell", "libx264", {"bf": "2"}, width=160, height=90, seconds=0.8)

#: A cell's code that decodes the clip, and ends in how many frames there were.
DECODE = """
import vidlab as vl
with vl.open_video(clip) as video:
    count = sum(1 for frame in video.frames())
count"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = make_clips([CLIP], tmp_path_factory.mktemp("clips"))
    return path


class Cells:
    """A shell, and what its cells came to."""

    def __init__(self) -> None:
        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "nocolor"
        # The one of the process, which is what displays.
        self.shell = InteractiveShell.instance(config=config)
        self.shown = CapturedIO("", "")

    def run(self, cell: str) -> Any:
        """Run a cell and return its value; what it shows is in `shown`."""
        return self.ran(cell).result

    def ran(self, cell: str) -> Any:
        with capture_output() as self.shown:
            return self.shell.run_cell(cell, store_history=True)

    @property
    def text(self) -> str:
        shown = (output.data["text/plain"] for output in self.shown.outputs)
        return "\n".join([self.shown.stdout, self.shown.stderr, *shown])

    def __getitem__(self, name: str) -> Any:
        return self.shell.user_ns[name]


@pytest.fixture
def cells(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cells]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    cells = Cells()
    cells.run("%load_ext vidlab")
    cells.shell.user_ns["clip"] = clip
    yield cells
    with vl.record(tmp_path / "after", engines=[]):
        pass  # whatever a cell did, no recording is left running
    atexit.unregister(cells.shell.atexit_operations)
    InteractiveShell.clear_instance()


def frames(path: str) -> int:
    return vl.open_run(path).scan("frames").collect().height


# --- %%record -------------------------------------------------------------------


def test_a_cell_is_recorded_and_is_what_it_was(cells: Cells) -> None:
    vars(builtins).pop("_", None)  # of a doctest: IPython leaves it alone then
    assert cells.run(f"%%record -o runs/first --into run{DECODE}") == CLIP.frame_count
    assert cells["count"] == CLIP.frame_count
    assert cells.shell.user_ns["_"] == CLIP.frame_count
    assert "recorded runs/first, 20 frames: %explain run" in cells.text
    run = cells["run"]
    assert isinstance(run, Run)
    assert run.scan("frames").collect()["fate"].cast(pl.String).unique().to_list() == ["delivered"]
    assert run.manifest.parameters["command"][:2] == ["%%record", "-o"]
    assert run.manifest.notes == ()
    assert vl.verify(run.path) == []
    # Again, the same is said once; and what comes after is not recorded.
    assert cells.run(f"%%record -o runs/first --into run{DECODE}") is None
    assert "--overwrite" in cells.text
    assert cells.run(f"%%record -o runs/first --into run --overwrite{DECODE}") == CLIP.frame_count
    assert cells.run(f"%%record -o runs/first --into run --overwrite{DECODE}") == CLIP.frame_count
    assert cells.text.count("recorded runs/first") == 1
    assert cells.run(DECODE) == CLIP.frame_count
    assert frames("runs/first") == CLIP.frame_count


def test_without_a_name_a_cell_has_a_run_of_its_own(cells: Cells) -> None:
    assert cells.run(f"%%record{DECODE};") is None  # the semicolon, as always
    (path,) = Path("runs").iterdir()
    assert f"recorded {path}, 20 frames: %explain {path}" in cells.text
    assert frames(str(path)) == CLIP.frame_count


def test_a_cell_that_awaits(cells: Cells) -> None:
    awaiting = f"import asyncio\nawait asyncio.sleep(0){DECODE} + await asyncio.sleep(0, 1)"
    assert cells.run(f"%%record -o run --label site=north\n{awaiting}") == CLIP.frame_count + 1
    sites = vl.open_run("run").scan("frames").collect()["site"].cast(pl.String)
    assert sites.unique().to_list() == ["north"]
    assert cells.run("vl.labelsets.current.get()") == 0  # the label has gone with the cell


@pytest.mark.parametrize("awaiting", ["", "await __import__('asyncio').sleep(0)\n"])
@pytest.mark.parametrize("error", ["ZeroDivisionError('x')", "KeyboardInterrupt('x')"])
def test_a_cell_that_fails_is_finished_and_its_traceback_its_own(
    cells: Cells, error: str, awaiting: str
) -> None:
    ran = cells.ran(f"%%record -o run\n{awaiting}{DECODE.strip()}\nraise {error}")
    kind = error.partition("(")[0]
    assert type(ran.error_in_exec).__name__ == kind
    line = 6 if not awaiting else 7
    assert f"line {line}" in cells.text
    assert "cells.py" not in cells.text
    assert "recorded run, 20 frames" in cells.text
    run = vl.open_run("run")
    assert run.manifest.state == "complete"
    assert run.manifest.notes == (f"what was recorded ended with {kind}: x",)
    assert cells.run("1 + 1") == 2
    assert "recorded" not in cells.text


def test_a_cell_with_a_syntax_error_does_not_begin(cells: Cells) -> None:
    assert isinstance(cells.ran("%%record -o run\n1 +").error_before_exec, SyntaxError)
    assert not Path("run").exists()


def test_cells_inside_do_not_end_it(cells: Cells) -> None:
    inner = "get_ipython().run_cell('1')\n%time 2\n%%capture"
    ran = cells.ran(f"%%record -o run\n{inner.partition('%%')[0]}{DECODE}")
    assert ran.success
    assert cells.text.count("recorded run, 20 frames") == 1


@pytest.mark.parametrize("around", ["%%capture told\n%%record -o run", "%%record -o run\n%%time"])
def test_with_other_cell_magics(cells: Cells, around: str) -> None:
    assert cells.ran(f"{around}{DECODE}").success
    assert frames("run") == CLIP.frame_count
    told = [output.data["text/plain"] for output in cells.shown.outputs]
    told += [
        out.data["text/plain"] for out in getattr(cells.shell.user_ns.get("told"), "outputs", [])
    ]
    assert any("recorded run" in text for text in told)


def test_one_recording_at_a_time(cells: Cells) -> None:
    twice = "%%record -o run\nran = get_ipython().run_cell('%%record -o other\\n1')"
    assert cells.ran(twice).success
    assert isinstance(cells["ran"].error_in_exec, UsageError)
    assert "a recording into" in cells.text
    assert "is running" in cells.text
    assert not Path("other").exists()
    assert Path("run").exists()


def test_options_are_the_command_line_s(cells: Cells) -> None:
    command_line = argparse.ArgumentParser()
    arguments.add_recording(command_line)
    own = {action.dest: action for action in magics._record_parser()._actions}
    for action in command_line._actions:
        assert vars(own[action.dest]).keys() == vars(action).keys()
        same = {"option_strings", "type", "default", "choices", "help", "metavar"}
        assert all(vars(own[action.dest])[name] == vars(action)[name] for name in same)
    more = "--deadline-ms 80 --runtime staging --max-bytes 64M --redact site --into run"
    cells.shell.user_ns["folder"] = "run"
    assert cells.run(f"%%record -o {{folder}} {more}{DECODE}") == CLIP.frame_count
    run = cells["run"]
    assert run.path.name == "run"
    assert run.manifest.parameters["deadline_ms"] == 80
    assert run.manifest.limits == {"max_bytes": 64 << 20}
    assert run.manifest.label_rules["redact"] == ["site"]
    assert run.scan("runtime_profiles").collect()["profile"].to_list() == ["staging"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--wrong", "unrecognized arguments: --wrong"),
        ("--wrong", "usage: %%record [-h] [-o RUN]"),
        ("transcode.py in.mp4", "A script: !vidlab record transcode.py in.mp4"),
        ("--into 1st", "'1st' is no name of a variable"),
        ("--into class", "'class' is no name of a variable"),
        ("--label north", "not of the form key=value"),
        ("--label gpu=x", "the label gpu is a device index"),
        ("--label site=x --redact site", "is to be kept out of the run"),
        ("-o 'run", "cannot be read as options"),
        ("-o .", "is not empty, and not a run"),
        ("--probes nothing", "nothing"),
        ("--max-bytes 7", "max_bytes is 7"),
        ("--max-bytes 7", "UsageError: "),
    ],
)
def test_a_mistake_is_told_before_anything_runs(cells: Cells, options: str, message: str) -> None:
    Path("full").mkdir()
    ran = cells.ran(f"%%record {options}\nran = True")
    assert isinstance(ran.error_in_exec, UsageError)
    assert message in cells.text
    assert "Traceback" not in cells.text
    assert "ran" not in cells.shell.user_ns
    assert sorted(path.name for path in Path().iterdir()) == ["full", "ipython"]


def test_the_options_are_shown_and_nothing_runs(cells: Cells) -> None:
    for cell in ("%%record --help\nran = True", "%%record -o x -h\nran = True", "%%record?"):
        assert cells.ran(cell).success
        assert "--keep-seconds S" in cells.text
        assert "--into NAME" in cells.text
    assert "ran" not in cells.shell.user_ns
    assert "body is empty" in str(cells.ran("%%record").error_in_exec)


def test_called_by_name_it_is_the_same(cells: Cells) -> None:
    cells.shell.run_cell_magic("record", "-o run", DECODE)
    assert frames("run") == CLIP.frame_count


def test_a_silent_cell(cells: Cells) -> None:
    cells.shell.run_cell(f"%%record -o run{DECODE}", silent=True)
    assert frames("run") == CLIP.frame_count


def test_a_cell_that_deletes_its_run(cells: Cells) -> None:
    delete = "while os.path.exists('run'): shutil.rmtree('run', ignore_errors=True)"
    assert cells.ran(f"%%record -o run --into run\nimport os, shutil\n{delete}").success
    assert "nothing is left of what was recorded" in cells.text
    assert "run" not in cells.shell.user_ns


def test_a_cell_that_goes_elsewhere(cells: Cells) -> None:
    assert cells.ran(f"%%record -o run --into run{DECODE}\n%mkdir sub\n%cd sub").success
    assert cells["run"].scan("frames").collect().height == CLIP.frame_count


def test_without_polars_there_is_no_run_to_put_into_a_variable(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    cells.ran("%%record --into run\nran = True")
    assert "pip install 'vidlab[workbench]'" in cells.text
    assert "ran" not in cells.shell.user_ns


def test_the_extension_goes_as_it_came(cells: Cells) -> None:
    before = len(cells.shell.input_transformers_cleanup)
    cells.run("%reload_ext vidlab")
    assert len(cells.shell.input_transformers_cleanup) == before
    cells.run("%unload_ext vidlab")
    assert len(cells.shell.input_transformers_cleanup) == before - 1
    assert "`%%record` not found" in str(cells.ran("%%record\n1").error_in_exec)
    assert "`%explain` not found" in str(cells.ran("%explain run").error_in_exec)


# --- in a kernel ----------------------------------------------------------------


def test_in_a_kernel(tmp_path: Path, clip: Path) -> None:
    """Where the event loop runs already, and front ends show what there is as HTML."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "language": "python", "display_name": "P"}
    sources = [
        f"%load_ext vidlab\nclip = {str(clip)!r}\nimport asyncio",
        f"%%record -o {tmp_path}/run --into run\nawait asyncio.sleep(0){DECODE}",
        "%explain run --deadline-ms 0.001",
    ]
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(notebook, tmp_path / "notebook.ipynb")
    executed = notebooks.execute(tmp_path / "notebook.ipynb", {})
    *_, recorded, explained = executed.cells
    (value,) = [output for output in recorded.outputs if output.output_type == "execute_result"]
    assert value.data["text/plain"] == "20"
    assert "20 frames: <code>%explain run</code>" in json.dumps(recorded.outputs)
    assert "20 of 20 delivered frames were late" in json.dumps(explained.outputs)


# --- %explain -------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", ["", "--codec av1", "--deadline-ms 30 --stream-id cam-01", "--worst"]
)
def test_explain_says_what_the_command_line_says(
    cells: Cells, run_path: Path, arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from vidlab import cli

    explained = cells.run(f"%explain {shlex.quote(str(run_path))} {arguments}")
    cli.main(["explain", str(run_path), *arguments.split()])
    assert str(explained) == capsys.readouterr().out.removesuffix("\n")
    cells.run(f"%explain {shlex.quote(str(run_path))} {arguments} --json")
    assert json.loads(cells.shown.stdout) == explained.facts()


@pytest.mark.parametrize("kind", [vl.open_run, str, Path, os.fspath])
def test_explain_takes_a_variable(cells: Cells, run_path: Path, kind: Any) -> None:
    cells.shell.user_ns["mine"] = kind(run_path)
    by_name, by_path = cells.run("%explain mine"), cells.run(f"%explain {run_path}")
    assert str(by_name) == str(by_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "the following arguments are required: RUN"),
        ("nowhere", "nowhere"),
        ("run --wrong", "unrecognized arguments: --wrong"),
        ("run --frame 1 --worst", "not allowed with"),
    ],
)
def test_a_mistake_of_explain_is_told(cells: Cells, line: str, message: str) -> None:
    ran = cells.ran(f"%explain {line}")
    assert isinstance(ran.error_in_exec, UsageError)
    assert message in cells.text
    assert "Traceback" not in cells.text

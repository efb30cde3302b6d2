"""The documentation is as the program is: snippets run, tables and links are right."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vidlab as vl
from docs.generate import __main__ as generate
from docs.generate import gallery, kernel_columns, pages, run_format
from docs.generate.examples import Example
from vidlab import schema
from vidlab.cli import main
from vidlab.runs.manifest import Manifest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

#: The only addresses outside: of projects that a reader may want to look up.
ELSEWHERE = ("https://altair-viz.github.io",)

MOST_BYTES, MOST_BYTES_OF_ONE = 3 << 20, 300 << 10


# --- the gallery --------------------------------------------------------------------


def test_every_chart_is_in_the_gallery_once() -> None:
    assert sorted(example.chart for example in gallery.examples()) == gallery.public_charts()
    assert len(gallery.public_charts()) > 45


@pytest.mark.parametrize("example", gallery.examples(), ids=lambda example: example.chart)
def test_a_gallery_example_draws_what_it_says(example: Example) -> None:
    assert f"vl.charts.{example.chart}(" in example.call
    chart = gallery.chart_of(example).to_dict()
    assert rows_of(chart), "there is nothing to see: choose another run"


def rows_of(chart: dict[str, Any]) -> int:
    """How many rows of data a chart carries; a line of text that stands for none is no row."""

    def count(values: Any) -> int:
        if isinstance(values, str):
            return len(values.splitlines()) - 1
        return sum(1 for row in values if set(row) != {"text"})

    return sum(count(values) for values in chart["datasets"].values())


def test_a_chart_of_nothing_has_no_rows() -> None:
    assert rows_of(vl.charts.theme.nothing("What is seen").to_dict()) == 0


def test_the_gallery_is_up_to_date() -> None:
    assert (DOCS / "gallery.md").read_text() == gallery.page(), "run python -m docs.generate"


def test_every_picture_is_there_and_small() -> None:
    folder = DOCS / gallery.FOLDER
    assert {path.name for path in folder.iterdir()} == {e.file for e in gallery.examples()}
    pictures = [*DOCS.rglob("*.png")]
    for picture in pictures:
        head = picture.read_bytes()[:24]
        width, height = struct.unpack(">II", head[16:24])
        assert head.startswith(b"\x89PNG"), picture
        assert min(width, height) > 60, picture
        assert picture.stat().st_size < MOST_BYTES_OF_ONE, picture
    assert sum(picture.stat().st_size for picture in pictures) < MOST_BYTES


# --- what is generated, and what blocks return ----------------------------------------


@pytest.mark.parametrize("name", generate.FILLED)
def test_generated_blocks_are_up_to_date(name: str) -> None:
    text = (DOCS / name).read_text()
    assert "<!-- generated:" in text
    assert pages.filled(text, generate.BLOCKS) == text, "run python -m docs.generate"


@pytest.mark.parametrize("name", generate.EXECUTED)
def test_blocks_return_what_stands_below_them(name: str) -> None:
    text = (DOCS / name).read_text()
    assert len(pages.snippets(text)) > 3
    assert pages.executed(text) == text, "run python -m docs.generate, and read what changed"


def test_every_column_of_the_probe_sets_is_explained() -> None:
    declared = run_format.declared_tables()
    assert set(kernel_columns.MEANINGS) == set(declared)
    for name, table in declared.items():
        own = {column.name for column in run_format.own_columns(table)}
        told = set(kernel_columns.MEANINGS[name][1])
        assert told <= own, name
        assert own <= told | set(kernel_columns.EVERYWHERE), name


def test_every_field_of_the_manifest_is_explained() -> None:
    assert set(run_format.MANIFEST) == {field.name for field in dataclasses.fields(Manifest)}


def test_every_table_is_on_the_page_of_the_engine_that_records_it() -> None:
    told = "".join(page.read_text() for page in (DOCS / "engines").iterdir())
    tables = {*schema.TABLES, *run_format.declared_tables()} - {"frame_events", "gpu_times"}
    assert {name for name in tables if f"(../run-format.md#{name})" not in told} == set()


# --- every page -----------------------------------------------------------------------


@functools.cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            assert link.startswith(ELSEWHERE), link
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


@every_page
def test_python_blocks_use_names_that_exist(page: Path) -> None:
    for code in pages.snippets(page.read_text()):
        for chain in dotted(ast.parse(code)):
            value: Any = vl
            for name in chain:
                assert hasattr(value, name), f"vl.{'.'.join(chain)}"
                value = getattr(value, name)


def dotted(tree: ast.AST) -> Iterator[list[str]]:
    """The names that follow `vl.` in a program, each as far as it goes."""
    for node in ast.walk(tree):
        chain: list[str] = []
        while isinstance(node, ast.Attribute):
            chain.insert(0, node.attr)
            node = node.value
        if chain and isinstance(node, ast.Name) and node.id == "vl":
            yield chain


@every_page
def test_commands_have_verbs_and_options_that_exist(
    page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page.read_text()
    shell = re.findall(r"^```\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`(vidlab [^`]+)`", text)
    lines = [line.partition("  #")[0] for part in [*shell, *inline] for line in part.splitlines()]
    for line in lines:
        for command in re.findall(r"(?:^\$? ?|\s)vidlab ([a-z].*)", line):
            verb, *words = command.split()
            known = help_of(verb.rstrip(","), capsys)
            for word in words:
                option = re.match(r"\[?(--?[a-z][\w-]*)", word)
                if option:
                    assert re.search(rf"(?<![\w-]){option[1]}(?![\w-])", known), line


def help_of(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0, f"there is no verb {verb!r}"
    return capsys.readouterr().out

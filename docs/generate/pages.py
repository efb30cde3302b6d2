"""Pages that hold generated parts: snippets with what they return, and blocks between markers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from .drawing import save, value_of

#: A Python block, and what stands right after it: the picture, or the text, that it returns.
_SNIPPET = re.compile(
    r"^```python\n(?P<code>.*?)^```\n"
    r"(?P<shown>\n(?:!\[[^\]]*\]\((?P<picture>[^)]+)\)|```text\n.*?^```)\n)?",
    re.MULTILINE | re.DOTALL,
)

_BLOCK = re.compile(
    r"(?P<begin><!-- generated: (?P<name>\w+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)

#: What a page shows of a table: as wide as a page is.
_TABLES: dict[str, Any] = {
    "tbl_hide_dataframe_shape": True,
    "tbl_hide_column_data_types": True,
    "tbl_formatting": "NOTHING",
    "tbl_width_chars": 110,
    "tbl_cols": -1,
    "tbl_rows": 12,
    "fmt_str_lengths": 80,
    "float_precision": 3,
    "thousands_separator": ",",
}


def filled(text: str, blocks: Mapping[str, Callable[[], str]]) -> str:
    """Return a page with what is between its markers made anew.

    Parameters
    ----------
    text : str
        With `<!-- generated: name -->` … `<!-- end -->`.
    blocks : Mapping
        What makes the block of a name.
    """
    return _BLOCK.sub(
        lambda found: f"{found['begin']}\n{blocks[found['name']]().strip()}\n\n{found['end']}", text
    )


def executed(text: str, draw: Path | None = None) -> str:
    """Return a page with all its Python blocks run in order, each followed by what it returns.

    Blocks share their names. A chart is drawn into the picture that stands after its block;
    everything else stands there as text.

    Parameters
    ----------
    text : str
        Markdown.
    draw : Path, optional
        The folder that pictures are relative to; without it none is drawn.
    """
    names: dict[str, Any] = {}

    def run(found: re.Match[str]) -> str:
        value = value_of(found["code"], names)
        block = f"```python\n{found['code']}```\n"
        if value is None:
            return block
        if hasattr(value, "to_dict") and hasattr(value, "save"):
            if not found["picture"]:
                raise ValueError(f"after this block a picture is missing:\n{found['code']}")
            if draw is not None:
                save(value, draw / found["picture"])
            return block + (found["shown"] or "")
        return f"{block}\n```text\n{_said(value)}\n```\n"

    with pl.Config(**_TABLES):
        return _SNIPPET.sub(run, text)


def _said(value: Any) -> str:
    lines = str(value).strip("\n").splitlines()
    return "\n".join(line.rstrip() for line in lines)


def snippets(text: str) -> list[str]:
    """Return the Python blocks of a page."""
    return [found["code"] for found in _SNIPPET.finditer(text)]

"""Text for a reader of a notebook, a page or a terminal."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence


class Line:
    """A line of text, for a reader of a notebook or a page."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_html_(self) -> str:
        return f"<p>{self.text}</p>"

    def __repr__(self) -> str:
        return html.unescape(re.sub(r"<[^>]+>", "", self.text))


class Section(Line):
    """The heading of a section that only some reports have, and a line below it."""

    def __init__(self, heading: str, text: str) -> None:
        super().__init__(text)
        self.heading = heading

    def _repr_html_(self) -> str:
        return f"<h2>{html.escape(self.heading)}</h2>{super()._repr_html_()}"


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table for a terminal, a line a row, below a line of headings."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()

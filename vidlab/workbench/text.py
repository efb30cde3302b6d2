"""Text for a reader of a notebook or a page."""

from __future__ import annotations

import html
import re


class Line:
    """A line of text, for a reader of a notebook or a page."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_html_(self) -> str:
        return f"<p>{self.text}</p>"

    def __repr__(self) -> str:
        return html.unescape(re.sub(r"<[^>]+>", "", self.text))

"""What every explorer on a page draws with: Vega, and the charts. It is sent once a kernel.

It needs nothing that reads runs, so that it is under way before that is imported.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from . import specs, vega

_library: Library | None = None


class Library(anywidget.AnyWidget):
    """The page's means of drawing: not seen itself.

    Attributes
    ----------
    code : str
        A JavaScript module that exports `vegaEmbed`.
    charts : dict
        By look, `light` or `dark`, and by view: its specification for Vega.
    version : str
        By which a page knows whether it has the same already.
    """

    _esm = Path(__file__).parent / "drawing.js"

    code = traitlets.Unicode().tag(sync=True)
    charts: Any = traitlets.Dict().tag(sync=True)
    version = traitlets.Unicode().tag(sync=True)


def the_library() -> Library:
    """Return the kernel's one, sent to the page.

    Raises
    ------
    MissingDependencyError
        If altair or vl-convert is not installed.
    """
    global _library
    if _library is None or _library.comm is None:
        code, charts = vega.module(), specs.specifications()
        parts = (code, json.dumps(charts), str(Library._esm))
        version = hashlib.sha256("".join(parts).encode()).hexdigest()
        _library = Library(code=code, charts=charts, version=version)
    return _library

"""How charts get onto a page without a network.

Altair's own renderers either load Vega from the web, embed it once per chart, or need
a kernel. In JupyterLab its widget does all that is asked; on a report's page a chart is
only its specification, and the page brings Vega once (see `page`).
"""

from __future__ import annotations

import json
import os
from typing import Any

import altair as alt

from ..charts import theme
from .notebooks import REPORT_VARIABLE


def enable() -> None:
    """Draw charts with vidlab's look, offline: in JupyterLab, or on the page of a report."""
    theme.enable()
    if os.environ.get(REPORT_VARIABLE):
        alt.renderers.register("vidlab", chart_on_page)
        alt.renderers.enable("vidlab")
    else:
        alt.renderers.enable("jupyter", offline=True)


def chart_on_page(spec: dict[str, Any], **_: Any) -> dict[str, str]:
    """Return the MIME bundle of a chart for a page made by `page.of_notebook`.

    In JSON a `<` occurs only inside strings, where its escape means the same: no text
    of the run can end the script element.
    """
    text = json.dumps(spec, separators=(",", ":")).replace("<", "\\u003c")
    html = (
        '<figure class="vidlab-chart"><div class="controls vega-bindings"></div>'
        '<div class="drawing"></div>'
        f'<script type="application/json">{text}</script></figure>'
    )
    return {"text/html": html, "text/plain": f"<chart: {_title(spec)}>"}


def _title(spec: dict[str, Any]) -> str:
    title = spec.get("title", "")
    return str(title.get("text", "") if isinstance(title, dict) else title)

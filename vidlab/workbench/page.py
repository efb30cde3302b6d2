"""A page that needs nothing from elsewhere: an executed notebook, its charts, and Vega once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import missing_extra

if TYPE_CHECKING:
    import nbformat

_HERE = Path(__file__).parent

# Draws the charts from the top of the page down and lets the browser paint after each.
# A chart that fails says so in its place and leaves the others alone.
_DRAW_ALL = """
window.vidlab = { views: [] };
const later = () => new Promise((resolve) => setTimeout(resolve, 0));
async function drawAll() {
  for (const figure of document.querySelectorAll("figure.vidlab-chart")) {
    const [controls, drawing] = ["controls", "drawing"].map(
      (name) => figure.querySelector("." + name));
    try {
      const spec = JSON.parse(figure.querySelector("script").textContent);
      const options = { actions: false, renderer: "svg", bind: controls };
      const result = await vegaEmbed(drawing, spec, options);
      window.vidlab.views.push(result.view);
      figure.dataset.state = "drawn";
    } catch (error) {
      drawing.textContent = "This chart could not be drawn: " + error.message;
      figure.dataset.state = "failed";
      console.error(error);
    }
    await later();
  }
  document.documentElement.dataset.charts = "done";
}
drawAll();
"""


def of_notebook(executed: nbformat.NotebookNode, title: str) -> str:
    """Return an executed notebook, without its code, as the HTML of one page.

    Its charts must have been drawn by the renderer for pages (see `renderer.enable`).

    Raises
    ------
    MissingDependencyError
        If nbconvert or vl-convert is not installed.
    """
    try:
        from nbconvert.exporters import HTMLExporter
    except ImportError as error:
        raise missing_extra(error.name or "nbconvert", "workbench") from error

    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="template",
        extra_template_basedirs=[str(_HERE)],
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    style = (_HERE / "template" / "page.css").read_text(encoding="utf-8")
    ours = {"title": title, "style": style, "script": script()}
    page, _ = exporter.from_notebook_node(executed, resources={"vidlab": ours})
    return str(page)


def script() -> str:
    """Return the JavaScript module, with Vega in it, that draws all charts of a page."""
    try:
        import altair
        import vl_convert
    except ImportError as error:
        raise missing_extra(error.name or "vl-convert-python", "workbench") from error
    version = altair.SCHEMA_VERSION.lstrip("v").rpartition(".")[0]
    code: str = vl_convert.javascript_bundle(_DRAW_ALL, vl_version=version)
    return code.replace("</script", "<\\/script")

"""The page `gallery.md`, and its pictures, made of `examples`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

from vidlab import charts

from .drawing import save, value_of
from .examples import GALLERY, Example

FOLDER = "gallery"

#: Modules of `vidlab.charts` that others draw with, and the explorer's views, which have no data.
_NO_CHARTS = ("boxes", "explorer", "names", "sizes", "theme")

_INTRODUCTION = """\
# Gallery

Every chart of vidlab: the question that it answers, the one call that draws it, and what it looks
like. The runs come with vidlab ([datasets](../datasets/README.md)); put
`run = vl.open_run("runs/mine")` in place of the first line, and the rest is the same.

```python
import polars as pl
import vidlab as vl
```

`vl.charts.x.y` draws what `vl.analysis.x` returned, as an [altair](https://altair-viz.github.io)
chart: it shows itself in a notebook, with tooltips, and `chart.save("chart.html")`, `.png` or
`.svg` writes a file. All take `lost=`, the number of rows that were lost while recording, and show
it. Colours of codecs are the same everywhere.
"""


def public_charts() -> list[str]:
    """Return the names of all charts: functions of `vidlab.charts` that return one to look at."""
    found = []
    for module_name in (module.name for module in pkgutil.iter_modules(charts.__path__)):
        module = importlib.import_module(f"vidlab.charts.{module_name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            is_own = function.__module__ == module.__name__ and not name.startswith("_")
            returned = function.__annotations__.get("return")
            if (
                is_own
                and returned == "AnyChart"
                and module_name.partition("_")[0] not in _NO_CHARTS
            ):
                found.append(f"{module_name}.{name}")
    return found


def examples() -> list[Example]:
    """Return all examples, in the order of the page."""
    return [example for section in GALLERY.values() for example in section]


def page() -> str:
    """Return the text of `gallery.md`."""
    parts = [_INTRODUCTION]
    for title, section in GALLERY.items():
        rows = "".join(f"| {e.question} | [{e.chart}](#{_anchor(e)}) |\n" for e in section)
        parts.append(f"| {title} | |\n| --- | --- |\n{rows}")
    for title, section in GALLERY.items():
        parts.append(f"## {title}\n")
        parts += [_entry(example) for example in section]
    return "\n".join(parts)


def _anchor(example: Example) -> str:
    return example.chart.replace(".", "")


def _entry(example: Example) -> str:
    return (
        f"### {example.chart}\n\n{example.question}\n\n```python\n{example.code}```\n\n"
        f"![{example.chart}: {example.question}]({FOLDER}/{example.file})\n"
    )


def chart_of(example: Example) -> Any:
    """Return the chart that an example draws."""
    return value_of(example.code)


def write(docs: Path) -> None:
    """Write the page and all of its pictures into the folder of the documentation."""
    folder = docs / FOLDER
    folder.mkdir(exist_ok=True)
    for example in examples():
        save(chart_of(example), folder / example.file)
    wanted = {example.file for example in examples()}
    for picture in folder.iterdir():
        if picture.name not in wanted:
            picture.unlink()
    (docs / "gallery.md").write_text(page())

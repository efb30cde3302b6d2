"""Dropdowns in a notebook: choose a stream, a codec or a GPU, and see a cell's answer anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl

from ..charts import theme
from ..errors import missing_extra
from .notebooks import REPORT_VARIABLE
from .slices import Slice

_LABELS = ("stream_id", "codec", "gpu")

#: The choice that narrows nothing.
ALL = "all"


def choose(part: Slice, draw: Callable[[Slice], Any], table: str = "allocations") -> Any:
    """Show what `draw` makes of a slice, below dropdowns that narrow it.

    Where nobody could turn a dropdown, on the page of a report, it is the drawing alone.

    Parameters
    ----------
    part : Slice
        What is chosen at first.
    draw : function of a Slice
        Returns a chart or a table.
    table : str
        The table whose labels can be chosen.

    Returns
    -------
    A widget, or what `draw` returned.

    Raises
    ------
    MissingDependencyError
        If ipywidgets is not installed.
    """
    if os.environ.get(REPORT_VARIABLE):
        return draw(part)
    try:
        import ipywidgets  # type: ignore[import-untyped]
        from IPython.display import display
    except ImportError as error:
        raise missing_extra(error.name or "ipywidgets", "workbench") from error
    dropdowns = {
        label: ipywidgets.Dropdown(
            options=options(part, table, label),
            value=_shown(getattr(part, label)),
            description=label,
            layout=ipywidgets.Layout(width="220px"),
        )
        for label in _LABELS
    }

    def redraw(**chosen: str) -> None:
        display(draw(narrowed(part, **chosen)))  # type: ignore[no-untyped-call]

    drawing = ipywidgets.interactive_output(redraw, dropdowns)
    return ipywidgets.VBox([ipywidgets.HBox(list(dropdowns.values())), drawing])


def narrowed(part: Slice, stream_id: str = ALL, codec: str = ALL, gpu: str = ALL) -> Slice:
    """Return the slice of the same run with these choices; `ALL` narrows nothing."""
    return replace(
        part,
        stream_id=None if stream_id == ALL else stream_id,
        codec=None if codec == ALL else codec,
        gpu=None if gpu == ALL else int(gpu),
    )


def options(part: Slice, table: str, label: str) -> list[str]:
    """Return what can be chosen of a label: `ALL`, and each value that occurs in the table."""
    rows = part.run.scan(table).select(pl.col(label).cast(pl.String).unique())
    known = {*rows.collect()[label].drop_nulls(), _shown(getattr(part, label))} - {ALL}
    return [ALL, *theme.natural(known)]


def _shown(value: str | int | None) -> str:
    return ALL if value is None else str(value)

"""Tables for reading: durations in milliseconds, thousands set apart, headings with units."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import polars as pl

from ..runs.run import Run

#: Rows that are shown, unless it is said otherwise.
MAX_ROWS = 40

#: JupyterLab aligns all cells to the right.
_TEXT = ' style="text-align: left"'

_HEADINGS = {"stream_id": "stream", "lost_at": "lost at", "count": "counted"}


class Table:
    """A table as a notebook and a report show it.

    Parameters
    ----------
    df : DataFrame
        Columns `x_ns` are shown as `x, ms`, columns named `…share…` in per cent.
    caption : str
        What is seen, above the table.
    headings : mapping of str to str
        Other headings for some columns.
    most_rows : int
        So many are shown; the rest is counted.
    """

    def __init__(
        self,
        df: pl.DataFrame,
        caption: str = "",
        headings: Mapping[str, str] | None = None,
        most_rows: int = MAX_ROWS,
    ) -> None:
        self.df = df
        self.caption = caption
        self.most_rows = most_rows
        self.headings = {**_HEADINGS, **(headings or {})}

    def _repr_html_(self) -> str:
        if not self.df.height:
            return f"<p><em>{html.escape(self.caption or 'table')}: nothing recorded</em></p>"
        numbers = [type.is_numeric() for type in self.df.schema.values()]
        classes = [' class="number"' if number else _TEXT for number in numbers]
        heads = [
            f"<th{kind}>{html.escape(self._heading(name))}</th>"
            for name, kind in zip(self.df.columns, classes, strict=True)
        ]
        rows = [
            "<tr>"
            + "".join(
                f"<td{kind}>{html.escape(_shown(name, value))}</td>"
                for (name, value), kind in zip(row.items(), classes, strict=True)
            )
            + "</tr>"
            for row in self.df.head(self.most_rows).iter_rows(named=True)
        ]
        more = self.df.height - self.most_rows
        if more > 0:
            rows.append(f'<tr><td colspan="{self.df.width}"><em>… and {more:,} more</em></td></tr>')
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        table = f"<table>{caption}<tr>{''.join(heads)}</tr>{''.join(rows)}</table>"
        return f'<div class="vidlab-table">{table}</div>'

    def __repr__(self) -> str:
        return f"{self.caption}\n{self.df}"

    def _heading(self, name: str) -> str:
        if name in self.headings:
            return self.headings[name]
        words = re.sub(r"^(p\d+)_(\d+)", r"\1.\2", name.removesuffix("_ns")).replace("_", " ")
        return f"{words}, ms" if name.endswith("_ns") else words


def facts(run: Run) -> Table:
    """Return what a run is: when it was recorded, where, by what, and what it holds."""
    manifest = run.manifest
    ended = manifest.ended or manifest.started
    seconds = (ended.monotonic_ns - manifest.started.monotonic_ns) / 1e9
    began = datetime.fromtimestamp(manifest.started.wall_ns / 1e9).astimezone()
    lines = {
        "run": manifest.run_id,
        "state": run.state,
        "began": f"{began:%Y-%m-%d %H:%M:%S %z}",
        "lasted": f"{seconds:,.1f} s" if manifest.ended else "unknown",
        "engines": ", ".join(engine.name for engine in manifest.engines),
        "processes": str(len(manifest.processes)),
        **{f"host: {name}": str(value) for name, value in manifest.host.items()},
        **{name: str(value) for name, value in manifest.versions.items()},
        **{name: str(value) for name, value in manifest.parameters.items()},
        **{f"rows of {name}": f"{facts.rows:,}" for name, facts in manifest.tables.items()},
    }
    rows = {"fact": list(lines), "value": list(lines.values())}
    headings = {"fact": "", "value": ""}
    return Table(pl.DataFrame(rows), "This run", headings, most_rows=len(lines))


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if name.endswith("_ns"):
        return _digits(value / 1e6)
    if "share" in name:
        return f"{value:.1%}"
    return _digits(value) if isinstance(value, float) else f"{value:,}"


def _digits(value: float) -> str:
    """Return about three digits of the value: 1,234, 12.3 or 0.0120."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:#.3g}"

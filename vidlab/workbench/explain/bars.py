"""One frame's way as bars of text: what a terminal shows where a notebook draws a chart."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from ...analysis.causewords import CAUSE_WORDS

#: Rows that are shown at most, the longest; the rest is counted.
MAX_ROWS = 24

#: Columns of a terminal that are made use of: fewer are not enough, more are not read.
NARROWEST, WIDEST = 72, 120

_STAGE, _CAUSE, _MS = 19, 21, 9
_HEIGHTS = " ▁▂▃▄▅▆▇█"

#: What stands before an amount of which the place within its stage is not known.
_ABOUT = "≈"

#: By stage and cause: how long it takes a punctual frame.
Usual = Mapping[tuple[str, str], int]


def width() -> int:
    """Return how many columns the terminal has, within what is sensible."""
    return max(NARROWEST, min(shutil.get_terminal_size().columns, WIDEST))


def waterfall(parts: pl.DataFrame, usual: Usual | None = None, columns: int = 80) -> list[str]:
    """Return a frame's parts as lines of text: a stage and a cause each, with a bar in place.

    Parameters
    ----------
    parts : polars.DataFrame
        What `analysis.blame.waterfall` returned.
    usual : mapping of (stage, cause) to int, optional
        How long it usually takes, in nanoseconds; what is not there takes none.
    columns : int
        How wide a line may be.

    Returns
    -------
    list of str
        A line of headings, one a stage and cause in the order in which they began, what
        no span covers last, and how to read them.
    """
    if not parts.height:
        return []
    begin = int(parts["t_ns"].min())  # type: ignore[arg-type]
    end_ns = int((parts["t_ns"] + parts["duration_ns"]).max())  # type: ignore[arg-type]
    keys = ["within", "stage", "cause"]
    text = parts.with_columns(pl.col(*keys).cast(pl.String))
    first = pl.col("t_ns").min()
    ranked = (
        text.with_columns(
            (pl.col("kind").cast(pl.String) == "none").alias("last"),
            first.over("within").alias("first_within"),
            first.over("within", "stage").alias("first_stage"),
        )
        .group_by(keys)
        .agg(
            pl.col("last", "first_within", "first_stage").first(),
            first.alias("first_ns"),
            pl.col("duration_ns").sum().alias("all_ns"),
            pl.col("exact").all(),
            pl.struct("t_ns", "duration_ns").alias("parts"),
        )
        .sort("all_ns", "first_ns", descending=[True, False])
    )
    order = ("last", "first_within", "within", "first_stage", "stage", "first_ns", "cause")
    shown = ranked.head(MAX_ROWS).sort(order)
    bar = columns - _STAGE - _CAUSE - _MS * (1 + (usual is not None)) - 2
    scale = f"0 ms{_ms(end_ns - begin) + ' ms':>{max(bar - 4, 0)}}"
    lines = [_line("stage", "spent on", "ms", None if usual is None else "usually", scale)]
    for row in shown.iter_rows(named=True):
        stage = row["stage"] or ""
        inner = row["within"] is not None and row["within"] != stage
        lines.append(
            _line(
                ("  " if inner else "") + stage,
                CAUSE_WORDS.get(row["cause"], row["cause"]),
                _ABOUT * (not row["exact"]) + _ms(row["all_ns"]),
                None if usual is None else _ms(usual.get((stage, row["cause"]), 0)),
                _bar(row["parts"], begin, max(end_ns - begin, 1) / bar, bar),
            )
        )
    rest = ranked.slice(MAX_ROWS)
    if rest.height:
        lines.append(
            f"and {rest.height} shorter ones, {_ms(float(rest['all_ns'].sum()))} ms in all"
        )
    lines.append("a bar is as high as what it has of the moment")
    if not parts["exact"].all():
        lines[-1] += f"; {_ABOUT}: when in it is unknown"
    return lines


def _line(stage: str, cause: str, ms: str, usual: str | None, bar: str) -> str:
    parts = [f"{_cut(stage, _STAGE):<{_STAGE}} {_cut(cause, _CAUSE):<{_CAUSE}}{ms:>{_MS}}"]
    parts += [] if usual is None else [f"{usual:>{_MS}}"]
    return f"{''.join(parts)} {bar}".rstrip()


def _bar(parts: Sequence[Mapping[str, int]], begin: int, per_cell: float, cells: int) -> str:
    """Return the cells of a bar, each as high as what the parts have of its time."""
    covered = [0.0] * cells
    for part in parts:
        low = (part["t_ns"] - begin) / per_cell
        high = (part["t_ns"] - begin + part["duration_ns"]) / per_cell
        for cell in range(min(int(low), cells - 1), min(int(high) + 1, cells)):
            covered[cell] += max(0.0, min(high, cell + 1) - max(low, cell))
    return "".join(map(_cell, covered))


def _cell(covered: float) -> str:
    return _HEIGHTS[max(1, round(min(covered, 1) * 8))] if covered > 0 else " "


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _ms(ns: float) -> str:
    """Return nanoseconds as milliseconds with about three digits, without the unit."""
    ms = ns / 1e6
    if ms >= 100 or ms == 0:
        return f"{ms:,.0f}"
    return f"{ms:.1f}" if ms >= 1 else f"{ms:.2g}"


def wrapped(lines: Sequence[tuple[str, str]], columns: int) -> Iterator[str]:
    """Yield pairs of a head and a text, the text within the columns and beside its head."""
    import textwrap

    for head, text in lines:
        yield from textwrap.wrap(
            text, columns, initial_indent=head, subsequent_indent=" " * len(head),
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip

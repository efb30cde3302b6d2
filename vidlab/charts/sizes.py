"""Bytes as people read them: in KiB, MiB and GiB, powers of 1,024, as memory is counted."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import polars as pl

from . import theme

_NAMES = ("B", "KiB", "MiB", "GiB", "TiB")


class Unit(NamedTuple):
    """A unit of memory: its name, and how many bytes it is."""

    name: str
    size_bytes: int


def unit(*sizes: Any) -> Unit:
    """Return the unit in which the greatest of these bytes is read best; nulls count nothing."""
    greatest = max((abs(float(size)) for size in sizes if size is not None), default=0.0)
    power = min(int(math.log(max(greatest, 1.0), 1024) + 1e-9), len(_NAMES) - 1)
    return Unit(_NAMES[power], 1024**power)


def counted_in(df: pl.DataFrame, unit: Unit) -> pl.DataFrame:
    """Return the table with every `x_bytes` as `x`, in this unit, to five digits."""
    sizes = [name for name in df.columns if name.endswith("_bytes")]
    return df.with_columns(
        (pl.col(name) / unit.size_bytes).round_sig_figs(5).alias(name.removesuffix("_bytes"))
        for name in sizes
    ).drop(sizes)


def text(size: pl.Expr) -> pl.Expr:
    """Return bytes as text with about three digits: 512 B, 1.5 MiB, 12 GiB."""
    shown = pl.format("{} B", size.round(0).cast(pl.Int64))
    for power, name in enumerate(_NAMES[1:], 1):
        short = theme.digits(size / 1024**power).str.replace(r"\.0+$", "") + f" {name}"
        shown = pl.when(size.abs() < 1024**power).then(shown).otherwise(short)
    return shown


def say(size: float) -> str:
    """Return this many bytes as text, as `text` does."""
    return str(pl.select(text(pl.lit(float(size)))).item())

"""Columns of bytes as people read them: in KiB, MiB and GiB, powers of 1,024."""

from __future__ import annotations

import polars as pl

from ..sizes import NAMES, Unit, say, unit
from . import theme

__all__ = ["Unit", "counted_in", "say", "text", "unit"]


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
    for power, name in enumerate(NAMES[1:], 1):
        short = theme.digits(size / 1024**power).str.replace(r"\.0+$", "") + f" {name}"
        shown = pl.when(size.abs() < 1024**power).then(shown).otherwise(short)
    return shown

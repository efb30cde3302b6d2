"""The labels that are not columns of a table, put beside its rows as it is read."""

from __future__ import annotations

from typing import TypeVar

import polars as pl

from ..schema import TABLES, Table
from .interning import LabelTable

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


def with_labels(rows: Frame, labels: LabelTable, table: Table | None = None) -> Frame:
    """Return rows with the column `sample_rate` and one for each further label key.

    `table` is needed if it is a declared one.

    They are look-ups by the row's label set rather than a join, so that a query which
    does not name them does not pay for them, and filters still reach the file.
    """
    return rows.with_columns(
        _sample_rate(labels), *(_label(labels, key, table) for key in labels.other_keys)
    )


def label_schema(labels: LabelTable, table: Table | None = None) -> dict[str, pl.DataType]:
    """Return the columns that `with_labels` adds."""
    others = {_column_name(key, table): pl.Categorical() for key in labels.other_keys}
    return {"sample_rate": pl.Float64(), **others}


def _sample_rate(labels: LabelTable) -> pl.Expr:
    rates = [known.sample_rate for known in labels.sets]
    if all(rate == 1.0 for rate in rates):
        return pl.lit(1.0).alias("sample_rate")
    return (
        pl.col("labels")
        .replace_strict(range(len(rates)), rates, default=1.0, return_dtype=pl.Float64)
        .alias("sample_rate")
    )


def _label(labels: LabelTable, key: str, table: Table | None) -> pl.Expr:
    texts = [None if value is None else str(value) for value in labels.values(key)]
    return (
        pl.col("labels")
        .replace_strict(range(len(texts)), texts, default=None, return_dtype=pl.Categorical)
        .alias(_column_name(key, table))
    )


#: A label with the name of some table's column would hide it.
_TAKEN = frozenset(column.name for table in TABLES.values() for column in table.columns)


def _column_name(key: str, table: Table | None) -> str:
    own = () if table is None else (column.name for column in table.columns)
    return f"label_{key}" if key in _TAKEN or key in own else key

"""Tables of a run, written out by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import polars as pl
import pytest

from vidlab import schema
from vidlab.capture.ebpf.plan import Plan

Build = Callable[..., pl.DataFrame]


@pytest.fixture(params=["String", "Categorical", "Enum"])
def table(request: pytest.FixtureRequest) -> Build:
    """Build a table of the schema from rows that name only what matters; text in each type.

    `table("spans", rows, stage="decode")` sets a column for all rows that lack it.
    """

    def build(name: str, rows: Iterable[dict[str, Any]] = (), **common: Any) -> pl.DataFrame:
        rows = [{**common, **row} for row in rows]
        empty = pl.from_arrow(_tables()[name].arrow_schema.empty_table())
        types = dict(empty.schema)
        for key in {key for row in rows for key in row} - set(types):
            assert key in ("sample_rate", "region"), f"{name} has no column {key}"
            types[key] = pl.Float64 if key == "sample_rate" else pl.String
        texts = [key for key, type in types.items() if type == pl.Categorical]
        built = pl.DataFrame(
            rows, schema={k: pl.String if k in texts else t for k, t in types.items()}
        )
        return built.with_columns(
            pl.col(key).cast(_text(request.param, built[key])) for key in texts
        )

    return build


@functools.cache
def _tables() -> dict[str, schema.Table]:
    """The tables of the schema, and those that the probe sets declare."""
    sets = Plan(["cuda", "libav", "sched", "tcp"])
    return schema.TABLES | {name: layout.table for name, layout in sets.layouts.items()}


def _text(kind: str, values: pl.Series) -> Any:
    if kind == "Enum":
        return pl.Enum(sorted(values.drop_nulls().unique()))
    return {"String": pl.String, "Categorical": pl.Categorical}[kind]

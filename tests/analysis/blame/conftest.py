"""Runs made of tables that are written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import polars as pl
import pytest

from vidlab.runs.run import Run

Rows = list[dict[str, Any]]
MakeRun = Callable[..., Run]


class Tables:
    """Stands in for a run that has these tables."""

    def __init__(self, build: Callable[..., pl.DataFrame], tables: dict[str, Rows]) -> None:
        self._tables = {name: build(name, rows, pid=1, tid=1) for name, rows in tables.items()}
        self._build = build
        self.losses: dict[str, dict[str, int]] = {}
        self.manifest = SimpleNamespace(engines=())

    def tables(self) -> list[str]:
        return list(self._tables)

    def scan(self, name: str) -> pl.LazyFrame:
        known = self._tables.get(name)
        return (self._build(name) if known is None else known).lazy()


@pytest.fixture
def make_run(table: Callable[..., pl.DataFrame]) -> MakeRun:
    """Make a run of these tables: `make_run(spans=[…], gc_pauses=[…])`."""

    def make(
        losses: dict[str, dict[str, int]] | None = None,
        engines: tuple[str, ...] = (),
        **tables: Rows,
    ) -> Run:
        run = Tables(table, tables)
        run.losses = losses or {}
        run.manifest.engines = tuple(SimpleNamespace(name=name) for name in engines)
        return cast(Run, run)

    return make

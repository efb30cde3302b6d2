"""Runs for the explorer's tests: whole, sampled, and with nothing to show."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from vidlab import datasets
from vidlab.lab.synthetic import write_run
from vidlab.runs.run import Run, open_run


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight streams of four codecs, on two GPUs and on none."""
    return write_run(tmp_path_factory.mktemp("explorer") / "run", frames=2_400, streams=8, seed=3)


@pytest.fixture(scope="session")
def whole(path: Path) -> Run:
    return open_run(path)


@pytest.fixture(scope="session")
def sampled(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same, as if of three streams only some frames had been recorded."""
    copy = tmp_path_factory.mktemp("sampled") / "run"
    shutil.copytree(path, copy)
    labels = pl.read_parquet(copy / "labels.parquet")
    rates = pl.when(pl.col("labels") % 3 == 1).then(0.3).otherwise("sample_rate")
    labels.with_columns(sample_rate=rates).write_parquet(copy / "labels.parquet")
    return open_run(copy)


@pytest.fixture(scope="session")
def recorded() -> Run:
    """The faulty pipeline of the demo, as it was recorded with all engines."""
    return datasets.load("everything")

"""Runs to read, built without vidlab's writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from .builders import RunBuilder, small_run


@pytest.fixture
def empty(tmp_path: Path) -> RunBuilder:
    """A run whose one process recorded nothing before it was killed."""
    run = RunBuilder(tmp_path / "empty")
    run.process(1)
    return run


@pytest.fixture
def small(tmp_path: Path) -> RunBuilder:
    """A killed run of two processes: see `small_run`."""
    return small_run(tmp_path / "small")

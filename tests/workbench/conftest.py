"""One small synthetic run for all tests of the workbench."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidlab.lab.synthetic import write_run
from vidlab.runs.run import Run, open_run


@pytest.fixture(scope="session")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("workbench") / "run", frames=1_200, streams=4, seed=1)


@pytest.fixture(scope="session")
def run(run_path: Path) -> Run:
    return open_run(run_path)

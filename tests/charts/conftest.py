"""One small synthetic run for all tests of charts."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidlab.lab.synthetic import write_run
from vidlab.runs.run import Run, open_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path: Path = tmp_path_factory.mktemp("charts") / "run"
    return open_run(write_run(path, frames=1_200, streams=4, seed=1))

"""A service that is being recorded has only numpy and pyarrow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import vidlab as vl

SERVICE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

ABSENT = {"polars", "pandas", "altair", "IPython", "ipywidgets", "papermill", "nbconvert", "tqdm"}
sys.meta_path.insert(0, Absent())

import vidlab as vl

with vl.record(sys.argv[1]), vl.labels(stream_id="cam-1"):
    for _ in range(123):
        with vl.stage("work"):
            pass
assert not ABSENT & set(sys.modules)
"""


def test_it_records_without_the_workbench_and_the_workbench_reads_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", SERVICE, str(tmp_path / "run")], check=True)
    assert not (tmp_path / "run" / "spans.parquet").exists()

    spans = vl.open_run(tmp_path / "run").scan("spans").collect()
    assert spans.height == 123
    assert set(spans["stream_id"].cast(str)) == {"cam-1"}

"""GPU time of stages on a real GPU."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import vidlab as vl

pytestmark = pytest.mark.gpu

#: Keeps one thread of the GPU busy for as many cycles of its clock.
BUSY = r"""
extern "C" __global__ void busy(long long cycles) {
    long long began = clock64();
    while (clock64() - began < cycles) { }
}
"""


@pytest.fixture(scope="module")
def busy() -> Any:
    import cupy

    kernel = cupy.RawKernel(BUSY, "busy")
    kernel((1,), (1,), (1,))
    cupy.cuda.Device().synchronize()
    return lambda cycles: kernel((1,), (1,), (cycles,))


def spans(path: Path) -> Any:
    return vl.open_run(path).scan("spans").sort("t_ns").collect()


def test_it_is_the_time_of_the_work_not_of_the_call(busy: Any, tmp_path: Path) -> None:
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    with vl.record(tmp_path / "run", engines=[vl.Frames()]), vl.stage("all"), stream:
        for cycles in (0, 50_000_000, 200_000_000):
            with vl.stage(f"{cycles}", gpu=True):
                busy(cycles)
        stream.synchronize()
    table = spans(tmp_path / "run")
    rows = {row["stage"]: row for row in table.to_dicts()}
    none, short, long = (rows[str(n)]["gpu_duration_ns"] for n in (0, 50_000_000, 200_000_000))
    assert 0 <= none < short < long < rows["all"]["duration_ns"]
    # The call returns before the work is done, and nothing waits for it.
    assert rows["200000000"]["duration_ns"] < long


def test_a_capture_in_another_thread_goes_on(busy: Any, tmp_path: Path) -> None:
    """Asking about events is not for threads beside a capture, unless they say so."""
    import cupy

    errors: list[Exception] = []

    def capture() -> None:
        try:
            for _ in range(50):
                stream = cupy.cuda.Stream(non_blocking=True)
                with stream:
                    stream.begin_capture(cupy.cuda.runtime.streamCaptureModeGlobal)
                    with vl.stage("captured", gpu=True):
                        busy(1_000_000)
                    graph = stream.end_capture()
                graph.launch(stream)
                stream.synchronize()
        except Exception as error:
            errors.append(error)

    with vl.record(tmp_path / "run", engines=[vl.Frames()]):
        with vl.stage("infer", gpu=True):
            busy(500_000_000)
        thread = threading.Thread(target=capture)
        thread.start()
        thread.join()
    assert errors == []
    table = spans(tmp_path / "run")
    times = dict(table.group_by("stage").agg(pl.col("gpu_duration_ns").count()).iter_rows())
    assert times == {"infer": 1, "captured": 0}
